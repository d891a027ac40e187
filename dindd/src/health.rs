//! Whether containers can be started: the judgement, the questions to dockerd, and `dindd health`.
//!
//! Owns what "healthy" means. Containers can be started when
//! 1. the filter lets runc work, or runc was wrapped so that it does ([`crate::isolation`]),
//! 2. the data-root can hold overlay mounts ([`crate::overlay`]) and the cgroup can hold children
//!    ([`crate::cgroup`]); dindd does not get as far as dockerd otherwise, and
//! 3. dockerd answers, says that it uses what was prepared (storage driver, cgroup version), and
//!    goes on answering.
//!
//! [`Health`] is pure: an observation in, a state out.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::{API_DEFAULT_VERSION, Docker};
use init::exit_code;
use tracing::{debug, error, info};

use crate::report::Versions;

/// How many probes in a row dockerd may miss.
const MISSES: u32 = 3;
/// How often a dockerd that starts is asked.
const PAUSE: Duration = Duration::from_millis(3);
/// How long `dindd health` waits; ECS gives a health check five seconds unless told otherwise.
const HEALTH_PATIENCE: u64 = 4;
/// bollard's own limit is in whole seconds and only a net: every question here has a deadline.
const LONGEST_ANSWER: u64 = 3600;

/// What a probe found.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    Answered,
    Missed(String),
}

/// What the probes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    /// So many misses in a row; dockerd may be busy.
    Failing {
        misses: u32,
    },
    /// It hangs, and a job on it hangs too.
    Hanging {
        misses: u32,
    },
}

impl Health {
    pub(crate) fn after(self, probe: &Probe) -> Self {
        match (self, probe) {
            (_, Probe::Answered) => Self::Healthy,
            (Self::Healthy, Probe::Missed(_)) => Self::Failing { misses: 1 },
            (Self::Failing { misses } | Self::Hanging { misses }, Probe::Missed(_)) => {
                let misses = misses + 1;
                if misses < MISSES {
                    Self::Failing { misses }
                } else {
                    Self::Hanging { misses }
                }
            }
        }
    }
}

/// A dockerd that answers.
#[derive(Debug)]
pub(crate) struct Engine {
    client: Docker,
}

impl Engine {
    /// Waits until dockerd answers on its socket. It makes the socket early and answers late, so
    /// a connection alone says nothing.
    pub(crate) async fn answering(socket: &Path) -> Self {
        loop {
            match first_answer(socket).await {
                Ok(client) => return Self { client },
                Err(cause) => debug!("dockerd does not answer yet: {cause}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks whether it uses what was prepared for it, and what it is.
    ///
    /// # Errors
    /// When it uses something else: containers would be slow or could not be started.
    pub(crate) async fn verify(&self, storage_driver: &str) -> Result<Versions> {
        let (info, version) = tokio::join!(self.client.info(), self.client.version());
        let info = info.context("cannot ask dockerd for /info")?;
        let version = version.context("cannot ask dockerd for /version")?;
        if info.driver.as_deref() != Some(storage_driver) {
            bail!(
                "dockerd uses the storage driver {:?} instead of {storage_driver}",
                info.driver.unwrap_or_default()
            );
        }
        let cgroup_version = info.cgroup_version.map(|version| version.to_string());
        if cgroup_version.as_deref() != Some("2") {
            bail!("dockerd uses cgroup version {cgroup_version:?} instead of 2");
        }
        for warning in info.warnings.unwrap_or_default() {
            debug!("dockerd warns: {warning}");
        }
        let whole = serde_json::to_string(&version)?;
        Ok(Versions {
            docker: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            kernel: version.kernel_version.unwrap_or_default(),
            whole,
        })
    }

    /// The way to ask it anything.
    pub(crate) fn into_client(self) -> Docker {
        self.client
    }

    /// Asks once whether it still answers.
    pub(crate) async fn probe(&self, patience: Duration) -> Probe {
        match tokio::time::timeout(patience, self.client.ping()).await {
            Ok(Ok(_)) => Probe::Answered,
            Ok(Err(cause)) => Probe::Missed(cause.to_string()),
            Err(_) => Probe::Missed(format!("no answer in {patience:?}")),
        }
    }
}

async fn first_answer(socket: &Path) -> Result<Docker> {
    let path = socket.to_str().context("the socket's path is not UTF-8")?;
    let client = Docker::connect_with_unix(path, LONGEST_ANSWER, API_DEFAULT_VERSION)?;
    client.ping().await?;
    Ok(client)
}

/// Whether something answers there as Docker and dindd do, well or not.
pub(crate) async fn is_served(address: SocketAddr) -> bool {
    let url = format!("http://{address}");
    let Ok(client) = Docker::connect_with_http(&url, HEALTH_PATIENCE, API_DEFAULT_VERSION) else {
        return false;
    };
    match tokio::time::timeout(Duration::from_secs(HEALTH_PATIENCE), client.ping()).await {
        Ok(Ok(_)) => true,
        Ok(Err(cause)) => matches!(
            cause,
            bollard::errors::Error::DockerResponseServerError { .. }
        ),
        Err(_) => false,
    }
}

/// `dindd health`: asks a running dindd; the code to exit with.
pub(crate) async fn ask(address: SocketAddr) -> u8 {
    let asked = async {
        let url = format!("http://{address}");
        let client = Docker::connect_with_http(&url, HEALTH_PATIENCE, API_DEFAULT_VERSION)?;
        client.ping().await
    };
    match tokio::time::timeout(Duration::from_secs(HEALTH_PATIENCE), asked).await {
        Ok(Ok(_)) => {
            info!("healthy");
            exit_code::DONE
        }
        Ok(Err(cause @ bollard::errors::Error::DockerResponseServerError { .. })) => {
            error!("not healthy: {cause}");
            exit_code::UNEXPECTED
        }
        Ok(Err(cause)) => {
            let cause = anyhow::Error::from(cause);
            error!(
                "not healthy: nobody serves {address} (DINDD_HEALTH_ADDR): {}",
                cause.root_cause()
            );
            exit_code::UNEXPECTED
        }
        Err(_) => {
            error!("not healthy: {address} (DINDD_HEALTH_ADDR) does not answer");
            exit_code::UNEXPECTED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_misses_in_a_row_mean_that_dockerd_hangs_and_an_answer_forgets_them() {
        let missed = || Probe::Missed("no answer".into());
        let mut health = Health::Healthy;
        for (probe, expected) in [
            (missed(), Health::Failing { misses: 1 }),
            (missed(), Health::Failing { misses: 2 }),
            (Probe::Answered, Health::Healthy),
            (missed(), Health::Failing { misses: 1 }),
            (missed(), Health::Failing { misses: 2 }),
            (missed(), Health::Hanging { misses: 3 }),
            (missed(), Health::Hanging { misses: 4 }),
        ] {
            health = health.after(&probe);
            assert_eq!(health, expected);
        }
    }
}
