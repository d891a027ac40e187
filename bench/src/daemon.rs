//! A Docker daemon in a container on the test host: dindd's, or one of those that people run
//! instead. All have the same engine, the same volume, and a socket in a folder of the host.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use chain::Stage;

use crate::container::{Container, FOLDER, LIMIT};
use crate::stage::{IMAGE, PEERS};

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

/// A container with a daemon. Dropping it kills it and removes what it left.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    kind: Kind,
    stage: &'a Stage,
    storage: String,
    pub(crate) container: Container<'a>,
}

impl<'a> Daemon<'a> {
    /// Creates the container; nothing runs yet. No other living one has the name.
    pub(crate) fn create(
        stage: &'a Stage,
        kind: Kind,
        name: &str,
        more: &[String],
    ) -> Result<Self> {
        let storage = stage.volume().join(name).display().to_string();
        Self::create_on(stage, kind, (name, storage), more)
    }

    /// As [`Daemon::create`], with its storage in a folder of the host. The daemon owns the folder:
    /// it is removed when this is dropped.
    pub(crate) fn create_on(
        stage: &'a Stage,
        kind: Kind,
        (name, storage): (&str, String),
        more: &[String],
    ) -> Result<Self> {
        stage.host().run(["mkdir", "-p", &storage])?;
        let mut words = more.to_vec();
        words.extend(arguments(kind, &storage));
        Ok(Self {
            kind,
            stage,
            container: Container::create(stage, name, &words)?,
            storage,
        })
    }

    /// Its socket in the host.
    pub(crate) fn socket(&self) -> String {
        self.container.inside() + "/docker.sock"
    }

    /// Waits until its API answers.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let socket = self.container.file("docker.sock");
        let ready = (Duration::from_millis(2), || answers(&socket));
        self.container.wait_until("it is ready", ready)
    }

    /// Gives it the image of [`Daemon::run_container`].
    pub(crate) fn import_image(&self) -> Result<()> {
        self.docker(&["import", IMAGE, "busybox"])
    }

    /// Runs a container to its end.
    pub(crate) fn run_container(&self) -> Result<()> {
        self.docker(&["run", "--rm", "busybox", "true"])
    }

    pub(crate) fn docker(&self, words: &[&str]) -> Result<()> {
        let socket = format!("unix://{}", self.socket());
        let docker = ["docker", "--host", &socket];
        let ran = self.stage.host().run(docker.iter().chain(words));
        ran.with_context(|| self.container.log()).map(drop)
    }

    /// Runs a shell script of the host, whose `docker` speaks with this daemon.
    pub(crate) fn script(&self, script: &str) -> Result<String> {
        let socket = format!("DOCKER_HOST=unix://{}", self.socket());
        let ran = self
            .stage
            .host()
            .run(["env", &socket, "sh", "-euc", script]);
        ran.with_context(|| self.container.log())
    }

    /// Where its data-root is, in the driver's eyes.
    pub(crate) fn data_root(&self) -> Result<PathBuf> {
        let storage = self.stage.host().path(&self.storage);
        if matches!(self.kind, Kind::Bare | Kind::Entrypoint { .. }) {
            return Ok(storage);
        }
        let visible =
            |entry: &fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
        let root = fs::read_dir(&storage)?.flatten().find(visible);
        let root = root.context("the daemon has no data-root")?.path();
        Ok(match self.kind {
            Kind::Dindd => root.join("data"),
            Kind::Bare | Kind::Entrypoint { .. } | Kind::Trap => root,
        })
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Before the container's own drop: what it still writes does not outlive this.
        let (name, storage) = (self.container.name(), &self.storage);
        let script = format!("docker rm --force --volumes {name}; rm -rf {storage}");
        if let Err(error) = self.stage.host().run(["sh", "-c", &script]) {
            drop(writeln!(std::io::stderr(), "bench: {error:#}"));
        }
    }
}

fn arguments(kind: Kind, storage: &str) -> Vec<String> {
    let socket = format!("unix://{FOLDER}/docker.sock");
    let scripts = format!("--volume={PEERS}:{PEERS}:ro");
    let privileged = "--privileged".to_owned();
    let docker_root = format!("--volume={storage}:/var/lib/docker");
    let image = "ecs-dind".to_owned();
    match kind {
        Kind::Dindd => vec![
            "--cap-add=SYS_ADMIN".into(),
            "--cap-add=NET_ADMIN".into(),
            format!("--volume={storage}:/var/docker-storage"),
            format!("--env=DINDD_SOCKET={FOLDER}/docker.sock"),
            image,
        ],
        Kind::Bare => vec![
            privileged,
            docker_root,
            "--entrypoint=dockerd".into(),
            image,
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
            image,
        ],
        Kind::Trap => vec![
            privileged,
            scripts,
            format!("--volume={storage}:/storage"),
            "--env=STORAGE=/storage".into(),
            format!("--env=SOCKET={FOLDER}/docker.sock"),
            format!("--entrypoint={PEERS}/dind-trap.sh"),
            image,
        ],
    }
}

/// Whether a daemon answers `GET /_ping` with OK.
fn answers(socket: &Path) -> bool {
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
