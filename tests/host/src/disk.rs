//! Owns the disk image that hosts are cloned from: when one is made, and from what.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::boot::{Host, Options};
use crate::loopdev::{LoopDevice, clone_into, make_xfs};
use crate::process::{self, indent, tail, until};
use crate::{cache, packages, recipe, reexec};

/// How long a loop device may take to let go of its file after the unmount.
const DETACH_LIMIT: Duration = Duration::from_secs(30);

/// What to prepare.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Cache folder; needs room for about 3 GB.
    pub cache: PathBuf,
    /// Images whose layers shall be in the build cache.
    pub warm: Vec<ImageBuild>,
    /// Further suites of Debian whose base image, `debian:<suite>-slim`, the disk shall have.
    pub suites: Vec<String>,
    /// Another plan, for the same cache folder: this one's disk has all that that one's has, and
    /// is made from it.
    pub after: Option<Box<Plan>>,
}

impl Default for Plan {
    /// `testhost` in cargo's target folder; no images.
    fn default() -> Self {
        Self {
            cache: cache::default_folder(),
            warm: Vec::new(),
            suites: Vec::new(),
            after: None,
        }
    }
}

/// A `docker build` that is done once with network, while a disk is prepared. In a run the same
/// build takes every layer from the cache up to the first `COPY` of something that changed, and
/// needs no network for it.
///
/// The disk is made anew when the Dockerfile, the target, the arguments or a file of `keyed_by`
/// changes, not when something else in the context does: name in `keyed_by` what the Dockerfile
/// copies before its last `RUN` that needs network.
#[derive(Debug, Clone)]
pub struct ImageBuild {
    /// Build context, a folder of the machine.
    pub context: PathBuf,
    /// Dockerfile, a path in the context.
    pub dockerfile: PathBuf,
    pub target: Option<String>,
    /// `--build-arg`s.
    pub arguments: Vec<(String, String)>,
    /// Files and folders of the context.
    pub keyed_by: Vec<PathBuf>,
}

/// A disk image that stays as long as this value lives.
#[derive(Debug)]
pub struct PreparedDisk {
    pub(crate) file: File,
    pub(crate) cache: PathBuf,
}

/// Installs what the machine lacks and makes the disk image, unless there is one already.
/// `progress` gets a line for each longer step.
///
/// # Errors
/// Not root, no apt-get, no package mirror, a failing build, an interruption. Nothing but the
/// cache folder and installed packages remains then.
pub fn prepare(plan: &Plan, progress: &dyn Fn(&str)) -> Result<PreparedDisk> {
    reexec::require()?;
    packages::require_root()?;
    let cache = plan.cache.as_path();
    let disk = disk_path(plan)?;
    if let Some(file) = cache::open_image(&disk)? {
        packages::install_missing(packages::FOR_BOOT, progress)?;
        return Ok(PreparedDisk {
            file,
            cache: cache.to_owned(),
        });
    }
    // Before the lock is taken: it takes it for itself.
    let before = plan.after.as_deref();
    let before = before.map(|before| prepare(before, progress)).transpose()?;
    let _lock = cache::lock(cache, progress)?;
    let root = cache.join(format!("root-{:016x}.img", recipe::key()));
    if !disk.exists() {
        packages::install_missing(packages::FOR_DISK, progress)?;
        let before = match before {
            Some(before) => before.file,
            None => open_root(&root, progress)?,
        };
        make(&disk, |file| make_disk(&before, file, plan, progress))?;
    }
    let file = cache::open_image(&disk)?.context("the disk image vanished")?;
    cache::remove_old(cache, &root)?;
    Ok(PreparedDisk {
        file,
        cache: cache.to_owned(),
    })
}

fn open_root(root: &Path, progress: &dyn Fn(&str)) -> Result<File> {
    if !root.exists() {
        make(root, |file| make_root(file, progress))?;
    }
    File::open(root).with_context(|| format!("open {}", root.display()))
}

/// Makes `path` whole or not at all.
fn make(path: &Path, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let partial = path.with_extension("partial");
    let create = || {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)?;
        file.set_len(recipe::DISK_SIZE)?;
        Ok::<_, std::io::Error>(file)
    };
    let file = create().with_context(|| format!("make {}", partial.display()))?;
    let filled = fill(&file).and_then(|()| {
        // A power cut must not leave a disk that looks whole.
        file.sync_all()
            .with_context(|| format!("write {}", partial.display()))?;
        fs::rename(&partial, path).with_context(|| format!("rename {}", partial.display()))
    });
    if filled.is_err() {
        drop(fs::remove_file(&partial));
    }
    filled
}

fn make_root(file: &File, progress: &dyn Fn(&str)) -> Result<()> {
    let device = LoopDevice::attach(file)?;
    let trace = device.trace();
    make_xfs(&device.path)?;
    recipe::build(&device.path, progress)?;
    drop(device);
    if !until(DETACH_LIMIT, || trace.still_attached().is_none()) {
        bail!("the new root filesystem is still in use");
    }
    Ok(())
}

fn make_disk(before: &File, file: &File, plan: &Plan, progress: &dyn Fn(&str)) -> Result<()> {
    clone_into(before, file)?;
    let mut bases = Vec::new();
    for suite in &plan.suites {
        bases.push((suite, make_base(&plan.cache, suite, progress)?));
    }
    let options = Options {
        network: true,
        ..Options::default()
    };
    let host = Host::boot_on(file, &plan.cache, &options)?;
    if plan.after.is_none() {
        let tar = format!("/{}", recipe::BASE_TAR);
        import(&host, recipe::SUITE, &tar, progress)?;
        host.run(["rm", &tar])?;
    }
    for (suite, base) in bases {
        let tar = format!("/run/testhost/{suite}.tar");
        host.bind(&base, &tar, true)?;
        import(&host, suite, &tar, progress)?;
    }
    for (index, image) in plan.warm.iter().enumerate() {
        progress(&format!("build {image}"));
        let context = format!("/run/testhost/context-{index}");
        host.bind(&image.context, &context, true)?;
        // Untagged: a run must not find an image that it did not build.
        let mut words = image.command_line(&context);
        words.extend(proxies());
        build(&host, &words, progress)?;
        host.run(["docker", "image", "prune", "--force"])?;
    }
    // What was deleted becomes holes again, so that a clone does not copy it.
    host.run(["fstrim", "/"])?;
    let left = host.shutdown()?;
    if !left.machine.is_empty() {
        bail!("the disk is still in use: {left}");
    }
    Ok(())
}

/// The files of a suite's base image; they stay in the cache folder.
fn make_base(cache: &Path, suite: &str, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let tar = cache.join(format!("base-{:016x}-{suite}.tar", recipe::base_key()));
    if !tar.exists() {
        let partial = tar.with_extension("partial");
        let made = recipe::build_base(suite, &partial, progress).and_then(|()| {
            fs::rename(&partial, &tar).with_context(|| format!("rename {}", partial.display()))
        });
        if made.is_err() {
            drop(fs::remove_file(&partial));
        }
        made?;
    }
    Ok(tar)
}

/// Debian's minbase, slimmed as `debian:*-slim` is, under the name of that image.
fn import(host: &Host, suite: &str, tar: &str, progress: &dyn Fn(&str)) -> Result<()> {
    let name = format!("debian:{suite}-slim");
    progress(&format!("import {name}"));
    host.run(["docker", "import", "--change", "CMD [\"bash\"]", tar, &name])
        .map(drop)
}

/// The machine's way to the package mirror, for builds: Docker leaves these arguments out of the
/// key of its build cache.
fn proxies() -> impl Iterator<Item = String> {
    let names = ["http_proxy", "https_proxy", "no_proxy"];
    names.into_iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some(format!("--build-arg={name}={value}"))
    })
}

/// The step of the Dockerfile that a line of `docker build --progress=plain` announces.
fn build_step(line: &str) -> Option<&str> {
    let (number, step) = line.split_once(' ')?;
    let step = (number.starts_with('#') && step.starts_with('[')).then_some(step)?;
    (!step.starts_with("[internal]")).then_some(step)
}

fn build(host: &Host, words: &[String], progress: &dyn Fn(&str)) -> Result<()> {
    let (send, lines) = channel();
    let mut running = host.follow(words, move |_, line| drop(send.send(line.to_owned())))?;
    let mut seen = String::new();
    let mut steps = BTreeSet::new(); // each is named several times
    process::each_line(&lines, |line| {
        if let Some(step) = build_step(line).filter(|step| steps.insert((*step).to_owned())) {
            progress(step);
        }
        seen.extend([line, "\n"]);
    })?;
    let status = running.wait(DETACH_LIMIT)?;
    if !status.success() {
        bail!("{}: {status}{}", words.join(" "), indent(tail(&seen, 40)));
    }
    Ok(())
}

impl fmt::Display for ImageBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.context.join(&self.dockerfile).display())?;
        for (name, value) in &self.arguments {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

impl ImageBuild {
    /// `docker build …` for a context that the host sees at `context`.
    #[must_use]
    pub fn command_line(&self, context: &str) -> Vec<String> {
        let mut words: Vec<String> = ["docker", "build", "--progress=plain"]
            .map(Into::into)
            .into();
        words.push(format!(
            "--file={}",
            Path::new(context).join(&self.dockerfile).display()
        ));
        words.extend(
            self.target
                .iter()
                .map(|target| format!("--target={target}")),
        );
        let arguments = self.arguments.iter();
        words.extend(arguments.map(|(name, value)| format!("--build-arg={name}={value}")));
        words.push(context.to_owned());
        words
    }
}

fn disk_path(plan: &Plan) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    recipe::key().hash(&mut hasher);
    feed(plan, &mut hasher)?;
    let key = cache::key(&hasher);
    Ok(plan.cache.join(format!("disk-{key}.img")))
}

/// Feeds what the plan's disk is made of to `hasher`.
fn feed(plan: &Plan, hasher: &mut DefaultHasher) -> Result<()> {
    if let Some(before) = &plan.after {
        feed(before, hasher)?;
    }
    if !plan.suites.is_empty() {
        (recipe::base_key(), &plan.suites).hash(hasher);
    }
    for image in &plan.warm {
        (
            &image.dockerfile,
            &image.target,
            &image.arguments,
            &image.keyed_by,
        )
            .hash(hasher);
        for path in std::iter::once(&image.dockerfile).chain(&image.keyed_by) {
            cache::hash_path(&image.context.join(path), hasher)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(context: &Path) -> ImageBuild {
        ImageBuild {
            context: context.to_owned(),
            dockerfile: "Dockerfile".into(),
            target: Some("packages".into()),
            arguments: vec![("A".into(), "1".into())],
            keyed_by: vec!["list".into()],
        }
    }

    #[test]
    fn a_build_is_the_docker_command_line_that_a_run_repeats() {
        assert_eq!(
            image(Path::new("/x")).command_line("/context").join(" "),
            "docker build --progress=plain --file=/context/Dockerfile --target=packages \
             --build-arg=A=1 /context"
        );
    }

    #[test]
    fn a_disk_is_made_anew_for_another_dockerfile_or_key_file_but_not_for_another_binary() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("Dockerfile", "FROM a");
        write("list", "1");
        let plan = || Plan {
            warm: vec![image(folder.path())],
            ..Plan::default()
        };
        let key = || disk_path(&plan()).unwrap();
        let first = key();
        write("binary", "anything");
        assert_eq!(first, key());
        write("list", "2");
        let second = key();
        assert_ne!(first, second);
        write("Dockerfile", "FROM b");
        assert_ne!(second, key());
        assert_ne!(key(), disk_path(&Plan::default()).unwrap());
        let more = Plan {
            suites: vec!["sid".into()],
            after: Some(Box::new(plan())),
            ..Plan::default()
        };
        assert_ne!(key(), disk_path(&more).unwrap());
    }

    #[test]
    fn the_steps_of_a_build_are_told_and_nothing_else_of_its_output() {
        let told = [
            "#7 [packages 2/3] RUN apt-get update",
            "#1 [internal] load x",
            "#7 0.5 [x] y",
        ];
        let told: Vec<_> = told.into_iter().filter_map(build_step).collect();
        assert_eq!(told, ["[packages 2/3] RUN apt-get update"]);
    }

    #[test]
    fn a_failed_making_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let result = make(&folder.path().join("disk-1.img"), |_| bail!("no"));
        assert_eq!(result.unwrap_err().to_string(), "no");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
