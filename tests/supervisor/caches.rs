//! Stores that are empty, strange, broken or slow: the job runs all the same.

use std::fs;
use std::path::Path;

use crate::harness::{KEPT, Trial, make_unit};

const ADD: &str = "mkdir -p $RUNNER_TOOL_CACHE/added/2.0.0/x64
echo added >$RUNNER_TOOL_CACHE/added/2.0.0/x64/tool
touch $RUNNER_TOOL_CACHE/added/2.0.0/x64.complete";

#[test]
fn a_store_that_does_not_exist_is_made_by_the_first_publication() {
    let mut trial = Trial::new();
    trial.set("CACHE_STORE", trial.path("store-new/below").display());
    trial.queue_step(ADD);
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert!(
        trial
            .path("store-new/below/units/added@2.0.0@x64.tar.zst")
            .exists()
    );
}

#[test]
fn what_cannot_be_restored_is_missing_and_the_job_runs() {
    for (fault, restored) in [
        ("11", false),
        ("20", false),
        ("23", false),
        ("24", false),
        ("30", false),
    ] {
        let trial = Trial::new();
        trial.rsync("restore", fault);
        let job = trial.queue_step(
            "test -e $RUNNER_TOOL_CACHE/kept/1.0.0/x64.complete && echo there || echo missing",
        );
        let ended = trial.run();
        assert_eq!(ended.code, 0, "{fault}: {}", ended.log_text());
        let log = String::from_utf8_lossy(&trial.double.job_log(&job, 0).unwrap()).into_owned();
        assert_eq!(
            log.lines().any(|line| line.ends_with("there")),
            restored,
            "{fault}: {log}"
        );
        assert!(
            ended
                .log_text()
                .contains("not everything could be restored"),
            "{fault}"
        );
    }
}

#[test]
fn what_rsync_counted_and_did_not_bring_does_not_count_as_restored() {
    let mut trial = Trial::new();
    let roots = ["tools", "pip"].map(|name| trial.path(name).display().to_string());
    trial.set("CACHE_ROOTS", roots.join(":"));
    make_unit(&trial.path("store/toolcache"), "other/1.0.0/x64", "other");
    fs::create_dir_all(trial.path("store/toolcache/other/1.0.0/x64/lib")).unwrap();
    for name in [
        "toolcache/other/1.0.0/x64/lib/lost",
        "trees/pip/lost",
        "trees/pip/there",
    ] {
        let path = trial.path("store").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    trial.rsync("restore", "lose lost");
    let ended = trial.start(&["cache", "restore"]).end();
    assert_eq!(ended.code, 69, "{}", ended.log_text());
    // The unit that is whole, and the loose file that came.
    let told = "restored 1 units, 2 files, 19 bytes\n";
    assert_eq!(ended.stdout, told, "{}", ended.log_text());
    assert!(trial.path("pip/there").exists() && !trial.path("pip/lost").exists());
}

#[test]
fn a_store_that_hangs_costs_the_job_its_tools_and_no_more() {
    let mut trial = Trial::new();
    trial.set("CACHE_RESTORE_TIMEOUT", 1);
    trial.rsync("restore", "hang");
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    trial.assert_nothing_is_left("with a store that hangs");
}

#[test]
fn a_publication_that_fails_leaves_no_half_of_a_tool() {
    for fault in ["11", "23", "24"] {
        let trial = Trial::new();
        trial.rsync("publish", fault);
        trial.queue_step(&format!("{ADD}\ntouch $RUNNER_TOOL_CACHE/loose"));
        let ended = trial.run();
        assert_eq!(ended.code, 0, "{fault}");
        assert!(
            ended
                .log_text()
                .contains("not everything could be published"),
            "{fault}"
        );
        assert!(!trial.path("store/toolcache/loose").exists(), "{fault}");
        let left = fs::read_dir(trial.path("store/tmp")).unwrap().count();
        assert_eq!(left, 0, "{fault}: a draft was left");
    }
}

#[test]
fn what_a_job_does_to_a_restored_tool_is_not_published() {
    let trial = Trial::new();
    trial.queue_step("echo poison >$RUNNER_TOOL_CACHE/kept/1.0.0/x64/tool; rm $RUNNER_TOOL_CACHE/kept/1.0.0/x64.complete; touch $RUNNER_TOOL_CACHE/kept/1.0.0/x64.complete");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    let kept = trial.path("store/toolcache").join(KEPT).join("tool");
    assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
    assert!(
        !trial.journal().contains(&"publish".to_owned()),
        "{:?}",
        trial.journal()
    );
}

#[test]
fn a_tool_without_marker_is_neither_restored_nor_published() {
    let trial = Trial::new();
    let half = trial.path("store/toolcache/half/1/x64");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("tool"), "half").unwrap();
    trial.queue_step("test ! -e $RUNNER_TOOL_CACHE/half; mkdir -p $RUNNER_TOOL_CACHE/new/1/x64");
    let ended = trial.run();
    assert_eq!(ended.detail("job"), "build: Succeeded");
    assert!(!trial.path("store/toolcache/new").exists() && !trial.path("store/units").exists());
}

#[test]
fn modes_and_policies_keep_the_store_as_it_is() {
    for (name, value) in [
        ("CACHE_MODE", "read-only"),
        ("CACHE_MODE", "off"),
        ("CACHE_PUBLISH", "off"),
        ("CACHE_PUBLISH", "report"),
    ] {
        let mut trial = Trial::new();
        trial.set(name, value);
        trial.queue_step(ADD);
        let ended = trial.run();
        assert_eq!(ended.code, 0, "{name}={value}");
        assert!(!trial.path("store/units").exists(), "{name}={value}");
        let told = ended.log_text().contains("1 units would be published");
        assert_eq!(
            told,
            value == "report",
            "{name}={value}: {}",
            ended.log_text()
        );
    }
}

#[test]
fn trees_beside_the_tool_cache_are_restored_and_published_without_credentials() {
    let mut trial = Trial::new();
    let roots = format!(
        "{}:{}",
        trial.path("tools").display(),
        trial.path("pip").display()
    );
    trial.set("CACHE_ROOTS", roots);
    fs::create_dir_all(trial.path("store/trees/pip")).unwrap();
    fs::write(trial.path("store/trees/pip/old"), "old").unwrap();
    let pip = trial.path("pip").display().to_string();
    trial.queue_step(&format!(
        "cat {pip}/old; echo new >{pip}/new; echo secret >{pip}/.netrc"
    ));
    let ended = trial.run();
    assert_eq!(
        ended.detail("job"),
        "build: Succeeded",
        "{}",
        ended.log_text()
    );
    assert!(trial.path("store/trees/pip/new").exists());
    assert!(!trial.path("store/trees/pip/.netrc").exists());
}

#[test]
fn the_cache_commands_work_without_github() {
    let trial = Trial::new();
    make_unit(&trial.path("local"), "made/3.0.0/arm64", "made");
    let path = |name: &str| trial.path(name).display().to_string();
    let (store, local, other) = (path("store"), path("local"), path("other"));
    let run = |words: &[&str]| {
        let ended = trial.start(words).end();
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.log_text());
        ended.stdout
    };
    let published = run(&["cache", "publish", "--store", &store, "--root", &local]);
    assert_eq!(
        published,
        "published made/3.0.0/arm64\npublished 1 units, 1 files, 4 bytes\n"
    );
    let again = run(&["cache", "publish", "--store", &store, "--root", &local]);
    assert_eq!(again, "published 0 units, 0 files, 0 bytes\n");
    let listed = run(&["cache", "ls", "--store", &store, "--root", &local]);
    let first = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let names: Vec<String> = listed.lines().map(first).collect();
    assert_eq!(names, ["TOOL", KEPT, "made/3.0.0/arm64", "2"], "{listed}");
    let restored = run(&[
        "cache", "restore", "--store", &store, "--root", &other, "--json",
    ]);
    let restored: serde_json::Value = serde_json::from_str(&restored).unwrap();
    assert_eq!(restored["units"], 2, "{restored}");
    assert_eq!(
        fs::read_to_string(trial.path("other/made/3.0.0/arm64/tool")).unwrap(),
        "made"
    );
    assert!(!trial.path("other/made/3.0.0/arm64/.cache-unit").exists());
}

#[test]
fn a_store_that_is_not_there_is_told_by_every_command_with_the_remedy() {
    let trial = Trial::new();
    let store = trial.path("nowhere").display().to_string();
    for command in ["restore", "ls", "verify", "prune"] {
        let ended = trial.start(&["cache", command, "--store", &store]).end();
        assert_eq!(ended.code, 69, "{command}: {}", ended.log_text());
        let told = format!("CACHE_STORE: {store} is not there; mount it, or ");
        assert_eq!(ended.log_text().matches(&told).count(), 1, "{command}");
        assert!(!Path::new(&store).exists(), "{command}");
    }
}

#[test]
fn prune_says_what_goes_and_why_before_it_goes() {
    let trial = Trial::new();
    make_unit(&trial.path("local"), "made/3.0.0/arm64", "made");
    let path = |name: &str| trial.path(name).display().to_string();
    let run = |words: &[&str]| {
        let words: Vec<&str> = ["cache"].iter().chain(words).copied().collect();
        let ended = trial.start(&words).end();
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.log_text());
        ended.stdout
    };
    let (store, local) = (path("store"), path("local"));
    run(&["publish", "--store", &store, "--root", &local]);
    let pack = trial.path("store/units/made@3.0.0@arm64.tar.zst");
    let used = std::time::SystemTime::now() - std::time::Duration::from_secs((40 * 24 + 1) * 3600);
    let file = fs::File::options().write(true).open(&pack).unwrap();
    file.set_modified(used).unwrap();
    let size = pack.metadata().unwrap().len();
    let prune = ["prune", "--store", &store, "--unused", "30", "--dry-run"];
    let line = "made/3.0.0/arm64: not restored for 40 days";
    let told = format!("would prune {line}\nwould prune 1 units, {size} bytes, and 0 leftovers\n");
    assert_eq!(run(&prune), told);
    assert!(pack.exists());
    assert_eq!(run(&prune[..5]), told.replace("would prune", "pruned"));
    assert!(!pack.exists());
}

#[test]
fn by_hand_too_the_store_is_not_asked_when_nothing_is_new_since_the_restore() {
    let trial = Trial::new();
    let store = trial.path("store");
    fs::create_dir_all(store.join("trees/pip")).unwrap();
    fs::write(store.join("trees/pip/old"), "old").unwrap();
    let path = |name: &str| trial.path(name).display().to_string();
    let (tools, pip) = (path("local/tools"), path("local/pip"));
    let run = |command: &str| {
        let store = store.display().to_string();
        let words = ["cache", command, "--store", &store, "--root", &tools, &pip];
        let ended = trial.start(&words).end();
        assert_eq!(ended.code, 0, "{command}: {}", ended.log_text());
        ended.stdout
    };
    run("restore");
    let away = trial.path("away");
    fs::rename(&store, &away).unwrap();
    for _ in 0..2 {
        assert_eq!(run("publish"), "published 0 units, 0 files, 0 bytes\n");
        assert!(!store.exists(), "the store was made anew");
    }
    // What is new is published, and only that.
    fs::rename(&away, &store).unwrap();
    fs::write(trial.path("local/pip/new"), "new").unwrap();
    make_unit(&trial.path("local/tools"), "made/3.0.0/arm64", "made");
    assert_eq!(
        run("publish"),
        "published made/3.0.0/arm64\npublished 1 units, 2 files, 7 bytes\n"
    );
    // Who prunes makes what was remembered untrue.
    run("prune");
    fs::remove_dir_all(&store).unwrap();
    let all = run("publish");
    assert!(
        all.ends_with("published 2 units, 4 files, 14 bytes\n"),
        "{all}"
    );
}

#[test]
fn by_hand_nothing_is_published_where_the_operator_forbids_it() {
    let mut trial = Trial::new();
    make_unit(&trial.path("local"), "made/3.0.0/arm64", "made");
    let path = |name: &str| trial.path(name).display().to_string();
    let (store, local) = (path("new"), path("local"));
    let words = ["cache", "publish", "--store", &store, "--root", &local];
    for (policy, told) in [
        ("off", ""),
        (
            "report",
            "would publish made/3.0.0/arm64\nwould publish 1 units, 1 files, 4 bytes\n",
        ),
    ] {
        trial.set("CACHE_PUBLISH", policy.to_owned());
        let ended = trial.start(&words).end();
        assert_eq!(ended.code, 0, "{}", ended.log_text());
        assert_eq!(ended.stdout, told, "{policy}");
        assert!(!trial.path("new/units").exists(), "{policy}");
    }
}

#[test]
fn a_tool_is_published_before_the_job_changes_it() {
    // Run by root, both belong to root at first, and the runner's user publishes.
    for name in ["store", "store-new"] {
        let mut trial = Trial::new();
        let store = trial.path(name);
        trial.set("CACHE_STORE", store.display());
        let pack = store.join("units/added@2.0.0@x64.tar.zst");
        // The job goes on when the tool is there.
        trial.queue_step(&format!(
            "{ADD}
while [ ! -e {} ]; do sleep 0.01; done
echo changed >$RUNNER_TOOL_CACHE/added/2.0.0/x64/tool",
            pack.display()
        ));
        let ended = trial.run();
        assert_eq!(ended.detail("job"), "build: Succeeded", "{name}");
        let published = "1 units published, 1 files, 6 bytes: added/2.0.0/x64";
        assert_eq!(ended.detail("cache-publish"), published, "{name}");
        fs::remove_dir_all(trial.path("tools")).unwrap();
        let restored = trial.start(&["cache", "restore"]).end();
        assert_eq!(restored.code, 0, "{}", restored.log_text());
        let tool = trial.path("tools/added/2.0.0/x64/tool");
        assert_eq!(fs::read_to_string(tool).unwrap(), "added\n", "{name}");
    }
}

#[test]
fn what_an_untrusted_job_added_is_not_published() {
    let trial = Trial::new();
    let supervisor = trial.idle();
    assert!(
        trial.report_job(true, "pull_request"),
        "the report was not taken"
    );
    assert!(!trial.report_job(true, "push"), "a second report was taken");
    trial.queue_step(ADD);
    let ended = supervisor.end();
    assert_eq!(ended.code, 0);
    assert!(!trial.path("store/units").exists());
    let log = ended.log_text();
    assert!(log.contains("can come from anybody"), "{log}");
}

#[test]
fn only_the_runner_can_report_a_job() {
    let trial = Trial::new();
    let supervisor = trial.idle();
    if nix::unistd::geteuid().is_root() {
        assert!(
            !trial.report_job(false, "pull_request"),
            "root's report was taken"
        );
    }
    trial.queue_step(ADD);
    let ended = supervisor.end();
    assert_eq!(ended.code, 0);
    assert!(
        trial.path("store/units/added@2.0.0@x64.tar.zst").exists(),
        "{}",
        ended.log_text()
    );
}
