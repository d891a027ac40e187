//! Failing on order.

use std::time::{Duration, Instant};

use github_double::{Action, GithubDouble, Hangup, Kind, Rule};
use serde_json::json;

use crate::client::{PAT, RUNNERS, call, call_as, service};

const JIT: &str = "**/runners/generate-jitconfig";

fn register(double: &GithubDouble, name: &str) -> Result<u16, ureq::Error> {
    let body = json!({ "name": name, "runner_group_id": 1, "labels": ["x"] });
    let path = format!("{RUNNERS}/generate-jitconfig");
    call_as(double, PAT, ("POST", &path), Some(body)).map(|answer| answer.status)
}

#[test]
fn a_status_comes_with_its_headers_and_without_effect() {
    let double = service();
    let limited = Action::status(429)
        .header("retry-after", 7)
        .header("x-ratelimit-remaining", 0)
        .body(json!({ "message": "slow down" }));
    double.fail(Rule::on("GET", RUNNERS, limited).times(1));
    let answer = call(&double, "GET", RUNNERS, None);
    assert_eq!((answer.status, answer.message()), (429, "slow down"));
    assert_eq!(answer.header("retry-after"), "7");
    assert_eq!(answer.header("x-double"), "github-double");
    let answer = call(&double, "GET", RUNNERS, None);
    assert_eq!(
        (answer.status, answer.header("x-ratelimit-limit")),
        (200, "5000")
    );
    double.fail(Rule::on("POST", JIT, Action::status(500)).times(1));
    assert_eq!(register(&double, "one").unwrap(), 500);
    assert_eq!(double.runners(), []);
}

#[test]
fn a_lost_answer_has_its_effect_and_a_lost_request_has_none() {
    let double = service();
    let hang_up = |how: Hangup| Action::Disconnect { how, effect: false };
    for (name, action, registered) in [
        ("closed", hang_up(Hangup::Close), false),
        ("reset", hang_up(Hangup::Reset), false),
        ("lost", hang_up(Hangup::Close).after_effect(), true),
    ] {
        double.fail(Rule::on("POST", JIT, action).times(1));
        register(&double, name).unwrap_err();
        let found = double.runners().iter().any(|runner| runner.name == name);
        assert_eq!(found, registered, "{name}");
    }
    let late = Action::status(502).after_effect();
    double.fail(Rule::on("POST", JIT, late).times(1));
    assert_eq!(register(&double, "late").unwrap(), 502);
    assert!(double.runners().iter().any(|runner| runner.name == "late"));
}

#[test]
fn a_reset_is_a_reset() {
    let double = service();
    let reset = Action::Disconnect {
        how: Hangup::Reset,
        effect: false,
    };
    double.fail(Rule::on("GET", RUNNERS, reset));
    let error = call_as(&double, PAT, ("GET", RUNNERS), None).unwrap_err();
    let ureq::Error::Io(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_delay_comes_first_and_a_slow_body_arrives_whole() {
    let double = service();
    double.fail(Rule::on("GET", RUNNERS, Action::Pass).delay(Duration::from_millis(150)));
    let asked = Instant::now();
    assert_eq!(call(&double, "GET", RUNNERS, None).status, 200);
    assert!(asked.elapsed() >= Duration::from_millis(150));

    double.clear_faults();
    let slow = Action::SlowBody {
        bytes: 4,
        every_ms: 10,
    };
    double.fail(Rule::on("GET", RUNNERS, slow));
    let asked = Instant::now();
    let answer = call(&double, "GET", RUNNERS, None);
    assert_eq!(answer.body, json!({ "runners": [], "total_count": 0 }));
    assert!(
        asked.elapsed() >= Duration::from_millis(50),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn no_answer_is_no_obstacle_to_others_or_to_the_end() {
    let double = service();
    double.fail(Rule::on(
        "GET",
        RUNNERS,
        Action::NeverAnswer { effect: false },
    ));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_millis(200)))
        .build()
        .into();
    let url = format!("{}{RUNNERS}", double.api_url());
    let error = agent.get(url).call().unwrap_err();
    assert!(matches!(error, ureq::Error::Timeout(_)), "{error:?}");
    assert_eq!(
        call(&double, "GET", "/orgs/acme/actions/runners", None).status,
        200
    );
    drop(double);
}

#[test]
fn faults_are_told_counted_and_never_touch_the_control_plane() {
    let double = service();
    double.fail(Rule::on("GET", "**", Action::status(503)));
    assert_eq!(call(&double, "GET", RUNNERS, None).status, 503);
    let answer = call(&double, "GET", "/_double/faults", None);
    assert_eq!((answer.status, &answer.body[0]["hits"]), (200, &json!(1)));
    let fault = double
        .wait_for(|event| event.kind == Kind::Fault, crate::client::LIMIT)
        .unwrap();
    assert_eq!(fault.path.as_deref(), Some(RUNNERS));
}
