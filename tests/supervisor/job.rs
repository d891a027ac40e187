//! A life in which nothing goes wrong.

use std::fs;

use github_double::{Condition, JobSpec, Kind};

use crate::harness::{PAT, REPOSITORY, Trial, runner_user};

#[test]
fn a_job_runs_and_nothing_is_left_but_its_tool() {
    let trial = Trial::new();
    let job = trial.queue_step(
        "cat $RUNNER_TOOL_CACHE/kept/1.0.0/x64/tool
         mkdir -p $RUNNER_TOOL_CACHE/added/2.0.0/x64
         echo added >$RUNNER_TOOL_CACHE/added/2.0.0/x64/tool
         touch $RUNNER_TOOL_CACHE/added/2.0.0/x64.complete",
    );
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let log = String::from_utf8(trial.double.job_log(&job, 0).unwrap()).unwrap();
    assert!(log.contains("kept"), "the job did not find its tool: {log}");
    let local = trial.path("tools/added/2.0.0");
    fs::remove_dir_all(&local).unwrap();
    let restored = trial.start(&["cache", "restore"]).end();
    assert_eq!(restored.code, 0, "{}", restored.log_text());
    let tool = fs::read_to_string(local.join("x64/tool")).unwrap();
    assert_eq!(tool, "added\n");
    assert!(local.join("x64.complete").exists());
    trial.assert_nothing_is_left("after the job");
}

#[test]
fn everything_happens_in_the_documented_order() {
    let trial = Trial::new();
    trial.queue_step(
        "mkdir -p $RUNNER_TOOL_CACHE/a/1/x64 && touch $RUNNER_TOOL_CACHE/a/1/x64.complete",
    );
    let ended = trial.run();
    let phases = ended.phases();
    let at = |name: &str| {
        let place = phases.iter().position(|phase| *phase == name);
        place.unwrap_or_else(|| panic!("no phase {name} in {phases:?}"))
    };
    for (first, then) in [
        ("directories", "cache-restore"),
        ("github-credentials", "version-check"),
        ("cache-restore", "register"),
        ("version-check", "register"),
        ("externals", "register"),
        ("register", "listener-start"),
        ("listener-start", "idle"),
        ("idle", "job"),
        ("job", "cache-publish"),
        ("job", "deregister"),
    ] {
        assert!(
            at(first) < at(then),
            "{first} is not before {then}: {phases:?}"
        );
    }
    for line in ended
        .log
        .iter()
        .filter(|line| line["message"] == "phase done")
    {
        assert!(line["elapsed_ms"].is_u64(), "{line}");
    }
    let last = ended.log.last().unwrap();
    assert_eq!(
        (&last["message"], &last["exit_code"]),
        (&"summary".into(), &0.into())
    );
    assert_eq!(last["repository"], "acme/widgets");
    assert!(last["run_id"].is_u64(), "{last}");
    // Every phase that was told is a number of the summary.
    for phase in phases {
        let field = format!("{}_ms", phase.replace('-', "_"));
        assert!(last[&field].is_u64(), "{field} is not in {last}");
    }
    assert_eq!(last["deregistered"], "gone");
    assert_eq!(last["restored"], ended.detail("cache-restore"));
    assert_eq!(last["published"], ended.detail("cache-publish"));
    let (restored, published) = (ended.detail("cache-restore"), ended.detail("cache-publish"));
    assert_eq!(
        (restored, published),
        (
            "1 units, 1 files, 4 bytes",
            "1 units published, 0 files, 0 bytes: a/1/x64"
        )
    );
}

#[test]
fn the_listeners_output_passes_through_unchanged() {
    let trial = Trial::new();
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    assert!(
        ended.stdout.starts_with("Runner.Listener stand-in"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.ends_with("√ Removed .runner\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_failing_job_is_a_job_that_is_done() {
    let trial = Trial::new();
    trial.queue_step("exit 3");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    assert_eq!(ended.detail("job"), "build: Failed");
    trial.assert_nothing_is_left("after a failing job");
}

#[test]
fn what_a_job_leaves_running_is_killed() {
    let trial = Trial::new();
    trial.queue_step("RUNNER_TRACKING_ID= setsid sleep 600 </dev/null >/dev/null 2>&1 &");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    assert!(
        ended
            .log_text()
            .contains("killed what the job left running"),
        "{}",
        ended.log_text()
    );
    trial.assert_nothing_is_left("after a job with a daemon");
}

/// Looks everywhere a secret could be read by the job's user.
const SPY: &str = r"
env
id -un
grep -E '^(Cap|NoNewPrivs)' /proc/self/status
for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\0' '\n' <$file 2>/dev/null || true; done
find . .. ../.. ../../.. -type f -size -64k -exec cat {} + 2>/dev/null || true
";

#[test]
fn a_job_cannot_read_the_secrets() {
    let mut trial = Trial::new();
    trial
        .set("ANOTHER_NAME", format!("prefix-{PAT}"))
        .set(
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "/v2/credentials/role",
        )
        .set("ECS_AGENT_URI", "http://169.254.170.2/api/x")
        .set("HARMLESS", "seen");
    let job = trial.queue_step(SPY);
    // The job's user may read the trial's own directory, where the test keeps the answers.
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    let log = String::from_utf8_lossy(&trial.double.job_log(&job, 0).unwrap()).into_owned();
    assert!(log.contains("HARMLESS=seen"), "{log}");
    assert!(log.contains(&runner_user()), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    for capabilities in ["CapPrm", "CapEff"] {
        assert!(
            log.contains(&format!("{capabilities}:\t0000000000000000")),
            "{log}"
        );
    }
    for secret in [
        PAT,
        "/v2/credentials/role",
        "169.254.170.2",
        "GITHUB_PAT=",
        "JITCONFIG=",
    ] {
        assert!(
            !log.contains(secret),
            "{secret} is in the job's reach: {log}"
        );
        assert!(
            !ended.log_text().contains(secret) && !ended.stdout.contains(secret),
            "{secret} was logged"
        );
    }
}

#[test]
fn the_supervisor_keeps_no_capability_that_it_does_not_need_and_cannot_be_looked_into() {
    let trial = Trial::new();
    let supervisor = trial.idle();
    let process = std::path::PathBuf::from(format!("/proc/{}", supervisor.pid()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP (capability.h).
    let needed = [0_u64, 1, 3, 4, 5, 6, 7, 8]
        .map(|bit| 1 << bit)
        .iter()
        .sum::<u64>();
    for name in ["CapPrm:\t", "CapEff:\t", "CapInh:\t"] {
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & !needed, 0, "{name}{mask:x}");
    }
    // Whoever is not dumpable belongs to root in /proc, whoever it is.
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(process.join("environ")).unwrap().uid();
    assert_eq!(owner, 0);
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
}

#[test]
fn the_runner_finds_its_externals_and_owns_its_directories() {
    let trial = Trial::new();
    trial.queue_step("touch $RUNNER_TOOL_CACHE/mine $GITHUB_WORKSPACE/mine; cat $AGENT_TOOLSDIRECTORY/kept/1.0.0/x64/tool");
    let ended = trial.run();
    assert_eq!(ended.detail("job"), "build: Succeeded");
    assert!(trial.path("home/externals/node20/bin/node").is_file());
    assert!(trial.path("tools/mine").is_file());
    let left: Vec<_> = fs::read_dir(trial.path("home/externals"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 2, "something else was left there: {left:?}");
}

#[test]
fn the_state_file_follows_the_job() {
    let trial = Trial::new();
    trial.queue(
        JobSpec::new(REPOSITORY, "build")
            .step("wait", &trial.wait_for_go())
            .step_if(Condition::Always, "end", "true"),
    );
    let supervisor = trial.start(&[]);
    trial.wait_for(Kind::JobAcquired);
    let state = || fs::read_to_string(trial.path("state.json")).unwrap();
    crate::harness::wait_until("the state is job", || state().contains("\"phase\":\"job\""));
    assert!(state().contains("\"job\":\"build\""), "{}", state());
    trial.go();
    assert_eq!(supervisor.end().code, 0);
    assert!(state().contains("\"phase\":\"ended\""), "{}", state());
    assert!(state().contains("\"result\":\"Succeeded\""), "{}", state());
}

#[test]
fn a_registration_by_config_sh_leaves_nothing_too() {
    let mut trial = Trial::new();
    trial
        .set("RUNNER_REGISTRATION", "config")
        .set("RUNNER_LABELS", "a,b");
    let job = trial.queue_step(
        "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; done 2>/dev/null || true",
    );
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert_eq!(ended.detail("job"), "build: Succeeded");
    assert!(trial.double.job(&job).is_some());
    trial.assert_nothing_is_left("after config.sh");
}

#[test]
fn a_configuration_that_somebody_else_made_is_used_as_it_is() {
    let mut trial = Trial::new();
    // Another supervisor's registration, taken before its listener could use it.
    trial.set("RUNNER_NAME", "given");
    let blob = crate::github::jit_configuration(&trial, "given");
    trial
        .set("GITHUB_PAT", "")
        .set("GITHUB_URL", "")
        .set("RUNNER_NAME", "");
    trial.set("RUNNER_JITCONFIG", &blob);
    let job = trial.queue_step("env; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let log = String::from_utf8_lossy(&trial.double.job_log(&job, 0).unwrap()).into_owned();
    assert!(
        !log.contains(&blob),
        "the configuration is in the job's reach"
    );
    trial.assert_nothing_is_left("after a given configuration");
}

#[test]
fn the_operators_own_hooks_run_after_ours() {
    let mut trial = Trial::new();
    for (variable, word) in [("STARTED", "first"), ("COMPLETED", "last")] {
        let own = trial.path(&format!("{word}-hook.sh"));
        fs::write(&own, format!("echo {word} hook for $GITHUB_REPOSITORY\n")).unwrap();
        trial.set(
            &format!("ACTIONS_RUNNER_HOOK_JOB_{variable}"),
            own.display(),
        );
    }
    let job = trial.queue_step("echo the step");
    let ended = trial.run();
    assert_eq!(ended.detail("job"), "build: Succeeded");
    let log = String::from_utf8_lossy(&trial.double.job_log(&job, 0).unwrap()).into_owned();
    let at = |words: &str| log.find(words).unwrap_or_else(|| panic!("{words}: {log}"));
    let (first, last) = (
        at("first hook for acme/widgets"),
        at("last hook for acme/widgets"),
    );
    assert!(first < at("the step\n") && at("the step\n") < last, "{log}");
}

#[test]
fn the_hooks_tell_what_the_job_is_while_it_runs_and_when_its_steps_are_over() {
    let trial = Trial::new();
    trial.queue_step(&trial.wait_for_go());
    let supervisor = trial.start(&[]);
    let state = || fs::read_to_string(trial.path("state.json")).unwrap_or_default();
    crate::harness::wait_until("the state tells the repository", || {
        state().contains("\"repository\":\"acme/widgets\"") && state().contains("\"run_id\":")
    });
    trial.go();
    let ended = supervisor.end();
    assert_eq!(ended.code, 0);
    for words in ["the job has begun", "the steps of the job are over"] {
        let told = ended.log.iter().find(|line| line["message"] == words);
        let told = told.unwrap_or_else(|| panic!("{words}: {}", ended.log_text()));
        assert_eq!(told["repository"], "acme/widgets");
        assert!(told["run_id"].is_u64() && told["job"].is_string(), "{told}");
    }
}
