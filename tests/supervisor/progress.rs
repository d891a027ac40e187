//! How far the caches are: a bar where somebody looks at it, lines in a log.

use std::fs::{self, File};
use std::io::Read;

use crate::harness::{Trial, wait_until};

/// What clears a line of a terminal.
const CLEAR: &str = "\r\x1b[K";

/// A trial whose loose files are held on their way.
fn trial() -> Trial {
    let mut trial = Trial::new();
    let roots = ["tools", "pip"].map(|name| trial.path(name).display().to_string());
    trial.set("CACHE_ROOTS", roots.join(":"));
    fs::create_dir_all(trial.path("store/trees/pip")).unwrap();
    fs::write(trial.path("store/trees/pip/wheel"), "wheel").unwrap();
    fs::remove_dir_all(trial.path("store/toolcache")).unwrap();
    trial.rsync("restore", "hold");
    trial
}

#[test]
fn on_a_terminal_a_bar_is_drawn_in_its_place_and_is_gone_at_the_end() {
    let mut trial = trial();
    trial.set("LOG_FORMAT", "");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let stdout = File::create(trial.path("stdout")).unwrap();
    fs::write(trial.path("stderr"), "").unwrap();
    let streams = (stdout.into(), terminal.slave.into());
    let supervisor = trial.start_with_streams(&["cache", "restore"], streams);
    let (mut screen, mut shown) = (File::from(terminal.master), Vec::new());
    let mut read = || {
        let mut buffer = [0; 4096];
        // Whoever reads a terminal that nobody writes to any more gets an error.
        let length = screen.read(&mut buffer).unwrap_or(0);
        shown.extend_from_slice(&buffer[..length]);
        (length, String::from_utf8_lossy(&shown).into_owned())
    };
    let bar = format!("{CLEAR}restoring [");
    wait_until("a bar is drawn anew", || read().1.matches(&bar).count() > 1);
    trial.let_rsync_go("restore");
    let mut all = read();
    while all.0 > 0 {
        all = read();
    }
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", all.1);
    assert_eq!(ended.stdout, "restored 0 units, 1 files, 5 bytes\n");
    let (_, last) = all.1.rsplit_once(CLEAR).unwrap();
    assert!(!last.contains('['), "the bar is left: {:?}", all.1);
}

#[test]
fn in_a_log_a_line_every_few_seconds_tells_how_far_it_is() {
    let trial = trial();
    let supervisor = trial.start(&["cache", "restore"]);
    supervisor.wait_for_log("restoring [");
    trial.let_rsync_go("restore");
    let ended = supervisor.end();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let lines: Vec<&str> = ended
        .log
        .iter()
        .filter_map(|line| line["message"].as_str())
        .filter(|text| text.starts_with("restoring ["))
        .collect();
    assert!(
        lines[0].ends_with(" MB/s") || lines[0].ends_with(" s left"),
        "{lines:?}"
    );
    assert!(
        !ended.log_text().contains("\\u001b"),
        "{}",
        ended.log_text()
    );
    // It is told four times a second, and looked at in a log.
    assert!(
        lines.len() as u64 <= ended.elapsed.as_secs() / 5,
        "{lines:?}"
    );
}
