//! What GitHub can do to us, and what we make of it.

use std::fs;
use std::process::Command;

use github_double::rsa_key::RsaKey;
use github_double::{Action, App, Grant, Hangup, Kind, Rule, Versions};

use crate::harness::{REPOSITORY, Trial};

const REGISTER: &str = "**/generate-jitconfig";

/// The trial's credentials are an App's.
pub(crate) fn use_app(trial: &mut Trial) {
    let file = trial.path("app-key.pem");
    let key = RsaKey::generate().unwrap();
    fs::write(&file, key.to_pem().unwrap()).unwrap();
    trial.double.add_app(App {
        id: 4711,
        client_id: "Iv1.trial".to_owned(),
        public_key: key.public().to_pem().unwrap(),
        grant: Grant::default(),
    });
    trial.set("GITHUB_PAT", "").set("GITHUB_APP_ID", 4711);
    trial.set("GITHUB_APP_PRIVATE_KEY_FILE", file.display());
}

/// A just-in-time configuration that nobody has used yet.
pub(crate) fn jit_configuration(trial: &Trial, name: &str) -> String {
    let path = format!(
        "{}/repos/{REPOSITORY}/actions/runners/generate-jitconfig",
        trial.double.api_url()
    );
    let body = format!(r#"{{"name":"{name}","runner_group_id":1,"labels":["self-hosted"]}}"#);
    let token = format!("authorization: Bearer {}", crate::harness::PAT);
    let out = Command::new("curl")
        .args([
            "-fsS",
            "-H",
            &token,
            "-H",
            "user-agent: test",
            "-d",
            &body,
            &path,
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    answer["encoded_jit_config"].as_str().unwrap().to_owned()
}

#[test]
fn an_answer_that_is_final_ends_the_task_with_the_reason() {
    for (status, code, remedy) in [
        (401, 77, "renew GITHUB_PAT"),
        (403, 77, "Administration"),
        (404, 77, "does not exist in GITHUB_URL's spelling"),
        (422, 77, "RUNNER_LABELS"),
    ] {
        let trial = Trial::new();
        trial
            .double
            .fail(Rule::on("POST", REGISTER, Action::status(status)));
        let ended = trial.run();
        assert_eq!(ended.code, code, "{status}: {}", ended.log_text());
        assert!(
            ended.errors().contains(remedy),
            "{status}: {}",
            ended.errors()
        );
        assert!(
            !ended.stdout.contains("stand-in"),
            "the listener was started"
        );
        trial.assert_nothing_is_left(&status.to_string());
    }
}

#[test]
fn a_failure_that_passes_costs_time_and_nothing_else() {
    let limit = |status: u16| Action::status(status).header("retry-after", 1);
    let disconnect = |how| Action::Disconnect { how, effect: false };
    for (name, action) in [
        ("500", Action::status(500)),
        ("502", Action::status(502)),
        ("429", limit(429)),
        ("403 with retry-after", limit(403)),
        ("closed", disconnect(Hangup::Close)),
        ("reset", disconnect(Hangup::Reset)),
        (
            "500 after it took effect",
            Action::status(500).after_effect(),
        ),
        (
            "closed after it took effect",
            disconnect(Hangup::Close).after_effect(),
        ),
    ] {
        let trial = Trial::new();
        trial
            .double
            .fail(Rule::on("POST", REGISTER, action).times(1));
        trial.queue_step("true");
        let ended = trial.run();
        assert_eq!(ended.code, 0, "{name}: {}", ended.log_text());
        assert!(
            ended.log_text().contains("trying again"),
            "{name}: {}",
            ended.log_text()
        );
        trial.assert_nothing_is_left(name);
    }
}

#[test]
fn a_failure_that_does_not_pass_ends_the_task_within_the_limit() {
    for (name, action) in [
        ("500", Action::status(500)),
        (
            "rate limit for an hour",
            Action::status(429).header("retry-after", 3600),
        ),
        ("silent", Action::NeverAnswer { effect: false }),
        (
            "silent after it took effect",
            Action::NeverAnswer { effect: true },
        ),
    ] {
        let mut trial = Trial::new();
        trial.set("GITHUB_TIMEOUT", 3);
        trial.double.fail(Rule::on("POST", REGISTER, action));
        let ended = trial.run();
        assert_eq!(ended.code, 69, "{name}: {}", ended.log_text());
        assert!(ended.elapsed.as_secs() < 20, "{name}: {:?}", ended.elapsed);
        trial.assert_nothing_is_left(name);
    }
}

#[test]
fn a_github_that_is_not_there_is_told_with_its_address() {
    let mut trial = Trial::new();
    // Nobody listens on the discard port.
    trial
        .set("GITHUB_API_URL", "http://127.0.0.1:9/api")
        .set("GITHUB_TIMEOUT", 2);
    let ended = trial.run();
    assert_eq!(ended.code, 69);
    assert!(
        ended.errors().contains("check GITHUB_API_URL"),
        "{}",
        ended.errors()
    );
}

#[test]
fn a_name_that_another_runner_uses_is_changed() {
    let first = Trial::new();
    let mut second = Trial::new();
    second.set("GITHUB_URL", first.double.repo_url(REPOSITORY));
    let other = first.idle();
    let supervisor = second.idle();
    assert_eq!(first.registrations().len(), 2);
    supervisor.terminate();
    let ended = supervisor.end();
    let detail = ended.detail("register");
    assert!(detail.starts_with("trial-"), "{detail}");
    assert_eq!(
        first.registrations(),
        ["trial"],
        "the other one's is not ours"
    );
    other.terminate();
    assert_eq!(other.end().code, 143);
    first.assert_nothing_is_left("the other one");
}

#[test]
fn a_name_that_a_killed_supervisor_left_is_taken_over() {
    let trial = Trial::new();
    jit_configuration(&trial, "trial");
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let detail = ended.detail("register");
    assert!(detail.starts_with("trial,"), "{detail}");
    trial.assert_nothing_is_left("after a killed one");
}

#[test]
fn a_killed_supervisors_registration_is_removed_by_the_next_one_of_its_name() {
    let trial = Trial::new();
    let killed = trial.idle();
    killed.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(killed.end().code, 137);
    // Its listener dies with it, but a moment later, and could still take the job.
    trial.wait_for_no_processes();
    let next = trial.idle();
    // GitHub takes the dead one for online a while longer.
    trial.queue_step("sleep 3");
    let ended = next.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    trial.assert_nothing_is_left("after a killed one");
}

#[test]
fn a_registration_whose_answer_was_lost_is_not_left_behind() {
    let mut trial = Trial::new();
    trial.set("RUNNER_NAME", "lost");
    let action = Action::Disconnect {
        how: Hangup::Reset,
        effect: true,
    };
    trial
        .double
        .fail(Rule::on("POST", REGISTER, action).times(1));
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    let registered = trial
        .double
        .events()
        .into_iter()
        .filter(|event| event.kind == Kind::RunnerRegistered);
    assert_eq!(registered.count(), 2);
    assert!(
        ended.detail("register").starts_with("lost,"),
        "{}",
        ended.detail("register")
    );
    trial.assert_nothing_is_left("lost answer");
}

#[test]
fn a_registration_is_removed_in_spite_of_failures() {
    for (name, action) in [
        ("500", Action::status(500)),
        ("429", Action::status(429).header("retry-after", 1)),
        (
            "reset",
            Action::Disconnect {
                how: Hangup::Reset,
                effect: false,
            },
        ),
        (
            "closed after it took effect",
            Action::Disconnect {
                how: Hangup::Close,
                effect: true,
            },
        ),
    ] {
        let trial = Trial::new();
        let supervisor = trial.idle();
        trial
            .double
            .fail(Rule::on("DELETE", "**/actions/runners/*", action).times(2));
        supervisor.terminate();
        let ended = supervisor.end();
        assert_eq!(ended.code, 143, "{name}: {}", ended.log_text());
        trial.assert_nothing_is_left(name);
    }
}

#[test]
fn an_app_registers_and_deregisters_whatever_the_clock_says() {
    for offset in [0, 600, -600] {
        let mut trial = Trial::new();
        use_app(&mut trial);
        trial.double.set_clock_offset(offset);
        let supervisor = trial.start(&[]);
        // The listener has its own opinion about clocks: it waits for half an hour.
        supervisor.wait_for_phase("listener-start");
        supervisor.terminate();
        let ended = supervisor.end();
        assert_eq!(ended.code, 143, "{offset}: {}", ended.log_text());
        trial.assert_nothing_is_left("with an App");
    }
}

#[test]
fn an_app_finds_its_installation_on_a_later_page() {
    let mut trial = Trial::new();
    use_app(&mut trial);
    trial.double.fail(Rule::on(
        "GET",
        "/repos/*/*/installation",
        Action::status(404),
    ));
    for number in 0..120 {
        trial
            .double
            .add_scope(format!("aaa{number:03}").parse().unwrap(), Vec::new());
    }
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
}

#[test]
fn a_token_that_expired_meanwhile_is_minted_anew() {
    let mut trial = Trial::new();
    use_app(&mut trial);
    let supervisor = trial.idle();
    trial.double.set_clock_offset(2 * 3600);
    supervisor.terminate();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    trial.assert_nothing_is_left("after the token expired");
}

#[test]
fn a_version_that_github_refuses_is_not_registered() {
    let trial = Trial::new();
    let mut versions = Versions::default();
    for date in versions.deprecations.values_mut() {
        *date = Some("2026-01-01T00:00:00Z".to_owned());
    }
    trial.double.set_versions(versions);
    let ended = trial.run();
    assert_eq!(ended.code, 77, "{}", ended.log_text());
    assert!(
        ended.errors().contains("since 2026-01-01"),
        "{}",
        ended.errors()
    );
    assert!(
        !trial
            .double
            .events()
            .iter()
            .any(|event| event.kind == Kind::RunnerRegistered)
    );
}

#[test]
fn what_github_does_not_tell_about_a_version_is_no_reason_to_refuse() {
    for status in [403, 404, 500] {
        let trial = Trial::new();
        trial
            .double
            .fail(Rule::on("GET", "**/deprecations/*", Action::status(status)));
        trial.queue_step("true");
        let ended = trial.run();
        assert_eq!(ended.code, 0, "{status}: {}", ended.log_text());
    }
}

#[test]
fn a_runner_of_an_organization_joins_the_group_of_that_name() {
    let mut trial = Trial::new();
    let url = trial.double.repo_url(REPOSITORY).replace("/widgets", "");
    trial.set("GITHUB_URL", url).set("RUNNER_GROUP", "Builders");
    trial.double.add_scope(
        "acme".parse().unwrap(),
        vec![github_double::Group {
            id: 7,
            name: "builders".to_owned(),
        }],
    );
    let supervisor = trial.idle();
    let groups: Vec<u64> = trial
        .double
        .runners()
        .iter()
        .map(|runner| runner.group)
        .collect();
    assert_eq!(groups, [7]);
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
    trial.set("RUNNER_GROUP", "nobody's");
    let ended = trial.run();
    assert_eq!(ended.code, 77);
    assert!(
        ended.errors().contains("no runner group"),
        "{}",
        ended.errors()
    );
}

#[test]
fn a_registration_token_is_enough_for_config_sh() {
    let mut trial = Trial::new();
    let scope = REPOSITORY.parse().unwrap();
    let token = trial
        .double
        .mint_token(github_double::TokenKind::Registration { scope }, 3600);
    trial.set("GITHUB_PAT", "").set("RUNNER_TOKEN", &token);
    let supervisor = trial.idle();
    supervisor.terminate();
    let ended = supervisor.end();
    assert_eq!(ended.code, 143, "{}", ended.log_text());
    trial.assert_nothing_is_left("with a registration token");
}
