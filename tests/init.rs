//! The one owner of fork and wait, against real children. Everything is in one process and may be
//! started once, so the cases run one after another.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its case has failed"
)]

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use init::{Children, Deadline, Exit, Signals};
use nix::sys::signal::{Signal, raise};

const LIMIT: Duration = Duration::from_secs(180);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn children_and_signals_have_one_owner() {
    let (children, mut signals) = init::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        no_status_is_lost_however_late_it_is_asked_for(&children).await;
        orphans_are_reaped(&children).await;
        a_program_that_is_missing_is_an_error_and_leaves_no_child(&children);
        a_captured_child_reports_its_end_and_the_tail_of_its_errors(&children).await;
        a_captured_child_that_is_late_is_killed_with_its_group(&children).await;
        a_grandchild_that_holds_the_pipe_does_not_hold_up_the_exit(&children).await;
        a_child_is_signalled_alone_or_with_its_group(&children).await;
        a_dropped_child_is_killed(&children).await;
        requests_to_stop_arrive_in_order(&mut signals).await;
    });
    assert!(
        std::panic::catch_unwind(init::start).is_err(),
        "a second owner was accepted"
    );
}

async fn no_status_is_lost_however_late_it_is_asked_for(children: &Children) {
    let mut all: Vec<_> = (0..200u8)
        .map(|code| children.spawn(&mut shell(&format!("exit {code}"))).unwrap())
        .collect();
    wait_until("every child has ended", || {
        all.iter().all(|child| child.ended().is_some())
    })
    .await;
    for (code, child) in (0..200u8).zip(&mut all) {
        assert_eq!(child.exited().await, Exit::Code(code));
        assert_eq!(child.exited().await, Exit::Code(code), "the second time");
    }
}

async fn orphans_are_reaped(children: &Children) {
    let out = children
        .run(&mut shell("sleep 0.01 & echo $!"), Deadline::within(LIMIT))
        .await
        .unwrap();
    let orphan = String::from_utf8(out.checked().unwrap()).unwrap();
    let proc = format!("/proc/{}", orphan.trim());
    wait_until("the orphan is gone", || fs::metadata(&proc).is_err()).await;
}

fn a_program_that_is_missing_is_an_error_and_leaves_no_child(children: &Children) {
    let error = children
        .spawn(&mut Command::new("/nowhere/program"))
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

async fn a_captured_child_reports_its_end_and_the_tail_of_its_errors(children: &Children) {
    let error = children
        .run(
            &mut shell("echo out; echo why >&2; exit 3"),
            Deadline::within(LIMIT),
        )
        .await
        .unwrap()
        .checked()
        .unwrap_err();
    assert_eq!(error.to_string(), "sh ended with exit status 3: why");
}

async fn a_captured_child_that_is_late_is_killed_with_its_group(children: &Children) {
    let pid_file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("sleep 60 & echo $! > {}; wait", pid_file.path().display());
    let mut grandchild = String::new();
    // On a busy machine the shell does not get so far in the first of these times.
    for seconds in [0.3, 3.0, 30.0] {
        let late = Deadline::within(Duration::from_secs_f64(seconds));
        let error = children.run(&mut shell(&script), late).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh did not end in the time it had and was killed"
        );
        grandchild = fs::read_to_string(pid_file.path()).unwrap();
        if !grandchild.is_empty() {
            break;
        }
    }
    assert!(!grandchild.is_empty(), "the shell started nothing");
    let proc = format!("/proc/{}", grandchild.trim());
    wait_until("the grandchild is gone", || fs::metadata(&proc).is_err()).await;
}

async fn a_grandchild_that_holds_the_pipe_does_not_hold_up_the_exit(children: &Children) {
    let started = Instant::now();
    let out = children
        .run(
            &mut shell("setsid sleep 20 & echo done"),
            Deadline::within(LIMIT),
        )
        .await
        .unwrap();
    assert_eq!(out.stdout, b"done\n");
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "waited for the grandchild"
    );
    // A copy is under way for as long as the pipe is open; the exit is known at once.
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    let mut child = children
        .spawn(shell("setsid sleep 20 & echo line").stdout(Stdio::piped()))
        .unwrap();
    let copying = init::output::copy(child.stdout.take().unwrap(), std::io::sink(), move |line| {
        seen.lock().unwrap().push(line.to_vec());
    })
    .unwrap();
    assert_eq!(child.exited().await, Exit::Code(0));
    assert!(
        !copying
            .ended(Deadline::within(Duration::from_millis(100)))
            .await
    );
    wait_until("the line is copied", || *lines.lock().unwrap() == [b"line"]).await;
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "waited for the grandchild"
    );
}

async fn a_child_is_signalled_alone_or_with_its_group(children: &Children) {
    let wait = "trap 'exit 7' TERM; sleep 20 & echo ready; wait";
    let mut child = children.spawn(shell(wait).stdout(Stdio::piped())).unwrap();
    let ready = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&ready);
    let copying = init::output::copy(child.stdout.take().unwrap(), std::io::sink(), move |_| {
        *seen.lock().unwrap() = true;
    })
    .unwrap();
    wait_until("the trap is set", || *ready.lock().unwrap()).await;
    child.signal(Signal::SIGTERM);
    assert_eq!(child.exited().await, Exit::Code(7));
    // The sleep was not signalled: it still holds the pipe.
    assert!(
        !copying
            .ended(Deadline::within(Duration::from_millis(100)))
            .await
    );

    let mut child = children.spawn(&mut shell("sleep 20 & wait")).unwrap();
    child.signal_group(Signal::SIGTERM);
    assert_eq!(child.exited().await, Exit::Signal(Signal::SIGTERM));
}

async fn a_dropped_child_is_killed(children: &Children) {
    let child = children.spawn(&mut shell("sleep 20")).unwrap();
    let proc = format!("/proc/{}", child.pid());
    fs::metadata(&proc).unwrap();
    drop(child);
    wait_until("the dropped child is gone", || fs::metadata(&proc).is_err()).await;
}

async fn requests_to_stop_arrive_in_order(signals: &mut Signals) {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM] {
        raise(signal).unwrap();
        assert_eq!(
            Deadline::within(LIMIT).bound(signals.next()).await,
            Some(signal)
        );
    }
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Deadline::within(LIMIT);
    while !holds() {
        assert!(!limit.is_over(), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
