//! A new version while tasks run, and the host's mounts.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, anyhow, ensure};
use chain::Stage;
use chain::driver::{Case, wait_until};

use crate::store::{Job, NEWER, SOON, Store};

pub(crate) const CASES: [Case; 2] = [
    (
        "tasks_keep_the_version_that_they_began_with",
        tasks_keep_the_version_that_they_began_with,
    ),
    (
        "tasks_share_what_the_host_has_mounted",
        tasks_share_what_the_host_has_mounted,
    ),
];

/// ECS places about as many on one host.
const TASKS: usize = 16;

fn tasks_keep_the_version_that_they_began_with(stage: &Stage) -> Result<()> {
    let store = Store::with_images(stage, "rollout")?;
    let old = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..TASKS)
            .map(|number| {
                let store = &store;
                scope.spawn(move || store.task(&format!("rollout-{number}")))
            })
            .collect();
        let ended = starting.into_iter();
        ended
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<Job<'_>>>>()
    })?;
    let published = store.json(&["build", "--archive", NEWER])?;
    ensure!(published["published"] == true, "{published}");
    let collected = store.json(&["gc"])?;
    ensure!(
        collected["in_use"]
            .as_array()
            .is_some_and(|versions| versions.len() == 1),
        "a version in use was not kept: {collected}"
    );

    let new = store.task("rollout-new")?;
    new.expect("docker run --rm app:2 cat /version", "2")?;
    new.end()?;
    let mut old = old.into_iter();
    let last = old.next_back().context("no task")?;
    for job in old {
        // A killed task frees its version as an ordered end does.
        job.dind.signal("KILL")?;
        job.dind.remove()?;
        job.task.remove()?;
    }
    let collected = store.json(&["gc"])?;
    ensure!(
        collected["removed"].as_array().is_some_and(Vec::is_empty),
        "{collected}"
    );
    last.expect(
        "docker run --rm app:1 cat /version; docker images --quiet app:2",
        "1",
    )?;
    last.end()?;

    let begun = std::time::Instant::now();
    wait_until("the old version goes", || {
        ensure!(begun.elapsed() < SOON, "it stays");
        let collected = store.json(&["gc"])?;
        Ok(collected["kept"]
            .as_array()
            .is_some_and(|kept| kept.len() == 1)
            && collected["in_use"].as_array().is_some_and(Vec::is_empty))
    })?;
    let left = std::fs::read_dir(store.path("versions"))?.count();
    ensure!(left == 1, "{left} versions are left");
    Ok(())
}

fn tasks_share_what_the_host_has_mounted(stage: &Stage) -> Result<()> {
    let store = Store::with_images(stage, "mounted")?;
    let dindd = "/run/chain/stages/build/out/dindd";
    let dir = store.in_host().display().to_string();
    let mount = [dindd, "golden", "--store", &dir, "mount", "--json"];
    let said: serde_json::Value = serde_json::from_str(&stage.host().run(mount)?)?;
    let mounted = said["mounted"].as_array().map_or(0, Vec::len);
    ensure!(mounted == 2, "not everything was mounted: {said}");

    let device = |job: &Job<'_>| -> Result<u64> {
        let print = job.docker(
            "docker run --rm --volume /var/lib/docker:/d app:1 stat --format %d /d/golden/1/trees",
        )?;
        let number = print.trim().lines().last().unwrap_or_default();
        number
            .parse()
            .with_context(|| format!("no device number: {print}"))
    };
    let jobs = [store.task("share-0")?, store.task("share-1")?];
    let devices = [device(&jobs[0])?, device(&jobs[1])?];
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.path("current/manifest.json"))?)?;
    let sum = manifest["files"][1]["sha256"].as_str().context("no file")?;
    let of_the_host = std::fs::metadata(store.path(&format!("mounted/{sum}")))?.dev();
    ensure!(
        devices == [of_the_host; 2],
        "the tasks have filesystems of their own: {devices:?}, the host {of_the_host}"
    );
    for job in jobs {
        job.end()?;
    }
    // A host that has another version unmounts the old one with it; the tasks' mounts are theirs.
    store.golden(&["build", "--archive", NEWER])?;
    stage.host().run([dindd, "golden", "--store", &dir, "gc"])?;
    for entry in std::fs::read_dir(store.path("mounted"))? {
        let name = entry?.file_name();
        let path = store.in_host().join("mounted").join(name);
        stage.host().run(["umount", &path.display().to_string()])?;
    }
    Ok(())
}
