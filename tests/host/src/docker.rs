//! Interface to the host's `dockerd`: its command line, and when it answers.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

/// Address of docker0: under it containers reach processes of the host.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

/// Where dockerd writes its own log, inside the host.
pub(crate) const LOG: &str = "/var/log/dockerd.log";

/// The socket, inside the host.
pub(crate) const SOCKET: &str = "/run/docker.sock";

/// dockerd's command line. The address is fixed so that it is the same in every host; each has a
/// network namespace of its own.
pub(crate) const ARGUMENTS: [&str; 5] = [
    "--host=unix:///run/docker.sock",
    "--data-root=/var/lib/docker",
    "--exec-opt=native.cgroupdriver=cgroupfs",
    "--bip=172.17.0.1/16",
    "--pidfile=/run/docker.pid",
];

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether dockerd answers `GET /_ping` on `socket` (Docker Engine API, "System").
pub(crate) fn answers(socket: &Path) -> bool {
    ping(socket).is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn ping(socket: &Path) -> Result<[u8; 12]> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(status)
}
