//! What happens before the runner is registered: the parts, each one phase. Their order is
//! [`crate::lifecycle`]'s.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use init::Deadline;

use crate::caches::Unit;
use crate::config::{CacheMode, CachePublish, GitHub, LONGEST_NAME, Name};
use crate::docker;
use crate::failure::Failure;
use crate::github::{self, Client, retry};
use crate::job_hooks::{self, Hook, Moment};
use crate::lifecycle::{Task, explain};
use crate::listener::{self, Place};
use crate::registration::with_suffix;
use crate::runner_files;
use crate::shared::{self, Sight};
use crate::sudo;
use crate::user::User;
use crate::version::{self, Support};

/// The check of the version may not hold up a start for long.
const VERSION_ANSWER: Duration = Duration::from_secs(5);
const EXTERNALS_LIMIT: Duration = Duration::from_secs(300);

/// Who registers, and as what.
pub(crate) struct Registrant {
    /// `None` when the registration is given.
    pub(crate) client: Option<Rc<Client>>,
    pub(crate) name: String,
    /// Those beside the configured ones.
    pub(crate) labels: Vec<String>,
}

impl Task<'_> {
    /// What is needed before anything is asked of others.
    pub(crate) fn prepare_user(&self) -> Result<User, Failure> {
        let runner = &self.settings.runner;
        let phase = self.progress.begin("directories");
        let user = User::find(&runner.user, Path::new("/"))?;
        listener::find(&runner.home).map_err(Failure::unavailable)?;
        if runner.sudo {
            sudo::allow(runner, &user)?;
        }
        runner_files::clean(&runner.home)?;
        shared::make(runner, self.settings.caches.as_ref(), &user)?;
        phase.done(format_args!("user {}", user.name));
        Ok(user)
    }

    /// The hooks by which the job will tell what it is; the task goes on without them.
    pub(crate) fn listen_for_job(&self, user: &User) -> Vec<Hook> {
        let Some(directory) = self.settings.state_file.parent() else {
            return Vec::new();
        };
        let environment = &self.settings.runner.environment;
        let listen = |moment: Moment| {
            let own = environment
                .iter()
                .find(|(name, _)| name == moment.variable());
            let own = own.and_then(|(_, path)| path.to_str());
            let hook = job_hooks::listen((directory, moment), (user, own), self.reported.clone());
            hook.inspect_err(|error| {
                tracing::warn!("what triggers the job will not be known: {error:#}");
            })
            .ok()
        };
        Moment::ALL.into_iter().filter_map(listen).collect()
    }

    /// The units that are there before the job; `None` when nothing will be published.
    pub(crate) async fn restore(&self) -> Result<Option<BTreeSet<Unit>>, Failure> {
        let (Some(caches), Some(settings)) = (&self.caches, &self.settings.caches) else {
            return Ok(None);
        };
        let phase = self.progress.begin("cache-restore");
        let deadline = Deadline::within(settings.restore_timeout);
        let restored = caches.restore(self.children, deadline).await;
        for problem in &restored.problems {
            tracing::warn!(
                problem,
                "not everything could be restored; the job makes it anew"
            );
        }
        if !restored.left_out.is_empty() {
            tracing::warn!(left_out = ?restored.left_out, "CACHE_RESTORE_TIMEOUT did not suffice");
        }
        phase.done(format_args!(
            "{} units, {} files, {} bytes",
            restored.units, restored.files, restored.bytes
        ));
        if settings.mode != CacheMode::ReadWrite || settings.publish == CachePublish::Off {
            return Ok(None);
        }
        Ok(Some(caches.known()))
    }

    /// Everything that is asked of others by HTTP: a client that is let in and the runner's name.
    pub(crate) async fn meet_github(&self, place: &Place<'_>) -> Result<Registrant, Failure> {
        let client = async {
            let Some(access) = self.settings.identity.github() else {
                return Ok(None);
            };
            // Reading the system's certificates takes tens of milliseconds: not on this thread.
            let http = tokio::task::spawn_blocking(github::http).await;
            let http = http.context("cannot prepare HTTPS")??;
            let client = Rc::new(Client::new(access, http)?);
            self.be_let_in(&client, access, place).await?;
            Ok::<_, Failure>(Some(client))
        };
        let (client, (name, labels)) = tokio::join!(client, self.choose_name());
        Ok(Registrant {
            client: client?,
            name,
            labels,
        })
    }

    /// A token, and whether GitHub takes this version of the runner.
    async fn be_let_in(
        &self,
        client: &Client,
        access: &GitHub,
        place: &Place<'_>,
    ) -> Result<(), Failure> {
        let authenticate = async {
            let phase = self.progress.begin("github-credentials");
            let deadline = Deadline::within(access.timeout);
            retry::until(deadline, "authenticate", async || {
                client.authenticate().await
            })
            .await
            .map_err(|error| explain("cannot authenticate at GitHub", &error, client))?;
            phase.done(client.scope());
            Ok(())
        };
        let ask_version = async {
            let version = place.version(self.children).await;
            version.map_err(|error| {
                Failure::unavailable(
                    error.context("the runner's program in RUNNER_HOME does not work here"),
                )
            })
        };
        let ((), version) = tokio::try_join!(authenticate, ask_version)?;
        let phase = self.progress.begin("version-check");
        let answer = retry::within(
            Deadline::within(VERSION_ANSWER),
            client.deprecations(&version),
        )
        .await;
        let deprecations = answer.unwrap_or_else(|error| {
            tracing::debug!(%error, "GitHub does not tell until when the version is good");
            None
        });
        match version::support(deprecations.as_ref(), version::today()) {
            Support::Over(date) => {
                return Err(Failure::refused(anyhow!(
                    "the runner's version {version} is refused by GitHub since {date}; build the image with a newer RUNNER_VERSION"
                )));
            }
            Support::Unknown => phase.done(format_args!("{version}")),
            support @ Support::Until(days) => {
                if support.is_short() {
                    tracing::warn!(
                        version,
                        days_left = days,
                        "GitHub will refuse this version of the runner soon; build the image with a newer RUNNER_VERSION"
                    );
                }
                phase.done(format_args!("{version}, {days} days left"));
            }
        }
        Ok(())
    }

    pub(crate) async fn wait_for_docker(&self) -> Result<(), Failure> {
        let Some(docker) = self
            .settings
            .docker
            .as_ref()
            .filter(|docker| !docker.wait.is_zero())
        else {
            return Ok(());
        };
        let phase = self.progress.begin("docker-wait");
        let version = docker::wait(docker).await.map_err(Failure::unavailable)?;
        phase.done(format_args!("Docker {version}"));
        let phase = self.progress.begin("shared-directories");
        let compared = shared::compare(&self.settings.runner, docker).await;
        match compared.map_err(Failure::unavailable)? {
            Sight::Same(directories) => phase.done(names(&directories)),
            Sight::Unknown(error) => {
                tracing::warn!(
                    "Docker does not tell whether the shared directories are the same storage there: {error:#}"
                );
                phase.done("not known");
            }
        }
        Ok(())
    }

    pub(crate) async fn fill_externals(&self, user: &User) -> Result<(), Failure> {
        let phase = self.progress.begin("externals");
        let deadline = Deadline::within(EXTERNALS_LIMIT);
        match shared::fill_externals(&self.settings.runner.home, user, self.children, deadline)
            .await?
        {
            Some(copied) => phase.done(format_args!(
                "{} files, {} bytes",
                copied.files, copied.bytes
            )),
            None => phase.done("nothing to copy"),
        }
        Ok(())
    }

    /// The runner's name and the labels that ECS gives it.
    async fn choose_name(&self) -> (String, Vec<String>) {
        let runner = &self.settings.runner;
        let facts = self.ecs.facts().await;
        let prefix = runner.prefix.trim_end_matches('-');
        let name = match (&runner.name, facts.task_id) {
            (Name::Given(name), _) => name.clone(),
            (Name::Unique, Some(id)) => {
                let kept = LONGEST_NAME.saturating_sub(id.len() + 1);
                format!("{}-{id}", prefix.chars().take(kept).collect::<String>())
            }
            (Name::Unique, None) => with_suffix(prefix),
        };
        let labels = if runner.default_labels {
            facts.labels
        } else {
            Vec::new()
        };
        (name, labels)
    }
}

fn names(paths: &[PathBuf]) -> String {
    let names = paths.iter().map(|path| path.display().to_string());
    names.collect::<Vec<_>>().join(", ")
}
