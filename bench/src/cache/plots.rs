//! What the page shows of the tool cache.

use super::slow::SLOTS;
use super::stores::Work;
use super::ways::Way;
use super::{Cell, Measured, OF_EACH, OF_LARGER, TOOL, TOOL_AT_ONCE};
use crate::bench::Bench;
use crate::plot::{Plot, Scale};
use crate::results::Compared;

pub(super) fn add(bench: &mut Bench<'_>, all: &[Measured]) {
    by_files(bench, all);
    by_latency(bench, all);
    by_bytes(bench, all);
    again(bench, all);
    at_once(bench, all);
}

/// Those of a work with as many files or as long a latency, alone.
fn alone(
    all: &[Measured],
    (work, ours): (Work, Way),
    chosen: impl Fn((u32, u32)) -> bool,
) -> impl Iterator<Item = &Measured> {
    all.iter().filter(move |one| {
        let expected = Cell::of(work, one.cell.point);
        one.cell == expected && one.ours == ours && chosen(one.cell.point)
    })
}

fn by_files(bench: &mut Bench<'_>, all: &[Measured]) {
    let cold = (Work::RestoreCold, Way::Sealed);
    let measured =
        || alone(all, cold, |(_, latency)| latency == 0).filter(|one| one.cell.point.0 >= 10);
    let files = |one: &Measured| f64::from(one.cell.point.0 * 1000);
    let limit: Vec<_> = measured()
        .map(|one| (files(one), one.bytes_alone))
        .collect();
    let plot = Plot::lines(
        (
            "cache_files",
            "Restoring a tool cache: how the cost grows with the files",
            "Without latency everybody pays for each file that is made on the local disk, and twice \
             as many files cost twice as much.",
        ),
        ("files", Scale::Log, Scale::Log),
        measured().map(|one| (files(one), &one.compared)),
    );
    bench.plot(plot.limit("limit: as many bytes written into one file", &limit));
}

fn by_latency(bench: &mut Bench<'_>, all: &[Measured]) {
    let measured = || {
        alone(all, (Work::RestoreCold, Way::Sealed), |(thousands, _)| {
            thousands == 1
        })
    };
    let milliseconds = |one: &Measured| f64::from(one.cell.point.1) / 1000.0;
    // Open, read and close each file.
    let limit: Vec<_> = measured()
        .map(|one| {
            (
                milliseconds(one),
                3000.0 * milliseconds(one) / f64::from(SLOTS),
            )
        })
        .filter(|(latency, _)| *latency > 0.0)
        .collect();
    let plot = Plot::lines(
        (
            "cache_latency",
            "Restoring 1,000 files: how the cost grows with the store\u{2019}s latency",
            "What asks for one file after the other waits for each of them. The limit is that of \
             whoever asks for each file by itself: three requests, 64 at once. One pack for many \
             files needs fewer.",
        ),
        ("latency in ms", Scale::Linear, Scale::Log),
        measured().map(|one| (milliseconds(one), &one.compared)),
    );
    bench.plot(plot.limit("limit: requests \u{d7} latency \u{f7} concurrency", &limit));
}

fn by_bytes(bench: &mut Bench<'_>, all: &[Measured]) {
    let measured = || {
        let of = |one: &&Measured| {
            let expected = Cell {
                file: one.cell.file,
                ..Cell::of(Work::RestoreCold, OF_LARGER)
            };
            one.cell == expected && one.ours == Way::Sealed
        };
        all.iter().filter(of)
    };
    let mebibytes = |one: &Measured| f64::from(one.cell.file) * 1000.0 / 1024.0;
    let limit: Vec<_> = measured()
        .map(|one| (mebibytes(one), one.bytes_alone))
        .collect();
    let plot = Plot::lines(
        (
            "cache_bytes",
            "Restoring 1,000 files: how the cost grows with their bytes",
            "Small files are waited for; large ones are written, by everybody at the speed of the \
             local disk.",
        ),
        ("MiB", Scale::Log, Scale::Log),
        measured().map(|one| (mebibytes(one), &one.compared)),
    );
    bench.plot(plot.limit("limit: as many bytes written into one file", &limit));
}

fn again(bench: &mut Bench<'_>, all: &[Measured]) {
    let works = [
        (
            "restore, everything is there",
            Work::RestoreAgain,
            Way::Loose,
        ),
        ("publish, nothing is new", Work::PublishNothing, Way::Loose),
        ("publish, 1 % has changed", Work::PublishChanged, Way::Loose),
        (
            "publish, one new tool",
            Work::PublishTool(TOOL[usize::from(bench.full())]),
            Way::Sealed,
        ),
    ];
    // The largest size that there is.
    let largest = |work, ours| alone(all, (work, ours), |(_, latency)| latency == 1000).last();
    let found = works
        .iter()
        .filter_map(|(what, work, ours)| Some((*what, &largest(*work, *ours)?.compared)));
    bench.plot(Plot::bars(
        (
            "cache_again",
            "When little or nothing is new, on a store with 1 ms latency",
            "Whoever has to look at every file to find that nothing is new pays for every file.",
        ),
        found,
    ));
}

fn at_once(bench: &mut Bench<'_>, all: &[Measured]) {
    let plots = [
        (
            Work::RestoreCold,
            (
                "cache_restore_at_once",
                "Many runners restore from one store",
                "Each has 1,000 files to restore. Few requests leave the processor as what they share.",
            ),
        ),
        (
            Work::PublishTool(TOOL_AT_ONCE),
            (
                "cache_publish_at_once",
                "Many runners publish to one store",
                "Each has a new tool of 200 files. A pack is written once; files one by one wait \
                 for each other.",
            ),
        ),
    ];
    for (work, texts) in plots {
        let measured = all
            .iter()
            .filter(|one| one.cell.work == work && one.ours == Way::Sealed);
        let lines = measured.filter_map(|one| {
            let alone = (one.cell == Cell::of(work, OF_EACH)).then_some(1);
            let runners = u32::try_from(one.cell.at_once.or(alone)?).ok()?;
            Some((f64::from(runners), &one.compared))
        });
        let lines: Vec<(f64, &Compared)> = lines.collect();
        let axes = ("runners at once", Scale::Log, Scale::Log);
        bench.plot(Plot::lines(texts, axes, lines));
    }
}
