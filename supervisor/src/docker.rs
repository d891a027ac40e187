//! The Docker sidecar: waiting until it answers, what it sees of our files, and the group of its
//! socket.
//!
//! A socket that exists is no daemon that works: only an answer counts.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
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
    let version = connect(address)?.version().await.context("no answer")?;
    Ok(version.version.unwrap_or_else(|| "unknown".to_owned()))
}

fn connect(address: &DockerAddress) -> anyhow::Result<Connection> {
    let seconds = ONE_ANSWER.as_secs();
    match address {
        DockerAddress::Socket(path) => {
            Connection::connect_with_unix(&path.to_string_lossy(), seconds, API_DEFAULT_VERSION)
        }
        DockerAddress::Tcp(address) => {
            Connection::connect_with_http(address, seconds, API_DEFAULT_VERSION)
        }
    }
    .context("cannot connect")
}

/// Those of `files` that are not where the daemon looks for bind mounts, in its own container.
///
/// Nothing is made: the daemon looks whether the sources of the mounts of a container exist before
/// it looks for the image (moby `daemon/create.go`, `volume/mounts/linux_parser.go`), and names the
/// first that does not. The last mount's source is nowhere, so the image is never looked for, and
/// one that is not the daemon's business would show.
///
/// # Errors
/// When the daemon answers anything else.
pub(crate) async fn unseen(
    address: &DockerAddress,
    files: &[&Path],
) -> anyhow::Result<Vec<PathBuf>> {
    let connection = connect(address)?;
    let nonce: u128 = rand::random();
    let nowhere = PathBuf::from(format!("/nowhere-{nonce:032x}"));
    let mut seen = files.to_vec();
    let mut unseen = Vec::new();
    // Each answer but the last takes one file away.
    for _ in 0..=files.len() {
        let sources = seen.iter().copied().chain([nowhere.as_path()]);
        let message = mistake_in(&connection, sources.collect(), nonce).await?;
        let names = |path: &Path| message.ends_with(&format!(": {}", path.display()));
        if names(&nowhere) {
            return Ok(unseen);
        }
        let Some(place) = seen.iter().position(|path| names(path)) else {
            bail!("it says {message:?}");
        };
        unseen.push(seen.remove(place).to_owned());
    }
    bail!("it names a file that it was not asked about");
}

/// What the daemon has against a container with these mounts.
async fn mistake_in(
    connection: &Connection,
    sources: Vec<&Path>,
    nonce: u128,
) -> anyhow::Result<String> {
    let mount = |(number, source): (usize, &Path)| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(format!("/{number}")),
        read_only: Some(true),
        ..Mount::default()
    };
    let body = ContainerCreateBody {
        image: Some(format!("supervisor-looks-at-mounts:{nonce:032x}")),
        host_config: Some(HostConfig {
            mounts: Some(sources.into_iter().enumerate().map(mount).collect()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    match connection.create_container(None, body).await {
        Err(Error::DockerResponseServerError {
            status_code: 400,
            message,
        }) => Ok(message),
        Err(error) => Err(error.into()),
        Ok(made) => bail!("it made the container {} of no image", made.id),
    }
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
