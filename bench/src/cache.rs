//! The tool cache: from the store to the task and back, against what people copy with.
//!
//! The store is a folder, or the same folder behind `slowfs`, where each request takes as long as at
//! a network file system and a bounded number is under way. Ours is measured with a tool cache, of
//! which the store has a pack for each tool, and with the same files in an ordinary directory.

mod memory;
mod plots;
mod slow;
mod stores;
mod ways;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use anyhow::Result;

use crate::along::Along;
use crate::bench::{Bench, Comparison, FEW, Measure, ROUNDS};
use crate::results::{Compared, Unit};
use crate::sections::Section;

use stores::{InMemory, Size, Stores, Work};
use ways::{OURS, PEERS, Way};

pub(crate) const SECTION: Section = Section {
    name: "cache",
    title: "Tool cache",
    run,
};

const MIB: f64 = 1_048_576.0;
/// What a file may cost where there are many, of what it costs where there are 10,000.
const GROWTH: f64 = 1.2;
/// Files of the tool that is published where it is the only work, to a small store and to one of
/// 40,000 files; and where many publish.
const TOOL: [u32; 2] = [500, 2000];
const TOOL_AT_ONCE: u32 = 200;
/// The size of a file in KiB, except where it is what differs.
const FILE: u32 = 4;
/// What a peer may take altogether, everyday and with `FULL`: what waits for one request after the
/// other takes minutes, and repeats to a percent.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(900)];

/// Thousands of files, and the store's latency in microseconds.
type Point = (u32, u32);

const RESTORED: [Point; 8] = [
    (10, 0),
    (40, 0),
    (160, 0),
    (1, 0),
    (1, 500),
    (1, 1000),
    (1, 3000),
    (40, 1000),
];
const RESTORED_FULL: [Point; 4] = [(10, 500), (10, 1000), (10, 3000), (160, 1000)];
const AGAIN: [Point; 2] = [(10, 0), (40, 1000)];
const AGAIN_FULL: [Point; 2] = [(1, 0), (10, 1000)];
const PUBLISHED: [Point; 2] = [(10, 0), (10, 1000)];
const PUBLISHED_FULL: [Point; 2] = [(1, 0), (40, 1000)];
/// Runners that begin together, each with a mount of its own, and the size of their cache. What one
/// takes to restore it is measured already.
const RESTORE_AT_ONCE: [usize; 2] = [4, 16];
const PUBLISH_AT_ONCE: [usize; 3] = [1, 4, 16];
const OF_EACH: Point = (1, 1000);
/// Sizes of files, in KiB, of which a thousand are restored.
const LARGER: [u32; 2] = [64, 256];
const OF_LARGER: Point = (1, 1000);

/// A piece of work that all contenders do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    work: Work,
    point: Point,
    /// The size of a file in KiB.
    file: u32,
    /// So many runners at once; one alone elsewhere.
    at_once: Option<usize>,
}

/// What came out: of ours, as a tool cache or as an ordinary directory, and of the peers.
struct Measured {
    cell: Cell,
    ours: Way,
    compared: Compared,
    /// How long it takes to write as many bytes into one file.
    bytes_alone: f64,
}

/// The stores of all sizes, each filled when it is asked for.
struct Shelf {
    memory: InMemory,
    filled: BTreeMap<Size, Stores>,
}

impl Shelf {
    fn stores(&mut self, thousands: u32, kib: u32) -> Result<&Stores> {
        let size = Size { thousands, kib };
        Ok(match self.filled.entry(size) {
            Entry::Occupied(filled) => filled.into_mut(),
            Entry::Vacant(empty) => empty.insert(Stores::fill(&self.memory, size)?),
        })
    }
}

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let mut all = Vec::new();
    let full = bench.full();
    let chosen = |always: &[Point], more: &[Point]| -> Vec<Point> {
        let more = more.iter().filter(|_| full);
        always.iter().chain(more).copied().collect()
    };
    let published = chosen(&PUBLISHED, &PUBLISHED_FULL);
    let table = [
        (Work::RestoreCold, chosen(&RESTORED, &RESTORED_FULL)),
        (Work::RestoreAgain, chosen(&AGAIN, &AGAIN_FULL)),
        (Work::PublishNothing, published.clone()),
        (Work::PublishChanged, published.clone()),
    ];
    let alone = table
        .into_iter()
        .flat_map(|(work, points)| points.into_iter().map(move |point| Cell::of(work, point)));
    let tools = published.into_iter().map(|point| {
        let files = TOOL[usize::from(point.0 >= 40)];
        Cell::of(Work::PublishTool(files), point)
    });
    let larger = LARGER.map(|file| Cell {
        file,
        ..Cell::of(Work::RestoreCold, OF_LARGER)
    });
    let at_once = |work| {
        move |runners| Cell {
            at_once: Some(runners),
            ..Cell::of(work, OF_EACH)
        }
    };
    let restoring = RESTORE_AT_ONCE.map(at_once(Work::RestoreCold));
    let publishing = PUBLISH_AT_ONCE.map(at_once(Work::PublishTool(TOOL_AT_ONCE)));
    let together = restoring.into_iter().chain(publishing);
    let mut shelf = Shelf {
        memory: InMemory::mount()?,
        filled: BTreeMap::new(),
    };
    for cell in alone.chain(tools).chain(larger).chain(together) {
        measure(bench, (cell, &mut shelf), &mut all)?;
    }
    growth(bench, &all)?;
    memory(bench, &mut shelf)?;
    plots::add(bench, &all);
    Ok(())
}

impl Cell {
    fn of(work: Work, point: Point) -> Self {
        Self {
            work,
            point,
            file: FILE,
            at_once: None,
        }
    }

    fn name(self) -> String {
        let work = match self.work {
            Work::RestoreCold => "cache_restore",
            Work::RestoreAgain => "cache_restore_again",
            Work::PublishNothing => "cache_publish_nothing",
            Work::PublishChanged => "cache_publish_changed",
            Work::PublishTool(_) => "cache_publish_tool",
        };
        let (thousands, latency) = self.point;
        let mut name = match self.at_once {
            Some(runners) => format!("{work}_at_once_{runners}"),
            None if latency % 1000 == 0 => format!("{work}_{thousands}k_{}ms", latency / 1000),
            None => format!("{work}_{thousands}k_{latency}us"),
        };
        if self.file != FILE {
            name += &format!("_{}kib", self.file);
        }
        name
    }

    fn what(self) -> String {
        let (thousands, latency) = self.point;
        let latency = f64::from(latency) / 1000.0;
        let work = match self.work {
            Work::RestoreCold => "restore into nothing".into(),
            Work::RestoreAgain => "restore when everything is there already".into(),
            Work::PublishNothing => "publish when nothing is new".into(),
            Work::PublishChanged => "publish when 1 % of the files have changed".into(),
            Work::PublishTool(size) => format!("publish a new tool of {size} files"),
        };
        let runners = match self.at_once {
            Some(runners) if runners > 1 => format!("{runners} runners at once, each: "),
            _ => String::new(),
        };
        let files = match self.file {
            FILE => format!("{thousands},000 files"),
            kib => format!("{thousands},000 files of {kib} KiB"),
        };
        format!("{runners}{work}; {files}, store with {latency} ms latency")
    }

    /// How ours has the files: the first takes turns with the peers, the others right after it.
    fn ours(self) -> &'static [Way] {
        match self.work {
            Work::RestoreCold if self.at_once.is_some() => &[Way::Sealed],
            Work::RestoreCold | Work::RestoreAgain => &OURS,
            Work::PublishNothing | Work::PublishChanged => &[Way::Loose],
            Work::PublishTool(_) => &[Way::Sealed],
        }
    }

    /// Fewer for what takes a quarter of a minute each time, without `FULL`.
    fn rounds(self, full: bool) -> usize {
        if self.point.0 > 40 && !full {
            FEW
        } else {
            ROUNDS
        }
    }

    /// What ours may cost of what the peer does, where so much is promised.
    fn promise(self, ours: Way, peer: Way) -> Option<f64> {
        let (thousands, latency) = self.point;
        if self.at_once.is_some() {
            return None;
        }
        match (self.work, latency, ours, peer) {
            // For a thousand files two processes, of which rsync has none, are a tenth of the time.
            (_, 0, _, Way::RsyncA) if thousands >= 10 => Some(1.1),
            _ if thousands < 40 => None,
            (Work::RestoreCold, 1000, Way::Sealed, Way::RsyncA) => Some(0.01),
            (Work::RestoreCold, 1000, Way::Loose, Way::RsyncA) => Some(0.05),
            (Work::RestoreCold, 1000, Way::Loose, Way::Fpsync) => Some(1.0),
            (Work::RestoreAgain, 1000, _, Way::RsyncA) => Some(0.1),
            (Work::PublishChanged, 1000, _, Way::RsyncA) => Some(0.02),
            (Work::PublishTool(_), 1000, _, Way::RsyncA) => Some(0.01),
            _ => None,
        }
    }

    /// Why a peer is not measured.
    fn without(self, way: Way, full: bool) -> Option<&'static str> {
        let (thousands, latency) = self.point;
        let together = self.at_once.is_some();
        let long = thousands >= 10 || latency > 1000 || self.file != FILE || together;
        match way {
            _ if full => {}
            Way::CpA if latency > 0 && long => {
                return Some(
                    "it is slower than rsync -a on a slow store; FULL=1 measures it there",
                );
            }
            Way::Fpsync if self.at_once > Some(4) => {
                return Some("so many start thousands of processes; FULL=1 measures it there");
            }
            Way::Fpsync | Way::Rclone if thousands > 40 => {
                return Some("it takes a minute for so many files; FULL=1 measures it there");
            }
            Way::Sealed
            | Way::Loose
            | Way::RsyncA
            | Way::Fpsync
            | Way::CpA
            | Way::TarZstd
            | Way::Rclone => {}
        }
        let several = together && matches!(self.work, Work::PublishTool(_));
        (several && way == Way::TarZstd).then_some("one archive cannot have several writers")
    }
}

fn label(ours: Way) -> &'static str {
    if ours == Way::Sealed {
        "supervisor, a tool cache"
    } else {
        "supervisor, an ordinary directory"
    }
}

fn measure(
    bench: &mut Bench<'_>,
    (cell, shelf): (Cell, &mut Shelf),
    all: &mut Vec<Measured>,
) -> Result<()> {
    let name = cell.name();
    if !bench.wants(&name) {
        return Ok(());
    }
    let full = bench.full();
    let (thousands, latency) = cell.point;
    let stores = shelf.stores(thousands, cell.file)?;
    let (times, requests) = (Along::default(), Along::default());
    let once = |way| -> Result<f64> {
        let cost = stores.measure(cell.work, way, (latency, cell.at_once.unwrap_or(1)))?;
        times.push(way, cost.milliseconds);
        cost.requests
            .into_iter()
            .for_each(|one| requests.push(way, one));
        Ok(cost.milliseconds)
    };
    let [first, others @ ..] = cell.ours() else {
        return Ok(());
    };
    let ours: Measure<'_> = Box::new(|| {
        let cost = once(*first);
        others.iter().try_for_each(|way| once(*way).map(drop))?;
        cost
    });
    let mut comparison = Comparison::new(&name, cell.what(), Unit::Ms, (label(*first), ours))
        .rounds(cell.rounds(full))
        .patience(PATIENCE[usize::from(full)]);
    for (way, peer, label) in PEERS {
        comparison = match cell.without(way, full) {
            Some(reason) => comparison.not_run(peer, label, reason),
            None => comparison.peer(peer, label, move || once(way)),
        };
        comparison = promised(comparison, cell.promise(*first, way));
    }
    let compared = bench.compare(comparison)?;
    let bytes_alone = stores.bytes_alone()?;
    all.extend(compared.map(|compared| Measured {
        cell,
        ours: *first,
        compared,
        bytes_alone,
    }));
    for way in others {
        let (name, what) = (format!("{name}_directory"), cell.what());
        let ours = (label(*way), times.of(*way));
        let comparison = Comparison::measured(name, what, Unit::Ms, ours);
        let compared = bench.compare(peers(comparison, (cell, *way, full), &times))?;
        all.extend(compared.map(|compared| Measured {
            cell,
            ours: *way,
            compared,
            bytes_alone,
        }));
    }
    count(bench, cell, &requests)
}

fn promised(comparison: Comparison<'_>, at_most: Option<f64>) -> Comparison<'_> {
    match at_most {
        Some(at_most) => comparison.promise(at_most),
        None => comparison,
    }
}

fn peers<'a>(
    mut comparison: Comparison<'a>,
    (cell, ours, full): (Cell, Way, bool),
    measured: &Along<Way>,
) -> Comparison<'a> {
    for peer in PEERS {
        comparison = along(comparison, (cell, full), peer, measured);
        comparison = promised(comparison, cell.promise(ours, peer.0));
    }
    comparison
}

/// A peer with what was measured in the rounds of another comparison.
fn along<'a>(
    comparison: Comparison<'a>,
    (cell, full): (Cell, bool),
    (way, name, label): (Way, &str, &str),
    measured: &Along<Way>,
) -> Comparison<'a> {
    match cell.without(way, full) {
        Some(reason) => comparison.not_run(name, label, reason),
        None => comparison.peer_measured(name, label, measured.of(way)),
    }
}

/// The requests to the store that the same rounds had; of ours, none when nothing is new.
fn count(bench: &mut Bench<'_>, cell: Cell, requests: &Along<Way>) -> Result<()> {
    if cell.point.1 != 1000 || cell.file != FILE || cell.at_once.is_some() {
        return Ok(());
    }
    for way in cell.ours() {
        let kind = if *way == Way::Sealed {
            "tools"
        } else {
            "directory"
        };
        let name = format!("{}_requests_{kind}", cell.name());
        let what = format!("requests to the store, {}", cell.what());
        let ours = (label(*way), requests.of(*way));
        let mut comparison = Comparison::measured(&name, what, Unit::Count, ours);
        for peer in PEERS {
            comparison = along(comparison, (cell, bench.full()), peer, requests);
        }
        let compared = bench.compare(comparison)?;
        let most = compared.and_then(|compared| compared.ours.summary());
        if let (Work::PublishNothing, Some(most)) = (cell.work, most) {
            let what = format!("requests of supervisor to the store, {}", cell.what());
            bench.figure(
                (&format!("{name}_most"), &what),
                Unit::Count,
                most.high,
                Some(0.0),
            )?;
        }
    }
    Ok(())
}

/// Whether a file costs more where there are many: a thousand of 40,000 and of 160,000, beside a
/// thousand of 10,000.
fn growth(bench: &mut Bench<'_>, all: &[Measured]) -> Result<()> {
    for (ours, kind) in [(Way::Sealed, "tools"), (Way::Loose, "directory")] {
        let each = |thousands: u32| -> Vec<f64> {
            let measured = all.iter().find(|one| {
                let of = (one.cell.work, one.cell.at_once, one.ours);
                of == (Work::RestoreCold, None, ours) && one.cell.point == (thousands, 0)
            });
            let samples = measured.and_then(|one| one.compared.ours.samples());
            let each = |sample: &f64| sample / f64::from(thousands);
            samples.into_iter().flatten().map(each).collect()
        };
        let few = each(10);
        for thousands in [40, 160] {
            let (many, few) = (each(thousands), few.clone());
            if many.is_empty() || few.is_empty() {
                continue;
            }
            let comparison = Comparison::measured(
                format!("cache_growth_{thousands}k_{kind}"),
                format!("restore a thousand of {thousands},000 files, store with 0 ms latency"),
                Unit::Ms,
                (label(ours), many),
            );
            let comparison = comparison.peer_measured("10k", "a thousand of 10,000 files", few);
            bench.compare(comparison.promise(GROWTH))?;
        }
    }
    Ok(())
}

fn memory(bench: &mut Bench<'_>, shelf: &mut Shelf) -> Result<()> {
    if !bench.wants("cache_memory") {
        return Ok(());
    }
    let stores = shelf.stores(160, FILE)?;
    for (way, kind) in [(Way::Sealed, "tools"), (Way::Loose, "directory")] {
        let (command, store) = stores.restore(way, 1000)?;
        let (own, with_rsyncs) = memory::peak(command)?;
        drop(store);
        let what = format!(
            "memory of a restore of 160,000 files at its peak, store with 1 ms latency, {}",
            label(way)
        );
        let name = format!("cache_memory_{kind}");
        bench.figure((&name, &what), Unit::Bytes, own, Some(64.0 * MIB))?;
        if way == Way::Loose {
            let (name, what) = (format!("{name}_all"), format!("{what} and its rsyncs"));
            bench.figure((&name, &what), Unit::Bytes, with_rsyncs, None)?;
        }
    }
    Ok(())
}
