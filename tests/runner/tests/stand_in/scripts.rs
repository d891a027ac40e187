//! Misbehaviour on order.

use github_double::script::{Act, Deafness, Phase, Script};
use nix::sys::signal::Signal;

use crate::harness::{Listener, Trial};

#[test]
fn a_script_ends_the_listener_with_any_code_at_any_phase() {
    let trial = Trial::new();
    let phases = [
        (Phase::Start, 6),
        (Phase::Connected, 2),
        (Phase::Listening, 3),
        (Phase::JobRunning, 9),
        (Phase::JobDone, 5),
    ];
    for (number, (phase, code)) in phases.into_iter().enumerate() {
        let name = format!("scripted-{number}");
        let script = Script::default()
            .at(
                phase,
                Act::Print {
                    lines: vec!["a line".to_owned()],
                },
            )
            .at(
                phase,
                Act::PrintError {
                    lines: vec!["a complaint".to_owned()],
                },
            )
            .at(phase, Act::Exit { code });
        trial.double.script(Some(&name), script);
        let job = trial.queue("true");
        let finished = Listener::start(trial.with_jit(&trial.jit(&name).0)).finish();
        trial.double.cancel_job(&job);
        assert_eq!(finished.code, Some(i32::from(code)), "{finished:#?}");
        assert!(finished.says("a line") && finished.complains("a complaint"));
    }
}

#[test]
fn a_script_can_kill_the_listener_and_the_stop_phase_has_a_code_too() {
    let trial = Trial::new();
    let death = Script::default().at(Phase::Listening, Act::Die { signal: 9 });
    trial.double.script(Some("killed"), death);
    let finished = Listener::start(trial.with_jit(&trial.jit("killed").0)).finish();
    assert_eq!(finished.code, None);

    let late = Script::default().at(Phase::Stopping, Act::Exit { code: 2 });
    trial.double.script(Some("late"), late);
    let listener = trial.listening("late");
    listener.signal(Signal::SIGINT);
    assert_eq!(listener.finish().code, Some(2));
}

#[test]
fn a_deaf_listener_hears_only_the_other_signal() {
    let trial = Trial::new();
    trial
        .double
        .script(None, Script::default().deaf_to(Deafness::Interrupt));
    let listener = trial.listening("deaf");
    listener.signal(Signal::SIGINT);
    // A job gets through after the signal, so the signal was taken and ignored.
    let job = trial.queue("until [ -e \"$RUNNER_TEMP/go\" ]; do sleep 0.02; done");
    trial.wait_for_log(&job, "##[endgroup]");
    std::fs::write(trial.root.join("_work/_temp/go"), "").unwrap();
    let finished = listener.finish();
    assert_eq!(finished.code, Some(0));
    assert!(!finished.says("Exiting..."), "{finished:#?}");
    assert_eq!(trial.conclusion(&job), "succeeded");

    let listener = trial.listening("deaf-2");
    listener.signal(Signal::SIGTERM);
    assert_eq!(listener.finish().code, Some(143));
}

#[test]
fn a_grandchild_keeps_standard_output_open_after_the_end() {
    let trial = Trial::new();
    let script = Script::default()
        .at(Phase::Listening, Act::Grandchild { seconds: 6 })
        .at(Phase::Listening, Act::Exit { code: 0 });
    trial.double.script(None, script);
    let mut listener = Listener::start(trial.with_jit(&trial.jit("parent").0));
    listener.exit();
    let exited = std::time::Instant::now();
    listener.finish();
    let held = exited.elapsed();
    assert!(held > std::time::Duration::from_secs(1), "{held:?}");
}

#[test]
fn a_flood_arrives_whole() {
    let trial = Trial::new();
    let script = Script::default()
        .at(Phase::Listening, Act::Flood { bytes: 64 * 10_000 })
        .at(Phase::Listening, Act::Exit { code: 0 });
    trial.double.script(None, script);
    let finished = Listener::start(trial.with_jit(&trial.jit("loud").0)).finish();
    let lines = finished
        .output
        .iter()
        .filter(|line| line.starts_with("flood "))
        .count();
    assert_eq!(lines, 10_000);
}

#[test]
fn a_hanging_listener_is_ended_by_nothing_but_a_kill() {
    let trial = Trial::new();
    let script = Script::default()
        .at(
            Phase::Stopping,
            Act::Print {
                lines: vec!["hanging".to_owned()],
            },
        )
        .at(Phase::Stopping, Act::Hang);
    trial.double.script(None, script);
    let listener = trial.listening("stuck");
    listener.signal(Signal::SIGINT);
    listener.wait_for_line("hanging");
    listener.signal(Signal::SIGTERM);
    // Had the signal been heard, the session would be gone before this job is queued and offered.
    trial.queue("true");
    trial.wait_for(github_double::Kind::JobOffered);
    listener.signal(Signal::SIGKILL);
    assert_eq!(listener.finish().code, None);
}
