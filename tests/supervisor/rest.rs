//! A restore that goes on while the runner listens.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::{Supervisor, Trial, make_unit};

/// A trial with a tool that comes first and a loose file, which is held on its way.
fn trial() -> Trial {
    let mut trial = Trial::new();
    let roots = ["tools", "pip"].map(|name| trial.path(name).display().to_string());
    make_unit(&trial.path("seed"), "node/22.1.0/x64", "node");
    make_unit(&trial.path("seed"), "go/1.24.0/x64", "go");
    let store = trial.path("store").display().to_string();
    let seed = trial.path("seed").display().to_string();
    let words = ["cache", "publish", "--store", &store, "--root", &seed];
    assert_eq!(trial.start(&words).end().code, 0);
    fs::create_dir_all(trial.path("store/trees/pip")).unwrap();
    fs::write(trial.path("store/trees/pip/old"), "old").unwrap();
    trial
        .set("CACHE_ROOTS", roots.join(":"))
        .set("CACHE_RESTORE_FIRST", "node");
    trial.rsync("restore", "hold");
    trial
}

/// Every file below a folder, by its inode: whoever publishes one again makes another.
fn files(top: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(top).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path().display().to_string(), meta.ino());
        }
    }
    found
}

/// A runner that listens with the first tool there and the rest on its way.
fn listening(trial: &Trial) -> Supervisor {
    let supervisor = trial.idle();
    assert_eq!(trial.registrations(), ["trial"]);
    for (name, is_there) in [
        ("tools/node/22.1.0/x64.complete", true),
        ("tools/kept", false),
        ("pip/old", false),
    ] {
        assert_eq!(trial.path(name).exists(), is_there, "{name}");
    }
    supervisor
}

/// A step that adds a tool and a loose file.
fn adding(trial: &Trial) -> String {
    format!(
        "mkdir -p $RUNNER_TOOL_CACHE/added/2.0.0/x64
echo added >$RUNNER_TOOL_CACHE/added/2.0.0/x64/tool
touch $RUNNER_TOOL_CACHE/added/2.0.0/x64.complete
echo new >{}/new",
        trial.path("pip").display()
    )
}

/// What the job added is in the store, and everything else there is as it was.
fn assert_only_this_was_published(trial: &Trial, before: &BTreeMap<String, u64>) {
    let mut after = files(&trial.path("store"));
    for name in ["units/added@2.0.0@x64.tar.zst", "trees/pip/new"] {
        let name = trial.path("store").join(name).display().to_string();
        assert!(after.remove(&name).is_some(), "{name}");
    }
    assert_eq!(&after, before);
}

#[test]
fn the_runner_listens_while_the_rest_arrives_and_only_what_the_job_adds_is_published() {
    let trial = trial();
    let before = files(&trial.path("store"));
    let supervisor = listening(&trial);
    trial.let_rsync_go("restore");
    supervisor.wait_for_log("the rest of the caches is restored");
    for name in [
        "tools/go/1.24.0/x64.complete",
        "tools/kept/1.0.0/x64.complete",
        "pip/old",
    ] {
        assert!(trial.path(name).exists(), "{name}");
    }
    trial.queue_step(&adding(&trial));
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert_eq!(ended.detail("cache-restore"), "1 units, 1 files, 4 bytes");
    let rest = ended
        .log
        .iter()
        .find(|line| line["message"] == "the rest of the caches is restored");
    let rest = rest.unwrap();
    assert_eq!(
        (&rest["units"], &rest["files"]),
        (&2.into(), &3.into()),
        "{rest}"
    );
    let published = "1 units published, 2 files, 10 bytes: added/2.0.0/x64";
    assert_eq!(ended.detail("cache-publish"), published);
    assert_only_this_was_published(&trial, &before);
}

#[test]
fn a_job_that_is_over_before_the_rest_has_arrived_publishes_only_what_it_added() {
    let trial = trial();
    let before = files(&trial.path("store"));
    let supervisor = listening(&trial);
    trial.queue_step(&adding(&trial));
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let published = "1 units published, 2 files, 10 bytes: added/2.0.0/x64";
    assert_eq!(
        ended.detail("cache-publish"),
        published,
        "{}",
        ended.log_text()
    );
    assert_only_this_was_published(&trial, &before);
    trial.assert_nothing_is_left("while the rest was on its way");
}
