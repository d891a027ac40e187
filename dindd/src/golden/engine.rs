//! The dockerd of a build: it unpacks images and runs no container.
//!
//! Owns its command line and the conversation with it. It lives where a task's dockerd lives
//! ([`crate::nest`]), so it cannot meet another dockerd of the machine, except for `docker0`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder};
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Bytes;
use init::{Children, Deadline};
use tracing::info;

use crate::config::{Mirror, Settings};
use crate::data_root::DataRoot;
use crate::health;
use crate::inside::Plan;
use crate::mounts::{DATA_ROOT, EXEC_ROOT, RootMount, View};
use crate::nest::Nest;
use crate::{dockerd, runc};

/// Its socket, below the exec-root.
const SOCKET: &str = "golden.sock";
/// How long it may take to put everything in order.
const STOP: Duration = Duration::from_secs(120);
/// How much of an archive is read at once.
const CHUNK: usize = 1 << 20;

/// A dockerd that answers.
#[derive(Debug)]
pub(super) struct Engine {
    nest: Nest,
    client: Docker,
    version: String,
    /// The way to its socket leads through it.
    _exec: File,
}

impl Engine {
    /// Starts it on `root`, below whose data-root `mounts` are made.
    pub(super) async fn start(
        children: &Children,
        root: &DataRoot,
        settings: &Settings,
        (mirrors, golden): (&[Mirror], Vec<::golden::Mount>),
    ) -> Result<Self> {
        let plan = Plan {
            view: View {
                storage: root.storage().to_owned(),
                data: root.data(),
                exec: root.exec(),
                changes: None,
                socket: root.exec(),
                root: RootMount::Shared,
                remapped: false,
                golden,
                store: None,
            },
            dockerd: arguments(settings, mirrors),
            path: init::settings::Environment::of_process()
                .get("PATH")
                .unwrap_or(runc::DEFAULT_PATH)
                .to_owned(),
            quota: false,
            log_json: false,
            // That a build's directory is no mount of its own harms nobody.
            log_level: "error".into(),
        };
        let mut nest = Nest::start(children, &plan, io::sink())?;
        // The path through the descriptor is short enough for a socket, wherever the store is.
        let exec = File::open(root.exec()).context("cannot open the exec-root")?;
        let socket = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", exec.as_raw_fd()));
        let answering =
            Deadline::within(settings.start_timeout).bound(health::Engine::answering(&socket));
        let answering = tokio::select! {
            biased;
            exit = nest.ended() => {
                bail!("dockerd ended with {exit}; its last lines: {}", nest.last_lines().await)
            }
            answering = answering => answering,
        };
        let Some(answering) = answering else {
            bail!(
                "dockerd does not answer; its last lines: {}",
                nest.last_lines().await
            );
        };
        let client = answering.into_client();
        let version = client
            .version()
            .await
            .context("cannot ask dockerd for /version")?;
        let version = version.version.unwrap_or_default();
        info!("dockerd {version} unpacks");
        Ok(Self {
            nest,
            client,
            version,
            _exec: exec,
        })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Pulls an image.
    pub(super) async fn pull(&mut self, reference: &str) -> Result<()> {
        let name = ::golden::familiar(reference);
        let options = CreateImageOptionsBuilder::default()
            .from_image(&name)
            .build();
        let mut told = self.client.create_image(Some(options), None, None);
        while let Some(line) = told.next().await {
            line.with_context(|| format!("cannot pull {reference}"))?;
        }
        Ok(())
    }

    /// Loads an archive; the references, or ids where there are none, of its images.
    pub(super) async fn load(&mut self, archive: &Path) -> Result<Vec<String>> {
        let file =
            File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let mut told = self.client.import_image_stream(options, chunks(file), None);
        let mut loaded = Vec::new();
        while let Some(line) = told.next().await {
            let line = line.with_context(|| format!("cannot load {}", archive.display()))?;
            let text = line.stream.unwrap_or_default();
            loaded.extend(text.lines().filter_map(loaded_image));
        }
        Ok(loaded)
    }

    /// Ends it in order: what it has unpacked is whole then.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.nest.stop(Deadline::within(STOP), || true).await;
        let exit = self.nest.ended().await;
        if !exit.is_success() {
            bail!(
                "dockerd ended with {exit}; its last lines: {}",
                self.nest.last_lines().await
            );
        }
        Ok(())
    }
}

/// `Loaded image: debian:13`, or `Loaded image ID: sha256:…`.
fn loaded_image(line: &str) -> Option<String> {
    let rest = line.strip_prefix("Loaded image")?;
    let (_, image) = rest.split_once(": ")?;
    Some(image.trim().to_owned())
}

fn chunks(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(file, |mut file| async {
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(Bytes::from(chunk)), file))
            }
            Err(cause) => Some((Err(cause), file)),
        }
    })
}

fn arguments(settings: &Settings, mirrors: &[Mirror]) -> Vec<String> {
    let mut argv: Vec<String> = vec![
        dockerd::PROGRAM.into(),
        format!("--data-root={DATA_ROOT}"),
        format!("--exec-root={EXEC_ROOT}"),
        format!("--pidfile={EXEC_ROOT}/docker.pid"),
        format!("--host=unix://{EXEC_ROOT}/{SOCKET}"),
        format!("--storage-driver={}", ::golden::STORAGE_DRIVER),
        "--exec-opt=native.cgroupdriver=cgroupfs".into(),
        "--iptables=false".into(),
        "--ip-forward=false".into(),
        "--ip-masq=false".into(),
    ];
    // A dockerd without a bridge removes docker0, which may be another dockerd's (moby
    // daemon/daemon_unix.go, removeDefaultBridgeInterface); one that finds docker0 leaves it alone.
    if !Path::new("/sys/class/net/docker0").exists() {
        argv.push("--bridge=none".into());
    }
    argv.extend(
        mirrors
            .iter()
            .map(|mirror| format!("--registry-mirror={}", mirror.url)),
    );
    argv.extend(settings.engine.arguments.iter().cloned());
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_is_read_from_what_dockerd_says() {
        for (line, image) in [
            ("Loaded image: debian:13", Some("debian:13")),
            ("Loaded image ID: sha256:00", Some("sha256:00")),
            ("Loading layer", None),
        ] {
            assert_eq!(loaded_image(line).as_deref(), image);
        }
    }
}
