//! A test's world from the outside: start dindd in it, wait for what happens, say what to do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::sandbox;

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(180);

/// dindd in namespaces of its own, and everything that was told about it so far.
pub(crate) struct World {
    first: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    told: Vec<String>,
}

impl World {
    /// Starts dindd with these variables.
    pub(crate) fn start(variables: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        // Root needs no user namespace, and could not mount a new /proc in one where the machine's
        // own is masked, as in a container.
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args([
                "--mount",
                "--pid",
                "--net",
                "--cgroup",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(sandbox::ARGUMENT)
            .arg(env!("CARGO_BIN_EXE_dindd"))
            .args(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut first = command.spawn().expect("start unshare (of util-linux)");
        let (send, lines) = channel();
        let errors = first.stderr.take().unwrap();
        let out = first.stdout.take().unwrap();
        for (kind, from) in [
            ("", Box::new(out) as Box<dyn std::io::Read + Send>),
            ("error ", Box::new(errors)),
        ] {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(from).lines().map_while(Result::ok) {
                    if send.send(format!("{kind}{line}")).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let stdin = first.stdin.take().unwrap();
        let mut world = Self {
            first,
            stdin,
            lines,
            told: Vec::new(),
        };
        world.wait_for("ready");
        world
    }

    /// Waits for a line that contains `part`, from the beginning on; the line.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        let seen = self.told.iter().find(|line| line.contains(part)).cloned();
        seen.unwrap_or_else(|| self.wait_for_next(part))
    }

    /// Waits for a new line that contains `part`; the line.
    pub(crate) fn wait_for_next(&mut self, part: &str) -> String {
        let begun = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(begun.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.told.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain for {part}{self}"),
                Err(RecvTimeoutError::Disconnected) => panic!(
                    "the world ended without {part}; as an ordinary user it needs user \
                     namespaces (sysctl kernel.unprivileged_userns_clone, \
                     user.max_user_namespaces, AppArmor), as root nothing{self}"
                ),
            }
        }
    }

    /// Asks until a line with the answer comes.
    pub(crate) fn ask_until(&mut self, question: &str, answer: &str) {
        let begun = Instant::now();
        let kind = question_kind(answer);
        loop {
            self.tell(question);
            if self.wait_for_next(kind) == answer {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "asked in vain for {answer}{self}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Says what to do; see the sandbox.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap_or_else(|error| panic!("{error}{self}"));
    }

    /// Waits for dindd's end; asserts its code and that it has left nothing.
    pub(crate) fn ends_with(&mut self, code: u8) {
        self.wait_for(sandbox::END);
        let exit = self
            .told
            .iter()
            .find(|line| line.starts_with("exit "))
            .unwrap();
        assert_eq!(*exit, format!("exit {code}"), "{self}");
        let left: Vec<&String> = self
            .told
            .iter()
            .filter(|line| line.starts_with("left"))
            .collect();
        assert!(left.is_empty(), "{left:?}{self}");
    }

    /// What the fakes have noted, as one sentence.
    pub(crate) fn journal(&self) -> String {
        let words = self
            .told
            .iter()
            .filter_map(|line| line.strip_prefix("journal "));
        words.collect::<Vec<_>>().join(", ")
    }

    /// The names of the phases that were done, in their order.
    pub(crate) fn phases(&self) -> Vec<String> {
        let logs = self
            .told
            .iter()
            .filter_map(|line| line.strip_prefix("log "));
        let events = logs.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events
            .filter_map(|event| Some(event.get("phase")?.as_str()?.to_owned()))
            .collect()
    }
}

/// The first word of an answer, with the space after it.
fn question_kind(answer: &str) -> &str {
    &answer[..=answer.find(' ').unwrap()]
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.told
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Its namespaces end with it, and everything in them.
        self.first.kill().ok();
        self.first.wait().ok();
    }
}
