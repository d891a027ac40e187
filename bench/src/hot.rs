//! Instructions of the hot paths, counted by callgrind: a record without noise.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use github_double::{GithubDouble, Options};
use testhost::{Running, Stream};

use crate::bench::Bench;
use crate::programs;
use crate::results::Unit;
use crate::sections::Section;
use crate::worker;

pub(crate) const SECTION: Section = Section {
    name: "hot",
    title: "Instructions of the hot paths",
    run,
};

const TOKEN: &str = "ghp_a_token_for_the_double_only";
const REPOSITORY: &str = "acme/widgets";
const LIMIT: Duration = Duration::from_secs(120);
const FOLDERS: u32 = 160;
const FILES: u32 = 250;

/// What a start waits for makes it look a few times more or less: the least of so many counts.
const OF_STARTS: usize = 3;

/// Counts once, in a folder of its own.
type Count = fn(&Path) -> Result<f64>;

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let parts: [(&str, &str, (usize, Count)); 3] = [
        (
            "hot_supervisor_start",
            "supervisor: start, registration, an idle listener, and its end",
            (OF_STARTS, supervisor),
        ),
        (
            "hot_cache_scan_40k",
            "supervisor after a job: looks at a tree of 40,000 files, in which nothing is new",
            (1, cache_scan),
        ),
        (
            "hot_dindd_prepare",
            "dindd check: all that a start looks at before it changes anything",
            (OF_STARTS, dindd),
        ),
    ];
    for (name, what, (times, count)) in parts {
        if bench.wants(name) {
            let counts = (0..times).map(|_| counted_in_folder(count));
            let counts = counts.collect::<Result<Vec<_>>>();
            let counts = counts.with_context(|| name.to_owned())?;
            let counted = counts.into_iter().fold(f64::INFINITY, f64::min);
            bench.figure((name, what), Unit::Instructions, counted, None)?;
        }
    }
    Ok(())
}

fn counted_in_folder(count: Count) -> Result<f64> {
    let folder = tempfile::tempdir().context("make a folder")?;
    // The runner's user goes through it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    count(folder.path())
}

/// A program below callgrind, with nothing of our environment.
fn callgrind(program: &str, folder: &Path) -> Result<Command> {
    let mut command = Command::new("valgrind");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg("--tool=callgrind")
        .arg(format!(
            "--callgrind-out-file={}",
            folder.join("callgrind").display()
        ))
        .arg(format!("--log-file={}", folder.join("counted").display()))
        .arg(programs::find(program)?);
    Ok(command)
}

/// What callgrind counted in the program itself.
fn counted(folder: &Path) -> Result<f64> {
    let log = fs::read_to_string(folder.join("counted")).context("read callgrind's log")?;
    // A child that was not executed yet writes there as well; the program ends last.
    let mut counts = log
        .lines()
        .filter_map(|line| line.split_once("Collected :"));
    let last = counts.next_back().context("callgrind counted nothing")?.1;
    last.trim().parse().context("callgrind's count")
}

fn supervisor(folder: &Path) -> Result<f64> {
    let double = GithubDouble::start(Options {
        pat: Some(TOKEN.into()),
        scopes: vec![REPOSITORY.parse().map_err(anyhow::Error::msg)?],
        ..Options::default()
    })?;
    let home = folder.join("home");
    let script = format!(
        "set -e; cp -r {} {home}; mkdir -p {home}/bin; cp {} {home}/bin/Runner.Listener; \
         chown -R nobody {home}",
        programs::checkout().join("tests/runner/layout").display(),
        programs::find("runner-listener")?.display(),
        home = home.display(),
    );
    programs::output(Command::new("sh").args(["-c", &script]))?;
    let mut command = callgrind("supervisor", folder)?;
    command
        .arg("run")
        .env("GITHUB_URL", double.repo_url(REPOSITORY))
        .env("GITHUB_PAT", TOKEN)
        .env("RUNNER_HOME", &home)
        .env("RUNNER_USER", "nobody")
        .env("RUNNER_WORKDIR", folder.join("work"))
        .env("CACHE_MODE", "off")
        .env("CACHE_ROOTS", folder.join("tools"))
        .env("SUPERVISOR_STATE_FILE", folder.join("state/state.json"));
    let idle = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&idle);
    let mut running = Running::start(command, move |stream, line| {
        if stream == Stream::Stdout && line.ends_with("Listening for Jobs") {
            heard.store(true, Ordering::Relaxed);
        }
    })?;
    let begin = Instant::now();
    while !idle.load(Ordering::Relaxed) {
        let ended = running.try_wait()?;
        ensure!(
            ended.is_none(),
            "supervisor ended before it was idle: {ended:?}"
        );
        ensure!(begin.elapsed() < LIMIT, "supervisor does not get idle");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal(nix::sys::signal::Signal::SIGTERM as i32)?;
    running.wait(LIMIT)?;
    counted(folder)
}

/// In the process that does the work: callgrind cannot follow a program that executes itself.
fn cache_scan(folder: &Path) -> Result<f64> {
    let [store, tools, tree] = ["store", "tools", "tree"].map(|name| folder.join(name));
    for empty in [&store, &tools] {
        fs::create_dir(empty)?;
    }
    for part in 0..FOLDERS {
        let part = tree.join(part.to_string());
        fs::create_dir_all(&part)?;
        for file in 0..FILES {
            fs::write(part.join(file.to_string()), [])?;
        }
    }
    let mut publish = worker::command()?;
    publish.args(["cache", "publish", "--store"]).arg(&store);
    publish.arg("--root").arg(&tools).arg("--root").arg(&tree);
    programs::output(&mut publish)?;
    let caches = worker::caches(&store, &[tools, tree]);
    let before = worker::restore(worker::command()?, &caches)?;
    worker::publish(callgrind("supervisor", folder)?, &caches, &before)?;
    counted(folder)
}

fn dindd(folder: &Path) -> Result<f64> {
    let mut command = callgrind("dindd", folder)?;
    command.args(["check", "--json", "--storage"]).arg(folder);
    // It finds this folder wanting, as it should: what counts is that it looked.
    let mut whatever = Command::new("sh");
    whatever.args(["-c", "\"$@\" || true", "sh"]);
    whatever.arg(command.get_program()).args(command.get_args());
    let report = programs::output(&mut whatever)?;
    ensure!(report.contains("\"ok\""), "dindd check says {report:?}");
    counted(folder)
}
