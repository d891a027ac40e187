//! The Docker sidecar: how long until a job can use it, and until it is gone, against what people
//! run instead.

use std::fs;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use chain::Stage;
use jiff::Timestamp;

use crate::bench::{Bench, Comparison, FEW, Measure};
use crate::daemon::{Daemon, Kind};
use crate::plot::{Plot, Scale};
use crate::programs::milliseconds;
use crate::results::{Compared, Unit};
use crate::sections::Section;

pub(crate) const SECTION: Section = Section {
    name: "dindd",
    title: "Docker sidecar",
    run,
};

const OURS: &str = "dindd (SYS_ADMIN, NET_ADMIN)";
const BARE: &str = "dockerd alone, unix socket, privileged";
const TCP: &str = "docker:dind's entrypoint, plain TCP, privileged";
const TLS: &str = "docker:dind's entrypoint, TLS, privileged";
const TRAP: &str = "shell with rm -rf in a trap, privileged";

const LEAVES: &str = "dockerd alone, which leaves all files there";
const WAITS: &str = "many at once wait for the same 16 s as one does, which is measured";
const CERTIFICATES: &str =
    "48 RSA keys in each round do not fit into the run's 20 minutes; 4 at once are measured";

/// What a peer may take altogether where few start: one waits 16 s in each round.
const PATIENCE: Duration = Duration::from_secs(15);
/// Files in a folder of what a job leaves.
const FOLDER: u32 = 250;
const MIB: f64 = 1_048_576.0;

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let stage = crate::stage::open(bench)?;
    let outcome = starts(bench, &stage)
        .and_then(|()| stops(bench, &stage))
        .and_then(|()| memory(bench, &stage));
    outcome.and(crate::stage::close(stage))
}

fn starts(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    let mut started = Vec::new();
    for at_once in [1, 4, 16] {
        let comparison = few(
            start_comparison(stage, at_once),
            at_once == 16 && !bench.full(),
        );
        if let Some(compared) = bench.compare(comparison)? {
            started.push((f64::from(at_once), compared));
        }
    }
    let first: Vec<(&str, &Compared)> = started
        .iter()
        .filter(|(at_once, _)| *at_once < 2.0)
        .map(|(_, compared)| ("container start to first container run", compared))
        .collect();
    bench.plot(Plot::bars(
        (
            "dindd_start",
            "Until a job can run its first container",
            "dindd costs what dockerd costs; a TCP port makes dockerd wait, and certificates have \
             to be made.",
        ),
        first,
    ));
    bench.plot(Plot::lines(
        (
            "dindd_at_once",
            "Many sidecars start at once",
            "Time until the last of them has run a container: the processor is the limit, for all \
             alike.",
        ),
        ("daemons at once", Scale::Log, Scale::Linear),
        started
            .iter()
            .map(|(at_once, compared)| (*at_once, compared)),
    ));
    Ok(())
}

/// Three rounds of what takes a quarter of a minute each time.
fn few(comparison: Comparison<'_>, is_long: bool) -> Comparison<'_> {
    if is_long {
        comparison.rounds(FEW)
    } else {
        comparison
    }
}

/// All peers alone; many at once without those that would take the run's 20 minutes for themselves.
fn start_comparison(stage: &Stage, at_once: u32) -> Comparison<'_> {
    let measure = |kind| move || start_at_once(stage, kind, at_once);
    let what = match at_once {
        1 => "container start to first container run".to_owned(),
        _ => format!("{at_once} daemons at once: first start to the last first container"),
    };
    let ours = (OURS, Box::new(measure(Kind::Dindd)) as Measure<'_>);
    let comparison = Comparison::new(format!("dindd_start_{at_once}"), what, Unit::Ms, ours)
        .patience(if at_once < 16 {
            PATIENCE
        } else {
            Duration::MAX
        })
        .peer("bare_unix", BARE, measure(Kind::Bare));
    let tcp = measure(Kind::Entrypoint { tls: false });
    let comparison = match at_once {
        1 => comparison
            .promise(1.15)
            .peer("entrypoint_tcp", TCP, tcp)
            .promise(1.0 / 3.0),
        _ => comparison.not_run("entrypoint_tcp", TCP, WAITS),
    };
    let tls = measure(Kind::Entrypoint { tls: true });
    match at_once {
        1 | 4 => comparison.peer("entrypoint_tls", TLS, tls),
        _ => comparison.not_run("entrypoint_tls", TLS, CERTIFICATES),
    }
}

/// From the first container's start until all have run a container, without the import of the
/// image: there is no registry, so nobody is measured by how it gets one.
fn start_at_once(stage: &Stage, kind: Kind, at_once: u32) -> Result<f64> {
    let daemons = (0..at_once)
        .map(|number| Daemon::create(stage, kind, &format!("start-{number}"), &[]))
        .collect::<Result<Vec<_>>>()?;
    all(&daemons, |daemon| {
        daemon.container.start()?;
        daemon.wait_ready()
    })?;
    let ready = Timestamp::now();
    let starts = daemons.iter().map(|daemon| daemon.container.started());
    let first = starts.collect::<Result<Vec<_>>>()?.into_iter().min();
    let first = first.context("no daemon was started")?;
    let until_ready = Duration::try_from(ready.duration_since(first))?;
    all(&daemons, |daemon| daemon.import_image())?;
    let begin = Instant::now();
    all(&daemons, |daemon| daemon.run_container())?;
    Ok(milliseconds(until_ready + begin.elapsed()))
}

/// Does `step` for all daemons at the same time.
fn all(daemons: &[Daemon<'_>], step: fn(&Daemon<'_>) -> Result<()>) -> Result<()> {
    let barrier = Barrier::new(daemons.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = daemons
            .iter()
            .map(|daemon| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    step(daemon)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

fn stops(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    let mut stopped = Vec::new();
    for files in [1_000, 50_000, 200_000] {
        let measure = |kind| move || stop(stage, kind, files);
        let thousands = files / 1000;
        let mut comparison = Comparison::new(
            format!("dindd_stop_{thousands}k"),
            format!("SIGTERM to exit with {thousands},000 empty files left by the job"),
            Unit::Ms,
            (OURS, Box::new(measure(Kind::Dindd))),
        )
        .peer("rm_in_trap", TRAP, measure(Kind::Trap));
        if files == 1000 {
            // It does not depend on the files.
            comparison = comparison.peer("bare_unix", LEAVES, measure(Kind::Bare));
        }
        let comparison = few(comparison, files == 200_000 && !bench.full());
        if let Some(compared) = bench.compare(comparison)? {
            if files == 50_000 {
                within_a_second(bench, &compared)?;
            }
            stopped.push((f64::from(files), compared));
        }
    }
    bench.plot(Plot::lines(
        (
            "dindd_stop",
            "Until a stopped sidecar is gone",
            "dindd moves the data-root out of the way and removes it while there is time; rm -rf \
             has to be waited for.",
        ),
        ("files that the job left", Scale::Log, Scale::Linear),
        stopped.iter().map(|(files, compared)| (*files, compared)),
    ));
    Ok(())
}

/// The one time that is promised as it is: ECS waits no longer than it is told.
fn within_a_second(bench: &mut Bench<'_>, compared: &Compared) -> Result<()> {
    let ours = compared.ours.summary().context("nothing was stopped")?;
    let what = "SIGTERM to exit with 50,000 files, the median of the rounds";
    bench.figure(
        ("dindd_stop_50k_median", what),
        Unit::Ms,
        ours.median,
        Some(1000.0),
    )
}

fn stop(stage: &Stage, kind: Kind, files: u32) -> Result<f64> {
    let daemon = Daemon::create(stage, kind, "stop", &[])?;
    daemon.container.start()?;
    daemon.wait_ready()?;
    leave_files(&daemon, files)?;
    let sent = daemon.container.terminate()?;
    Ok((daemon.container.end(&["0"])? - sent) * 1000.0)
}

/// As a job leaves them in a volume.
fn leave_files(daemon: &Daemon<'_>, files: u32) -> Result<()> {
    let root = daemon.data_root()?.join("volumes/left/_data");
    let half = |first: u32| {
        let root = &root;
        move || -> Result<()> {
            for folder in (first..files / FOLDER).step_by(2) {
                let folder = root.join(folder.to_string());
                fs::create_dir_all(&folder)
                    .with_context(|| format!("make {}", folder.display()))?;
                for file in 0..FOLDER {
                    fs::File::create(folder.join(file.to_string()))?;
                }
            }
            Ok(())
        }
    };
    std::thread::scope(|scope| {
        [0, 1]
            .map(|first| scope.spawn(half(first)))
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

fn memory(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    if !bench.wants("dindd_memory") {
        return Ok(());
    }
    let daemon = Daemon::create(stage, Kind::Dindd, "memory", &[])?;
    daemon.container.start()?;
    daemon.wait_ready()?;
    daemon.import_image()?;
    daemon.run_container()?;
    let peak = daemon.container.peak_memory()?;
    let what = "dindd's own memory at its peak, after a container was run";
    bench.figure(("dindd_memory", what), Unit::Bytes, peak, Some(10.0 * MIB))
}
