//! A store that fails: one clear line, and the job runs without the cache.

use std::fs;
use std::time::Duration;

use crate::harness::{Ended, Trial};
use crate::mount::{Mounted, command, trial};

/// What the job does: says what it found, and adds a tool and a loose file.
fn step(trial: &Trial) -> String {
    let npm = trial.path("npm");
    let npm = npm.display();
    format!(
        "if test -e $RUNNER_TOOL_CACHE/packed/1.0.0/x64.complete && test -e {npm}/old
then echo there; else echo missing; fi
mkdir -p $RUNNER_TOOL_CACHE/added/2.0.0/x64 {npm}/sub
echo added >$RUNNER_TOOL_CACHE/added/2.0.0/x64/tool
echo new >{npm}/sub/new
touch $RUNNER_TOOL_CACHE/added/2.0.0/x64.complete"
    )
}

/// The lines that tell what could not be done to the cache, `way` being restored or published.
fn lines(ended: &Ended, way: &str) -> Vec<String> {
    let message = format!("not everything could be {way}; ");
    let told = ended.log.iter().filter(|line| {
        let text = line["message"].as_str().unwrap_or_default();
        text.starts_with(&message)
    });
    told.map(|line| line["problem"].as_str().unwrap().to_owned())
        .collect()
}

/// A life with one job; whether the job found what the store has.
fn live(trial: &Trial) -> (Ended, bool) {
    let job = trial.queue_step(&step(trial));
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert_eq!(ended.detail("job"), "build: Succeeded");
    let log = String::from_utf8(trial.double.job_log(&job, 0).unwrap()).unwrap();
    let found = log.lines().any(|line| line.ends_with("there"));
    (ended, found)
}

fn assert_is_told(lines: &[String], expected: Option<&str>, case: &str) {
    assert_eq!(
        lines.len(),
        usize::from(expected.is_some()),
        "{case}: {lines:?}"
    );
    let mut all = lines.iter().zip(expected);
    assert!(
        all.all(|(line, expected)| line.contains(expected)),
        "{case}: {lines:?}"
    );
}

#[test]
fn a_store_that_fails_costs_a_line_in_each_direction_and_the_job_runs_without_it() {
    let cannot_read = Some("CACHE_STORE: cannot read ");
    for (fault, restored, published) in [
        ("all=EIO", cannot_read, cannot_read),
        ("all=ESTALE", cannot_read, cannot_read),
        ("read=EIO", cannot_read, cannot_read),
        ("readdirplus=ESTALE", cannot_read, cannot_read),
        ("all=EACCES", cannot_read, cannot_read),
        ("changes=EROFS", None, Some("is read-only; mount it")),
        (
            "changes=ENOSPC",
            None,
            Some("is full; supervisor cache prune"),
        ),
        (
            "write=ENOSPC",
            None,
            Some("is full; supervisor cache prune"),
        ),
        ("write=EDQUOT", None, Some("has used its quota up")),
        ("create=ESTALE", None, Some("was taken away or replaced")),
        ("create=EIO", None, Some("CACHE_STORE: cannot write to ")),
    ] {
        let trial = trial();
        let mounted = Mounted::store(&trial, &["--fault", fault]);
        let (ended, found) = live(&trial);
        assert_eq!(found, restored.is_none(), "{fault}");
        assert_is_told(&lines(&ended, "restored"), restored, fault);
        assert_is_told(&lines(&ended, "published"), published, fault);
        drop(mounted);
        // Nothing is there by halves.
        let packs = fs::read_dir(trial.path("store/units")).unwrap().count();
        assert_eq!(packs, 1, "{fault}");
        assert!(!trial.path("store/trees/npm/sub/new").exists(), "{fault}");
        trial.assert_nothing_is_left(fault);
    }
}

#[test]
fn a_file_that_is_taken_away_while_it_is_open_is_missing_and_not_there_by_halves() {
    let trial = trial();
    // Nothing but what is restored is read.
    fs::remove_file(trial.path("store/cache-store.json")).unwrap();
    let mounted = Mounted::store(&trial, &["--fault", "read=ESTALE"]);
    let restored = command(&trial, "restore", ("mounted", "local"));
    assert_eq!(restored.code, 69, "{}", restored.log_text());
    // rsync counts a file before it has read it.
    assert_eq!(restored.stdout, "restored 0 units, 0 files, 0 bytes\n");
    for name in ["packed", "npm"] {
        assert_eq!(
            restored.log_text().matches(name).count(),
            1,
            "{name}: {}",
            restored.log_text()
        );
    }
    for name in ["local/tools/packed", "local/npm/old"] {
        assert!(!trial.path(name).exists(), "{name}");
    }
    drop(mounted);
    trial.assert_nothing_is_left("read=ESTALE");
}

#[test]
fn a_store_that_nobody_should_use_is_told_in_a_line_and_left_alone() {
    let newer = r#"{"format":99,"arch":"x86_64"}"#;
    let other = r#"{"format":1,"arch":"vax"}"#;
    for (format, told) in [
        (newer, "update the images"),
        (other, "belongs to vax"),
        ("half", "is not what it should be"),
    ] {
        let trial = trial();
        fs::write(trial.path("store/cache-store.json"), format).unwrap();
        let mounted = Mounted::store(&trial, &["--fault", "changes=EIO"]);
        let (ended, found) = live(&trial);
        assert!(!found, "{format}");
        for way in ["restored", "published"] {
            assert_is_told(&lines(&ended, way), Some(told), format);
        }
        drop(mounted);
    }
}

#[test]
fn a_store_that_never_answers_is_given_up_in_time_also_where_no_signal_ends_the_waiting() {
    let mut trial = trial();
    trial.set("CACHE_RESTORE_TIMEOUT", 2);
    trial.set("CACHE_PUBLISH_TIMEOUT", 2);
    let mounted = Mounted::store(&trial, &["--fault", "all=hang"]);
    let (ended, found) = live(&trial);
    assert!(!found);
    let told = Some("CACHE_STORE: the storage did not answer in time");
    for way in ["restored", "published"] {
        assert_is_told(&lines(&ended, way), told, way);
    }
    let phase = |name: &str| {
        let mut done = ended.log.iter().filter(|line| line["phase"] == name);
        let line = done.find(|line| line["message"] == "phase done").unwrap();
        Duration::from_millis(line["elapsed_ms"].as_u64().unwrap())
    };
    for name in ["cache-restore", "cache-publish"] {
        assert!(
            phase(name) < Duration::from_secs(5),
            "{name}: {:?}",
            phase(name)
        );
    }
    drop(mounted);
    trial.assert_nothing_is_left("with a store that hung");
}

#[test]
fn a_store_that_hangs_when_it_is_written_does_not_outlive_the_stop() {
    let mut trial = trial();
    trial.set("STOP_TIMEOUT", 10);
    let mounted = Mounted::store(&trial, &["--fault", "changes=hang"]);
    let job = step(&trial);
    trial.queue_step(&format!("{job}\n{}", trial.wait_for_go()));
    let supervisor = trial.start(&[]);
    supervisor.wait_for_phase("job");
    supervisor.terminate();
    let asked = std::time::Instant::now();
    trial.go();
    let ended = supervisor.end();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert_is_told(
        &lines(&ended, "published"),
        Some("did not answer in time"),
        "hung when written",
    );
    drop(mounted);
    trial.assert_nothing_is_left("with a store that hung");
}
