//! A task as its ECS task definition describes it: two containers and the volumes they share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::container::Container;
use crate::engine::Engine;
use crate::github::TOKEN;
use crate::line::Line;
use crate::stage::{BUSYBOX, STORE, Stage};

/// How long dindd may take until a job could use its Docker; it gives up earlier by itself.
const HEALTHY_LIMIT: Duration = Duration::from_secs(150);

/// Task-scoped volumes and where both containers mount them, at the same path on both sides: the
/// daemon resolves the paths that the runner names.
const SHARED: [(&str, &str); 4] = [
    ("socket", "/run/dind"),
    ("work", "/home/runner/_work"),
    ("externals", "/home/runner/externals"),
    ("tools", "/opt/hostedtoolcache"),
];

const BUSYBOX_IMAGE: &str = r#"
docker image inspect busybox >/dev/null 2>&1 ||
  docker import --change 'CMD ["sh"]' /busybox/busybox.tar busybox >/dev/null
"#;

/// What differs between tasks.
#[derive(Clone, Debug, Default)]
pub struct TaskOptions {
    /// Further variables of the runner's container: `NAME=value`.
    pub runner: Vec<String>,
    /// Further variables of the sidecar's container.
    pub dind: Vec<String>,
    /// Further arguments of `docker create` for the sidecar's container.
    pub create: Vec<String>,
    /// The sidecar's engine.
    pub engine: Engine,
    /// A folder of the stage's volume that the sidecar gets as its storage volume; the whole
    /// volume when empty. Its device is the volume's either way.
    pub storage: String,
}

type OnLine = Arc<dyn Fn(Line) + Send + Sync>;

/// A task: its volumes exist, its containers are started one by one.
pub struct Task<'a> {
    stage: &'a Stage,
    name: String,
    options: TaskOptions,
    on_line: OnLine,
}

impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Task<'a> {
    pub(crate) fn new(
        stage: &'a Stage,
        name: &str,
        options: TaskOptions,
        on_line: impl Fn(Line) + Send + Sync + 'static,
    ) -> Result<Self> {
        for (volume, _) in SHARED {
            let volume = format!("{name}-{volume}");
            stage
                .host
                .run(["docker", "volume", "create", &volume])
                .context("make a volume")?;
        }
        Ok(Self {
            stage,
            name: name.into(),
            options,
            on_line: Arc::new(on_line),
        })
    }

    /// Starts the Docker sidecar: two capabilities beyond Docker's default and nothing else.
    ///
    /// # Errors
    /// Docker cannot start it.
    pub fn start_dind(&self) -> Result<Container<'a>> {
        let volume = self.stage.volume().join(&self.options.storage);
        let volume = volume.display();
        let mut create = vec![
            "--cap-add=SYS_ADMIN".to_owned(),
            "--cap-add=NET_ADMIN".to_owned(),
            format!("--volume={volume}:/var/docker-storage"),
            "--env=LOG_FORMAT=json".to_owned(),
        ];
        create.extend(self.shared());
        create.extend(
            self.options
                .dind
                .iter()
                .map(|variable| format!("--env={variable}")),
        );
        create.extend(self.options.create.iter().cloned());
        create.push(self.stage.dind_image(self.options.engine)?);
        self.start("dindd", "dind", &create)
    }

    /// Waits until the sidecar is healthy, with the command of the task definition's health check.
    ///
    /// # Errors
    /// It is not, and has not ended either.
    pub fn wait_for_docker(&self, dind: &mut Container<'_>) -> Result<()> {
        dind.wait_healthy(&["/usr/local/bin/dindd", "health"], HEALTHY_LIMIT)
    }

    /// Starts the runner's container.
    ///
    /// # Errors
    /// Docker cannot start it.
    pub fn start_runner(&self) -> Result<Container<'a>> {
        let mut create = vec![
            format!("--env=GITHUB_URL={}", self.stage.github.repository_url()),
            format!("--env=GITHUB_PAT={TOKEN}"),
            "--env=DOCKER_HOST=unix:///run/dind/docker.sock".to_owned(),
            format!("--env=CACHE_STORE={STORE}"),
            "--env=CACHE_PUBLISH=all".to_owned(),
            "--env=LOG_FORMAT=json".to_owned(),
            format!("--volume={STORE}:{STORE}"),
        ];
        create.extend(self.shared());
        create.extend(
            self.options
                .runner
                .iter()
                .map(|variable| format!("--env={variable}")),
        );
        create.push("ecs-runner".into());
        self.start("supervisor", "runner", &create)
    }

    /// Runs a script that has the task's Docker and, in it, an image `busybox`, as a step of a job
    /// would; its standard output.
    ///
    /// # Errors
    /// A command of the script fails.
    pub fn docker(&self, script: &str) -> Result<String> {
        let socket = format!("--volume={}-socket:/run/dind", self.name);
        let busybox = format!("--volume={BUSYBOX}:/busybox:ro");
        let script = format!("{BUSYBOX_IMAGE}{script}");
        let docker = "--env=DOCKER_HOST=unix:///run/dind/docker.sock";
        let words = [
            "docker",
            "run",
            "--rm",
            "--entrypoint=bash",
            &socket,
            &busybox,
            docker,
        ];
        self.stage
            .host
            .run(words.iter().chain(&["ecs-runner", "-ec", &script]))
    }

    /// Removes the volumes of a task whose containers are gone.
    ///
    /// # Errors
    /// A volume is still in use.
    pub fn remove(self) -> Result<()> {
        for (volume, _) in SHARED {
            let volume = format!("{}-{volume}", self.name);
            self.stage.host.run(["docker", "volume", "rm", &volume])?;
        }
        Ok(())
    }

    fn shared(&self) -> impl Iterator<Item = String> {
        let name = &self.name;
        SHARED
            .iter()
            .map(move |(volume, path)| format!("--volume={name}-{volume}:{path}"))
    }

    fn start(&self, what: &'static str, role: &str, create: &[String]) -> Result<Container<'a>> {
        let on_line = Arc::clone(&self.on_line);
        let name = format!("{}-{role}", self.name);
        Container::start(&self.stage.host, (what, name), create, move |line| {
            on_line(line)
        })
    }
}
