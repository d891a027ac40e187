//! A compose project of `images/compose.yaml` in the stage's host, with the tests' additions.
//!
//! Owns how compose is called and what it is told; what is checked is the cases' business.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chain::Stage;
use chain::driver::wait_until;

use crate::build::{self, IMAGES};

const TESTS: &str = "/run/stack/tests";
/// How long the host may take to tell about a container.
const PAUSE: Duration = Duration::from_millis(100);

/// The images and files of all projects of the host are laid out once.
static LAID_OUT: Mutex<bool> = Mutex::new(false);

/// Builds what the projects need: the images of a task, of the mirror and of the collector, and a
/// certificate for Docker Hub's name.
///
/// # Errors
/// A build fails.
pub(crate) fn lay_out(stage: &Stage) -> Result<()> {
    let mut laid_out = LAID_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    if *laid_out {
        return Ok(());
    }
    let host = stage.host();
    build::build(stage, None, &["REVISION=0123abc".into()])?;
    host.bind(&build::top().join("tests/stack"), TESTS, true)?;
    for (tag, folder) in [("test-registry", "registry"), ("test-syslog", "syslog")] {
        host.run([
            "docker",
            "build",
            "--tag",
            tag,
            &format!("{TESTS}/{folder}"),
        ])?;
    }
    let deployed = [
        ("ecs-mirror", "REGISTRY_IMAGE=test-registry", "mirror"),
        (
            "ecs-fluent-bit",
            "FLUENT_BIT_IMAGE=test-syslog",
            "fluent-bit",
        ),
    ];
    for (tag, argument, folder) in deployed {
        let context = format!("{IMAGES}/{folder}");
        host.run([
            "docker",
            "build",
            "--tag",
            tag,
            "--build-arg",
            argument,
            &context,
        ])?;
    }
    let script = "set -e; mkdir -p /run/stack/tls; cd /run/stack/tls; \
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
        -keyout hub.key -out hub.crt -subj /CN=registry-1.docker.io \
        -addext subjectAltName=DNS:registry-1.docker.io";
    host.run(["sh", "-c", script])
        .context("make a certificate")?;
    *laid_out = true;
    Ok(())
}

/// A project; its name is also its task's.
pub(crate) struct Project<'a> {
    stage: &'a Stage,
    name: &'static str,
}

impl<'a> Project<'a> {
    /// Lays a project out; nothing runs yet.
    ///
    /// # Errors
    /// Its settings cannot be written.
    pub(crate) fn new(stage: &'a Stage, name: &'static str, hub_port: u16) -> Result<Self> {
        lay_out(stage)?;
        let storage = stage.volume().join(name);
        let settings = format!(
            "GITHUB_URL={}\nGITHUB_PAT={}\nRUNNER_LABELS={name}\nCACHE_PUBLISH=all\nTASK={name}\n\
             STORAGE={}\nDINDD_ALLOW_ANY_FS=0\nHUB_PORT={hub_port}\nLOG_FORMAT=json\nNOFILE=4096\n",
            stage.github().repository_url(),
            "ghp_a_token_for_the_double_only",
            storage.display(),
        );
        let host = stage.host();
        fs::create_dir_all(host.path(&storage)).context("make the storage")?;
        fs::write(host.path(format!("/run/stack/{name}.env")), settings)
            .context("write the project's settings")?;
        Ok(Self { stage, name })
    }

    /// Runs `docker compose WORDS`, as of the plugin in the runner's image.
    ///
    /// # Errors
    /// It fails.
    pub(crate) fn compose(&self, words: &[&str]) -> Result<String> {
        let name = self.name;
        let mut line: Vec<String> = [
            "docker",
            "run",
            "--rm",
            "--network=none",
            "--volume=/run/docker.sock:/var/run/docker.sock",
            "--volume=/run/stack:/run/stack:ro",
            "--workdir=/run/stack/images",
            "--entrypoint=docker",
            "ecs-runner",
            "compose",
            "--progress=plain",
            "--env-file=.env.example",
        ]
        .map(Into::into)
        .into();
        line.push(format!("--env-file=/run/stack/{name}.env"));
        line.push(format!("--project-name={name}"));
        line.push("--file=compose.yaml".into());
        line.push(format!("--file={TESTS}/compose.yaml"));
        line.extend(words.iter().map(|word| (*word).to_owned()));
        self.stage.host().run(&line)
    }

    /// Starts services and what they need, until they are healthy.
    ///
    /// # Errors
    /// One does not get healthy.
    pub(crate) fn up(&self, services: &[&str]) -> Result<()> {
        let up = ["up", "--detach", "--wait", "--wait-timeout=120"];
        self.compose(&[&up, services].concat())
            .map(drop)
            .with_context(|| self.everything())
    }

    /// Starts a new task's sidecar: a new data-root that has nothing of the one before.
    ///
    /// # Errors
    /// It does not get healthy.
    pub(crate) fn next_dind(&self) -> Result<()> {
        let up = [
            "up",
            "--detach",
            "--wait",
            "--force-recreate",
            "--no-deps",
            "dind",
        ];
        self.compose(&up)
            .map(drop)
            .with_context(|| self.everything())
    }

    /// Runs a script in the sidecar's Docker, as a step of a job would; its standard output.
    ///
    /// # Errors
    /// A command of it fails.
    pub(crate) fn docker(&self, script: &str) -> Result<String> {
        let socket = format!("--volume={}_socket:/run/dind", self.name);
        let words = ["docker", "run", "--rm", "--entrypoint=bash", &socket];
        let more = [
            "--env=DOCKER_HOST=unix:///run/dind/docker.sock",
            "ecs-runner",
            "-ec",
            script,
        ];
        self.stage.host().run(words.iter().chain(&more))
    }

    /// What a service has printed.
    pub(crate) fn said(&self, service: &str) -> Result<String> {
        let container = format!("{}-{service}-1", self.name);
        let script = format!("docker logs {container} 2>&1");
        self.stage.host().run(["sh", "-c", &script])
    }

    /// Waits until a service has printed a line with all of `parts`.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn hears(&self, service: &str, parts: &[&str]) -> Result<()> {
        wait_until(&format!("{service} says {parts:?}"), || {
            std::thread::sleep(PAUSE);
            let said = self.said(service)?;
            Ok(said
                .lines()
                .any(|line| parts.iter().all(|part| line.contains(part))))
        })
        .with_context(|| self.said(service).unwrap_or_default())
    }

    /// Waits for the end of a service's container; its exit code.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn wait(&self, service: &str) -> Result<i32> {
        let container = format!("{}-{service}-1", self.name);
        let code = self.stage.host().run(["docker", "wait", &container])?;
        code.trim()
            .parse()
            .with_context(|| format!("exit code of {container}"))
    }

    /// Puts the image `probe` with the tag 1 into Docker Hub.
    ///
    /// # Errors
    /// Docker Hub does not take it.
    pub(crate) fn publish_probe(&self, hub_port: u16) -> Result<()> {
        let image = format!("127.0.0.1:{hub_port}/library/probe:1");
        let script = format!(
            "docker import --change 'CMD [\"sh\"]' /run/chain/busybox/busybox.tar {image} && docker push {image}"
        );
        self.stage.host().run(["sh", "-c", &script]).map(drop)
    }

    /// Ends all containers and removes all volumes of the project.
    ///
    /// # Errors
    /// Something of it stays.
    pub(crate) fn down(self) -> Result<()> {
        self.compose(&["down", "--volumes", "--timeout=30"])?;
        let storage = self.stage.volume().join(self.name);
        let entries = fs::read_dir(self.stage.host().path(&storage))?;
        let left: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name != ".trash")
            .collect();
        ensure!(left.is_empty(), "left on the volume: {left:?}");
        let host = self.stage.host();
        host.run(["rm", "-r", &storage.display().to_string()])
            .map(drop)
    }

    /// The logs of all services, for the message of a failure.
    fn everything(&self) -> String {
        let services = ["log-host", "log-router", "hub", "mirror", "dind", "runner"];
        services
            .iter()
            .map(|service| {
                let said = self.said(service).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                format!("\n--- the last of {service}\n{last}")
            })
            .collect()
    }
}
