//! Golden images: how a task gets images from the host's store, against a mirror, an archive, and a
//! copy of a data-root that shares its blocks.

mod gauges;
mod images;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use chain::Stage;

use crate::along::Along;
use crate::bench::{Bench, Comparison, FEW, Measure, ROUNDS};
use crate::daemon::{Daemon, Kind};
use crate::plot::{Plot, Scale};
use crate::programs::milliseconds;
use crate::results::{Compared, Outcome, Unit};
use crate::sections::Section;

use gauges::{attached, occupied, page_cache, used};
use images::{Images, Set};

pub(crate) const SECTION: Section = Section {
    name: "golden",
    title: "Golden images",
    run,
};

/// Images of the everyday run, and those that only a full one has.
const EVERYDAY: [usize; 2] = [1, 3];
const LARGE: [usize; 2] = [10, 30];
/// A peer that has taken so long with something has no more rounds; everyday and with `FULL`.
const PATIENCE: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(120)];
/// More of them take a quarter of an hour to copy, and some GiB of the volume's metadata.
const COPIED_FILES: u64 = 1_000_000;
/// ECS places about as many tasks on one host.
const TASKS: usize = 16;
const OURS: &str = "dindd with a golden store";
const OURS_OF_HOST: &str = "golden store, mounted by the host";
/// Shows what is shared: sixteen tasks should take what one takes.
const ONE_TASK: (&str, &str) = ("one_task", "a single task with the same store");

/// How a task gets its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Golden,
    /// dindd mounts nothing itself: the host has.
    GoldenOfHost,
    Mirror,
    Load,
    Reflink,
    /// It has no images but a tiny one, whose import does not count.
    Nothing,
}

const PEERS: [(Way, &str, &str); 3] = [
    (
        Way::Mirror,
        "mirror",
        "docker pull, 4 at once, registry on the same host",
    ),
    (Way::Load, "load", "docker load, one archive"),
    (Way::Reflink, "reflink", "cp -a --reflink of a data-root"),
];

/// What a task's images cost, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// From the start of the task until a container of its last image has run.
    usable: f64,
    /// The step that brings the images, without the daemon's start, which all need.
    bring: f64,
}

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let counts: Vec<usize> = EVERYDAY
        .into_iter()
        .chain(LARGE.into_iter().filter(|_| bench.full()))
        .filter(|count| bench.wants(&format!("golden_{count}")) || wants_tasks(bench, *count))
        .collect();
    let most = counts.iter().copied().max().unwrap_or(1);
    images::download(bench, most.min(images::count()))?;
    let mut stage = crate::stage::open(bench)?;
    let root = images::mount(&mut stage)?;
    let outcome = Images::open(&stage, &root).and_then(|images| {
        let measured = Golden {
            stage: &stage,
            full: bench.full(),
            images,
        };
        let alone = measured.sizes(bench, &counts)?;
        measured.at_once(bench, alone)?;
        measured.shared(bench, most)
    });
    outcome.and(crate::stage::close(stage))
}

/// Whether the set is needed for many tasks at once.
fn wants_tasks(bench: &Bench<'_>, count: usize) -> bool {
    let largest = if bench.full() { LARGE[1] } else { EVERYDAY[1] };
    count == 1 && bench.wants("golden_tasks") || count == largest && bench.wants("golden_shared")
}

struct Golden<'a> {
    stage: &'a Stage,
    full: bool,
    images: Images<'a>,
}

impl Golden<'_> {
    fn patience(&self) -> Duration {
        PATIENCE[usize::from(self.full)]
    }

    /// One task with so many images; what it comes to with one image.
    fn sizes(&self, bench: &mut Bench<'_>, counts: &[usize]) -> Result<Option<Compared>> {
        let (mut usable, mut brought) = (Vec::new(), Vec::new());
        for &count in counts {
            if !bench.wants(&format!("golden_{count}")) {
                continue;
            }
            let set = self.images.set(bench, count)?;
            let steps = Along::default();
            let x = f64::from(u32::try_from(count)?);
            if let Some(compared) = bench.compare(self.until_usable(&set, &steps))? {
                usable.push((x, compared));
            }
            if let Some(compared) = bench.compare(Self::bring(&set, &steps))? {
                attach_figure(bench, (count, &compared))?;
                brought.push((x, compared));
            }
        }
        plots(bench, &usable, &brought);
        let of_one = usable.into_iter().find(|(count, _)| *count < 2.0);
        Ok(of_one.map(|(_, compared)| compared))
    }

    fn until_usable<'s>(&'s self, set: &'s Set, steps: &'s Along<Way>) -> Comparison<'s> {
        let measure = |way| {
            move || -> Result<f64> {
                let times = self.task(way, set, "task")?;
                steps.push(way, times.bring);
                Ok(times.usable)
            }
        };
        let count = set.count;
        let what = format!(
            "task start to the first container of an image; {}",
            set.what()
        );
        let ours: Measure<'_> = Box::new(measure(Way::Golden));
        let mut comparison =
            Comparison::new(format!("golden_{count}"), what, Unit::Ms, (OURS, ours))
                .rounds(rounds(count))
                .patience(self.patience())
                .peer("no_images", "dindd without images", measure(Way::Nothing));
        for (way, name, label) in PEERS {
            comparison = comparison.peer(name, label, measure(way));
        }
        comparison
    }

    /// The same rounds, of which only the step counts that differs.
    fn bring(set: &Set, steps: &Along<Way>) -> Comparison<'static> {
        let what = format!(
            "of that, what brings the images, without the daemon's start; {}",
            set.what()
        );
        let name = format!("golden_{}_bring", set.count);
        let ours = (OURS, steps.of(Way::Golden));
        let mut comparison = Comparison::measured(name, what, Unit::Ms, ours);
        for (way, name, label) in PEERS {
            comparison = comparison.peer_measured(name, label, steps.of(way));
            comparison = match way {
                Way::Mirror => comparison.promise(1.0 / 50.0),
                Way::Reflink => comparison.promise(1.0 / 10.0),
                Way::Golden | Way::GoldenOfHost | Way::Load | Way::Nothing => comparison,
            };
        }
        comparison
    }

    fn create(&self, way: Way, set: &Set, name: &str) -> Result<Daemon<'_>> {
        let mut more = vec!["--env=LOG_FORMAT=json".to_owned()];
        let kind = match way {
            Way::Golden | Way::GoldenOfHost => {
                more.push(format!("--volume={}:/golden:ro", set.store()));
                more.push("--env=DINDD_GOLDEN=/golden".into());
                Kind::Dindd
            }
            Way::Mirror => {
                let trust = "--insecure-registry=172.17.0.0/16";
                more.push(format!("--env=DINDD_DOCKERD_ARGS={trust}"));
                Kind::Dindd
            }
            Way::Load | Way::Nothing => Kind::Dindd,
            Way::Reflink => Kind::Bare,
        };
        let storage = self.images.storage(name);
        Daemon::create_on(
            self.stage,
            kind,
            (&format!("golden-{name}"), storage),
            &more,
        )
    }

    fn task(&self, way: Way, set: &Set, name: &str) -> Result<Times> {
        self.begin(way, set, name).map(|(_, times)| times)
    }

    /// A task that has run a container of the set's last image.
    fn begin(&self, way: Way, set: &Set, name: &str) -> Result<(Daemon<'_>, Times)> {
        let daemon = self.create(way, set, name)?;
        let begin = Instant::now();
        if way == Way::Reflink {
            let (from, to) = (set.data_root() + "/.", self.images.storage(name));
            let copy = ["cp", "-a", "--reflink=always", &from, &to];
            self.stage.host().run(copy)?;
        }
        let mut bring = milliseconds(begin.elapsed());
        daemon.container.start()?;
        daemon.wait_ready()?;
        let step = Instant::now();
        match way {
            Way::Mirror => {
                // By the registry's own name. A mirror sends the same bytes, but the test host has no
                // network, and what dockerd does before it asks its mirror takes 20 s more there.
                let (names, mirror) = (set.names().join(" "), self.images.mirror());
                let script = format!(
                    "printf '%s\\n' {names} | xargs -P 4 -I NAME sh -ec \
                     'docker pull --quiet {mirror}/NAME; docker tag {mirror}/NAME NAME'"
                );
                daemon.script(&script)?;
            }
            Way::Load => daemon.docker(&["load", "--quiet", "--input", &set.archive()])?,
            Way::Nothing => daemon.import_image()?,
            Way::Golden | Way::GoldenOfHost | Way::Reflink => {}
        }
        let step = milliseconds(step.elapsed());
        let last = set.names().pop().context("a set without images")?;
        let image = if way == Way::Nothing {
            "busybox"
        } else {
            &last
        };
        daemon.docker(&["run", "--rm", image, "true"])?;
        let mut usable = milliseconds(begin.elapsed());
        match way {
            Way::Golden | Way::GoldenOfHost => bring = attached(&daemon)?,
            Way::Mirror | Way::Load => bring = step,
            Way::Nothing => usable -= step,
            Way::Reflink => {}
        }
        Ok((daemon, Times { usable, bring }))
    }

    fn at_once(&self, bench: &mut Bench<'_>, alone: Option<Compared>) -> Result<()> {
        if !bench.wants("golden_tasks") {
            return Ok(());
        }
        let set = self.images.set(bench, 1)?;
        let set = &set;
        let mut measured: Vec<_> = alone.into_iter().map(|one| (1.0, one)).collect();
        let counts: &[usize] = if self.full { &[4, TASKS] } else { &[4] };
        for &tasks in counts {
            let measure = |way| move || self.tasks(way, set, tasks).map(|(_, took)| took);
            let what = format!(
                "{tasks} tasks at once: start to the last first container; {}",
                set.what()
            );
            let name = format!("golden_tasks_{tasks}");
            let ours: Measure<'_> = Box::new(measure(Way::Golden));
            let mut comparison = Comparison::new(name, what, Unit::Ms, (OURS, ours))
                .rounds(FEW)
                .patience(self.patience());
            for (way, name, label) in PEERS {
                comparison = comparison.peer(name, label, measure(way));
            }
            if let Some(compared) = bench.compare(comparison)? {
                measured.push((f64::from(u32::try_from(tasks)?), compared));
            }
        }
        bench.plot(Plot::lines(
            (
                "golden_tasks",
                "Many tasks start with the same image",
                "Whoever unpacks or copies for each task shares the processor among all that do; a \
                 golden store leaves it to the daemons.",
            ),
            ("tasks at once", Scale::Log, Scale::Linear),
            measured.iter().map(|(tasks, compared)| (*tasks, compared)),
        ));
        Ok(())
    }

    /// Tasks that start at the same time, all with a container of the last image run.
    fn tasks(&self, way: Way, set: &Set, count: usize) -> Result<(Vec<Daemon<'_>>, f64)> {
        let barrier = Barrier::new(count);
        let begin = Instant::now();
        let daemons = std::thread::scope(|scope| {
            let start = |number: usize| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let begun = self.begin(way, set, &format!("task-{number}"))?;
                    anyhow::Ok(begun.0)
                })
            };
            let threads: Vec<_> = (0..count).map(start).collect();
            let ended = threads.into_iter();
            ended
                .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok((daemons, milliseconds(begin.elapsed())))
    }

    /// What sixteen tasks take from the volume and from memory.
    fn shared(&self, bench: &mut Bench<'_>, count: usize) -> Result<()> {
        if !bench.wants("golden_shared") {
            return Ok(());
        }
        let set = self.images.set(bench, count)?;
        let store = used(&self.stage.host().path(set.store()).join("files"))?;
        let dindd = ["/run/chain/stages/build/out/dindd", "golden", "--store"];
        let (host, dir) = (self.stage.host(), set.store());
        host.run([&dindd[..], &[&dir, "mount"]].concat())?;
        let measured = self.shared_by(bench, (&set, store));
        let script = format!("for place in {dir}/mounted/*; do umount $place; done");
        host.run(["sh", "-ec", &script])?;
        measured
    }

    fn shared_by(&self, bench: &mut Bench<'_>, (set, store): (&Set, f64)) -> Result<()> {
        let caches = Along::default();
        let disk = bench.compare(self.space(set, &caches))?;
        let cache = bench.compare(cached((set, self.full), &caches))?;
        if let Some(disk) = &disk {
            extra_figure(bench, disk, store)?;
        }
        let both = disk.iter().map(|one| ("on the volume", one));
        let both = both.chain(cache.iter().map(|one| ("in the page cache", one)));
        bench.plot(Plot::bars(
            (
                "golden_shared",
                "What sixteen tasks take",
                "Attached layers are links to one read-only file system: neither the disk nor the page \
                 cache has them twice.",
            ),
            both,
        ));
        Ok(())
    }

    fn space<'s>(&'s self, set: &'s Set, caches: &'s Along<(Way, usize)>) -> Comparison<'s> {
        let measure = |way, tasks| {
            move || {
                let (disk, cache) = self.taken(way, set, tasks)?;
                caches.push((way, tasks), cache);
                Ok(disk)
            }
        };
        let what = shared_what(set, "space on the volume");
        let ours: Measure<'_> = Box::new(measure(Way::GoldenOfHost, TASKS));
        let ours = (OURS_OF_HOST, ours);
        let comparison = Comparison::new("golden_shared_disk", what, Unit::Bytes, ours)
            // They take the same space each time.
            .rounds(if self.full { FEW } else { 1 })
            .patience(self.patience())
            .peer("no_images", "no images", measure(Way::Nothing, TASKS))
            .peer(ONE_TASK.0, ONE_TASK.1, measure(Way::GoldenOfHost, 1));
        let (_, name, label) = PEERS[2];
        match too_many_copies(set, self.full) {
            Some(why) => comparison.not_run(name, label, &why),
            None => comparison.peer(name, label, measure(Way::Reflink, TASKS)),
        }
    }

    /// Space on the volume and growth of the page cache, in bytes.
    fn taken(&self, way: Way, set: &Set, tasks: usize) -> Result<(f64, f64)> {
        let volume = self.images.seen();
        let clean = "sync; echo 3 >/proc/sys/vm/drop_caches";
        self.stage.host().run(["sh", "-ec", clean])?;
        let before = (occupied(&volume)?, page_cache()?);
        let (daemons, _) = self.tasks(way, set, tasks)?;
        let last = set.names().pop().context("a set without images")?;
        for daemon in &daemons {
            if way == Way::Nothing {
                // Its one container has run: without any image is what the others are compared with.
                daemon.docker(&["rmi", "busybox"])?;
            } else {
                let read = "find /opt -type f -exec cat {} + | wc -c";
                daemon.docker(&["run", "--rm", &last, "sh", "-c", read])?;
            }
        }
        let cached = page_cache()? - before.1;
        self.stage.host().run(["sync"])?;
        Ok((occupied(&volume)? - before.0, cached.max(0.0)))
    }
}

/// The same rounds: how much more the kernel has in memory.
fn cached((set, full): (&Set, bool), caches: &Along<(Way, usize)>) -> Comparison<'static> {
    let what = shared_what(set, "growth of the page cache");
    let ours = (OURS_OF_HOST, caches.of((Way::GoldenOfHost, TASKS)));
    let comparison = Comparison::measured("golden_shared_cache", what, Unit::Bytes, ours)
        .peer_measured(ONE_TASK.0, ONE_TASK.1, caches.of((Way::GoldenOfHost, 1)));
    let (_, name, label) = PEERS[2];
    match too_many_copies(set, full) {
        Some(why) => comparison.not_run(name, label, &why),
        None => comparison.peer_measured(name, label, caches.of((Way::Reflink, TASKS))),
    }
}

fn shared_what(set: &Set, what: &str) -> String {
    let set = set.what();
    format!("{TASKS} tasks, each has read its last image: {what}; {set}")
}

fn too_many_copies(set: &Set, full: bool) -> Option<String> {
    if !full {
        return Some("sixteen copies take a minute; FULL=1 makes them".to_owned());
    }
    let files = set.files * TASKS as u64;
    (files > COPIED_FILES).then(|| format!("{TASKS} copies are {files} files"))
}

fn rounds(count: usize) -> usize {
    if LARGE.contains(&count) { FEW } else { ROUNDS }
}

/// What golden tasks take beyond the peer that is listed first, tasks without images: at most a
/// hundredth of the store.
fn extra_figure(bench: &mut Bench<'_>, disk: &Compared, store: f64) -> Result<()> {
    let without = disk.peers.first();
    let medians = disk.ours.summary().zip(without.and_then(Outcome::summary));
    let (ours, without) = medians.context("no figure of the disk")?;
    let extra = (ours.median - without.median).max(0.0);
    let what = format!("{TASKS} tasks: space beyond what their daemons take without images");
    let promised = Some(store / 100.0);
    bench.figure(("golden_shared_extra", &what), Unit::Bytes, extra, promised)
}

/// The same limit for any number of images: attaching depends on neither bytes nor files.
fn attach_figure(bench: &mut Bench<'_>, (count, compared): (usize, &Compared)) -> Result<()> {
    let ours = compared.ours.summary().context("nothing was attached")?;
    let (name, images) = (format!("golden_{count}_attach"), images::number(count));
    let what = format!("attaching a store of {images}, as dindd tells it");
    bench.figure((&name, &what), Unit::Ms, ours.median, Some(50.0))
}

fn plots(bench: &mut Bench<'_>, usable: &[(f64, Compared)], brought: &[(f64, Compared)]) {
    let axes = ("images", Scale::Log, Scale::Log);
    bench.plot(Plot::lines(
        (
            "golden_usable",
            "From a task's start until it can run its images",
            "With a golden store it is the daemon's own start, whatever the images are; everybody else \
             pays for their bytes or their files.",
        ),
        axes,
        usable.iter().map(|(images, compared)| (*images, compared)),
    ));
    bench.plot(Plot::lines(
        (
            "golden_bring",
            "The step that brings the images",
            "Attaching costs some links per layer, pulling and loading cost by the byte, a copy of \
             a data-root by the file.",
        ),
        axes,
        brought.iter().map(|(images, compared)| (*images, compared)),
    ));
}
