//! Everything that is there before the first task: the host, its volume, the images, the double of
//! GitHub, the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use testhost::{Host, Leftovers, Options, Plan, PreparedDisk};

use crate::engine::Engine;
use crate::github::Github;
use crate::images::{self, IMAGES, Image};
use crate::job::KEPT_TOOL;
use crate::line::Line;
use crate::task::{Task, TaskOptions};

/// The store for runtime caches in the host: what the EFS of the architecture is in production.
pub const STORE: &str = "/efs";
/// Size of the volume that all tasks of the host share; it is sparse.
const VOLUME_BYTES: u64 = 8 << 30;
/// A tool cache with the one tool that is published before the first task.
const SEED: &str = "/run/chain/seed";
/// A folder with the image `busybox` as a tar file.
pub(crate) const BUSYBOX: &str = "/run/chain/busybox";
const TOOL_CACHE: &str = "/opt/hostedtoolcache";

/// A host that is ready for tasks.
#[derive(Debug)]
pub struct Stage {
    pub(crate) host: Host,
    pub(crate) github: Github,
    volume: PathBuf,
    /// Whose images are there.
    engines: Mutex<BTreeSet<Engine>>,
}

/// Prepares the disk that stages boot from: slow the first time, then a look.
///
/// # Errors
/// See [`testhost::prepare`].
pub fn prepare(progress: &dyn Fn(&str)) -> Result<PreparedDisk> {
    testhost::prepare(&plan(), progress)
}

/// Prepares a disk for stages whose tasks may have any [`Engine`].
///
/// # Errors
/// See [`testhost::prepare`].
pub fn prepare_all_engines(progress: &dyn Fn(&str)) -> Result<PreparedDisk> {
    let plan = Plan {
        warm: Engine::OTHERS
            .map(|engine| Image::dind(engine).warm())
            .into(),
        suites: Engine::OTHERS.map(|engine| engine.suite().into()).into(),
        after: Some(Box::new(plan())),
        ..Plan::default()
    };
    testhost::prepare(&plan, progress)
}

/// The plan of [`prepare`]'s disk, for those that want more on theirs.
#[must_use]
pub fn plan() -> Plan {
    Plan {
        warm: IMAGES.map(Image::warm).into(),
        ..Plan::default()
    }
}

impl Stage {
    /// Boots a host and arranges it; `done` is told each step and how long it took.
    ///
    /// # Errors
    /// A step fails; the host is ended then.
    pub fn open(disk: &PreparedDisk, done: &dyn Fn(&str, u128)) -> Result<Self> {
        let mut begin = Instant::now();
        let mut step = |what: &str| {
            done(what, begin.elapsed().as_millis());
            begin = Instant::now();
        };
        let mut host = Host::boot(disk, &Options::default())?;
        step("boot the host");
        let volume = host.volume("docker-storage", VOLUME_BYTES)?;
        step("make the XFS volume");
        images::lay_out_stages(&host)?;
        for image in IMAGES {
            image.build(&host)?;
            step(&format!("build the image {}", image.name));
        }
        let github = Github::start(&mut host)?;
        step("start the double of GitHub");
        seed_store(&host)?;
        step("publish a tool to the store");
        lay_out_busybox(&host)?;
        Ok(Self {
            host,
            github,
            volume,
            engines: Mutex::new([Engine::default()].into()),
        })
    }

    /// The sidecar's image with an engine; built when it is first asked for.
    ///
    /// # Errors
    /// It cannot be built: the stage's disk is not [`prepare_all_engines`]'.
    pub fn dind_image(&self, engine: Engine) -> Result<String> {
        let image = Image::dind(engine);
        // A panic leaves an engine out that is there: it is built again.
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if !engines.contains(&engine) {
            image.build(&self.host)?;
            engines.insert(engine);
        }
        Ok(image.tag())
    }

    /// `dindd golden …` in a container of the sidecar's image, as a host runs it: with a folder of the
    /// host as the store, and more options of `docker run`.
    ///
    /// # Errors
    /// It fails.
    pub fn golden(&self, store: &Path, docker: &[&str], words: &[&str]) -> Result<String> {
        let volume = format!("--volume={}:/golden", store.display());
        let run = [
            "docker",
            "run",
            "--rm",
            "--cap-add=SYS_ADMIN",
            "--cap-add=NET_ADMIN",
            &volume,
        ];
        let image = [images::DIND.name, "golden", "--store=/golden"];
        self.host.run([&run[..], docker, &image, words].concat())
    }

    /// A volume that is kept for the next stage: see [`Host::kept_volume`].
    ///
    /// # Errors
    /// See there.
    pub fn kept_volume(&mut self, name: &str, file: &Path, bytes: u64) -> Result<PathBuf> {
        self.host.kept_volume(name, file, bytes)
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where the XFS volume is in the host; both containers of a task see it elsewhere or not.
    #[must_use]
    pub fn volume(&self) -> &Path {
        &self.volume
    }

    /// The double of GitHub.
    #[must_use]
    pub fn github(&self) -> &Github {
        &self.github
    }

    /// A task; nothing runs before its containers are started. Every line that they print goes to
    /// `on_line`.
    ///
    /// # Errors
    /// Its volumes cannot be made.
    pub fn task(
        &self,
        name: &str,
        options: TaskOptions,
        on_line: impl Fn(Line) + Send + Sync + 'static,
    ) -> Result<Task<'_>> {
        Task::new(self, name, options, on_line)
    }

    /// What is in the store, as `supervisor cache ls` tells it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn store_listing(&self) -> Result<String> {
        cache_command(&self.host, "ls", &[])
    }

    /// Ends the host; what was left in it and on the machine.
    ///
    /// # Errors
    /// What is left cannot be told.
    pub fn close(self) -> Result<Leftovers> {
        self.github.stop()?;
        self.host.shutdown()
    }
}

/// Publishes the tool that the everyday job finds in its tool cache, with the product's own
/// command.
fn seed_store(host: &Host) -> Result<()> {
    let tool = format!("{SEED}/{KEPT_TOOL}");
    let script = format!(
        "set -e; mkdir -p {tool}/bin {STORE}; cp /bin/busybox {tool}/bin/busybox; \
         touch {tool}.complete"
    );
    host.run(["sh", "-c", &script])
        .context("lay out the tool for the store")?;
    cache_command(host, "publish", &[&format!("--volume={SEED}:{TOOL_CACHE}")]).map(drop)
}

/// Lays out the files of the image `busybox`: a static one with a link for each applet.
fn lay_out_busybox(host: &Host) -> Result<()> {
    let script = format!(
        "set -e; mkdir -p {BUSYBOX}/root/bin {BUSYBOX}/root/tmp {BUSYBOX}/root/etc; cd {BUSYBOX}/root; \
         cp /bin/busybox bin/; for applet in $(bin/busybox --list); do \
         test $applet = busybox || ln -s busybox bin/$applet; done; \
         echo root:x:0:0:root:/:/bin/sh >etc/passwd; echo root:x:0: >etc/group; \
         tar --create --file={BUSYBOX}/busybox.tar ."
    );
    host.run(["sh", "-c", &script])
        .context("lay out busybox")
        .map(drop)
}

/// `supervisor cache COMMAND` on the store, in a container of the runner's image.
fn cache_command(host: &Host, command: &str, docker: &[&str]) -> Result<String> {
    let store = format!("--volume={STORE}:{STORE}");
    let mut words = vec!["docker", "run", "--rm", &store];
    words.extend(docker);
    words.extend([
        "ecs-runner",
        "cache",
        command,
        "--store",
        STORE,
        "--root",
        TOOL_CACHE,
    ]);
    host.run(words)
}
