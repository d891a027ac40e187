//! Many sidecars on one volume: none disturbs another, and what a killed one leaves is found.

use std::hash::{BuildHasher, RandomState};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use chain::driver::{Case, Heard, LIMIT, STOP_TIMEOUT, data_root, end, healthy_dind, wait_until};
use chain::{Container, Engine, Stage, Task, TaskOptions};

use crate::storage::Storage;

pub(crate) const CASES: [Case; 4] = [
    (
        "sixteen_sidecars_at_once_do_not_see_each_other",
        sixteen_sidecars_at_once_do_not_see_each_other,
    ),
    (
        "a_sidecar_killed_at_any_instant_leaves_nothing_and_harms_nobody",
        a_sidecar_killed_at_any_instant_leaves_nothing_and_harms_nobody,
    ),
    (
        "fifty_reapers_at_once_remove_the_dead_and_nothing_else",
        fifty_reapers_at_once_remove_the_dead_and_nothing_else,
    ),
    (
        "a_sidecar_ends_in_time_whatever_a_job_has_left",
        a_sidecar_ends_in_time_whatever_a_job_has_left,
    ),
];

/// Tasks at the same time; ECS places about as many on one host.
const TASKS: usize = 16;

/// Sidecars that are killed one after the other, beside other such lanes.
const LANES: u64 = 4;
/// Kills in a lane: a hundred in all.
const ROUNDS: u64 = 25;
/// Repeats the instants of another run.
const SEED: &str = "KILL_SEED";

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

fn sixteen_sidecars_at_once_do_not_see_each_other(stage: &Stage) -> Result<()> {
    let tasks = at_once(0..TASKS, |number| {
        let name = format!("many-{number}");
        let heard = Heard::default();
        let options = TaskOptions {
            engine: Engine::ALL[number % Engine::ALL.len()],
            ..TaskOptions::default()
        };
        let task = stage.task(&name, options, heard.listener())?;
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

/// A task whose container must not notice what happens beside it.
struct Living<'a> {
    task: Task<'a>,
    dind: Container<'a>,
    heard: Heard,
    root: String,
    start: Duration,
}

impl<'a> Living<'a> {
    /// The first task on its storage.
    fn start(storage: &Storage<'a>, name: &str) -> Result<Self> {
        let heard = Heard::default();
        let task = storage.task(name, &heard, TaskOptions::default())?;
        let begin = Instant::now();
        let dind = healthy_dind(&task)?;
        let start = begin.elapsed();
        task.docker("docker run --detach --name beat busybox sleep 10000")?;
        let [root] = &storage.entries()?[..] else {
            return Err(anyhow!("more than one root: {:?}", storage.entries()));
        };
        let root = root.clone();
        Ok(Self {
            task,
            dind,
            heard,
            root,
            start,
        })
    }

    /// It is alone on its storage and unharmed, and ends.
    fn end(self, storage: &Storage<'_>) -> Result<()> {
        let entries = storage.entries()?;
        ensure!(entries == [self.root], "on the volume are {entries:?}");
        let beats = self.task.docker(
            "docker inspect --format '{{.State.Running}} {{.RestartCount}} {{.State.Pid}}' beat; \
             docker exec beat echo alive",
        )?;
        ensure!(
            beats.contains("true 0 ") && beats.ends_with("alive\n"),
            "the neighbour's container was harmed: {beats}"
        );
        end(self.dind, self.task, &self.heard)
    }
}

/// Kills the sidecar while it starts, while it serves, or while it stops. `start` is how long a
/// start takes.
fn kill_one(
    storage: &Storage<'_>,
    name: &str,
    random: &mut Random,
    start: Duration,
) -> Result<String> {
    let heard = Heard::default();
    let task = storage.task(name, &heard, TaskOptions::default())?;
    let instant = random.share();
    let (mut dind, what);
    match random.next() % 4 {
        0 | 1 => {
            dind = task.start_dind()?;
            // Somewhat longer than a start: some are killed as soon as they serve.
            let after = start.mul_f64(1.2 * instant);
            what = format!("{after:?} after its start");
            sleep(after);
        }
        2 => {
            dind = healthy_dind(&task)?;
            task.docker("docker run --detach --restart=always busybox sleep 1000")?;
            what = "while it served".to_owned();
        }
        _ => {
            dind = healthy_dind(&task)?;
            dind.signal("TERM")?;
            let after = Duration::from_millis(400).mul_f64(instant);
            what = format!("{after:?} after SIGTERM");
            sleep(after);
        }
    }
    kill(&mut dind)
        .with_context(|| format!("{name}, to be killed {what}:{}", heard.transcript()))?;
    dind.remove()?;
    task.remove()?;
    Ok(what)
}

/// It may not run yet, or not any more.
fn kill(dind: &mut Container<'_>) -> Result<()> {
    wait_until("it is killed", || {
        Ok(dind.signal("KILL").is_ok() || dind.has_ended()?)
    })?;
    dind.wait(LIMIT).map(drop)
}

/// Instants that a seed repeats (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between 0 and 1.
    fn share(&mut self) -> f64 {
        let thousandths = u32::try_from(self.next() % 1000).unwrap_or_default();
        f64::from(thousandths) / 1000.0
    }
}

/// The seed that was asked for, or any.
#[expect(clippy::disallowed_methods, reason = "a test driver has no settings")]
fn seed() -> Result<u64> {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().context(SEED),
        Err(_) => Ok(RandomState::new().hash_one(SEED)),
    }
}

fn a_sidecar_killed_at_any_instant_leaves_nothing_and_harms_nobody(stage: &Stage) -> Result<()> {
    let seed = seed()?;
    chain::driver::tell(&format!("kills at instants of {SEED}={seed}"));
    let storage = Storage::make(stage, "killed")?;
    let living = Living::start(&storage, "living")?;
    let start = living.start;
    let kills = at_once(0..LANES, |lane| {
        let mut random = Random(seed.wrapping_add(lane));
        (0..ROUNDS)
            .map(|round| {
                kill_one(
                    &storage,
                    &format!("lane-{lane}-{round}"),
                    &mut random,
                    start,
                )
            })
            .collect::<Result<Vec<_>>>()
    });
    let kills = kills.with_context(|| format!("{SEED}={seed}"))?.concat();
    // What a start has not reaped yet, a reaper reaps.
    let reaped = storage.reap()?;
    living
        .end(&storage)
        .with_context(|| format!("{SEED}={seed}, kills {kills:?}, then {reaped}"))?;
    storage.end()
}

fn fifty_reapers_at_once_remove_the_dead_and_nothing_else(stage: &Stage) -> Result<()> {
    let storage = Storage::make(stage, "reapers")?;
    let living = Living::start(&storage, "reapers-living")?;
    let heard = Heard::default();
    let dead = at_once(0..4, |number| {
        let name = format!("reapers-dead-{number}");
        let task = storage.task(&name, &heard, TaskOptions::default())?;
        let dind = healthy_dind(&task)?;
        task.docker("docker run --rm --volume v:/v busybox sh -c 'cd /v; seq 2000 | xargs touch'")?;
        Ok((task, dind))
    })?;
    at_once(dead, |(task, mut dind)| {
        kill(&mut dind)?;
        dind.remove()?;
        task.remove()
    })?;
    ensure!(storage.entries()?.len() == 5, "{:?}", storage.entries()?);
    // A neighbour that starts and one that ends among them.
    std::thread::scope(|scope| {
        let passing = scope.spawn(|| {
            let task = storage.task("reapers-passing", &heard, TaskOptions::default())?;
            end(healthy_dind(&task)?, task, &heard)
        });
        at_once(0..50, |_| storage.reap())?;
        passing
            .join()
            .map_err(|_| anyhow!("the passing task panicked"))?
    })?;
    living.end(&storage)?;
    storage.end()
}

/// What a job may leave: many files, a container that is deaf and comes back, one that forks for
/// ever, networks and volumes.
const LITTER: &str = r#"
docker run --rm --volume left:/left busybox sh -c '
  for folder in $(seq 20); do mkdir /left/$folder && cd /left/$folder && seq 10000 | xargs touch; done'
for number in 1 2; do
  docker run --detach --restart=always busybox sh -c 'trap "" TERM INT; while :; do sleep 1; done'
done
docker run --detach busybox sh -c 'while :; do (sleep 1 &) ; (sleep 1 &); sleep 0.01; done'
docker run --detach --pid=host busybox sleep 10000
docker network create left
"#;

fn a_sidecar_ends_in_time_whatever_a_job_has_left(stage: &Stage) -> Result<()> {
    let storage = Storage::make(stage, "litter")?;
    let heard = Heard::default();
    let task = storage.task("litter", &heard, TaskOptions::default())?;
    let mut dind = healthy_dind(&task)?;
    task.docker(LITTER)?;
    let code = dind.stop(STOP_TIMEOUT)?;
    ensure!(code == 0, "dindd ended with {code}:{}", heard.transcript());
    dind.remove()?;
    task.remove()?;
    // A machine that is busy with other things may not get through with the files in that time.
    let left = storage.entries()?;
    ensure!(left.iter().all(|name| name == ".trash"), "left: {left:?}");
    storage.reap()?;
    storage.end()
}
