//! The tool cache: from the store to the task and back, against what people copy with.
//!
//! The store is a folder, or the same folder behind `slowfs`, where each request takes as long as at
//! a network file system and a bounded number is under way. It is mounted anew for each measurement,
//! so that nobody finds in the kernel's cache what another has read.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testhost::Running;

use crate::bench::{Bench, Comparison, Measure};
use crate::plot::{Plot, Scale};
use crate::programs::{self, milliseconds};
use crate::results::{Compared, Unit};
use crate::sections::Section;

pub(crate) const SECTION: Section = Section {
    name: "cache",
    title: "Tool cache",
    run,
};

/// Requests that the slow store has under way at most.
const SLOTS: u32 = 64;
const FILE: u64 = 4096;
/// Files of a tool, and of one of its folders.
const TOOL: u32 = 500;
const FOLDER: u32 = 50;
const LIMIT: Duration = Duration::from_secs(30);
const OURS: &str = "supervisor cache";

/// Sizes in thousands of files, with the store's latencies in milliseconds. What copies file by file
/// takes minutes for more files on a slow store.
const RESTORED: [(u32, u32); 4] = [(10, 0), (40, 0), (1, 1), (1, 3)];
const OTHERWISE: [(u32, u32); 2] = [(10, 0), (1, 1)];

/// Who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ours,
    RsyncA,
    Fpsync,
    CpA,
    TarZstd,
    Rclone,
}

const PEERS: [(Way, &str, &str); 5] = [
    (Way::RsyncA, "rsync_a", "rsync -a"),
    (Way::Fpsync, "fpsync", "fpsync -n 16 -f 200"),
    (Way::CpA, "cp_a", "cp -a --update"),
    (Way::TarZstd, "tar_zstd", "tar and zstd -T0, one archive"),
    (
        Way::Rclone,
        "rclone",
        "rclone copy --transfers 32 --checkers 64",
    ),
];

/// What is done, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    RestoreCold,
    RestoreAgain,
    PublishNothing,
    PublishTool,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::RestoreCold => "cache_restore",
            Self::RestoreAgain => "cache_restore_again",
            Self::PublishNothing => "cache_publish_nothing",
            Self::PublishTool => "cache_publish_tool",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::RestoreCold => "restore into an empty tool cache",
            Self::RestoreAgain => "restore when everything is there already",
            Self::PublishNothing => "publish when nothing is new",
            Self::PublishTool => "publish one new tool of 500 files",
        }
    }
}

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let mut all = Vec::new();
    let table = [
        (Work::RestoreCold, &RESTORED[..]),
        (Work::RestoreAgain, &OTHERWISE),
        (Work::PublishNothing, &OTHERWISE),
        (Work::PublishTool, &OTHERWISE),
    ];
    for (work, points) in table {
        for &(thousands, latency) in points {
            let name = format!("{}_{thousands}k_{latency}ms", work.name());
            if !bench.wants(&name) {
                continue;
            }
            if latency > 0 && programs::find("slowfs").is_err() {
                bench.say(&format!(
                    "{name}: left out: there is no slowfs beside this program"
                ));
                continue;
            }
            let stores = Stores::fill(thousands * 1000, latency)?;
            let what = format!(
                "{}: {thousands},000 files, store with {latency} ms latency",
                work.what()
            );
            let ours: Measure<'_> = Box::new(|| stores.measure(work, Way::Ours));
            let mut comparison = Comparison::new(&name, what, Unit::Ms, (OURS, ours));
            for (way, name, label) in PEERS {
                let stores = &stores;
                comparison = comparison.peer(name, label, move || stores.measure(work, way));
            }
            if let Some(compared) = bench.compare(comparison)? {
                all.push((work, (thousands, latency), compared));
            }
        }
    }
    plots(bench, &all);
    Ok(())
}

type Measured = (Work, (u32, u32), Compared);

fn plots(bench: &mut Bench<'_>, all: &[Measured]) {
    let cold = || all.iter().filter(|(work, ..)| *work == Work::RestoreCold);
    let by_files = cold().filter(|(_, (_, latency), _)| *latency == 0);
    bench.plot(Plot::lines(
        (
            "cache_files",
            "Restoring a tool cache: how the cost grows with the files",
            "On a store without latency everybody pays for each file that is made on the local disk.",
        ),
        ("files", Scale::Log, Scale::Linear),
        by_files.map(|(_, (thousands, _), compared)| (f64::from(thousands * 1000), compared)),
    ));
    let by_latency = cold().filter(|(_, (thousands, _), _)| *thousands == 1);
    let limit = [1, 3].map(|latency| {
        let requests = 1000 * latency;
        (f64::from(latency), f64::from(requests) / f64::from(SLOTS))
    });
    bench.plot(
        Plot::lines(
            (
                "cache_latency",
                "Restoring 1,000 files: how the cost grows with the store's latency",
                "What asks for one file after the other waits for each of them; few requests for \
                 much data come near to what the store can do.",
            ),
            ("latency in ms", Scale::Linear, Scale::Log),
            by_latency.map(|(_, (_, latency), compared)| (f64::from(*latency), compared)),
        )
        .limit("limit: a request for each file, 64 at once", &limit),
    );
    let slow = all
        .iter()
        .filter(|(work, (_, latency), _)| *latency == 1 && *work != Work::RestoreCold);
    bench.plot(Plot::bars(
        (
            "cache_again",
            "When little or nothing is new, on a store with 1 ms latency",
            "Whoever has to look at every file to find that nothing is new pays for every file.",
        ),
        slow.map(|(work, _, compared)| (work.what(), compared)),
    ));
}

/// A tool cache and stores that have it, each in its way.
struct Stores {
    folder: TempDir,
    latency: u32,
    /// How often was measured: names new tools.
    count: Cell<u32>,
}

impl Stores {
    fn fill(files: u32, latency: u32) -> Result<Self> {
        let parent = programs::checkout().join("target/bench");
        fs::create_dir_all(&parent)?;
        let stores = Self {
            folder: tempfile::tempdir_in(parent).context("make a folder")?,
            latency,
            count: Cell::new(0),
        };
        for number in 0..files / TOOL {
            make_tool(&stores.path("seed"), &format!("tool{number}"))?;
        }
        for way in PEERS.map(|(way, ..)| way).into_iter().chain([Way::Ours]) {
            let store = stores.store(way);
            fs::create_dir_all(&store)?;
            if way != Way::Fpsync && way != Way::CpA && way != Way::Rclone {
                programs::output(&mut publish(way, &stores.path("seed"), &store)?)?;
            }
        }
        Ok(stores)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Those who copy files one by one have the same store.
    fn store(&self, way: Way) -> PathBuf {
        self.path(match way {
            Way::Ours => "store-ours",
            Way::TarZstd => "store-tar",
            Way::RsyncA | Way::Fpsync | Way::CpA | Way::Rclone => "store-plain",
        })
    }

    fn measure(&self, work: Work, way: Way) -> Result<f64> {
        let local = self.path("local");
        if work == Work::RestoreCold && local.exists() {
            remove(&local)?;
        }
        if work == Work::RestoreCold {
            fs::create_dir(&local)?;
        } else if !local.exists() {
            programs::output(
                Command::new("cp")
                    .arg("-a")
                    .arg(self.path("seed"))
                    .arg(&local),
            )?;
        }
        self.count.set(self.count.get() + 1);
        let new = format!("new{}", self.count.get());
        if work == Work::PublishTool {
            make_tool(&local, &new)?;
        }
        let store = SlowStore::mount(&self.store(way), &self.path("mounted"), self.latency)?;
        let mut command = match work {
            Work::RestoreCold | Work::RestoreAgain => restore(way, &store.path, &local),
            Work::PublishNothing | Work::PublishTool => publish(way, &local, &store.path),
        }?;
        let begin = Instant::now();
        programs::output(&mut command)?;
        let took = milliseconds(begin.elapsed());
        drop(store);
        self.verify(work, way, (&local, &new))?;
        Ok(took)
    }

    /// Whether the work was done; afterwards the store is as before.
    fn verify(&self, work: Work, way: Way, (local, new): (&Path, &str)) -> Result<()> {
        match work {
            Work::RestoreCold | Work::RestoreAgain => {
                let last = local.join("tool0/1.0.0/x64/0/0");
                let size = last.metadata().map(|found| found.len()).unwrap_or_default();
                ensure!(size == FILE, "{} was not restored", last.display());
            }
            Work::PublishTool if way == Way::TarZstd => {
                remove(&local.join(new))?;
                programs::output(&mut publish(way, &self.path("seed"), &self.store(way))?)?;
            }
            Work::PublishTool => {
                let script = format!("find {} -name '*{new}*'", self.store(way).display());
                let found = programs::output(Command::new("sh").args(["-c", &script]))?;
                ensure!(!found.is_empty(), "{new} was not published");
                remove(&local.join(new))?;
                for path in found.lines().map(Path::new).filter(|path| path.exists()) {
                    remove(path)?;
                }
            }
            Work::PublishNothing => {}
        }
        Ok(())
    }
}

fn make_tool(root: &Path, name: &str) -> Result<()> {
    let unit = root.join(name).join("1.0.0/x64");
    for folder in 0..TOOL / FOLDER {
        let folder = unit.join(folder.to_string());
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        for file in 0..FOLDER {
            fs::write(folder.join(file.to_string()), content(name, file))?;
        }
    }
    fs::write(unit.with_extension("complete"), [])?;
    Ok(())
}

/// As compressible as programs are: half of it noise, half of it the same.
fn content(tool: &str, file: u32) -> Vec<u8> {
    let mut state = tool.bytes().fold(u64::from(file) + 1, |state, byte| {
        state.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let noise = (0..FILE / 2 / 8).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).to_le_bytes()
    });
    let mut content: Vec<u8> = noise.collect();
    content.extend((0..FILE / 2).map(|_| b'x'));
    content
}

fn remove(path: &Path) -> Result<()> {
    programs::output(Command::new("rm").arg("-rf").arg(path)).map(drop)
}

fn restore(way: Way, store: &Path, local: &Path) -> Result<Command> {
    if way == Way::TarZstd {
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--zstd", "--file"]);
        tar.arg(store.join("cache.tar.zst")).arg("-C").arg(local);
        return Ok(tar);
    }
    copy(way, ("restore", store), (store, local))
}

fn publish(way: Way, local: &Path, store: &Path) -> Result<Command> {
    if way == Way::TarZstd {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--use-compress-program=zstd -T0", "--file"]);
        tar.arg(store.join("cache.tar.zst"))
            .arg("-C")
            .arg(local)
            .arg(".");
        return Ok(tar);
    }
    copy(way, ("publish", store), (local, store))
}

/// From a folder to a folder, or, for ours, between a root and the store.
fn copy(way: Way, (verb, store): (&str, &Path), (from, to): (&Path, &Path)) -> Result<Command> {
    let [from_inside, to_inside] = [from, to].map(|path| path.join(""));
    let mut command = match way {
        Way::Ours => Command::new(programs::find("supervisor")?),
        Way::RsyncA => Command::new("rsync"),
        Way::Fpsync => Command::new("fpsync"),
        Way::CpA | Way::TarZstd => Command::new("cp"),
        Way::Rclone => Command::new("rclone"),
    };
    match way {
        Way::Ours => {
            let root = if from == store { to } else { from };
            command.args(["cache", verb, "--store"]).arg(store);
            command.arg("--root").arg(root);
        }
        Way::RsyncA => {
            command.arg("-a").arg(from_inside).arg(to_inside);
        }
        Way::Fpsync => {
            command.args(["-n", "16", "-f", "200"]);
            command.arg(from_inside).arg(to_inside);
        }
        Way::CpA | Way::TarZstd => {
            command.args(["-a", "--update"]).arg(from.join(".")).arg(to);
        }
        Way::Rclone => {
            command.args([
                "copy",
                "--transfers=32",
                "--checkers=64",
                "--links",
                "--quiet",
            ]);
            command.arg(from).arg(to);
        }
    }
    Ok(command)
}

/// A store behind `slowfs`, or as it is when there is no latency. Dropping it unmounts it.
struct SlowStore {
    path: PathBuf,
    mounted: Option<Running>,
}

impl SlowStore {
    fn mount(store: &Path, at: &Path, latency: u32) -> Result<Self> {
        if latency == 0 {
            return Ok(Self {
                path: store.to_owned(),
                mounted: None,
            });
        }
        fs::create_dir_all(at)?;
        let mut command = Command::new(programs::find("slowfs")?);
        command.arg("--lat-us").arg((latency * 1000).to_string());
        command.arg("--slots").arg(SLOTS.to_string());
        command.arg(store).arg(at);
        let running = Running::start(command, |_, _| ())?;
        let mounted = Self {
            path: at.to_owned(),
            mounted: Some(running),
        };
        let begin = Instant::now();
        while !is_mounted(at)? {
            ensure!(
                begin.elapsed() < LIMIT,
                "slowfs does not mount {}",
                at.display()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(mounted)
    }
}

fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let path = path.display().to_string();
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&path)))
}

impl Drop for SlowStore {
    fn drop(&mut self) {
        if let Some(mut running) = self.mounted.take() {
            // What a peer left running may still be in it.
            let path = self.path.display();
            let script = format!("umount {path} || umount --lazy {path}");
            drop(programs::output(Command::new("sh").args(["-c", &script])));
            drop(running.wait(LIMIT));
        }
    }
}
