//! Making the runner somebody: by a just-in-time configuration, by `config.sh`, or as given.

use std::rc::Rc;

use anyhow::anyhow;
use init::{Deadline, Owed};

use crate::config::{GitHub, Identity};
use crate::config_script::{self, Refusal};
use crate::failure::Failure;
use crate::github::{Client, Error, NewRunner, retry};
use crate::lifecycle::{Duty, Task, explain};
use crate::listener::Place;
use crate::prepare::Registrant;
use crate::registration::{Claims, Registration, with_suffix};
use crate::runner_files;

/// How many names `config.sh` is given when they are taken; each costs a start of .NET.
const NAMES: u32 = 3;

impl Task<'_> {
    /// Registers the runner and makes sure that it is what we wanted.
    pub(crate) async fn register(
        &self,
        owed: &mut Owed<Duty>,
        place: &Place<'_>,
        registrant: Registrant,
    ) -> Result<(), Failure> {
        let Registrant {
            client,
            name,
            labels,
        } = registrant;
        let wanted = (name, labels.as_slice());
        let phase = self.progress.begin("register");
        let home = &place.runner.home;
        match (&self.settings.identity, client) {
            (Identity::Jit(github), Some(client)) => {
                self.by_jit(owed, place, (github, client), wanted).await?
            }
            (Identity::Config(github), Some(client)) => {
                self.by_script(owed, place, (github, client), wanted)
                    .await?
            }
            (Identity::Given(configuration), _) => {
                runner_files::write_jit(home, configuration, place.user)?
            }
            (Identity::Jit(_) | Identity::Config(_), None) => {
                unreachable!("a client is made of both")
            }
        }
        let configured = runner_files::read_back(home)?;
        if !configured.ephemeral {
            return Err(Failure::refused(anyhow!(
                "the registration is not ephemeral: the runner would take job after job; check RUNNER_JITCONFIG, or whether config.sh is the real one"
            )));
        }
        let name = configured.name.unwrap_or_else(|| "unnamed".to_owned());
        self.progress.runner(&name);
        if let Some(Duty::Deregister(registration)) = owed.last_mut()
            && let Some(id) = configured.id
        {
            registration.found(id, &name);
        }
        phase.done(format_args!(
            "{name}, id {}",
            configured
                .id
                .map_or("unknown".to_owned(), |id| id.to_string())
        ));
        Ok(())
    }

    async fn by_jit(
        &self,
        owed: &mut Owed<Duty>,
        place: &Place<'_>,
        (github, client): (&GitHub, Rc<Client>),
        (name, labels): (String, &[String]),
    ) -> Result<(), Failure> {
        let runner = place.runner;
        let work = runner
            .work
            .strip_prefix(&runner.home)
            .unwrap_or(&runner.work);
        let wanted = NewRunner {
            name,
            group: 0,
            labels: runner.labels.iter().chain(labels).cloned().collect(),
            work_folder: work.to_string_lossy().into_owned(),
        };
        let deadline = Deadline::within(github.timeout);
        let registration =
            Registration::jit(Rc::clone(&client), wanted, runner.group.clone(), deadline);
        let Duty::Deregister(registration) = owed.owe(Duty::Deregister(registration)) else {
            unreachable!("this duty was just owed");
        };
        let registered = registration.finish().await;
        let registered =
            registered.map_err(|error| explain("cannot register the runner", &error, &client))?;
        tracing::debug!(id = registered.id, name = registered.name, "registered");
        runner_files::write_jit(&runner.home, &registered.configuration, place.user)?;
        Ok(())
    }

    async fn by_script(
        &self,
        owed: &mut Owed<Duty>,
        place: &Place<'_>,
        (github, client): (&GitHub, Rc<Client>),
        (wanted, labels): (String, &[String]),
    ) -> Result<(), Failure> {
        let deadline = Deadline::within(github.timeout);
        let token = retry::until(deadline, "get a registration token", async || {
            client.registration_token().await
        })
        .await
        .map_err(|error: Error| explain("cannot get a registration token", &error, &client))?;
        let claims = Claims::default();
        owed.owe(Duty::Deregister(Registration::claimed(
            client,
            claims.clone(),
        )));
        let mut name = wanted.clone();
        for _ in 0..NAMES {
            claims.add(&name);
            let refusal = match config_script::run(
                place,
                (&name, github.web.as_str(), labels),
                &token,
                (self.children, deadline),
            )
            .await
            {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            match refusal {
                Refusal::NameTaken => {
                    claims.give_up(&name);
                    tracing::warn!(name, "the name is taken; trying another");
                    name = with_suffix(&wanted);
                }
                Refusal::TooOld(_) => return Err(Failure::refused(refusal)),
                Refusal::Failed(_) => return Err(Failure::unavailable(refusal)),
            }
        }
        Err(Failure::refused(anyhow!(
            "the name {wanted} is taken, and so are others like it; choose another RUNNER_NAME"
        )))
    }
}
