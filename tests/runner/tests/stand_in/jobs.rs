//! What a job sees, what it leaves, and what ends it.

use std::time::{Duration, Instant};

use crate::harness::{Listener, REPOSITORY, Trial, eventually};
use github_double::script::Script;
use github_double::{Condition, JobSpec, Kind, SHUTDOWN_ANNOTATION};
use nix::sys::signal::Signal;

/// Runs one job to its end with such variables for the listener; the job's log.
fn log_of(trial: &Trial, job: JobSpec, variables: &[(&str, &str)]) -> String {
    let (id, _) = trial.double.queue_job(job);
    let mut command = trial.with_jit(&trial.jit("worker").0);
    command.envs(variables.iter().copied());
    let finished = Listener::start(command).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    trial.job_log(&id)
}

fn job() -> JobSpec {
    JobSpec::new(REPOSITORY, "build")
}

#[test]
fn a_step_sees_the_documented_variables_and_directories() {
    let trial = Trial::new();
    let script =
        "echo repo=$GITHUB_REPOSITORY owner=$GITHUB_REPOSITORY_OWNER ci=$CI actions=$GITHUB_ACTIONS
        echo run=$GITHUB_RUN_ID name=$RUNNER_NAME os=$RUNNER_OS env=$RUNNER_ENVIRONMENT
        echo here=$PWD workspace=$GITHUB_WORKSPACE
        echo temp=$RUNNER_TEMP tools=$RUNNER_TOOL_CACHE
        test -s $GITHUB_EVENT_PATH -a -d $RUNNER_TOOL_CACHE -a -f $GITHUB_OUTPUT && echo files";
    let mut spec = job().step("look", script);
    spec.run_id = Some(4711);
    let log = log_of(&trial, spec, &[]);
    let work = trial.root.join("_work").display().to_string();
    for line in [
        "repo=octo/hello owner=octo ci=true actions=true".to_owned(),
        "run=4711 name=worker os=Linux env=self-hosted".to_owned(),
        format!("here={work}/hello/hello workspace={work}/hello/hello"),
        format!("temp={work}/_temp tools={work}/_tool"),
        "files".to_owned(),
    ] {
        assert!(log.lines().any(|found| found == line), "{line} in {log}");
    }
}

#[test]
fn the_listeners_environment_reaches_the_steps_but_its_inputs_do_not() {
    let trial = Trial::new();
    std::fs::write(trial.root.join(".env"), "FROM_FILE=file\nBOTH=file\n").unwrap();
    let log = log_of(
        &trial,
        job().step("env", "env"),
        &[
            ("FROM_LISTENER", "yes"),
            ("BOTH", "listener"),
            ("ACTIONS_RUNNER_INPUT_TOKEN", "secret-input"),
            (
                "AGENT_TOOLSDIRECTORY",
                trial.root.join("tools").to_str().unwrap(),
            ),
        ],
    );
    for line in ["FROM_LISTENER=yes", "FROM_FILE=file", "BOTH=file"] {
        assert!(log.lines().any(|found| found == line), "{line} in {log}");
    }
    assert!(!log.contains("ACTIONS_RUNNER_INPUT"), "{log}");
    let tools = format!("RUNNER_TOOL_CACHE={}", trial.root.join("tools").display());
    assert!(log.lines().any(|found| found == tools), "{log}");
}

#[test]
fn a_step_hands_variables_and_path_to_the_next() {
    let trial = Trial::new();
    let first = "echo GREETING=hello >> $GITHUB_ENV
        mkdir -p bin; printf '#!/bin/sh\\necho own tool\\n' > bin/own-tool; chmod +x bin/own-tool
        echo $PWD/bin >> $GITHUB_PATH
        echo RUNNER_NAME=forged >> $GITHUB_ENV";
    let log = log_of(
        &trial,
        job()
            .step("one", first)
            .step("two", "echo $GREETING from $RUNNER_NAME; own-tool"),
        &[],
    );
    assert!(log.contains("hello from worker\nown tool\n"), "{log}");
}

#[test]
fn a_failing_step_skips_the_rest_but_not_always_and_failure() {
    let trial = Trial::new();
    let spec = job()
        .step("breaks", "false | cat; echo not reached")
        .step("skipped", "echo skipped")
        .step_if(Condition::Failure, "on failure", "echo on failure")
        .step_if(Condition::Always, "always", "echo always");
    let (id, _) = trial.double.queue_job(spec);
    let finished = Listener::start(trial.with_jit(&trial.jit("worker").0)).finish();
    assert_eq!(finished.code, Some(0));
    assert!(
        finished.says("Job build completed with result: Failed"),
        "{finished:#?}"
    );
    let steps = trial.double.job(&id).unwrap().steps;
    let conclusions: Vec<&str> = steps
        .iter()
        .map(|(_, conclusion)| conclusion.as_str())
        .collect();
    assert_eq!(conclusions, ["failed", "skipped", "succeeded", "succeeded"]);
    assert!(!trial.job_log(&id).contains("not reached"));
}

#[test]
fn hooks_run_before_and_after_and_a_missing_one_fails_the_job() {
    let trial = Trial::new();
    let hook = |name: &str| {
        let path = trial.root.join(name);
        std::fs::write(&path, format!("echo {name} of $GITHUB_RUN_ID\n")).unwrap();
        path.display().to_string()
    };
    let (started, completed) = (hook("started.sh"), hook("completed.sh"));
    let mut spec = job().step("step", "echo the step");
    spec.run_id = Some(12);
    let both = [
        ("ACTIONS_RUNNER_HOOK_JOB_STARTED", started.as_str()),
        ("ACTIONS_RUNNER_HOOK_JOB_COMPLETED", completed.as_str()),
    ];
    let log = log_of(&trial, spec.clone(), &both);
    let position = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} in {log}"));
    assert!(position("started.sh of 12") < position("the step"));
    assert!(position("the step") < position("completed.sh of 12"));

    let missing = [("ACTIONS_RUNNER_HOOK_JOB_STARTED", "/nowhere/hook.sh")];
    let log = log_of(&trial, spec, &missing);
    assert!(log.contains("'/nowhere/hook.sh' does not exist"), "{log}");
    assert!(!log.contains("the step"), "{log}");
}

#[test]
fn step_output_reaches_standard_output_only_when_asked_for() {
    let trial = Trial::new();
    trial.queue("echo from the step");
    let mut command = trial.with_jit(&trial.jit("loud").0);
    command.env("ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT", "1");
    let finished = Listener::start(command).finish();
    let line = finished
        .output
        .iter()
        .find(|line| line.ends_with("] from the step"));
    assert!(line.unwrap().starts_with("[WORKER 2"), "{finished:#?}");
    assert!(
        finished
            .output
            .iter()
            .any(|line| line.starts_with("[RUNNER 2"))
    );
}

#[test]
fn traces_lie_in_diag_and_temporary_files_are_gone() {
    let trial = Trial::new();
    log_of(
        &trial,
        job().step(
            "litter",
            "touch $RUNNER_TEMP/litter; mkdir $RUNNER_TEMP/more",
        ),
        &[],
    );
    let names: Vec<String> = std::fs::read_dir(trial.root.join("_diag"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for host in ["Runner_", "Worker_"] {
        let found = names
            .iter()
            .any(|name| name.starts_with(host) && name.ends_with("-utc.log"));
        assert!(found, "{names:?}");
    }
    let left = std::fs::read_dir(trial.root.join("_work/_temp"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn a_log_can_be_read_while_it_grows() {
    let trial = Trial::new();
    let listener = trial.listening("live");
    let job = trial.queue("echo early; until [ -e go ]; do sleep 0.02; done; echo late");
    trial.wait_for_log(&job, "early");
    assert!(!trial.job_log(&job).contains("late"));
    std::fs::write(trial.root.join("_work/hello/hello/go"), "").unwrap();
    assert_eq!(listener.finish().code, Some(0));
    assert!(trial.job_log(&job).contains("late"));
}

#[test]
fn listener_worker_and_step_are_a_process_tree() {
    let trial = Trial::new();
    let listener = trial.listening("tree");
    let job = trial.queue("echo step=$$ worker=$PPID; until [ -e go ]; do sleep 0.02; done");
    trial.wait_for_log(&job, "worker=");
    let log = trial.job_log(&job);
    let worker = log.split("worker=").nth(1).unwrap().lines().next().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let parent = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap();
    assert_eq!(parent, listener.pid().to_string());
    let command = std::fs::read_to_string(format!("/proc/{worker}/cmdline")).unwrap();
    assert!(
        command.contains("bin/Runner.Worker\0spawnclient"),
        "{command:?}"
    );
    std::fs::write(trial.root.join("_work/hello/hello/go"), "").unwrap();
    assert_eq!(listener.finish().code, Some(0));
}

#[test]
fn an_interrupt_cancels_the_job_and_nothing_else_of_it_runs() {
    let trial = Trial::new();
    let listener = trial.listening("stopped");
    let spec = job()
        .step(
            "long",
            "trap 'echo the step got INT; exit 9' INT; echo begun; while :; do sleep 0.02; done",
        )
        .step_if(Condition::Always, "always", "echo always ran");
    let (id, _) = trial.double.queue_job(spec);
    trial.wait_for_log(&id, "begun");
    listener.signal(Signal::SIGINT);
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.says("Exiting..."));
    assert!(
        finished.says("Job build completed with result: Canceled"),
        "{finished:#?}"
    );
    assert!(!finished.says("Removed"), "{finished:#?}");
    let log = trial.job_log(&id);
    assert!(
        log.contains("the step got INT") && !log.contains("always ran"),
        "{log}"
    );
    let view = trial.double.job(&id).unwrap();
    assert_eq!(view.annotations, [SHUTDOWN_ANNOTATION]);
    assert_eq!(trial.conclusion(&id), "failed");
    // Neither side removed the registration, and its configuration is spent.
    assert!(trial.has(".runner"));
    let runners = trial.double.runners();
    assert_eq!(
        (runners.len(), runners[0].busy, runners[0].online),
        (1, false, false)
    );
}

#[test]
fn a_cancellation_by_the_service_lets_always_steps_run() {
    let trial = Trial::new();
    let listener = trial.listening("cancelled");
    let spec = job()
        .step("long", "echo begun; exec sleep 300")
        .step("next", "echo next ran")
        .step_if(Condition::Always, "always", "echo always ran");
    let (id, run) = trial.double.queue_job(spec);
    trial.wait_for_log(&id, "begun");
    let path = format!("/repos/{REPOSITORY}/actions/runs/{run}/cancel");
    assert_eq!(trial.rest("POST", &path, None).0, 202);
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(
        finished.says("Job build completed with result: Canceled"),
        "{finished:#?}"
    );
    let log = trial.job_log(&id);
    assert!(
        log.contains("always ran") && !log.contains("next ran"),
        "{log}"
    );
    assert_eq!(trial.conclusion(&id), "canceled");
    assert_eq!(trial.double.runners(), []);
}

#[test]
fn a_termination_does_not_wait_for_a_deaf_step_longer_than_its_limit() {
    let trial = Trial::new();
    trial
        .double
        .script(None, Script::default().wait_scale(0.01));
    let listener = trial.listening("hurried");
    let job = trial.queue("trap '' INT TERM; echo begun; while :; do sleep 0.1; done");
    trial.wait_for_log(&job, "begun");
    let asked = Instant::now();
    listener.signal(Signal::SIGTERM);
    assert_eq!(listener.finish().code, Some(143));
    // The scaled limit is 0.3 s; an orderly end of this step takes 10 s.
    assert!(
        asked.elapsed() < Duration::from_secs(9),
        "{:?}",
        asked.elapsed()
    );
    // The worker is on its own now, ends the step and reports.
    trial.wait_for(Kind::JobCompleted);
}

#[test]
fn a_deaf_step_is_killed_after_both_graces() {
    let trial = Trial::new();
    let listener = trial.listening("patient");
    let job = trial.queue("trap '' INT TERM; echo begun; while :; do sleep 0.1; done");
    trial.wait_for_log(&job, "begun");
    let asked = Instant::now();
    listener.signal(Signal::SIGINT);
    assert_eq!(listener.finish().code, Some(0));
    assert!(
        asked.elapsed() >= Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn processes_that_a_step_leaves_behind_are_ended_with_the_job() {
    let trial = Trial::new();
    let script = "setsid sleep 300 >/dev/null 2>&1 & echo orphan=$!";
    let log = log_of(&trial, job().step("leave", script), &[]);
    let orphan = log.split("orphan=").nth(1).unwrap().lines().next().unwrap();
    assert!(log.contains("Terminate orphan process"), "{log}");
    let state = || std::fs::read_to_string(format!("/proc/{orphan}/stat"));
    // Dead or, where nobody reaps orphans, a zombie.
    eventually(
        || state().map_or(true, |stat| stat.contains(") Z")),
        || format!("{:?}", state()),
    );
}

#[test]
fn a_worker_that_crashes_fails_its_job() {
    let trial = Trial::new();
    let job_id = trial.queue("kill -9 $PPID; sleep 1");
    let finished = Listener::start(trial.with_jit(&trial.jit("crash").0)).finish();
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.says("completed with result: Failed"));
    assert_eq!(trial.conclusion(&job_id), "failed");
}

#[test]
fn a_hostile_job_name_is_printed_as_it_is() {
    let trial = Trial::new();
    let name = "x completed with result: Succeeded $(reboot)";
    trial
        .double
        .queue_job(JobSpec::new(REPOSITORY, name).step("fail", "false"));
    let finished = Listener::start(trial.with_jit(&trial.jit("calm").0)).finish();
    assert!(
        finished.says(&format!("Job {name} completed with result: Failed")),
        "{finished:#?}"
    );
}
