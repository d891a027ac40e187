//! What the machine's disk is made of, and its making: a userland, kept in `target/vm` until what it is
//! made from changes, and the disk itself, made anew for each run.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use chain::Stage;
use vm::checkout;

use crate::tell;

const MIRROR: &str = "http://deb.debian.org/debian";
/// Programs that a run needs, and the packages that they are in.
const NEEDED: [(&str, &str); 6] = [
    ("debootstrap", "debootstrap"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];
/// Programs of this workspace that are in the machine.
const PROGRAMS: [&str; 2] = ["dindd", "github-double"];
/// What the images of a task are made from, beside the programs in them.
const IMAGES: [&str; 4] = [
    "images/dind",
    "images/runner",
    "tests/runner/layout",
    "tests/chain/src",
];
/// The programs in them.
const IN_IMAGES: [&str; 3] = ["dindd", "supervisor", "runner-listener"];

/// The folder that everything is kept in; locked while this lives.
#[derive(Debug)]
pub(crate) struct Workshop {
    folder: PathBuf,
    base: PathBuf,
    images: PathBuf,
    _lock: File,
}

impl Workshop {
    /// Installs what is missing and makes the disk, or waits for another run to end.
    pub(crate) fn open() -> Result<Self> {
        install_missing()?;
        let folder = checkout("target/vm");
        fs::create_dir_all(&folder).context("make target/vm")?;
        let lock = File::create(folder.join("lock"))?;
        if lock.try_lock().is_err() {
            tell("another run is under way; waiting for it");
            lock.lock().context("lock target/vm")?;
        }
        let sources = ["tests/vm/tests/vm/base.sh", "ami/provision/steps/packages"];
        let base = kept(&folder, "base", &sources.map(checkout), |target| {
            let words = [target, Path::new(MIRROR), &checkout("")];
            script("base.sh", &words)
        })?;
        let mut sources = IMAGES.map(checkout).to_vec();
        for name in IN_IMAGES {
            sources.push(program(name)?);
        }
        let images = kept(&folder, "images", &sources, save_images)?;
        let workshop = Self {
            folder,
            base,
            images,
            _lock: lock,
        };
        workshop.make_disk()?;
        Ok(workshop)
    }

    /// A new file that a disk is made of.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.base.join("boot")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.file("root.img")
    }

    pub(crate) fn make_disk(&self) -> Result<()> {
        let programs = self.file("programs");
        fs::create_dir_all(&programs)?;
        for name in PROGRAMS {
            fs::copy(program(name)?, programs.join(name))
                .with_context(|| format!("copy {name}"))?;
        }
        // A run that was killed has left it.
        let making = self.file("making");
        remove(&making)?;
        fs::create_dir(&making)?;
        script(
            "disk.sh",
            &[
                &self.base,
                &programs,
                &self.root(),
                &checkout(""),
                &making,
                &self.images,
            ],
        )?;
        remove(&making)
    }
}

/// Builds the images of a task on a test host, as the end-to-end tests do, and saves them.
fn save_images(target: &Path) -> Result<()> {
    const SAVED: &str = "/run/vm/images";
    let disk = chain::prepare(&tell)?;
    let stage = Stage::open(&disk, &|step, _| tell(step))?;
    stage.host().bind(target, SAVED, false)?;
    let save = |image: &str| {
        let file = format!("--output={SAVED}/{image}.tar");
        stage.host().run(["docker", "save", &file, image]).map(drop)
    };
    let saved = ["ecs-dind", "ecs-runner"].into_iter().try_for_each(save);
    stage.close()?;
    saved
}

/// A folder that is made whole or not at all, and again when a file of `sources` changes.
fn kept(
    folder: &Path,
    name: &str,
    sources: &[PathBuf],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        hash(source, &mut hasher)?;
    }
    let path = folder.join(format!("{name}-{:016x}", hasher.finish()));
    if !path.exists() {
        tell(&format!("make {}", path.display()));
        for entry in fs::read_dir(folder)? {
            let old = entry?.path();
            let of_name = old.file_name().and_then(|old| old.to_str());
            if of_name.is_some_and(|old| old.starts_with(&format!("{name}-"))) {
                remove(&old)?;
            }
        }
        let partial = folder.join(format!("{name}-partial"));
        fs::create_dir(&partial)?;
        make(&partial).with_context(|| format!("make the {name} of the machine"))?;
        fs::rename(&partial, &path)?;
    }
    Ok(path)
}

/// The trees have files of all kinds and owners; rm stays on their filesystem.
fn remove(path: &Path) -> Result<()> {
    let status = Command::new("rm")
        .args(["-rf", "--one-file-system"])
        .arg(path)
        .status()?;
    ensure!(status.success(), "rm {}: {status}", path.display());
    Ok(())
}

fn hash(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        return entries
            .iter()
            .try_for_each(|entry| hash(&entry.path(), hasher));
    }
    let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    (path.file_name(), content).hash(hasher);
    Ok(())
}

/// A program of this workspace, built in the same profile as this test.
fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("cargo's folder")?;
    let path = profile.join(name);
    ensure!(
        path.is_file(),
        "{} is not there; build the workspace in the same profile first",
        path.display()
    );
    Ok(path)
}

/// Runs one of our scripts in mount and PID namespaces of its own, and shows its steps.
fn script(name: &str, words: &[&Path]) -> Result<()> {
    // All of it ends with this test, however that ends.
    let namespaces = "--pdeathsig=KILL unshare --mount --pid --fork --kill-child --mount-proc bash";
    let mut child = Command::new("setpriv")
        .args(namespaces.split(' '))
        .arg(checkout("tests/vm/tests/vm").join(name))
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        tell(line?.trim_start_matches("== "));
    }
    let status = child.wait()?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

fn install_missing() -> Result<()> {
    let found = |program: &str| {
        let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        folders
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(program, _)| !found(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    tell(&format!("install {}", missing.join(" ")));
    let install = format!(
        "apt-get -q update && apt-get -q -y --no-install-recommends install {}",
        missing.join(" ")
    );
    let output = Command::new("sh")
        .args(["-c", &install])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()?;
    ensure!(
        output.status.success(),
        "{install}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
