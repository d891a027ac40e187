//! Wrong settings: one message that names every mistake, and nothing is started.

use crate::harness::{Trial, runner_user};

#[test]
fn every_mistake_is_named_at_once_and_nothing_is_started() {
    let mut trial = Trial::new();
    trial
        .set("GITHUB_URL", "ftp://example.org")
        .set("ON_STOP", "maybe")
        .set("STOP_TIMEOUT", "soon")
        .set("RUNNER_LABLES", "a")
        .set("CACHE_SOMETHING", "x")
        .set("RUNNER_TOKEN", "also")
        .set("RUNNER_HOME", "relative")
        .set("DOCKER_HOST", "ssh://host");
    let ended = trial.run();
    assert_eq!(ended.code, 64);
    let errors = ended.errors();
    for words in [
        "GITHUB_URL: ",
        "ON_STOP: ",
        "STOP_TIMEOUT: ",
        "did you mean RUNNER_LABELS?",
        "CACHE_SOMETHING: no such setting",
        "more than one of",
        "RUNNER_HOME: ",
        "DOCKER_HOST: ",
    ] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    assert_eq!(ended.log.len(), 1, "{}", ended.log_text());
    assert!(trial.journal().is_empty() && trial.double.events().is_empty());
    assert!(!trial.path("state.json").exists());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (name, value, words) in [
        ("RUNNER_SCOPE", "org", "contradicts GITHUB_URL"),
        (
            "REPO_URL",
            "https://github.com/other/one",
            "contradicts GITHUB_URL",
        ),
        ("ACCESS_TOKEN", "another", "contradicts GITHUB_PAT"),
        ("WAIT_FOR_DOCKER", "5", "without DOCKER_HOST"),
        ("RUNNER_NO_DEFAULT_LABELS", "on", "give RUNNER_LABELS"),
        ("RUNNER_USER", "root", "RUNNER_SUDO=on"),
        ("CACHE_ROOTS", "/a:/b/x:/c/x", "different last names"),
        ("CACHE_ROOTS", "/", "absolute directories"),
        ("RUNNER_GROUP", "special", "repository"),
        ("LOG_LEVEL", "=", "LOG_LEVEL"),
        ("RUNNER_USER", "no-such-user", "no user"),
        ("STOP_TIMEOUT", "1", "at least 2"),
    ] {
        let mut trial = Trial::new();
        trial.set(name, value);
        let ended = trial.run();
        assert_eq!(ended.code, 64, "{name}={value}: {}", ended.log_text());
        assert!(
            ended.errors().contains(words),
            "{name}={value}: {}",
            ended.errors()
        );
        assert!(trial.double.events().is_empty(), "{name}={value}");
    }
}

#[test]
fn the_names_of_other_images_are_understood() {
    let mut trial = Trial::new();
    let url = trial.double.repo_url(crate::harness::REPOSITORY);
    trial
        .set("GITHUB_URL", "")
        .set("GITHUB_PAT", "")
        .set("REPO_URL", url)
        .set("ACCESS_TOKEN", crate::harness::PAT)
        .set("LABELS", "one, two")
        .set("NO_DEFAULT_LABELS", "true");
    let supervisor = trial.idle();
    assert_eq!(trial.double.runners()[0].labels, ["one", "two"]);
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
}

#[test]
fn a_secret_can_be_a_file() {
    let mut trial = Trial::new();
    std::fs::write(trial.path("pat"), format!("{}\n", crate::harness::PAT)).unwrap();
    let file = trial.path("pat");
    trial
        .set("GITHUB_PAT", "")
        .set("GITHUB_PAT_FILE", file.display());
    let supervisor = trial.idle();
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
}

#[test]
fn a_flag_is_a_setting() {
    let trial = Trial::new();
    let supervisor = trial.start(&["run", "--runner-name", "by-flag"]);
    supervisor.wait_for_output("Listening for Jobs");
    assert_eq!(trial.registrations(), ["by-flag"]);
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
}

#[test]
fn becoming_another_user_takes_root() {
    let mut trial = Trial::new();
    let other = if runner_user() == "daemon" {
        "bin"
    } else {
        "daemon"
    };
    trial.set("RUNNER_USER", other);
    if nix::unistd::geteuid().is_root() {
        // Root can: the home belongs to somebody else, and the runner says so.
        trial.set("RUNNER_USER", runner_user());
        let supervisor = trial.idle();
        supervisor.terminate();
        assert_eq!(supervisor.end().code, 143);
    } else {
        let ended = trial.run();
        assert_eq!(ended.code, 77, "{}", ended.log_text());
        assert!(
            ended.errors().contains("start the container as root"),
            "{}",
            ended.errors()
        );
    }
}

#[test]
fn a_home_without_a_runner_is_told() {
    let mut trial = Trial::new();
    trial.set("RUNNER_HOME", trial.path("store").display());
    let ended = trial.run();
    assert_eq!(ended.code, 69);
    assert!(
        ended
            .errors()
            .contains("the image must contain actions/runner"),
        "{}",
        ended.errors()
    );
}
