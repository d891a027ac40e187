//! Every end of the runner's listener, and what the task makes of it.

use github_double::script::{Act, Phase, Script};
use github_double::{Kind, Versions};
use nix::sys::signal::Signal;

use crate::harness::Trial;

fn exit(phase: Phase, code: u8) -> Script {
    Script::default().at(phase, Act::Exit { code })
}

#[test]
fn every_documented_exit_has_its_meaning() {
    for (name, script, code) in [
        ("0 without a job", exit(Phase::Listening, 0), 69),
        ("1", exit(Phase::Connected, 1), 1),
        ("5", exit(Phase::Connected, 5), 69),
        ("7", exit(Phase::Listening, 7), 77),
        ("unknown", exit(Phase::Listening, 42), 1),
        (
            "killed",
            Script::default().at(Phase::Listening, Act::Die { signal: Signal::SIGKILL as i32 }),
            137,
        ),
        (
            "1, deleted on the server",
            Script::default()
                .at(Phase::Start, Act::PrintError {
                    lines: vec!["Failed to create a session. The runner registration has been deleted from the server, please re-configure.".to_owned()],
                })
                .at(Phase::Start, Act::Exit { code: 1 }),
            69,
        ),
    ] {
        let trial = Trial::new();
        trial.script(script);
        let ended = trial.run();
        assert_eq!(ended.code, code, "{name}: {}", ended.log_text());
        trial.assert_nothing_is_left(name);
    }
}

#[test]
fn a_listener_that_failed_and_may_try_again_does_so_a_few_times() {
    let trial = Trial::new();
    trial.script(exit(Phase::Start, 2));
    let supervisor = trial.start(&[]);
    supervisor.wait_for_log("may be started again");
    trial.script(Script::default());
    trial.queue_step("true");
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    trial.assert_nothing_is_left("after a retry");
}

#[test]
fn a_listener_that_updates_itself_is_started_again() {
    let trial = Trial::new();
    trial.script(exit(Phase::Connected, 4));
    let supervisor = trial.start(&[]);
    supervisor.wait_for_log("the runner updates itself");
    // The session of the first start is still there; the runner would ask again after 30 s.
    trial.script(Script::default().wait_scale(0.01));
    std::fs::write(trial.path("home/update.finished"), "").unwrap();
    trial.queue_step("true");
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
}

#[test]
fn a_version_that_gets_no_messages_is_refused() {
    let trial = Trial::new();
    trial.double.set_versions(Versions {
        minimum_runtime: Some("9.0.0".to_owned()),
        ..Versions::default()
    });
    let ended = trial.run();
    assert_eq!(ended.code, 77, "{}", ended.log_text());
    trial.assert_nothing_is_left("too old");
}

#[test]
fn a_runner_that_is_taken_off_the_server_ends() {
    let trial = Trial::new();
    let supervisor = trial.idle();
    let id = trial.double.runners()[0].id;
    let url = format!(
        "{}/repos/{}/actions/runners/{id}",
        trial.double.api_url(),
        crate::harness::REPOSITORY
    );
    let token = format!("authorization: Bearer {}", crate::harness::PAT);
    let out = std::process::Command::new("curl")
        .args([
            "-fsS",
            "-X",
            "DELETE",
            "-H",
            &token,
            "-H",
            "user-agent: test",
            &url,
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let ended = supervisor.end();
    assert_eq!(ended.code, 69, "{}", ended.log_text());
    trial.assert_nothing_is_left("taken off");
}

#[test]
fn a_hostile_job_name_changes_nothing() {
    let name = "x completed with result: Succeeded";
    let trial = Trial::new();
    trial.queue(
        github_double::JobSpec::new(crate::harness::REPOSITORY, name).step("only", "exit 1"),
    );
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    assert_eq!(ended.detail("job"), format!("{name}: Failed"));
}

#[test]
fn a_flood_of_output_loses_no_byte() {
    let trial = Trial::new();
    let bytes = 20_000_000;
    trial.script(Script::default().at(Phase::Listening, Act::Flood { bytes }));
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0);
    assert!(
        ended.stdout.len() as u64 >= bytes,
        "{} of {bytes}",
        ended.stdout.len()
    );
    assert!(
        trial
            .double
            .events()
            .iter()
            .any(|event| event.kind == Kind::JobCompleted)
    );
}

#[test]
fn a_standard_output_that_nobody_reads_does_not_hold_up_the_job_and_loses_no_byte() {
    let trial = Trial::new();
    let bytes = 8_000_000;
    trial.script(Script::default().at(Phase::JobRunning, Act::Flood { bytes }));
    trial.queue_step("true");
    let (mut read, write) = std::io::pipe().unwrap();
    std::fs::write(trial.path("stdout"), "").unwrap();
    let supervisor = trial.start_with_output(&[], write.into());
    trial.wait_for(Kind::JobCompleted);
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut read, &mut text).unwrap();
    assert_eq!(supervisor.end().code, 0);
    assert!(text.len() as u64 >= bytes, "{} of {bytes}", text.len());
    let text = String::from_utf8_lossy(&text);
    assert!(text.ends_with("√ Removed .runner\n"), "the end is lost");
}
