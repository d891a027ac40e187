//! A store whose files belong to a user of another image.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{User, chown};

use crate::harness::runner_user;
use crate::mount::trial;

/// Nobody here.
const STRANGER: u32 = 4242;

fn give(path: &Path) {
    chown(path, Some(STRANGER.into()), Some(STRANGER.into())).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

#[test]
fn what_is_restored_belongs_to_the_runner_and_not_to_whoever_published_it() {
    let mut trial = trial();
    let store = trial.path("store");
    give(&store);
    let plain = trial.path("plain");
    let mut rsync = Command::new("rsync");
    let copied = rsync.arg("-a").arg(store.join("trees/")).arg(&plain);
    assert!(copied.status().unwrap().success());
    let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
    assert_eq!(
        owner(&plain.join("npm/old")),
        STRANGER,
        "plain rsync has become safe"
    );
    trial.set("CACHE_STORE", store.display());
    trial.set("CACHE_MODE", "read-only");
    trial.queue_step("echo changed >>$RUNNER_TOOL_CACHE/packed/1.0.0/x64/tool");
    let ended = trial.run();
    assert_eq!(ended.detail("job"), "build: Succeeded");
    let runner = User::from_name(&runner_user())
        .unwrap()
        .unwrap()
        .uid
        .as_raw();
    for name in [
        "npm/old",
        "tools/packed/1.0.0/x64",
        "tools/packed/1.0.0/x64/tool",
        "tools/packed/1.0.0/x64.complete",
    ] {
        assert_eq!(owner(&trial.path(name)), runner, "{name}");
    }
}
