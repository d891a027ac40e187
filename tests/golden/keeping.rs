//! Making, checking and using up stores.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, ensure};
use chain::Stage;
use chain::driver::Case;
use serde_json::Value;

use crate::store::{ARCHIVE, NEWER, Registry, Store};

pub(crate) const CASES: [Case; 4] = [
    (
        "a_new_version_has_what_was_asked_for_and_adds_only_what_is_new",
        a_new_version_has_what_was_asked_for_and_adds_only_what_is_new,
    ),
    (
        "a_build_that_is_killed_leaves_the_store_as_it_was",
        a_build_that_is_killed_leaves_the_store_as_it_was,
    ),
    ("damage_is_found", damage_is_found),
    (
        "a_store_that_cannot_be_used_leaves_the_task_without_images_and_working",
        a_store_that_cannot_be_used_leaves_the_task_without_images_and_working,
    ),
];

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name]
        .as_u64()
        .with_context(|| format!("no {name} in {value}"))
}

fn references(built: &Value) -> Vec<&str> {
    let images = built["images"].as_array().into_iter().flatten();
    let mut all: Vec<_> = images
        .flat_map(|image| image["references"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    all.sort_unstable();
    all
}

fn a_new_version_has_what_was_asked_for_and_adds_only_what_is_new(stage: &Stage) -> Result<()> {
    let store = Store::new(stage, "keeping")?;
    let first = store.json(&["build", "--archive", ARCHIVE])?;
    ensure!(
        first["published"] == true && references(&first) == ["app:1", "odd:1"],
        "{first}"
    );
    let again = store.json(&["build", "--archive", ARCHIVE])?;
    ensure!(
        again["published"] == false && again["version"] == first["version"],
        "the same images made another version: {again}"
    );

    // Docker Hub's names come through the mirror; there is no way to Docker Hub here.
    let mirror = Registry::start(stage, 5001)?;
    mirror.push(stage, "app:2", "library/app:2")?;
    let flag = format!("--registry-mirrors=http://{}", mirror.address);
    let second = store.json(&["build", &flag, "--archive", ARCHIVE, "app:2"])?;
    ensure!(
        references(&second) == ["app:1", "app:2", "odd:1"],
        "{second}"
    );
    let (new, all) = (number(&second, "new_bytes")?, number(&second, "bytes")?);
    ensure!(
        new * 20 < all,
        "{new} of {all} bytes were written for one small layer"
    );
    let listed = store.json(&["ls"])?;
    let versions = listed["versions"].as_array().context("no versions")?;
    ensure!(
        versions.len() == 2 && listed["current"] == second["version"],
        "{listed}"
    );

    // What is not asked for any more is left out.
    let third = store.json(&["build", "--archive", ARCHIVE])?;
    ensure!(
        third["published"] == true && references(&third) == ["app:1", "odd:1"],
        "{third}"
    );
    // The way back, on which what was left behind goes.
    let version = second["version"].as_str().context("no version")?;
    store.golden(&["use", version])?;
    let collected = store.json(&["gc"])?;
    ensure!(
        collected["kept"] == serde_json::json!([version])
            && collected["removed"]
                .as_array()
                .is_some_and(|removed| removed.len() == 2),
        "{collected}"
    );
    let verified = store.json(&["verify"])?;
    ensure!(
        verified["sound"] == true && store.json(&["ls"])?["current"] == version,
        "{verified}"
    );
    Ok(())
}

fn a_build_that_is_killed_leaves_the_store_as_it_was(stage: &Stage) -> Result<()> {
    let store = Store::with_images(stage, "killed-build")?;
    let before = store.json(&["ls"])?;
    let detached = ["--detach", "--name=killed-build"];
    store.golden_with(&detached, &["build", "--archive", NEWER])?;
    chain::driver::wait_until("the build has begun", || {
        Ok(std::fs::read_dir(store.path("work"))?.count() > 0)
    })?;
    stage.host().run(["docker", "kill", "killed-build"])?;
    ensure!(
        store.json(&["ls"])? == before,
        "the killed build changed the store"
    );
    store.json(&["build", "--archive", NEWER])?;
    let left = std::fs::read_dir(store.path("work"))?.count();
    ensure!(left == 0, "{left} entries of the killed build are left");
    Ok(())
}

/// Changes one byte in the middle of a file.
fn flip(path: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::options().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(middle))?;
    Ok(file.write_all(&[!byte[0]])?)
}

/// The metadata file of the current version, and its largest one.
fn files_of(store: &Store<'_>) -> Result<[std::path::PathBuf; 2]> {
    let text = std::fs::read(store.path("current/manifest.json"))?;
    let manifest: Value = serde_json::from_slice(&text)?;
    let path = |number: usize| -> Result<_> {
        let sum = manifest["files"][number]["sha256"]
            .as_str()
            .context("no file")?;
        Ok(store.path(&format!("files/{sum}.erofs")))
    };
    Ok([path(0)?, path(1)?])
}

fn damage_is_found(stage: &Stage) -> Result<()> {
    let store = Store::with_images(stage, "damaged")?;
    store.golden(&["verify"])?;
    let [_, largest] = files_of(&store)?;
    flip(&largest)?;
    ensure!(
        store.golden(&["verify"]).is_err(),
        "a changed byte was not found"
    );
    flip(&largest)?;
    store.golden(&["verify"]).map(drop)
}

fn a_store_that_cannot_be_used_leaves_the_task_without_images_and_working(
    stage: &Stage,
) -> Result<()> {
    let store = Store::with_images(stage, "unusable")?;
    let starts_cold = |how: &str, why: &str| -> Result<()> {
        let job = store.task(&format!("cold-{how}"))?;
        job.expect(
            "docker run --rm busybox echo works; docker images --quiet | wc -l",
            "works\n1",
        )
        .with_context(|| format!("the store is {how}"))?;
        let said = job.heard.transcript();
        ensure!(
            said.contains("the golden store is skipped") && said.contains(why),
            "{how}: {why:?} was not said:{said}"
        );
        job.end()
    };
    let [metadata, largest] = files_of(&store)?;
    flip(&metadata)?;
    starts_cold("damaged", "")?;
    flip(&metadata)?;

    let whole = std::fs::metadata(&largest)?.len();
    std::fs::File::options()
        .write(true)
        .open(&largest)?
        .set_len(whole / 2)?;
    starts_cold("truncated", "")?;

    // The name of a version vouches for its manifest, so both are made anew.
    let of_another = format!(
        "cd {}; sed -i 's/\"overlay2\"/\"btrfs\"/' current/manifest.json
         sum=$(sha256sum <current/manifest.json | head -c 16); old=$(readlink current)
         mv $old ${{old%-*}}-$sum; ln -sfn ${{old%-*}}-$sum current",
        store.in_host().display()
    );
    stage.host().run(["bash", "-ec", &of_another])?;
    starts_cold("of-another-driver", "is for the storage driver btrfs")?;

    let manifest = store.path("current/manifest.json");
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 99"))?;
    starts_cold("too-new", "format 99")?;
    std::fs::remove_file(store.path("current"))?;
    starts_cold("missing", "")
}
