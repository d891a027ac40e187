//! One container of a task: create, start attached, health, stop, exit code, removal.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testhost::{Host, Running};

use crate::line::Line;

/// How long `docker rm` may find a container busy.
const PAUSE: Duration = Duration::from_millis(50);

/// A container that was started attached; its lines went to the `on_line` it was started with.
#[derive(Debug)]
pub struct Container<'a> {
    host: &'a Host,
    name: String,
    attached: Running,
}

impl<'a> Container<'a> {
    /// Creates the container from `create` (arguments after `docker create --name NAME`) and
    /// starts it attached.
    pub(crate) fn start(
        host: &'a Host,
        (what, name): (&'static str, String),
        create: &[String],
        on_line: impl Fn(Line) + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut words = vec!["docker", "create", "--name", &name];
        words.extend(create.iter().map(String::as_str));
        host.run(&words)
            .with_context(|| format!("create the container {name}"))?;
        let attach = ["docker", "start", "--attach", &name];
        let attached = host.follow(attach, move |stream, text| {
            on_line(Line::read(what, stream, text));
        })?;
        Ok(Self {
            host,
            name,
            attached,
        })
    }

    /// Its name in the host's Docker.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command in the container and returns its standard output.
    ///
    /// # Errors
    /// The command ends with anything but 0.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let docker = ["docker", "exec", &self.name];
        self.host.run(docker.iter().chain(words))
    }

    /// Waits until `command` succeeds in the container, as an ECS health check runs it.
    ///
    /// # Errors
    /// The container ends, or it is not healthy within `limit`.
    pub fn wait_healthy(&mut self, command: &[&str], limit: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let last = match self.exec(command) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.attached.try_wait()? {
                bail!(
                    "the container {} ended before it was healthy: {status}",
                    self.name
                );
            }
            if begin.elapsed() > limit || testhost::interrupted() {
                return Err(last.context(format!("the container {} is not healthy", self.name)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.attached.try_wait()?.is_some())
    }

    /// Waits for its end; its exit code.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        self.attached.wait(limit)?;
        self.exit_code()
    }

    /// Sends SIGTERM and, after `limit`, SIGKILL, as ECS does; its exit code.
    ///
    /// # Errors
    /// Docker cannot stop it.
    pub fn stop(&mut self, limit: Duration) -> Result<i32> {
        let seconds = limit.as_secs().to_string();
        self.host
            .run(["docker", "stop", "--time", &seconds, &self.name])?;
        self.wait(limit)
    }

    /// Sends a signal to its PID 1.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.host
            .run(["docker", "kill", "--signal", signal, &self.name])
            .map(drop)
    }

    /// Removes the container, which has ended or is ended now.
    ///
    /// # Errors
    /// Docker cannot remove it.
    pub fn remove(self) -> Result<()> {
        self.host
            .run(["docker", "rm", "--force", &self.name])
            .map(drop)
    }

    fn exit_code(&self) -> Result<i32> {
        let format = "{{.State.ExitCode}}";
        let code = self
            .host
            .run(["docker", "inspect", "--format", format, &self.name])?;
        code.trim()
            .parse()
            .with_context(|| format!("exit code of {}", self.name))
    }
}
