//! The control plane over HTTP does what the methods do.

use github_double::script::{Act, Phase, Script};
use github_double::{GithubDouble, Rule};
use serde_json::{Value, json};

use crate::client::{Answer, RUNNERS, call, call_as, service};

fn control(double: &GithubDouble, method: &str, path: &str, body: Option<Value>) -> Answer {
    let url = format!("{}/_double/{path}", double.url());
    let headers: &[(&str, &str)] = match body {
        Some(_) => &[("content-type", "application/json")],
        None => &[],
    };
    crate::client::send(method, &url, headers, body).unwrap()
}

#[test]
fn a_job_is_queued_seen_and_cancelled() {
    let double = service();
    let job = json!({ "name": "build", "repository": "octo/hello", "run_id": 5,
        "steps": [{ "name": "one", "run": "true", "if": "always" }] });
    let queued = control(&double, "POST", "jobs", Some(job));
    assert_eq!(
        (queued.status, &queued.body["run_id"]),
        (200, &json!(5)),
        "{queued:?}"
    );
    let id = queued.body["id"].as_str().unwrap();
    assert_eq!(
        control(&double, "GET", &format!("jobs/{id}"), None).body["state"],
        "queued"
    );
    let cancelled = control(&double, "POST", &format!("jobs/{id}/cancel"), None);
    assert_eq!(cancelled.body["cancelled"], true);
    assert_eq!(
        control(&double, "GET", "jobs", None).body[0]["conclusion"],
        "canceled"
    );
    assert_eq!(
        control(&double, "GET", &format!("jobs/{id}/log?from=0"), None).text,
        ""
    );
    assert_eq!(control(&double, "GET", "jobs/unknown", None).status, 404);
}

#[test]
fn a_mistake_in_a_job_or_a_rule_is_refused() {
    let double = service();
    let job = json!({ "name": "x", "repository": "octo/hello", "step": [] });
    assert_eq!(control(&double, "POST", "jobs", Some(job)).status, 422);
    let rule = json!({ "path": "**", "action": { "do": "answer", "code": 500 } });
    assert_eq!(control(&double, "POST", "faults", Some(rule)).status, 422);
}

#[test]
fn faults_clock_scopes_and_tokens_are_set() {
    let double = service();
    let rule = json!({ "path": RUNNERS, "times": 1, "action": { "do": "answer", "status": 418 } });
    control(&double, "POST", "faults", Some(rule));
    assert_eq!(call(&double, "GET", RUNNERS, None).status, 418);
    assert_eq!(call(&double, "GET", RUNNERS, None).status, 200);
    control(
        &double,
        "POST",
        "faults",
        Some(json!(Rule::on(
            "GET",
            RUNNERS,
            github_double::Action::status(500)
        ))),
    );
    assert_eq!(control(&double, "DELETE", "faults", None).status, 204);
    assert_eq!(call(&double, "GET", RUNNERS, None).status, 200);

    control(
        &double,
        "POST",
        "scopes",
        Some(json!({ "scope": "new/repo" })),
    );
    assert_eq!(
        call(&double, "GET", "/repos/new/repo/actions/runners", None).status,
        200
    );
    let expired = json!({ "kind": "pat", "seconds": -1 });
    let token = control(&double, "POST", "tokens", Some(expired)).body["token"].clone();
    let answer = call_as(&double, token.as_str().unwrap(), ("GET", RUNNERS), None).unwrap();
    assert_eq!(answer.status, 401);
    let narrow = json!({ "kind": "pat", "grant": { "runners": false } });
    let token = control(&double, "POST", "tokens", Some(narrow)).body["token"].clone();
    let answer = call_as(&double, token.as_str().unwrap(), ("GET", RUNNERS), None).unwrap();
    assert_eq!(answer.status, 403);

    control(
        &double,
        "PUT",
        "clock",
        Some(json!({ "offset_seconds": 86_400 })),
    );
    let tomorrow =
        jiff::fmt::rfc2822::parse(call(&double, "GET", RUNNERS, None).header("date")).unwrap();
    assert!(tomorrow.timestamp() > jiff::Timestamp::now());
}

#[test]
fn a_script_is_for_all_listeners_or_for_one() {
    let double = service();
    let script = Script::default().at(Phase::Listening, Act::Exit { code: 3 });
    control(&double, "PUT", "listener?runner=one", Some(json!(script)));
    let of = |runner: &str| -> Script {
        let answer = control(&double, "GET", &format!("listener?runner={runner}"), None);
        serde_json::from_str(&answer.text).unwrap()
    };
    assert_eq!(of("one"), script);
    assert_eq!(of("two"), Script::default());
}

#[test]
fn events_are_read_from_where_one_left_off() {
    let double = service();
    call(&double, "GET", RUNNERS, None);
    let first = control(&double, "GET", "events", None);
    let last = first.body.as_array().unwrap().last().unwrap()["sequence"].clone();
    assert_eq!(
        control(&double, "GET", &format!("events?after={last}"), None).body,
        json!([])
    );
    call(&double, "GET", RUNNERS, None);
    let more = control(&double, "GET", &format!("events?after={last}"), None);
    assert_eq!(more.body[0]["path"], RUNNERS);
}

#[test]
fn a_message_needs_a_runner_to_go_to() {
    let double = service();
    let message = json!({ "type": "RunnerRefresh", "body": { "target_version": "3.0.0" } });
    let answer = control(&double, "POST", "runners/nobody/messages", Some(message));
    assert_eq!(answer.status, 404);
}
