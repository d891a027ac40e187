//! The REST endpoints for runners: authorization, bodies, collisions, pages, removal.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use github_double::{Grant, Group, Kind, TokenKind};
use serde_json::{Value, json};

use crate::client::{Answer, PAT, RUNNERS, call, call_as, send, service};

fn jit(name: &str) -> Value {
    json!({ "name": name, "runner_group_id": 1, "labels": ["self-hosted", "fast"] })
}

fn generate(double: &github_double::GithubDouble, body: Value) -> Answer {
    call(
        double,
        "POST",
        &format!("{RUNNERS}/generate-jitconfig"),
        Some(body),
    )
}

#[test]
fn every_answer_says_that_it_is_a_doubles() {
    let double = service();
    for path in [RUNNERS, "/nowhere", "/_double/runners"] {
        let answer = call(&double, "GET", path, None);
        assert_eq!(answer.header("x-double"), "github-double", "{path}");
        assert!(!answer.header("date").is_empty());
    }
}

#[test]
fn the_api_is_the_same_at_the_root_and_below_api_v3() {
    let double = service();
    let headers = [
        ("authorization", "token ghp_the-operators-token"),
        ("user-agent", "x"),
    ];
    for base in [double.url(), double.api_url()] {
        let answer = send(
            "GET",
            &format!("{base}{RUNNERS}?per_page=5"),
            &headers,
            None,
        )
        .unwrap();
        assert_eq!(
            (answer.status, &answer.body["total_count"]),
            (200, &json!(0)),
            "{base}"
        );
    }
}

#[test]
fn a_call_without_a_user_agent_is_forbidden_and_without_a_token_unauthorized() {
    let double = service();
    let url = format!("{}{RUNNERS}", double.api_url());
    let answer = send("GET", &url, &[("authorization", "token x")], None).unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.message().contains("User-Agent"), "{answer:?}");
    let answer = send("GET", &url, &[("user-agent", "x")], None).unwrap();
    assert_eq!(
        (answer.status, answer.message()),
        (401, "Requires authentication")
    );
    let headers = [("user-agent", "x"), ("authorization", "Bearer wrong")];
    let answer = send("GET", &url, &headers, None).unwrap();
    assert_eq!((answer.status, answer.message()), (401, "Bad credentials"));
}

#[test]
fn an_unknown_api_version_is_refused() {
    let double = service();
    let url = format!("{}{RUNNERS}", double.api_url());
    let pat = format!("Bearer {PAT}");
    let headers = [
        ("user-agent", "x"),
        ("authorization", pat.as_str()),
        ("x-github-api-version", "1999-12-31"),
    ];
    assert_eq!(send("GET", &url, &headers, None).unwrap().status, 400);
}

#[test]
fn an_expired_token_is_a_bad_credential_and_a_narrow_one_sees_less() {
    let double = service();
    let pat = |grant: Grant, seconds: i64| double.mint_token(TokenKind::Pat { grant }, seconds);
    let list = |token: &str| call_as(&double, token, ("GET", RUNNERS), None).unwrap();
    assert_eq!(list(&pat(Grant::default(), 60)).status, 200);
    assert_eq!(
        list(&pat(Grant::default(), -1)).message(),
        "Bad credentials"
    );
    let elsewhere = Grant {
        scopes: Some(vec!["acme".parse().unwrap()]),
        ..Grant::default()
    };
    assert_eq!(list(&pat(elsewhere, 60)).status, 404);
    let without = Grant {
        runners: false,
        ..Grant::default()
    };
    assert_eq!(list(&pat(without, 60)).status, 403);
}

#[test]
fn a_token_expires_by_the_doubles_clock() {
    let double = service();
    let pat = double.mint_token(
        TokenKind::Pat {
            grant: Grant::default(),
        },
        3600,
    );
    assert_eq!(
        call_as(&double, &pat, ("GET", RUNNERS), None)
            .unwrap()
            .status,
        200
    );
    double.set_clock_offset(3601);
    assert_eq!(
        call_as(&double, &pat, ("GET", RUNNERS), None)
            .unwrap()
            .status,
        401
    );
}

#[test]
fn a_jit_configuration_is_a_map_of_three_files() {
    let double = service();
    let answer = generate(&double, jit("one"));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.body["runner"]["name"], "one");
    assert_eq!(answer.body["runner"]["status"], "offline");
    let decode = |text: &Value| STANDARD.decode(text.as_str().unwrap()).unwrap();
    let files: Value = serde_json::from_slice(&decode(&answer.body["encoded_jit_config"])).unwrap();
    let runner = String::from_utf8(decode(&files[".runner"])).unwrap();
    let runner: Value = serde_json::from_str(runner.strip_prefix('\u{feff}').unwrap()).unwrap();
    assert_eq!(runner["AgentId"], answer.body["runner"]["id"].to_string());
    assert_eq!(
        (&runner["Ephemeral"], &runner["WorkFolder"]),
        (&json!("True"), &json!("_work"))
    );
    let key: Value = serde_json::from_slice(&decode(&files[".credentials_rsaparams"])).unwrap();
    assert_eq!(
        STANDARD
            .decode(key["modulus"].as_str().unwrap())
            .unwrap()
            .len(),
        256
    );
    assert!(files[".credentials"].is_string());
}

#[test]
fn urls_that_are_handed_out_lead_to_the_host_that_was_asked() {
    let double = service();
    let url = format!("{}{RUNNERS}/generate-jitconfig", double.api_url());
    let headers = [
        ("user-agent", "x"),
        ("authorization", "Bearer ghp_the-operators-token"),
        ("host", "172.17.0.1:8080"),
    ];
    let answer = send("POST", &url, &headers, Some(jit("one"))).unwrap();
    let blob = answer.body["encoded_jit_config"].as_str().unwrap();
    let files: Value = serde_json::from_slice(&STANDARD.decode(blob).unwrap()).unwrap();
    let runner = STANDARD.decode(files[".runner"].as_str().unwrap()).unwrap();
    let runner = String::from_utf8(runner).unwrap();
    assert!(
        runner.contains("\"ServerUrlV2\":\"http://172.17.0.1:8080/\""),
        "{runner}"
    );
}

#[test]
fn a_taken_name_is_a_conflict_only_in_its_own_scope() {
    let double = service();
    assert_eq!(generate(&double, jit("one")).status, 201);
    let again = generate(&double, jit("one"));
    assert_eq!(again.status, 409);
    assert!(
        again
            .message()
            .contains("A runner with the name one already exists")
    );
    let elsewhere = "/orgs/acme/actions/runners/generate-jitconfig";
    assert_eq!(
        call(&double, "POST", elsewhere, Some(jit("one"))).status,
        201
    );
}

#[test]
fn a_body_that_does_not_validate_is_unprocessable() {
    let double = service();
    let without = |field: &str| {
        let mut body = jit("one");
        body.as_object_mut().unwrap().remove(field);
        body
    };
    let with = |field: &str, value: Value| {
        let mut body = jit("one");
        body[field] = value;
        body
    };
    for body in [
        without("name"),
        without("runner_group_id"),
        without("labels"),
        with("labels", json!([])),
        with("labels", json!([1])),
        with("labels", json!([""])),
        with("labels", json!(["x".repeat(257)])),
        with("labels", json!(vec!["x"; 101])),
        with("name", json!("")),
        with("name", json!("n".repeat(65))),
        with("work_folder", json!(1)),
    ] {
        let answer = generate(&double, body.clone());
        assert_eq!(answer.status, 422, "{body}");
    }
    assert_eq!(
        generate(&double, with("runner_group_id", json!(99))).status,
        404
    );
    assert_eq!(double.runners(), []);
}

#[test]
fn a_body_that_is_no_json_is_a_bad_request() {
    let double = service();
    let url = format!("{}{RUNNERS}/generate-jitconfig", double.api_url());
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let answer = agent
        .post(url)
        .header("authorization", format!("Bearer {PAT}"))
        .send("{ no json")
        .unwrap();
    assert_eq!(answer.status().as_u16(), 400);
}

#[test]
fn a_scope_that_does_not_exist_is_not_found() {
    let double = service();
    for path in ["/repos/octo/other", "/orgs/other", "/enterprises/other"] {
        let path = format!("{path}/actions/runners/registration-token");
        assert_eq!(call(&double, "POST", &path, None).status, 404, "{path}");
    }
    for path in ["/repos/octo/hello", "/orgs/acme", "/enterprises/big"] {
        let path = format!("{path}/actions/runners/registration-token");
        let answer = call(&double, "POST", &path, None);
        assert_eq!(answer.status, 201, "{path}");
        assert!(answer.body["expires_at"].as_str().unwrap().ends_with('Z'));
    }
}

#[test]
fn a_registration_token_reads_and_removes_but_manages_nothing() {
    let double = service();
    generate(&double, jit("one"));
    let token = call(
        &double,
        "POST",
        &format!("{RUNNERS}/registration-token"),
        None,
    )
    .body["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let as_token = |method: &str, path: &str| {
        call_as(&double, &token, (method, path), None)
            .unwrap()
            .status
    };
    assert_eq!(as_token("GET", RUNNERS), 200);
    assert_eq!(
        as_token("GET", "/repos/octo/hello/actions/runner-groups"),
        200
    );
    assert_eq!(as_token("POST", &format!("{RUNNERS}/remove-token")), 404);
    assert_eq!(as_token("GET", "/orgs/acme/actions/runners"), 404);
    let id = double.runners()[0].id;
    assert_eq!(as_token("DELETE", &format!("{RUNNERS}/{id}")), 204);
}

#[test]
fn runners_are_listed_by_page_and_by_name() {
    let double = service();
    for number in 0..5 {
        generate(&double, jit(&format!("runner-{number}")));
    }
    let first = call(&double, "GET", &format!("{RUNNERS}?per_page=2"), None);
    assert_eq!(first.body["total_count"], 5);
    assert_eq!(first.body["runners"].as_array().unwrap().len(), 2);
    let link = first.header("link").to_owned();
    let next = link.split(">; rel=\"next\"").next().unwrap();
    let next = next.rsplit('<').next().unwrap();
    assert!(next.starts_with(&double.api_url()), "{link}");
    let headers = [
        ("user-agent", "x"),
        ("authorization", "Bearer ghp_the-operators-token"),
    ];
    let second = send("GET", next, &headers, None).unwrap();
    assert_eq!(second.body["runners"][0]["name"], "runner-2");
    let named = call(&double, "GET", &format!("{RUNNERS}?name=runner-3"), None);
    assert_eq!(named.body["total_count"], 1);
    assert_eq!(named.body["runners"][0]["labels"][0]["type"], "read-only");
    assert_eq!(named.body["runners"][0]["labels"][1]["type"], "custom");
}

#[test]
fn a_runner_is_shown_deleted_once_and_then_gone() {
    let double = service();
    let id = generate(&double, jit("one")).body["runner"]["id"].clone();
    let path = format!("{RUNNERS}/{id}");
    assert_eq!(call(&double, "GET", &path, None).body["ephemeral"], true);
    let elsewhere = format!("/orgs/acme/actions/runners/{id}");
    assert_eq!(call(&double, "DELETE", &elsewhere, None).status, 404);
    assert_eq!(call(&double, "DELETE", &path, None).status, 204);
    assert_eq!(call(&double, "DELETE", &path, None).status, 404);
    assert_eq!(call(&double, "GET", &path, None).status, 404);
    assert_eq!(generate(&double, jit("one")).status, 201);
}

#[test]
fn groups_are_listed_by_page_and_a_runner_can_join_one() {
    let double = service();
    let group = |id: u64, name: &str| Group {
        id,
        name: name.to_owned(),
    };
    let acme = "acme".parse().unwrap();
    double.add_scope(acme, vec![group(7, "large"), group(8, "gpu")]);
    let answer = call(
        &double,
        "GET",
        "/orgs/acme/actions/runner-groups?per_page=2&page=2",
        None,
    );
    assert_eq!(answer.body["total_count"], 3);
    assert_eq!(answer.body["runner_groups"][0]["name"], "gpu");
    let mut body = jit("one");
    body["runner_group_id"] = json!(8);
    let path = "/orgs/acme/actions/runners/generate-jitconfig";
    let answer = call(&double, "POST", path, Some(body));
    assert_eq!(answer.body["runner"]["runner_group_id"], 8);
}

#[test]
fn deprecations_are_known_for_some_versions_only() {
    let double = service();
    let ask = |version: &str| {
        call(
            &double,
            "GET",
            &format!("{RUNNERS}/deprecations/{version}"),
            None,
        )
    };
    let known = ask("2.336.0");
    assert_eq!(
        (known.status, &known.body["runtime_deprecates_at"]),
        (200, &Value::Null)
    );
    assert_eq!(ask("1.0.0").status, 404);
    let mut versions = github_double::Versions::default();
    let end = "2026-11-05T00:00:00Z".to_owned();
    versions
        .deprecations
        .insert("2.336.0".to_owned(), Some(end.clone()));
    double.set_versions(versions);
    assert_eq!(ask("2.336.0").body["runtime_deprecates_at"], json!(end));
}

#[test]
fn a_run_is_cancelled_once_and_needs_the_permission() {
    let double = service();
    let job = github_double::JobSpec::new("octo/hello", "build").step("x", "true");
    let (id, run) = double.queue_job(job);
    let path = format!("/repos/octo/hello/actions/runs/{run}/cancel");
    let grant = Grant {
        actions: false,
        ..Grant::default()
    };
    let reader = double.mint_token(TokenKind::Pat { grant }, 60);
    assert_eq!(
        call_as(&double, &reader, ("POST", &path), None)
            .unwrap()
            .status,
        403
    );
    assert_eq!(call(&double, "POST", &path, None).status, 202);
    let state = serde_json::to_value(double.job(&id).unwrap()).unwrap();
    assert_eq!(state["conclusion"], "canceled");
    assert_eq!(call(&double, "POST", &path, None).status, 409);
    let unknown = "/repos/octo/hello/actions/runs/1/cancel";
    assert_eq!(call(&double, "POST", unknown, None).status, 404);
}

#[test]
fn no_event_has_a_token_or_a_configuration_in_it() {
    let double = service();
    let token = call(
        &double,
        "POST",
        &format!("{RUNNERS}/registration-token"),
        None,
    );
    let blob = generate(&double, jit("one"));
    double
        .wait_for(
            |event| event.kind == Kind::RunnerRegistered,
            crate::client::LIMIT,
        )
        .unwrap();
    let log = serde_json::to_string(&double.events()).unwrap();
    for secret in [
        PAT,
        token.body["token"].as_str().unwrap(),
        &blob.body["encoded_jit_config"].as_str().unwrap()[..20],
    ] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(log.contains("\"runner\":\"one\""), "{log}");
}
