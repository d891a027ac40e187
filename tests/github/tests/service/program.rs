//! The binary.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use github_double::rsa_key::RsaKey;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{RUNNERS, send};

struct Program {
    child: Child,
    first_line: String,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_github-double"));
        command.args(arguments).stdout(Stdio::piped());
        // SAFETY: prctl is the only call, and it is safe between fork and exec.
        #[expect(unsafe_code, reason = "the program must not outlive a killed test")]
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = command.spawn().unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut first_line)
            .unwrap();
        Self { child, first_line }
    }

    fn url(&self) -> &str {
        let words = "github-double: a test double of the GitHub API, listening on ";
        self.first_line.trim_end().strip_prefix(words).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn it_says_where_it_listens_and_serves_what_it_was_told() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("events");
    let key = directory.path().join("key.pem");
    std::fs::write(&key, RsaKey::generate().unwrap().public().to_pem().unwrap()).unwrap();
    let program = Program::start(&[
        "--pat",
        "ghp_x",
        "--repo",
        "octo/hello",
        "--repo",
        "octo/other",
        "--org",
        "acme",
        "--app-id",
        "1",
        "--app-public-key",
        key.to_str().unwrap(),
        "--event-log",
        log.to_str().unwrap(),
    ]);
    let headers = [("user-agent", "x"), ("authorization", "Bearer ghp_x")];
    for path in [
        RUNNERS,
        "/repos/octo/other/actions/runners",
        "/orgs/acme/actions/runners",
    ] {
        let answer = send("GET", &format!("{}{path}", program.url()), &headers, None).unwrap();
        assert_eq!(answer.status, 200, "{path}");
    }
    let text = std::fs::read_to_string(log).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["kind"], &first["status"]),
        (&Value::from("request"), &Value::from(200))
    );
}

#[test]
fn a_taken_address_is_an_error_that_names_it() {
    let first = Program::start(&[]);
    let address = first.url().strip_prefix("http://").unwrap();
    let second = Command::new(env!("CARGO_BIN_EXE_github-double"))
        .args(["--listen", address])
        .output()
        .unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8(second.stderr).unwrap();
    assert!(
        words.contains(&format!("--listen: cannot listen on {address}")),
        "{words}"
    );
}
