//! The images as people deploy them: the Dockerfiles in `images/` with the static programs that
//! `images/build.sh` made, the runner's stand-in or a real runner, and no registry.
//!
//! Owns what is built from what. The stage has built `ecs-dind` and `ecs-runner` from what cargo put
//! beside the driver; here they are built again, as `make images` leaves them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chain::Stage;

/// Where the host has the repository's `images/`.
pub(crate) const IMAGES: &str = "/run/stack/images";
/// Where it has the folder with `out/supervisor` and `out/dindd`.
pub(crate) const PROGRAMS: &str = "/run/stack/build";
/// Where the stage laid out the runner's stand-in.
const STAND_IN: &str = "/run/chain/stages/download";

/// An image that a task definition names.
pub(crate) struct Image {
    pub(crate) tag: &'static str,
    folder: &'static str,
    target: Option<&'static str>,
}

pub(crate) const TASK_IMAGES: [Image; 3] = [
    Image {
        tag: "ecs-dind",
        folder: "dind",
        target: None,
    },
    Image {
        tag: "ecs-runner",
        folder: "runner",
        target: Some("ecs"),
    },
    Image {
        tag: "ecs-runner:fargate",
        folder: "runner",
        target: Some("fargate"),
    },
];

/// The checkout.
pub(crate) fn top() -> &'static Path {
    let chain = Path::new(env!("CARGO_MANIFEST_DIR"));
    chain.ancestors().nth(2).unwrap_or(chain)
}

/// Builds the images of a task. `runner` is a folder with an unpacked runner as `runner/`, the
/// stand-in when there is none; `arguments` are build arguments, `NAME=value`.
///
/// # Errors
/// The programs were not built, or a build fails.
pub(crate) fn build(stage: &Stage, runner: Option<&Path>, arguments: &[String]) -> Result<()> {
    let host = stage.host();
    let programs: PathBuf = top().join("target/images/build");
    ensure!(
        programs.join("out/dindd").is_file(),
        "there is no {}: run images/build.sh target/images/build/out first",
        programs.join("out/dindd").display()
    );
    host.bind(&programs, PROGRAMS, true)?;
    host.bind(&top().join("images"), IMAGES, true)?;
    let mut download = STAND_IN;
    if let Some(runner) = runner {
        download = "/run/stack/download";
        host.bind(runner, download, true)?;
    }
    for image in &TASK_IMAGES {
        let mut words: Vec<String> = ["docker", "build", "--progress=plain", "--tag", image.tag]
            .map(Into::into)
            .into();
        words.push(format!("--build-context=build={PROGRAMS}"));
        words.push(format!("--build-context=download={download}"));
        words.extend(arguments.iter().map(|it| format!("--build-arg={it}")));
        words.extend(image.target.map(|target| format!("--target={target}")));
        words.push(format!("{IMAGES}/{}", image.folder));
        host.run(&words)
            .with_context(|| format!("build the image {}", image.tag))?;
    }
    Ok(())
}
