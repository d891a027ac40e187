//! A task of ECS: what the runner is called, and what ECS is told and tells.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::ecs_double::{EcsDouble, TASK_ID};
use crate::harness::Trial;

#[test]
fn a_runner_is_named_and_labelled_after_its_task() {
    let mut trial = Trial::new();
    let _ecs = EcsDouble::of(&mut trial);
    trial
        .set("RUNNER_NAME", "")
        .set("RUNNER_NAME_PREFIX", "ci-")
        .set("RUNNER_LABELS", "own")
        .set("RUNNER_CAPACITY_PROVIDER", "spot");
    for way in ["jit", "config"] {
        trial.set("RUNNER_REGISTRATION", way);
        let supervisor = trial.idle();
        let runner = &trial.double.runners()[0];
        assert_eq!(runner.name, format!("ci-{TASK_ID}"), "{way}");
        for label in [
            "self-hosted",
            "own",
            "ecs-cluster:prod",
            "ecs-az:eu-west-1a",
            "ecs-capacity-provider:spot",
        ] {
            assert!(
                runner.labels.iter().any(|own| own == label),
                "{way}: {label} is not in {:?}",
                runner.labels
            );
        }
        supervisor.terminate();
        assert_eq!(supervisor.end().code, 143);
    }
}

#[test]
fn a_runner_without_default_labels_has_none_of_ecs() {
    let mut trial = Trial::new();
    let _ecs = EcsDouble::of(&mut trial);
    trial
        .set("RUNNER_NO_DEFAULT_LABELS", "on")
        .set("RUNNER_LABELS", "own");
    let supervisor = trial.idle();
    assert_eq!(trial.double.runners()[0].labels, ["own"]);
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
}

#[test]
fn a_task_is_protected_from_scale_in_exactly_while_its_job_runs() {
    let mut trial = Trial::new();
    let ecs = EcsDouble::of(&mut trial);
    let supervisor = trial.idle();
    assert!(ecs.asked().is_empty(), "an idle runner may be scaled in");
    trial.queue_step(&trial.wait_for_go());
    ecs.wait_until_protected();
    trial.go();
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert_eq!(ecs.asked(), [true, false]);
    assert!(!ecs.is_protected());
}

#[test]
fn a_protection_that_fails_for_now_is_asked_for_again() {
    for (status, body) in [
        (
            200,
            json!({"failure": {"Arn": "a", "Reason": "DEPLOYMENT_BLOCKED", "Detail": "d"}}),
        ),
        (500, json!({"error": {"Code": "ServerException"}})),
        (504, json!(null)),
    ] {
        let mut trial = Trial::new();
        let ecs = EcsDouble::of(&mut trial);
        ecs.answer_once(status, body);
        trial.queue_step(&trial.wait_for_go());
        let supervisor = trial.start(&[]);
        ecs.wait_until_protected();
        trial.go();
        assert_eq!(supervisor.end().code, 0);
        assert_eq!(ecs.asked(), [true, true, false], "{status}");
    }
}

#[test]
fn a_protection_that_is_refused_for_good_is_told_once_and_costs_nothing() {
    for (status, body, words) in [
        (
            200,
            json!({"failure": {"Arn": "a", "Reason": "TASK_NOT_VALID", "Detail": "no service"}}),
            "TASK_NOT_VALID",
        ),
        (
            403,
            json!({"requestID": "r", "error": {"Code": "AccessDeniedException", "Message": "no role"}}),
            "ecs:UpdateTaskProtection",
        ),
    ] {
        let mut trial = Trial::new();
        let ecs = EcsDouble::of(&mut trial);
        ecs.answer_once(status, body);
        trial.queue_step(&trial.wait_for_go());
        let supervisor = trial.start(&[]);
        supervisor.wait_for_log(words);
        trial.go();
        let ended = supervisor.end();
        assert_eq!(ended.code, 0, "{}", ended.log_text());
        assert_eq!(ecs.asked(), [true]);
    }
}

#[test]
fn a_protection_ends_with_a_job_that_is_interrupted() {
    let mut trial = Trial::new();
    let ecs = EcsDouble::of(&mut trial);
    trial.set("ON_STOP", "cancel").queue_step("sleep 600");
    let supervisor = trial.start(&[]);
    ecs.wait_until_protected();
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
    assert_eq!(ecs.asked(), [true, false]);
}

#[test]
fn an_idle_runner_stops_as_soon_as_ecs_wants_its_task_to_stop() {
    let mut trial = Trial::new();
    let ecs = EcsDouble::of(&mut trial);
    let supervisor = trial.idle();
    ecs.stop_task();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    assert!(
        ended.log_text().contains("ECS wants this task to stop"),
        "{}",
        ended.log_text()
    );
    trial.assert_nothing_is_left("after the announcement");
}

#[test]
fn the_signal_that_was_announced_does_not_hurry() {
    let mut trial = Trial::new();
    let ecs = EcsDouble::of(&mut trial);
    trial.set("STOP_TIMEOUT", 60);
    trial.queue_step(&trial.wait_for_go());
    let supervisor = trial.start(&[]);
    ecs.wait_until_protected();
    ecs.stop_task();
    supervisor.wait_for_log("the job goes on while there is time");
    supervisor.terminate();
    supervisor.wait_for_log("as announced");
    let asked = Instant::now();
    trial.go();
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    assert!(asked.elapsed() < Duration::from_secs(30));
    trial.assert_nothing_is_left("after the announced job");
}

#[test]
fn a_metadata_endpoint_that_is_not_there_costs_the_name_and_no_more() {
    let mut trial = Trial::new();
    trial
        .set("ECS_CONTAINER_METADATA_URI_V4", "http://127.0.0.1:9/v4/x")
        .set("ECS_AGENT_URI", "http://127.0.0.1:9/api/x")
        .set("RUNNER_NAME", "")
        .set("RUNNER_NAME_PREFIX", "lost");
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let detail = ended.detail("register");
    assert!(detail.starts_with("lost-"), "{detail}");
}
