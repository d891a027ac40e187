//! The Docker sidecar: waiting until it answers, and the group of its socket.
//!
//! A socket that exists is no daemon that works: only an answer counts.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bollard::{API_DEFAULT_VERSION, Docker as Connection};
use init::Deadline;
use nix::unistd::Gid;

use crate::config::{Docker, DockerAddress};

/// Where the runner binds the socket from into job containers, whatever `DOCKER_HOST` says
/// (actions/runner `ContainerOperationProvider.cs`).
const USUAL_SOCKET: &str = "/var/run/docker.sock";
/// A daemon that accepts a connection and is silent gets this long.
const ONE_ANSWER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Asks until the daemon answers; its version.
pub(crate) async fn wait(docker: &Docker) -> anyhow::Result<String> {
    let deadline = Deadline::within(docker.wait);
    loop {
        let error = match deadline
            .at_most(ONE_ANSWER)
            .bound(ask(&docker.address))
            .await
        {
            Some(Ok(version)) => return Ok(version),
            Some(Err(error)) => error,
            None => anyhow::anyhow!("it accepts connections and does not answer"),
        };
        tracing::debug!(error = format!("{error:#}"), "Docker does not answer yet");
        if deadline.remaining() <= PAUSE {
            return Err(error).with_context(|| {
                format!(
                    "Docker at {} did not answer within {} s; look at the sidecar's log, share its socket's directory with this container, or raise WAIT_FOR_DOCKER",
                    docker.address,
                    docker.wait.as_secs()
                )
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks once; the daemon's version.
pub(crate) async fn ask(address: &DockerAddress) -> anyhow::Result<String> {
    let seconds = ONE_ANSWER.as_secs();
    let connection = match address {
        DockerAddress::Socket(path) => {
            Connection::connect_with_unix(&path.to_string_lossy(), seconds, API_DEFAULT_VERSION)
        }
        DockerAddress::Tcp(address) => {
            Connection::connect_with_http(address, seconds, API_DEFAULT_VERSION)
        }
    }
    .context("cannot connect")?;
    let version = connection.version().await.context("no answer")?;
    Ok(version.version.unwrap_or_else(|| "unknown".to_owned()))
}

/// The groups that may use the daemon's sockets: the runner's user joins them.
pub(crate) fn socket_groups(docker: Option<&Docker>) -> Vec<Gid> {
    let own = match docker.map(|docker| &docker.address) {
        Some(DockerAddress::Socket(path)) => Some(path.as_path()),
        Some(DockerAddress::Tcp(_)) | None => None,
    };
    let mut groups: Vec<Gid> = [own, Some(Path::new(USUAL_SOCKET))]
        .into_iter()
        .flatten()
        .filter_map(socket_group)
        .collect();
    groups.dedup();
    groups
}

/// Group 0 is left out: being in root's group is more than using Docker.
fn socket_group(path: &Path) -> Option<Gid> {
    let meta = fs::metadata(path).ok()?;
    let group = Gid::from_raw(meta.gid());
    (meta.file_type().is_socket() && group.as_raw() != 0).then_some(group)
}
