//! A runner directory, a double of GitHub, and a listener between them.
//!
//! Directories lie below the build's own temporary directory and carry the test process's id, so
//! that a later run removes what a killed one left; a listener dies with the test that started it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use github_double::{Event, GithubDouble, JobSpec, Kind, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub(crate) const REPOSITORY: &str = "octo/hello";
pub(crate) const PAT: &str = "ghp_the-operators-token";
/// Far more than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

pub(crate) struct Trial {
    pub(crate) double: GithubDouble,
    pub(crate) root: PathBuf,
}

impl Trial {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
        SWEEP.call_once(|| remove_leftovers(home));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = home.join(format!("runner-{}-{number}", std::process::id()));
        runner_stand_in::assemble(Path::new(env!("CARGO_BIN_EXE_runner-listener")), &root).unwrap();
        let double = GithubDouble::start(Options {
            pat: Some(PAT.to_owned()),
            scopes: vec![REPOSITORY.parse().unwrap()],
            ..options
        })
        .unwrap();
        Self { double, root }
    }

    /// A call of the REST API with the operator's token: status and body.
    pub(crate) fn rest(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.double.api_url());
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {PAT}"))
            .header("user-agent", "test");
        let mut answer = match body {
            Some(body) => agent.run(request.body(body.to_string()).unwrap()),
            None => agent.run(request.body(()).unwrap()),
        }
        .unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (
            answer.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(Value::Null),
        )
    }

    /// A fresh JIT configuration for a runner `name`; the blob and the runner's id.
    pub(crate) fn jit(&self, name: &str) -> (String, u64) {
        let body = json!({ "name": name, "runner_group_id": 1, "labels": ["self-hosted"] });
        let path = format!("/repos/{REPOSITORY}/actions/runners/generate-jitconfig");
        let (status, answer) = self.rest("POST", &path, Some(body));
        assert_eq!(status, 201, "{answer}");
        (
            answer["encoded_jit_config"].as_str().unwrap().to_owned(),
            answer["runner"]["id"].as_u64().unwrap(),
        )
    }

    pub(crate) fn token(&self, event: &str) -> String {
        let path = format!("/repos/{REPOSITORY}/actions/runners/{event}-token");
        let (status, answer) = self.rest("POST", &path, None);
        assert_eq!(status, 201, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// A command in the runner's directory with nothing of the test's environment but `PATH`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join(program));
        command
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("RUNNER_ALLOW_RUNASROOT", "1");
        command
    }

    /// `Runner.Listener run` with a JIT configuration in its environment.
    pub(crate) fn with_jit(&self, blob: &str) -> Command {
        let mut command = self.command("bin/Runner.Listener");
        command
            .arg("run")
            .env("ACTIONS_RUNNER_INPUT_JITCONFIG", blob);
        command
    }

    /// `config.sh` as an operator calls it, to its end.
    pub(crate) fn configure(&self, more: &[&str]) -> Finished {
        let mut command = self.command("config.sh");
        command
            .args(["--unattended", "--url", &self.double.repo_url(REPOSITORY)])
            .args(["--token", &self.token("registration")])
            .args(more);
        Listener::start(command).finish()
    }

    /// A listener that has a session and waits for jobs, registered by JIT as `name`.
    pub(crate) fn listening(&self, name: &str) -> Listener {
        let (blob, _) = self.jit(name);
        let listener = Listener::start(self.with_jit(&blob));
        listener.wait_for_line("Listening for Jobs");
        listener
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.root.join(file).exists()
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.root.join(file)).unwrap()
    }

    pub(crate) fn wait_for(&self, kind: Kind) -> Event {
        self.double
            .wait_for(|event| event.kind == kind, LIMIT)
            .unwrap()
    }

    pub(crate) fn job_log(&self, id: &str) -> String {
        String::from_utf8(self.double.job_log(id, 0).unwrap()).unwrap()
    }

    /// Waits until the job's log has this text.
    pub(crate) fn wait_for_log(&self, id: &str, text: &str) {
        eventually(|| self.job_log(id).contains(text), || self.job_log(id));
    }

    /// A job with one step; its id.
    pub(crate) fn queue(&self, script: &str) -> String {
        let job = JobSpec::new(REPOSITORY, "build").step("only", script);
        self.double.queue_job(job).0
    }

    pub(crate) fn conclusion(&self, job: &str) -> Value {
        serde_json::to_value(self.double.job(job).unwrap()).unwrap()["conclusion"].clone()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.root));
    }
}

/// A running program with both streams read as they come.
pub(crate) struct Listener {
    child: Child,
    output: Output,
    errors: Output,
}

/// What is left of it.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) output: Vec<String>,
    pub(crate) errors: Vec<String>,
}

impl Listener {
    pub(crate) fn start(mut command: Command) -> Self {
        // SAFETY: prctl is the only call, and it is safe between fork and exec.
        #[expect(unsafe_code, reason = "the listener must not outlive a killed test")]
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            output: Output::read(child.stdout.take().unwrap()),
            errors: Output::read(child.stderr.take().unwrap()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    pub(crate) fn wait_for_line(&self, text: &str) {
        let seen = || self.output.lines().iter().any(|line| line.contains(text));
        eventually(seen, || {
            format!(
                "{text:?} in {:#?} {:#?}",
                self.output.lines(),
                self.errors.lines()
            )
        });
    }

    pub(crate) fn wait_for_error(&self, text: &str) {
        let seen = || self.errors.lines().iter().any(|line| line.contains(text));
        eventually(seen, || format!("{text:?} in {:#?}", self.errors.lines()));
    }

    /// Only waits for the process, not for its streams.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "still running: {:#?} {:#?}",
                self.output.lines(),
                self.errors.lines()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn finish(mut self) -> Finished {
        let code = self.exit().code();
        Finished {
            code,
            output: self.output.to_end(),
            errors: self.errors.to_end(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Finished {
    pub(crate) fn says(&self, text: &str) -> bool {
        self.output.iter().any(|line| line.contains(text))
    }

    pub(crate) fn complains(&self, text: &str) -> bool {
        self.errors.iter().any(|line| line.contains(text))
    }
}

#[derive(Clone, Default)]
struct Output(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn read(stream: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let shared = output.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                shared.0.0.lock().unwrap().lines.push(line);
            }
            shared.0.0.lock().unwrap().ended = true;
            shared.0.1.notify_all();
        });
        output
    }

    fn lines(&self) -> Vec<String> {
        self.0.0.lock().unwrap().lines.clone()
    }

    fn to_end(&self) -> Vec<String> {
        let lines = self.0.0.lock().unwrap();
        let (lines, limit) = self
            .0
            .1
            .wait_timeout_while(lines, LIMIT, |lines| !lines.ended)
            .unwrap();
        assert!(!limit.timed_out(), "the stream is still open");
        lines.lines.clone()
    }
}

/// A runner of the repository in the REST API.
pub(crate) fn runner_path(id: u64) -> String {
    format!("/repos/{REPOSITORY}/actions/runners/{id}")
}

/// Waits for a condition; `otherwise` explains what was there instead.
pub(crate) fn eventually(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "not within {LIMIT:?}: {}",
            otherwise()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Directories of test processes that are gone.
fn remove_leftovers(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("runner-")
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
