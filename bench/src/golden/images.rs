//! The images of the section: made of Debian packages, without a registry, and kept for the next
//! run on a volume of their own.
//!
//! Owns that volume. A set of the first so many images is there in four ways: as an archive, in a
//! registry, unpacked in a data-root, and in a golden store.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chain::Stage;
use testhost::{Host, Options, Running};

use crate::bench::Bench;
use crate::daemon::{Daemon, Kind};
use crate::programs;

/// The packages of an image on each line.
const LIST: &str = include_str!("../../golden/images.txt");
const LAYER: &str = include_str!("../../golden/layer.sh");
const ARCHIVE: &str = include_str!("../../golden/archive.sh");
/// The layer below all images: that of Debian's smallest image, which the host has.
const BASE: &str = "debian:trixie-slim";
/// It is sparse.
const VOLUME_BYTES: u64 = 64 << 30;
const SCRIPTS: &str = "/run/bench/golden";
const DEBS: &str = "/run/bench/debs";
/// The registry's port in the host.
const PORT: u16 = 5000;
/// What an image takes on the machine's disk in its four ways, and while it is loaded.
const ROOM: u64 = 1200 << 20;
const LIMIT: Duration = Duration::from_secs(30);

/// How many images there are.
pub(crate) fn count() -> usize {
    LIST.lines().count()
}

/// What is there already, and the registry, which ends with this value.
pub(crate) struct Images<'a> {
    stage: &'a Stage,
    root: PathBuf,
    _registry: Running,
}

/// The first `count` images.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) count: usize,
    /// Its folder in the host.
    dir: String,
    /// Files and bytes in its images, without the layer below all of them.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Set {
    pub(crate) fn archive(&self) -> String {
        format!("{}/archive.tar", self.dir)
    }

    pub(crate) fn data_root(&self) -> String {
        format!("{}/root", self.dir)
    }

    pub(crate) fn store(&self) -> String {
        format!("{}/store", self.dir)
    }

    /// `golden-01:1`, as archive, mirror and store call it.
    pub(crate) fn names(&self) -> Vec<String> {
        (1..=self.count).map(name).collect()
    }

    /// In words.
    pub(crate) fn what(&self) -> String {
        let (mib, thousands) = (self.bytes >> 20, self.files.div_ceil(1000));
        let images = number(self.count);
        format!("{images}, {mib} MiB, {thousands},000 files")
    }
}

/// So many images, in words.
pub(crate) fn number(count: usize) -> String {
    let images = if count == 1 { "image" } else { "images" };
    format!("{count} {images}")
}

fn name(number: usize) -> String {
    format!("golden-{number:02}:1")
}

fn place() -> PathBuf {
    programs::checkout().join("target/bench/golden")
}

/// Gets the packages of the first `count` images that are not here yet, from Debian's mirror: the
/// only step that needs a network.
pub(crate) fn download(bench: &Bench<'_>, count: usize) -> Result<()> {
    let debs = place().join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("make {}", debs.display()))?;
    let lines = LIST.lines().take(count).enumerate();
    let missing: Vec<(usize, &str)> = lines
        .map(|(index, packages)| (index + 1, packages))
        .filter(|(number, packages)| !debs.join(folder(*number, packages)).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bench.say(&format!(
        "the packages of {} images are downloaded, once",
        missing.len()
    ));
    let disk = chain::prepare(&|step| bench.say(step))?;
    let options = Options {
        network: true,
        ..Options::default()
    };
    let host = Host::boot(&disk, &options)?;
    host.bind(&debs, DEBS, false)?;
    host.run(["apt-get", "--quiet", "update"])?;
    for (number, packages) in missing {
        let folder = folder(number, packages);
        let script = format!(
            "set -e; cd {DEBS}; rm -rf part; mkdir part; cd part; \
             apt-get --quiet -o APT::Sandbox::User=root download {packages}; mv ../part ../{folder}"
        );
        host.run(["sh", "-c", &script])?;
        bench.say(&format!("  {packages}"));
    }
    host.shutdown().map(drop)
}

/// Bytes that are free on the disk of a path.
fn available(path: &Path) -> Result<u64> {
    let found =
        nix::sys::statvfs::statvfs(path).with_context(|| format!("statvfs {}", path.display()))?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// Named after what is in it.
fn folder(number: usize, packages: &str) -> String {
    let mut hasher = DefaultHasher::new();
    packages.hash(&mut hasher);
    format!("{number:02}-{:016x}", hasher.finish())
}

/// A number for all that the volume's contents depend on, without the packages' versions.
fn key() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (LIST, LAYER, ARCHIVE, BASE).hash(&mut hasher);
    let sources = programs::checkout().join("golden/src");
    let entries = fs::read_dir(&sources).with_context(|| format!("list {}", sources.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        fs::read(&path)
            .with_context(|| format!("read {}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// The file of the volume; one that was made of other things is removed.
fn volume_file() -> Result<PathBuf> {
    let wanted = place().join(format!("volume-{:016x}.img", key()?));
    for entry in fs::read_dir(place())?.flatten() {
        let path = entry.path();
        if path != wanted && path.extension().is_some_and(|end| end == "img") {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(wanted)
}

/// Brings the volume into the host; returns where it is there.
pub(crate) fn mount(stage: &mut Stage) -> Result<PathBuf> {
    stage.kept_volume("golden", &volume_file()?, VOLUME_BYTES)
}

impl<'a> Images<'a> {
    /// `root` is where [`mount`] has put the volume.
    pub(crate) fn open(stage: &'a Stage, root: &Path) -> Result<Self> {
        let host = stage.host();
        host.bind(&programs::checkout().join("bench/golden"), SCRIPTS, true)?;
        host.bind(&place().join("debs"), DEBS, true)?;
        let root = root.to_owned();
        // Tasks of a run that was killed.
        let script = format!(
            "set -e; cd {}; rm -rf tasks; mkdir -p tasks sets layers registry",
            root.display()
        );
        host.run(["sh", "-c", &script])?;
        let configuration = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/registry}}}}\n\
             http: {{addr: '0.0.0.0:{PORT}'}}\n",
            root.display()
        );
        let file = "/run/bench/registry.yml";
        fs::write(host.path(file), configuration).context("write the registry's settings")?;
        let trusted = "{\"insecure-registries\":[\"172.17.0.0/16\"]}";
        fs::write(host.path("/run/bench/daemon.json"), trusted)?;
        let registry = host.follow(["docker-registry", "serve", file], |_, _| ())?;
        let url = format!("http://127.0.0.1:{PORT}/v2/");
        let begin = std::time::Instant::now();
        while host.run(["curl", "-fsS", &url]).is_err() {
            ensure!(begin.elapsed() < LIMIT, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self {
            stage,
            root,
            _registry: registry,
        })
    }

    /// How tasks reach the mirror's images.
    pub(crate) fn mirror(&self) -> String {
        format!("{}:{PORT}/library", self.stage.host().gateway())
    }

    /// Where a task's storage is.
    pub(crate) fn storage(&self, task: &str) -> String {
        self.root.join("tasks").join(task).display().to_string()
    }

    /// The volume as this program sees it.
    pub(crate) fn seen(&self) -> PathBuf {
        self.stage.host().path(&self.root)
    }

    /// The first `count` images in all four ways; made when they are not there yet.
    pub(crate) fn set(&self, bench: &Bench<'_>, count: usize) -> Result<Set> {
        let mut set = Set {
            count,
            dir: self
                .root
                .join(format!("sets/{count}"))
                .display()
                .to_string(),
            files: 0,
            bytes: 0,
        };
        let complete = self.stage.host().path(&set.dir).join("complete");
        if !complete.exists() {
            let room = u64::try_from(count)? * ROOM;
            let (free, mib) = (available(&place())?, room >> 20);
            ensure!(
                free >= room,
                "{count} images need {mib} MiB below {}, and {} MiB are free: make room there",
                place().display(),
                free >> 20
            );
            bench.say(&format!("{count} images are made, once"));
            self.make(bench, &set)
                .with_context(|| format!("make {count} images"))?;
            fs::write(&complete, [])?;
        }
        let layers = self.seen().join("layers");
        for number in 1..=count {
            let files = fs::read_to_string(layers.join(format!("{number:02}.files")))?;
            set.files += files.trim().parse::<u64>().context("number of files")?;
            set.bytes += fs::metadata(layers.join(format!("{number:02}.tar")))?.len();
        }
        Ok(set)
    }

    fn make(&self, bench: &Bench<'_>, set: &Set) -> Result<()> {
        let (host, dir, layers) = (self.stage.host(), &set.dir, self.root.join("layers"));
        let layers = layers.display();
        let base = format!("{layers}/base.tar");
        let script = format!(
            "test -e {base} || {{ mkdir {layers}/saved; cd {layers}/saved; \
             docker save {BASE} | tar -x; mv $(jq -r .[0].Layers[0] manifest.json) {base}; \
             rm -r {layers}/saved; }}"
        );
        host.run(["sh", "-ec", &script])?;
        host.run(["sh", "-ec", &format!("rm -rf {dir}; mkdir {dir}")])?;
        let numbers: Vec<String> = (1..=set.count)
            .map(|number| format!("{number:02}"))
            .collect();
        for (number, packages) in numbers.iter().zip(LIST.lines()) {
            let debs = format!("{DEBS}/{}", folder(number.parse()?, packages));
            let script = format!(
                "test -e {layers}/{number}.tar || {SCRIPTS}/layer.sh {base} {debs} {layers} {number}"
            );
            host.run(["sh", "-ec", &script])?;
        }
        bench.say("  layers");
        let script = format!(
            "{SCRIPTS}/archive.sh {base} {layers} {} {}",
            set.archive(),
            numbers.join(" ")
        );
        host.run(["sh", "-ec", &script])?;
        bench.say("  archive");
        self.unpack_and_push(set)?;
        bench.say("  data-root and registry");
        let root = format!("--volume={}:/data-root", set.data_root());
        let words = ["build", "--data-root=/data-root"];
        self.stage
            .golden(Path::new(&set.store()), &[&root], &words)?;
        bench.say("  golden store");
        host.run(["sync", "--file-system", dir]).map(drop)
    }

    fn unpack_and_push(&self, set: &Set) -> Result<()> {
        let making = format!("{}/making", set.dir);
        let trust = "--volume=/run/bench/daemon.json:/etc/docker/daemon.json:ro".to_owned();
        let daemon = Daemon::create_on(
            self.stage,
            Kind::Bare,
            ("golden-make", making.clone()),
            &[trust],
        )?;
        daemon.container.start()?;
        daemon.wait_ready()?;
        daemon.docker(&["load", "--quiet", "--input", &set.archive()])?;
        let registry = format!("{}:{PORT}/library", self.stage.host().gateway());
        for name in set.names() {
            let pushed = format!("{registry}/{name}");
            daemon.docker(&["tag", &name, &pushed])?;
            daemon.docker(&["push", "--quiet", &pushed])?;
            daemon.docker(&["rmi", &pushed])?;
        }
        daemon.container.terminate()?;
        daemon.container.end(&["0"])?;
        let root = set.data_root();
        self.stage.host().run(["mv", &making, &root]).map(drop)
    }
}
