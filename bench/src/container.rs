//! A container on the test host, whose life is measured.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chain::Stage;
use jiff::Timestamp;

/// How long anything in a container may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
/// Where a container finds its folder of the host.
pub(crate) const FOLDER: &str = "/bench";

/// A container and a folder that it shares with the driver. Dropping it kills it and removes both.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    stage: &'a Stage,
    name: String,
}

impl<'a> Container<'a> {
    /// Creates it with `arguments` of `docker create`; nothing runs yet. No other living one has
    /// the name.
    pub(crate) fn create(stage: &'a Stage, name: &str, arguments: &[String]) -> Result<Self> {
        let container = Self {
            stage,
            name: format!("bench-{name}"),
        };
        let folder = container.inside();
        let host = stage.host();
        host.run(["mkdir", "--parents", "--mode=0777", &folder])?;
        let volume = format!("--volume={folder}:{FOLDER}");
        let words = ["docker", "create", "--name", &container.name, &volume];
        host.run(
            words
                .into_iter()
                .chain(arguments.iter().map(String::as_str)),
        )
        .with_context(|| format!("create the container {}", container.name))?;
        Ok(container)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its folder in the host.
    pub(crate) fn inside(&self) -> String {
        format!("/run/bench/{}", self.name)
    }

    /// A file of its folder, for the driver.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.stage.host().path(self.inside()).join(name)
    }

    pub(crate) fn start(&self) -> Result<()> {
        let host = self.stage.host();
        host.run(["docker", "start", &self.name]).map(drop)
    }

    pub(crate) fn started(&self) -> Result<Timestamp> {
        self.time("{{.State.StartedAt}}")
    }

    fn time(&self, format: &str) -> Result<Timestamp> {
        let text = self.inspect(format)?;
        text.parse()
            .with_context(|| format!("{format} of {}: {text}", self.name))
    }

    /// Waits until `there`; fails when the container ends before.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        (pause, mut there): (Duration, impl FnMut() -> bool),
    ) -> Result<()> {
        let begin = Instant::now();
        let mut looked = begin;
        while !there() {
            let mut ended = begin.elapsed() > LIMIT || testhost::interrupted();
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                ended |= self.inspect("{{.State.Running}}")? != "true" && !there();
            }
            if ended {
                bail!("{}: waited in vain until {what}: {}", self.name, self.log());
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Waits for a file that has the seconds since 1970 in it: `date +%s.%N >/bench/NAME`.
    pub(crate) fn stamp(&self, name: &str) -> Result<f64> {
        let path = self.file(name);
        let read = || {
            fs::read_to_string(&path)
                .ok()?
                .strip_suffix('\n')?
                .parse()
                .ok()
        };
        self.wait_until(name, (Duration::from_millis(20), || read().is_some()))?;
        read().with_context(|| format!("read {name} of {}", self.name))
    }

    /// The end of what it has said.
    pub(crate) fn log(&self) -> String {
        let script = format!("docker logs {} 2>&1 | tail -n 8", self.name);
        let log = self.stage.host().run(["sh", "-c", &script]);
        log.unwrap_or_else(|error| error.to_string())
    }

    /// All that it has said.
    pub(crate) fn whole_log(&self) -> Result<String> {
        let script = format!("docker logs {} 2>&1", self.name);
        self.stage.host().run(["sh", "-c", &script])
    }

    /// Sends SIGTERM to its first process; when, in seconds since 1970.
    pub(crate) fn terminate(&self) -> Result<f64> {
        let pid = self.inspect("{{.State.Pid}}")?;
        let script = format!("date +%s.%N; kill -TERM {pid}");
        let sent = self.stage.host().run(["sh", "-c", &script])?;
        sent.trim().parse().context("the time of the signal")
    }

    /// Waits for its end; when, in seconds since 1970. Its exit code is one of `codes`.
    pub(crate) fn end(&self, codes: &[&str]) -> Result<f64> {
        let limit = LIMIT.as_secs().to_string();
        let host = self.stage.host();
        let code = host.run(["timeout", &limit, "docker", "wait", &self.name])?;
        let code = code.trim();
        ensure!(
            codes.contains(&code),
            "{} ended with {code}: {}",
            self.name,
            self.log()
        );
        seconds(self.time("{{.State.FinishedAt}}")?)
    }

    /// The most memory that its first process ever had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        let pid = self.inspect("{{.State.Pid}}")?;
        let script = format!("sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/{pid}/status");
        let kib = self.stage.host().run(["sh", "-c", &script])?;
        let kib: f64 = kib.trim().parse().context("peak memory")?;
        Ok(kib * 1024.0)
    }

    fn inspect(&self, format: &str) -> Result<String> {
        let words = ["docker", "inspect", "--format", format, &self.name];
        Ok(self.stage.host().run(words)?.trim().to_owned())
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: Timestamp) -> Result<f64> {
    Ok(Duration::try_from(time.as_duration())?.as_secs_f64())
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let (name, folder) = (&self.name, self.inside());
        let script = format!("docker rm --force --volumes {name} 2>&1; rm -rf {folder}");
        if let Err(error) = self.stage.host().run(["sh", "-c", &script]) {
            drop(writeln!(std::io::stderr(), "bench: {error:#}"));
        }
    }
}
