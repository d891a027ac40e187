//! Stores that have the same files, each in the way of those who use it, and one measured piece of
//! work with them.
//!
//! Everything is in memory, on a file system of its own: how long a disk takes to make files depends
//! on who else uses it, and is the same for all.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::slow::{SlowStore, is_mounted};
use super::ways::{self, Way};
use crate::programs::{self, milliseconds};
use crate::worker::{self, Before};

/// Files of a tool that is there already, and of one of a tool's folders: an installed Python has
/// twenty in each, a `node_modules` five.
const TOOL: u32 = 500;
const FOLDER: u32 = 10;
/// Files of a tool that change: a hundredth.
const CHANGED: u32 = TOOL / 100;

/// What is done, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    RestoreCold,
    RestoreAgain,
    PublishNothing,
    /// A hundredth of the files.
    PublishChanged,
    /// A tool of so many files.
    PublishTool(u32),
}

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) milliseconds: f64,
    /// Requests to the store, where they can be counted.
    pub(crate) requests: Option<f64>,
}

/// Where the stores and the local files are. Dropping it removes them.
pub(crate) struct InMemory(PathBuf);

/// How many files there are in a store, and how large each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    pub(crate) thousands: u32,
    pub(crate) kib: u32,
}

/// The stores of one size.
pub(crate) struct Stores {
    folder: PathBuf,
    files: u32,
    /// The bytes of each file.
    file: u64,
    /// How often was measured: names new tools, and makes changed files differ.
    count: Cell<u32>,
}

/// What a runner is to do when all begin.
type Job = Box<dyn FnOnce() -> Result<()> + Send>;

impl Stores {
    pub(crate) fn fill(memory: &InMemory, size: Size) -> Result<Self> {
        let files = size.thousands * 1000;
        let stores = Self {
            folder: memory.0.join(format!("{files}-{}", size.kib)),
            files,
            file: u64::from(size.kib) * 1024,
            count: Cell::new(0),
        };
        let seed = stores.path("seed/tree");
        for number in 0..files / TOOL {
            stores.make_tool(&seed, &format!("tool{number}"), TOOL)?;
        }
        let nothing = stores.path("seed/nothing");
        for way in ways::OURS {
            let (store, empty) = (stores.store(way), nothing.join("tree"));
            fs::create_dir_all(&store)?;
            fs::create_dir_all(&empty)?;
            let mut publish = Command::new(programs::find("supervisor")?);
            publish.args(["cache", "publish", "--store"]).arg(&store);
            // Both are called tree: the store keeps the second below that name.
            let mut roots = [&seed, &empty];
            if way == Way::Loose {
                roots.reverse();
            }
            for root in roots {
                publish.arg("--root").arg(root);
            }
            programs::output(&mut publish)?;
        }
        let archive = stores.store(Way::TarZstd);
        fs::create_dir_all(&archive)?;
        programs::output(&mut ways::publish(Way::TarZstd, (&archive, &seed), files)?)?;
        fs::rename(&seed, stores.store(Way::RsyncA))?;
        Ok(stores)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn store(&self, way: Way) -> PathBuf {
        self.path(&format!("store-{}", way.place()))
    }

    /// Where a runner has it, with a latency in microseconds; without any there is no slow store
    /// between.
    fn place(&self, way: Way, (latency, runner): (u32, usize)) -> PathBuf {
        if latency > 0 {
            self.path(&format!("mounted-{runner}"))
        } else {
            self.store(way)
        }
    }

    /// So many runners at once, each with a local directory and a mount of its own.
    pub(crate) fn measure(
        &self,
        work: Work,
        way: Way,
        (latency, runners): (u32, usize),
    ) -> Result<Cost> {
        self.count.set(self.count.get() + 1);
        let mut prepared = Vec::new();
        for runner in 0..runners {
            prepared.push(self.prepare(work, way, (latency, runner))?);
        }
        let mut mounts = Vec::new();
        let mut jobs = Vec::new();
        for (runner, (local, before)) in prepared.iter_mut().enumerate() {
            let at = self.place(way, (latency, runner));
            if latency > 0 {
                mounts.push(SlowStore::mount(&self.store(way), &at, latency)?);
            }
            jobs.push(self.job(work, way, (&at, local), before.take())?);
        }
        let milliseconds = at_once(jobs)?;
        let slow = !mounts.is_empty();
        let requests = mounts
            .into_iter()
            .map(SlowStore::requests)
            .sum::<Result<f64>>();
        for (runner, (local, _)) in prepared.iter().enumerate() {
            self.verify(work, way, (local, &self.new_tool(runner)))?;
        }
        Ok(Cost {
            milliseconds,
            requests: slow.then_some(requests?),
        })
    }

    /// The local directory as it is before the work, and what the restore before it remembers.
    fn prepare(
        &self,
        work: Work,
        way: Way,
        (latency, runner): (u32, usize),
    ) -> Result<(PathBuf, Option<Before>)> {
        let local = self.path(&format!("local-{}-{runner}", way.place()));
        if work == Work::RestoreCold {
            remove(&local)?;
        }
        let there = local.exists();
        for root in ways::roots(&local) {
            fs::create_dir_all(if ways::OURS.contains(&way) {
                &root
            } else {
                &local
            })?;
        }
        let mut before = None;
        if work != Work::RestoreCold && ways::OURS.contains(&way) {
            before = Some(self.before(way, (latency, runner), &local)?);
        } else if work != Work::RestoreCold && !there {
            // Not by a peer: some of them take minutes also on a fast store.
            let by = if way == Way::TarZstd { way } else { Way::CpA };
            let mut restore = ways::restore(by, (&self.store(way), &local), self.files)?;
            programs::output(&mut restore)?;
        }
        let files = way.files(&local);
        match work {
            Work::PublishTool(size) => self.make_tool(&files, &self.new_tool(runner), size)?,
            Work::PublishChanged => self.change(&files)?,
            Work::RestoreCold | Work::RestoreAgain | Work::PublishNothing => {}
        }
        Ok((local, before))
    }

    /// What a restore remembers is of the store's path: it is done there, without the latency.
    fn before(&self, way: Way, runner: (u32, usize), local: &Path) -> Result<Before> {
        let (store, at) = (self.store(way), self.place(way, runner));
        let caches = worker::caches(&at, &ways::roots(local));
        if at == store {
            return worker::restore(worker::command()?, &caches);
        }
        fs::create_dir_all(&at)?;
        let none: Option<&str> = None;
        mount(Some(&store), &at, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("mount the store on {}", at.display()))?;
        let before = worker::restore(worker::command()?, &caches);
        umount2(&at, MntFlags::empty()).context("unmount the store")?;
        before
    }

    fn new_tool(&self, runner: usize) -> String {
        format!("new{}-of-{runner:02}", self.count.get())
    }

    fn job(
        &self,
        work: Work,
        way: Way,
        (store, local): (&Path, &Path),
        before: Option<Before>,
    ) -> Result<Job> {
        let publishes = !matches!(work, Work::RestoreCold | Work::RestoreAgain);
        if let Some(before) = before.filter(|_| publishes) {
            let caches = worker::caches(store, &ways::roots(local));
            let command = worker::command()?;
            return Ok(Box::new(move || worker::publish(command, &caches, &before)));
        }
        let mut command = if publishes {
            ways::publish(way, (store, local), self.files)?
        } else {
            ways::restore(way, (store, local), self.files)?
        };
        Ok(Box::new(move || programs::output(&mut command).map(drop)))
    }

    /// One file in a hundred gets other bytes.
    fn change(&self, files: &Path) -> Result<()> {
        let salt = format!("changed{}", self.count.get());
        for path in self.changed(files) {
            fs::write(&path, self.content(&salt, 0))
                .with_context(|| format!("{}", path.display()))?;
        }
        Ok(())
    }

    fn changed(&self, files: &Path) -> impl Iterator<Item = PathBuf> {
        let name = self.count.get() % FOLDER;
        let some = (0..CHANGED).map(|folder| folder * (TOOL / FOLDER / CHANGED));
        let of = |tool: u32| some.clone().map(move |folder| (tool, folder));
        let all: Vec<_> = (0..self.files / TOOL).flat_map(of).collect();
        let files = files.to_owned();
        all.into_iter()
            .map(move |(tool, folder)| files.join(format!("tool{tool}/1.0.0/x64/{folder}/{name}")))
    }

    /// Whether the work was done; new tools are gone afterwards.
    fn verify(&self, work: Work, way: Way, (local, new): (&Path, &str)) -> Result<()> {
        let (files, store) = (way.files(local), self.store(way));
        match work {
            Work::RestoreCold | Work::RestoreAgain => {
                let last = files.join("tool0/1.0.0/x64/0/0");
                let size = last.metadata().map(|found| found.len()).unwrap_or_default();
                ensure!(size == self.file, "{} was not restored", last.display());
                if work == Work::RestoreCold {
                    remove(local)?;
                }
            }
            Work::PublishTool(_) if way == Way::TarZstd => remove(&files.join(new))?,
            Work::PublishTool(_) => {
                let script = format!("find {} -name '*{new}*' -prune", store.display());
                let found = programs::output(Command::new("sh").args(["-c", &script]))?;
                ensure!(!found.is_empty(), "{new} was not published");
                remove(&files.join(new))?;
                for path in found.lines().map(Path::new) {
                    remove(path)?;
                }
            }
            Work::PublishChanged if way != Way::TarZstd => {
                let loose = way == Way::Loose;
                let kept = if loose {
                    store.join("trees/tree")
                } else {
                    store
                };
                let last = self.changed(&kept).last().context("nothing was changed")?;
                let expected = self.content(&format!("changed{}", self.count.get()), 0);
                let found = fs::read(&last).with_context(|| format!("{}", last.display()))?;
                ensure!(found == expected, "{} was not published", last.display());
            }
            Work::PublishChanged | Work::PublishNothing => {}
        }
        Ok(())
    }

    /// A command that restores into nothing, and the store for as long as it runs.
    pub(crate) fn restore(&self, way: Way, latency: u32) -> Result<(Command, SlowStore)> {
        let runner = (latency, 0);
        let (local, _) = self.prepare(Work::RestoreCold, way, runner)?;
        let at = self.place(way, runner);
        let store = SlowStore::mount(&self.store(way), &at, latency)?;
        let command = ways::restore(way, (&at, &local), self.files)?;
        Ok((command, store))
    }

    /// How long it takes to write as many bytes into one file: what the local disk can do.
    pub(crate) fn bytes_alone(&self) -> Result<f64> {
        let path = self.path("bytes");
        let block = vec![1; 1 << 20];
        let begin = Instant::now();
        let mut file = fs::File::create(&path)?;
        for _ in 0..(u64::from(self.files) * self.file) >> 20 {
            std::io::Write::write_all(&mut file, &block)?;
        }
        let took = milliseconds(begin.elapsed());
        fs::remove_file(&path)?;
        Ok(took)
    }

    fn make_tool(&self, root: &Path, name: &str, files: u32) -> Result<()> {
        let unit = root.join(name).join("1.0.0/x64");
        for number in 0..files / FOLDER {
            let folder = unit.join(number.to_string());
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            for file in 0..FOLDER {
                let content = self.content(name, number * FOLDER + file);
                fs::write(folder.join(file.to_string()), content)?;
            }
        }
        fs::write(unit.with_extension("complete"), [])?;
        Ok(())
    }

    /// As compressible as programs are: half of it noise, half of it the same.
    fn content(&self, tool: &str, file: u32) -> Vec<u8> {
        let mut state = tool.bytes().fold(u64::from(file) + 1, |state, byte| {
            state.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let noise = (0..self.file / 2 / 8).flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state ^ (state >> 29)).to_le_bytes()
        });
        let mut content: Vec<u8> = noise.collect();
        content.extend((0..self.file / 2).map(|_| b'x'));
        content
    }
}

/// Lets all begin together; how long it took until the last had ended.
fn at_once(jobs: Vec<Job>) -> Result<f64> {
    let barrier = Barrier::new(jobs.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .into_iter()
            .map(|job| {
                scope.spawn(|| {
                    barrier.wait();
                    job()
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(milliseconds(begin.elapsed()))
    })
}

fn remove(path: &Path) -> Result<()> {
    programs::output(Command::new("rm").arg("-rf").arg(path)).map(drop)
}

impl InMemory {
    pub(crate) fn mount() -> Result<Self> {
        let path = programs::checkout().join("target/bench/cache");
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        // A killed run leaves its own there.
        while is_mounted(&path)? {
            umount2(&path, MntFlags::MNT_DETACH).context("unmount what a former run left")?;
        }
        let none: Option<&str> = None;
        mount(Some("bench"), &path, Some("tmpfs"), MsFlags::empty(), none)
            .with_context(|| format!("mount a file system in memory on {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}
