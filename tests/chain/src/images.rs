//! The two images, built from `images/` with what cargo built here and the runner's stand-in.
//!
//! The Dockerfiles are the ones that people deploy. Their stages `build` (which compiles) and
//! `download` (which fetches the real runner) are replaced by folders, as their comments describe.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testhost::{Host, ImageBuild};

use crate::binaries;
use crate::engine::Engine;

/// An image of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// The name that a task definition uses, and the folder in `images/` without its prefix.
    pub(crate) name: &'static str,
    folder: &'static str,
    target: Option<&'static str>,
    /// The stage with the packages; it is built once, with network.
    packages: &'static str,
    /// Stages that a folder replaces.
    replaced: &'static [&'static str],
    /// The engine in it.
    engine: Engine,
}

/// The sidecar's image.
pub(crate) const DIND: Image = Image {
    name: "ecs-dind",
    folder: "images/dind",
    target: None,
    packages: "packages",
    replaced: &["build"],
    engine: Engine::Trixie,
};

/// The images of an ordinary task.
pub(crate) const IMAGES: [Image; 2] = [
    DIND,
    Image {
        name: "ecs-runner",
        folder: "images/runner",
        target: Some("ecs"),
        packages: "packages-ecs",
        replaced: &["build", "download"],
        engine: Engine::Trixie,
    },
];

impl Image {
    /// The sidecar's image with an engine.
    pub(crate) fn dind(engine: Engine) -> Self {
        Self { engine, ..DIND }
    }

    /// What Docker calls it.
    pub(crate) fn tag(self) -> String {
        if self.engine == Engine::default() {
            return self.name.into();
        }
        format!("{}:{}", self.name, self.engine.suite())
    }

    fn arguments(self) -> Vec<(String, String)> {
        if self.engine == Engine::default() {
            return Vec::new();
        }
        vec![("SUITE".into(), self.engine.suite().into())]
    }

    /// The build that puts the image's packages into the host's build cache.
    pub(crate) fn warm(self) -> ImageBuild {
        ImageBuild {
            context: binaries::checkout().join(self.folder),
            dockerfile: "Dockerfile".into(),
            target: Some(self.packages.into()),
            arguments: self.arguments(),
            keyed_by: Vec::new(),
        }
    }

    /// Builds the image in the host; needs no network after [`Image::warm`].
    pub(crate) fn build(self, host: &Host) -> Result<()> {
        let context = format!("/run/chain/{}/{}", self.engine.suite(), self.folder);
        host.bind(&binaries::checkout().join(self.folder), &context, true)?;
        let tag = self.tag();
        let mut words: Vec<String> = ["docker", "build", "--progress=plain", "--tag", &tag]
            .map(Into::into)
            .into();
        let arguments = self.arguments().into_iter();
        words.extend(arguments.map(|(name, value)| format!("--build-arg={name}={value}")));
        words.extend(self.target.map(|target| format!("--target={target}")));
        for stage in self.replaced {
            words.push(format!("--build-context={stage}={}", stage_folder(stage)));
        }
        words.push(context);
        host.run(&words)
            .with_context(|| format!("build the image {tag}"))
            .map(drop)
    }
}

fn stage_folder(stage: &str) -> String {
    format!("/run/chain/stages/{stage}")
}

/// Lays out the folders that replace stages: `build` with the two binaries below `out`, `download`
/// with the runner's stand-in below `runner`.
pub(crate) fn lay_out_stages(host: &Host) -> Result<()> {
    let out = host.path(format!("{}/out", stage_folder("build")));
    for program in ["supervisor", "dindd"] {
        copy_program(&binaries::find(program)?, &out.join(program))?;
    }
    let runner = host.path(format!("{}/runner", stage_folder("download")));
    copy_tree(&binaries::checkout().join("tests/runner/layout"), &runner)?;
    copy_program(
        &binaries::find("runner-listener")?,
        &runner.join("bin/Runner.Listener"),
    )
}

fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(from, to))
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
