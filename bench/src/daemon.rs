//! A Docker daemon in a container on the test host: dindd's, or one of those that people run
//! instead. All have the same engine, the same volume, and a socket in a folder of the host.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chain::Stage;
use jiff::Timestamp;

use crate::programs;

/// Where the peers' scripts are in the host.
const PEERS: &str = "/run/bench/peers";
/// The image that a first container is made of, as a tar file in the host.
const IMAGE: &str = "/run/bench/busybox.tar";
/// How long any daemon may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dindd,
    /// `dockerd` with a unix socket, and nothing around it.
    Bare,
    /// The logic of the official image's entrypoint.
    Entrypoint {
        tls: bool,
    },
    /// dockerd and a trap with `rm -rf`.
    Trap,
}

/// Brings the peers' scripts and the image into the host.
pub(crate) fn prepare(stage: &Stage) -> Result<()> {
    let host = stage.host();
    host.bind(&programs::checkout().join("bench/peers"), PEERS, true)?;
    let script = format!(
        "set -e; folder=$(mktemp -d); mkdir $folder/bin; cp /bin/busybox $folder/bin/; \
         for name in sh true sleep; do ln -s busybox $folder/bin/$name; done; \
         tar -cf {IMAGE} -C $folder .; rm -r $folder"
    );
    host.run(["sh", "-c", &script]).map(drop)
}

/// A container with a daemon. Dropping it kills it and removes what it left.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    stage: &'a Stage,
    kind: Kind,
    name: String,
}

impl<'a> Daemon<'a> {
    /// Creates the container; nothing runs yet. No other living one has the name.
    pub(crate) fn create(stage: &'a Stage, kind: Kind, name: &str) -> Result<Self> {
        let daemon = Self {
            stage,
            kind,
            name: format!("bench-{name}"),
        };
        let host = stage.host();
        host.run(["mkdir", "-p", &daemon.storage(), &daemon.socket_folder()])?;
        let mut words: Vec<String> = ["docker", "create", "--name", &daemon.name]
            .map(Into::into)
            .into();
        words.push(format!("--volume={}:/run/dind", daemon.socket_folder()));
        words.extend(daemon.arguments());
        host.run(&words)
            .with_context(|| format!("create the container {}", daemon.name))?;
        Ok(daemon)
    }

    fn arguments(&self) -> Vec<String> {
        let storage = self.storage();
        let socket = "unix:///run/dind/docker.sock";
        let scripts = format!("--volume={PEERS}:{PEERS}:ro");
        let privileged = "--privileged".to_owned();
        let docker_root = format!("--volume={storage}:/var/lib/docker");
        match self.kind {
            Kind::Dindd => vec![
                "--cap-add=SYS_ADMIN".into(),
                "--cap-add=NET_ADMIN".into(),
                format!("--volume={storage}:/var/docker-storage"),
                "ecs-dind".into(),
            ],
            Kind::Bare => vec![
                privileged,
                docker_root,
                "--entrypoint=dockerd".into(),
                "ecs-dind".into(),
                format!("--host={socket}"),
            ],
            Kind::Entrypoint { tls } => vec![
                privileged,
                docker_root,
                scripts,
                format!("--env=DOCKER_HOST={socket}"),
                format!(
                    "--env=DOCKER_TLS_CERTDIR={}",
                    if tls { "/certs" } else { "" }
                ),
                format!("--entrypoint={PEERS}/dind-entrypoint.sh"),
                "ecs-dind".into(),
            ],
            Kind::Trap => vec![
                privileged,
                scripts,
                format!("--volume={storage}:/storage"),
                "--env=STORAGE=/storage".into(),
                "--env=SOCKET=/run/dind/docker.sock".into(),
                format!("--entrypoint={PEERS}/dind-trap.sh"),
                "ecs-dind".into(),
            ],
        }
    }

    fn storage(&self) -> String {
        let folder = self.stage.volume().join(&self.name);
        folder.display().to_string()
    }

    fn socket_folder(&self) -> String {
        format!("/run/bench/{}", self.name)
    }

    pub(crate) fn start(&self) -> Result<()> {
        let host = self.stage.host();
        host.run(["docker", "start", &self.name]).map(drop)
    }

    /// When its first process was started.
    pub(crate) fn started(&self) -> Result<Timestamp> {
        self.inspect("{{.State.StartedAt}}")?
            .parse()
            .context("when the container was started")
    }

    /// Waits until its API answers.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let socket = self.socket_folder() + "/docker.sock";
        let socket = self.stage.host().path(socket);
        let begin = Instant::now();
        let mut looks: u32 = 0;
        while !answers(&socket) {
            looks += 1;
            let ended = looks.is_multiple_of(200) && self.inspect("{{.State.Running}}")? != "true";
            if ended || begin.elapsed() > LIMIT || testhost::interrupted() {
                bail!("{} does not get ready: {}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn log(&self) -> String {
        let script = format!("docker logs {} 2>&1 | tail -n 5", self.name);
        let log = self.stage.host().run(["sh", "-c", &script]);
        log.unwrap_or_else(|error| error.to_string())
    }

    /// Gives it the image of [`Daemon::run_container`].
    pub(crate) fn import_image(&self) -> Result<()> {
        self.docker(&["import", IMAGE, "busybox"])
    }

    /// Runs a container to its end.
    pub(crate) fn run_container(&self) -> Result<()> {
        self.docker(&["run", "--rm", "busybox", "true"])
    }

    fn docker(&self, words: &[&str]) -> Result<()> {
        let socket = format!("unix://{}/docker.sock", self.socket_folder());
        let docker = ["docker", "--host", &socket];
        self.stage
            .host()
            .run(docker.iter().chain(words))
            .with_context(|| format!("{}: {}", self.name, self.log()))
            .map(drop)
    }

    /// Where its data-root is, in the driver's eyes.
    pub(crate) fn data_root(&self) -> Result<PathBuf> {
        let storage = self.stage.host().path(self.storage());
        if matches!(self.kind, Kind::Bare | Kind::Entrypoint { .. }) {
            return Ok(storage);
        }
        let folders = fs::read_dir(&storage)?.flatten();
        let mut folders =
            folders.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        let root = folders
            .next()
            .context("the daemon has no data-root")?
            .path();
        Ok(if self.kind == Kind::Dindd {
            root.join("data")
        } else {
            root
        })
    }

    /// From SIGTERM to the container's end.
    pub(crate) fn stop(&self) -> Result<Duration> {
        let host = self.stage.host();
        let pid = self.inspect("{{.State.Pid}}")?;
        let sent = host.run(["sh", "-c", &format!("date +%s.%N; kill -TERM {pid}")])?;
        let sent: f64 = sent.trim().parse().context("the time of the signal")?;
        let limit = LIMIT.as_secs().to_string();
        let code = host.run(["timeout", &limit, "docker", "wait", &self.name])?;
        ensure!(
            code.trim() == "0",
            "{} ended with {}: {}",
            self.name,
            code.trim(),
            self.log()
        );
        let ended: Timestamp = self
            .inspect("{{.State.FinishedAt}}")?
            .parse()
            .context("when the container ended")?;
        let ended = Duration::try_from(ended.as_duration())?;
        Ok(ended.saturating_sub(Duration::from_secs_f64(sent)))
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

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let script = format!(
            "docker rm --force --volumes {}; rm -rf {} {}",
            self.name,
            self.storage(),
            self.socket_folder()
        );
        if let Err(error) = self.stage.host().run(["sh", "-c", &script]) {
            drop(writeln!(std::io::stderr(), "bench: {error:#}"));
        }
    }
}

/// Whether a daemon answers `GET /_ping` with OK.
fn answers(socket: &std::path::Path) -> bool {
    let ask = || -> std::io::Result<[u8; 12]> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status)
    };
    ask().is_ok_and(|status| &status == b"HTTP/1.1 200")
}
