//! Many sidecars on one volume: none disturbs another, and what a killed one leaves is found.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use chain::driver::{Case, Heard, LIMIT, data_root, end, healthy_dind, wait_until};
use chain::{Container, Stage, Task, TaskOptions};

pub(crate) const CASES: [Case; 2] = [
    (
        "a_dozen_sidecars_at_once_do_not_see_each_other",
        a_dozen_sidecars_at_once_do_not_see_each_other,
    ),
    (
        "a_sidecar_killed_at_any_instant_leaves_nothing_and_harms_nobody",
        a_sidecar_killed_at_any_instant_leaves_nothing_and_harms_nobody,
    ),
];

/// Tasks at the same time; ECS places about as many on one host.
const TASKS: usize = 12;

/// Sidecars that are killed one after the other, beside other such lanes.
const LANES: usize = 3;
/// Kills in a lane.
const ROUNDS: u32 = 12;
/// A start takes about this long on two busy cores; kills are spread over it.
const START: Duration = Duration::from_millis(1800);
/// An orderly stop takes about this long.
const STOP: Duration = Duration::from_millis(240);
/// No further kill after this: a slow machine does fewer.
const BUDGET: Duration = Duration::from_secs(100);

/// The same in every task but for a word: the same names, addresses and ports.
const JOB: &str = r#"
docker network create --subnet 10.99.0.0/24 net >/dev/null
docker run --detach --name web --network net --ip 10.99.0.9 --publish 8080:80 --volume words:/words busybox sh -c \
  'echo word of NAME >>/words/index.html; exec httpd -f -p 80 -h /words' >/dev/null
docker run --rm --network net busybox sh -c 'until wget -q -T 2 -O - http://web/; do sleep 0.1; done'
docker run --rm --network host busybox wget -q -T 5 -O - http://127.0.0.1:8080/
docker ps --all --format '{{.Names}}'
docker volume ls --quiet
docker images --format '{{.Repository}}'
"#;

/// Runs `work` for each of `items` at the same time.
fn at_once<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(|| work(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    })
}

fn a_dozen_sidecars_at_once_do_not_see_each_other(stage: &Stage) -> Result<()> {
    let tasks = at_once(0..TASKS, |number| {
        let name = format!("dozen-{number}");
        let heard = Heard::default();
        let task = stage.task(&name, TaskOptions::default(), heard.listener())?;
        let dind = healthy_dind(&task)?;
        Ok((name, heard, task, dind))
    })?;
    let tasks = at_once(tasks, |(name, heard, task, dind)| {
        let said = task.docker(&JOB.replace("NAME", &name))?;
        let mine = format!("word of {name}\nword of {name}\nweb\nwords\nbusybox\n");
        ensure!(
            said.ends_with(&mine),
            "{name} expected {mine:?} in {said:?}"
        );
        let root = data_root(stage, &dind)?;
        Ok((heard, task, dind, root))
    })?;
    let roots = at_once(tasks, |(heard, task, dind, root)| {
        end(dind, task, &heard)?;
        Ok(root)
    })?;
    for root in roots {
        ensure!(!stage.host().path(&root).exists(), "{root} is left");
    }
    Ok(())
}

/// A folder of the volume that serves one test as its storage volume, so that the test can say what
/// must be in it.
struct Storage<'a> {
    stage: &'a Stage,
    name: &'static str,
}

impl<'a> Storage<'a> {
    fn make(stage: &'a Stage, name: &'static str) -> Result<Self> {
        let storage = Self { stage, name };
        std::fs::create_dir(storage.path())?;
        Ok(storage)
    }

    fn path(&self) -> PathBuf {
        let inside = self.stage.volume().join(self.name);
        self.stage.host().path(inside)
    }

    fn entries(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.path())?;
        entries
            .map(|entry| Ok(entry?.file_name().display().to_string()))
            .collect()
    }

    fn task(&self, name: &str, heard: &Heard) -> Result<Task<'a>> {
        let options = TaskOptions {
            storage: self.name.into(),
            ..TaskOptions::default()
        };
        self.stage.task(name, options, heard.listener())
    }

    /// `dindd reap` as a host's timer runs it.
    fn reap(&self) -> Result<String> {
        let inside = self.stage.volume().join(self.name);
        let volume = format!("--volume={}:/storage", inside.display());
        let words = ["docker", "run", "--rm", &volume, "ecs-dind", "reap"];
        let host = self.stage.host();
        host.run(words.iter().chain(&["--storage", "/storage", "--json"]))
    }
}

/// Kills the sidecar while it starts, in even rounds, and while it stops, in odd ones.
fn kill_one(storage: &Storage<'_>, lane: usize, round: u32) -> Result<()> {
    let heard = Heard::default();
    let task = storage.task(&format!("lane-{lane}-{round}"), &heard)?;
    let mut dind;
    if round.is_multiple_of(2) {
        dind = task.start_dind()?;
        sleep(START * round / ROUNDS);
    } else {
        dind = healthy_dind(&task)?;
        task.docker("docker run --detach --restart=always busybox sleep 1000")?;
        if round > 1 {
            dind.signal("TERM")?;
            sleep(STOP * round / ROUNDS);
        }
    }
    kill(&mut dind)
        .with_context(|| format!("lane {lane}, round {round}:{}", heard.transcript()))?;
    dind.remove()?;
    task.remove()
}

/// It may not run yet, or not any more.
fn kill(dind: &mut Container<'_>) -> Result<()> {
    wait_until("it is killed", || {
        Ok(dind.signal("KILL").is_ok() || dind.has_ended()?)
    })?;
    dind.wait(LIMIT).map(drop)
}

fn a_sidecar_killed_at_any_instant_leaves_nothing_and_harms_nobody(stage: &Stage) -> Result<()> {
    let storage = Storage::make(stage, "killed")?;
    let heard = Heard::default();
    let living = storage.task("living", &heard)?;
    let living_dind = healthy_dind(&living)?;
    living.docker("docker run --detach --name beat busybox sleep 10000")?;
    let [root] = &storage.entries()?[..] else {
        return Err(anyhow!("more than one root: {:?}", storage.entries()));
    };
    let root = root.clone();

    let begin = Instant::now();
    at_once(0..LANES, |lane| {
        for round in 0..ROUNDS {
            if begin.elapsed() < BUDGET {
                kill_one(&storage, lane, round)?;
            }
        }
        Ok(())
    })?;
    let reaped = storage.reap()?;
    ensure!(
        storage.entries()? == [root],
        "after {reaped:?} there are {:?}",
        storage.entries()?
    );
    let beats = living.docker(
        "docker inspect --format '{{.State.Running}} {{.RestartCount}} {{.State.Pid}}' beat; \
         docker exec beat echo alive",
    )?;
    ensure!(
        beats.contains("true 0 ") && beats.ends_with("alive\n"),
        "the neighbour's container was harmed: {beats}"
    );
    end(living_dind, living, &heard)?;
    ensure!(
        storage.entries()?.is_empty(),
        "left: {:?}",
        storage.entries()?
    );
    std::fs::remove_dir(storage.path()).context("remove the folder")
}
