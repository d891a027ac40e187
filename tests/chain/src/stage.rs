//! Everything that is there before the first task: the host, its volume, the images, the double of
//! GitHub, the store.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use testhost::{Host, Leftovers, Options, Plan, PreparedDisk};

use crate::github::Github;
use crate::images::{self, IMAGES};
use crate::job::KEPT_TOOL;
use crate::line::Line;
use crate::task::{Task, TaskOptions};

/// The store for runtime caches in the host: what the EFS of the architecture is in production.
pub const STORE: &str = "/efs";
/// Size of the volume that all tasks of the host share; it is sparse.
const VOLUME_BYTES: u64 = 8 << 30;
/// A tool cache with the one tool that is published before the first task.
pub(crate) const SEED: &str = "/run/chain/seed";
const TOOL_CACHE: &str = "/opt/hostedtoolcache";

/// A host that is ready for tasks.
#[derive(Debug)]
pub struct Stage {
    pub(crate) host: Host,
    pub(crate) github: Github,
    volume: PathBuf,
}

/// Prepares the disk that stages boot from: slow the first time, then a look.
///
/// # Errors
/// See [`testhost::prepare`].
pub fn prepare(progress: &dyn Fn(&str)) -> Result<PreparedDisk> {
    let warm = IMAGES.map(images::Image::warm).into();
    testhost::prepare(
        &Plan {
            warm,
            ..Plan::default()
        },
        progress,
    )
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
            image.build(&mut host)?;
            step(&format!("build the image {}", image.name));
        }
        let github = Github::start(&mut host)?;
        step("start the double of GitHub");
        seed_store(&host)?;
        step("publish a tool to the store");
        Ok(Self {
            host,
            github,
            volume,
        })
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
