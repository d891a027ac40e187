//! A whole task of two containers: from its start to the job's first step, and from the job's end
//! until the task is gone.

use std::cell::RefCell;
use std::fs;

use anyhow::{Context, Result, ensure};
use chain::Stage;

use crate::bench::{Bench, Comparison, Measure};
use crate::container::{FOLDER, seconds};
use crate::daemon::{self, Daemon};
use crate::plot::Plot;
use crate::results::{Compared, Unit};
use crate::runner;
use crate::sections::Section;

pub(crate) const SECTION: Section = Section {
    name: "task",
    title: "A whole task",
    run,
};

const OURS: &str = "supervisor and dindd";
const SHELL: &str =
    "shell entrypoints: curl, jq, config.sh, rsync -a, dockerd on a unix socket, rm -rf";

/// What is in the stores: tools, and files in each.
const TOOLS: usize = 4;
const FILES: usize = 1000;
const SIZE: usize = 4096;
/// The volumes of the work folder and of the runner's own programs for container jobs.
const WORK: &str = "bench-work";
const EXTERNALS: &str = "bench-externals";
/// Where a store is in the containers.
const STORE: &str = "/store";

/// What a job does: it says when it begins and ends, uses Docker, and adds a tool.
const USE_DOCKER: &str = "docker import /busybox.tar busybox && docker run --rm busybox true";
const ADD_TOOL: &str = "version=1.0.$(date +%s%N)\n\
    tool=$RUNNER_TOOL_CACHE/added/$version/x64\n\
    mkdir -p \"$tool\"\n\
    cd \"$tool\" && seq 1 200000 | split --lines=1000 - part\n\
    touch \"$tool.complete\"";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    Shell,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Shell => "shell",
        }
    }

    fn daemon(self) -> daemon::Kind {
        match self {
            Self::Ours => daemon::Kind::Dindd,
            Self::Shell => daemon::Kind::Trap,
        }
    }

    fn runner(self) -> runner::Kind {
        match self {
            Self::Ours => runner::Kind::Supervisor,
            Self::Shell => runner::Kind::Shell,
        }
    }

    /// The store in the host.
    fn store(self) -> String {
        format!("/run/bench/store-{}", self.name())
    }
}

fn run(bench: &mut Bench<'_>) -> Result<()> {
    let stage = crate::stage::open(bench)?;
    runner::prepare(&stage)?;
    let outcome = fill_stores(&stage).and_then(|()| compare(bench, &stage));
    outcome.and(crate::stage::close(stage))
}

fn compare(bench: &mut Bench<'_>, stage: &Stage) -> Result<()> {
    let mut started = Vec::new();
    let mut ended = Vec::new();
    for (state, warm, means) in [
        ("cold", false, "the tool cache is empty"),
        ("warm", true, "a former task left the tool cache filled"),
    ] {
        if !bench.wants("task") {
            continue;
        }
        let ours = Tasks::new(stage, Kind::Ours, warm);
        let shell = Tasks::new(stage, Kind::Shell, warm);
        let what = format!("start of the containers to the job's first step; {means}");
        let measure: Measure<'_> = Box::new(|| ours.start());
        let start = Comparison::new(
            format!("task_start_{state}"),
            what,
            Unit::Ms,
            (OURS, measure),
        )
        .peer("shell", SHELL, || shell.start());
        started.extend(bench.compare(start)?.map(|compared| (state, compared)));
        let what = format!("job's end until both containers are gone; {means}");
        let measure: Measure<'_> = Box::new(|| ours.end());
        let end = Comparison::new(format!("task_end_{state}"), what, Unit::Ms, (OURS, measure))
            .peer("shell", SHELL, || shell.end());
        ended.extend(bench.compare(end)?.map(|compared| (state, compared)));
    }
    let bars = |title: &'static str, compared: &[(&'static str, Compared)], name, meaning| {
        let groups: Vec<_> = compared.iter().map(|(state, one)| (*state, one)).collect();
        Plot::bars((name, title, meaning), groups)
    };
    bench.plot(bars(
        "Until the job's first step",
        &started,
        "task_start",
        "Everything that a task has to do before a job can work: Docker, the tool cache, the \
         registration.",
    ));
    bench.plot(bars(
        "Until the task is gone",
        &ended,
        "task_end",
        "The job's new tool is published, the registration and the data-root are gone, both \
         containers have ended.",
    ));
    Ok(())
}

/// Tasks of a kind. Each that runs gives a start and an end, which are measured apart.
struct Tasks<'a> {
    stage: &'a Stage,
    kind: Kind,
    warm: bool,
    starts: RefCell<Vec<f64>>,
    ends: RefCell<Vec<f64>>,
}

impl<'a> Tasks<'a> {
    fn new(stage: &'a Stage, kind: Kind, warm: bool) -> Self {
        Self {
            stage,
            kind,
            warm,
            starts: RefCell::default(),
            ends: RefCell::default(),
        }
    }

    fn start(&self) -> Result<f64> {
        self.next(&self.starts)
    }

    fn end(&self) -> Result<f64> {
        self.next(&self.ends)
    }

    fn next(&self, of: &RefCell<Vec<f64>>) -> Result<f64> {
        if of.borrow().is_empty() {
            let (start, end) = self.run()?;
            self.starts.borrow_mut().push(start);
            self.ends.borrow_mut().push(end);
        }
        of.borrow_mut().pop().context("a task without figures")
    }

    /// Runs a task; a warm one after one that filled the tool cache.
    fn run(&self) -> Result<(f64, f64)> {
        let volume = self.volume();
        let host = self.stage.host();
        let known = host.run(["docker", "volume", "ls", "--quiet"])?;
        if !known.lines().any(|name| name == volume) {
            host.run(["docker", "volume", "create", &volume])?;
            if self.warm {
                self.run_one(&volume)?;
            }
        }
        let measured = self.run_one(&volume)?;
        if !self.warm {
            host.run(["docker", "volume", "rm", &volume])?;
        }
        Ok(measured)
    }

    /// Of the tool cache; a warm one is kept.
    fn volume(&self) -> String {
        let state = if self.warm { "warm" } else { "cold" };
        format!("bench-tools-{}-{state}", self.kind.name())
    }

    fn run_one(&self, volume: &str) -> Result<(f64, f64)> {
        let (stage, kind) = (self.stage, self.kind);
        // New for each task, and at the same paths in both containers, as jobs' containers need them.
        let forget = ["docker", "volume", "rm", "--force", WORK, EXTERNALS];
        stage.host().run(forget)?;
        let shared = [
            format!("--volume={volume}:/opt/hostedtoolcache"),
            format!("--volume={WORK}:/home/runner/_work"),
            format!("--volume={EXTERNALS}:/home/runner/externals"),
        ];
        let daemon = Daemon::create(stage, kind.daemon(), "task-dind", &shared)?;
        let mut more = vec![
            format!("--volume={}:/dind", daemon.container.inside()),
            format!("--volume={}:{STORE}", kind.store()),
            format!("--volume={}:/busybox.tar:ro", crate::stage::IMAGE),
            "--env=DOCKER_HOST=unix:///dind/docker.sock".into(),
            format!("--env=CACHE_STORE={STORE}"),
            "--env=CACHE_PUBLISH=all".into(),
        ];
        more.extend(shared);
        let runner = runner::create(stage, kind.runner(), ("task", &more))?;
        let [first, last] = ["first", "last"].map(|name| format!("date +%s.%N >{FOLDER}/{name}"));
        let stored = self.stored()?;
        let job = runner::queue(stage, "task", &[&first, USE_DOCKER, ADD_TOOL, &last])?;

        std::thread::scope(|scope| {
            let other = scope.spawn(|| runner.start());
            daemon.container.start()?;
            other
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })?;
        let first = runner.stamp("first")?;
        let gone = runner.end(&["0"])?;
        let sent = daemon.container.terminate()?;
        let daemon_gone = daemon.container.end(&["0"])?;

        ensure!(
            self.stored()? > stored,
            "the job's tool is not in the store: {}",
            runner.log()
        );
        let conclusion = stage.github().conclusion(stage.host(), &job)?;
        ensure!(
            conclusion.as_deref() == Some("succeeded"),
            "the job ended as {conclusion:?}: {}",
            runner.log()
        );
        let began = daemon.container.started()?.min(runner.started()?);
        let end = gone - runner.stamp("last")? + daemon_gone - sent;
        Ok(((first - seconds(began)?) * 1000.0, end * 1000.0))
    }

    /// Bytes in the store.
    fn stored(&self) -> Result<u64> {
        let store = self.kind.store();
        let words = ["du", "--bytes", "--summarize", &store];
        let answer = self.stage.host().run(words)?;
        let bytes = answer.split_whitespace().next().unwrap_or_default();
        bytes.parse().with_context(|| format!("du says {answer:?}"))
    }
}

/// The same tools in both stores, each filled in its own way.
fn fill_stores(stage: &Stage) -> Result<()> {
    let host = stage.host();
    let seed = "/run/bench/seed";
    for tool in 0..TOOLS {
        let folder = host.path(format!("{seed}/tool{tool}/1.0.0/x64"));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        for file in 0..FILES {
            let text = format!("{file:0>SIZE$}");
            fs::write(folder.join(file.to_string()), text)?;
        }
        fs::write(folder.with_extension("complete"), "")?;
    }
    let [ours, shell] = [Kind::Ours, Kind::Shell].map(Kind::store);
    let script = format!(
        "set -e; mkdir -p {ours} {shell}; cp -a {seed}/. {shell}/; chown -R 1001:1001 {seed} {shell}"
    );
    host.run(["sh", "-c", &script])?;
    let volumes = [
        format!("--volume={ours}:{STORE}"),
        format!("--volume={seed}:/opt/hostedtoolcache"),
    ];
    let words = [
        "docker",
        "run",
        "--rm",
        &volumes[0],
        &volumes[1],
        "ecs-runner",
    ];
    let publish = [
        "cache",
        "publish",
        "--store",
        STORE,
        "--root",
        "/opt/hostedtoolcache",
    ];
    host.run(words.iter().chain(&publish))
        .context("fill the store")
        .map(drop)
}
