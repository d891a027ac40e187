//! Interface to `dockerd`: its command line.
//!
//! Owns which flag says what, for engines from 20.10 on; flags that a version lacks are not
//! passed. Facts: docker/cli `docs/reference/dockerd.md` and moby `cmd/dockerd` of those versions.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use init::{Children, Deadline};

use crate::config::{Engine, Mirror, Tcp};
use crate::mounts::{DATA_ROOT, EXEC_ROOT};

/// The program, looked for in `PATH`.
pub(crate) const PROGRAM: &str = "dockerd";

/// The socket that job containers bind, always by this path.
pub(crate) const STANDARD_SOCKET: &str = "/var/run/docker.sock";

/// The first engine whose user networks can be told an MTU by a flag of dockerd.
const WITH_NETWORK_OPTIONS: u32 = 24;

/// How long a log target may take to accept a connection.
const LOG_TARGET_PATIENCE: Duration = Duration::from_secs(2);

/// How long `dockerd --version` may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What differs from start to start.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) engine: &'a Engine,
    /// Where a TCP host would listen.
    pub(crate) address: SocketAddr,
    /// The mirrors that answer.
    pub(crate) mirrors: &'a [Mirror],
    pub(crate) storage_driver: &'a str,
    /// The major version, if a flag depends on it.
    pub(crate) version: Option<u32>,
    /// How long containers have to stop.
    pub(crate) shutdown: Duration,
}

impl Start<'_> {
    /// Program and arguments.
    pub(crate) fn argv(&self) -> Vec<String> {
        let engine = self.engine;
        let mut argv = vec![PROGRAM.to_owned()];
        let mut flag = |name: &str, value: &str| argv.push(format!("--{name}={value}"));
        flag("data-root", DATA_ROOT);
        flag("exec-root", EXEC_ROOT);
        flag("pidfile", &format!("{EXEC_ROOT}/docker.pid"));
        flag("storage-driver", self.storage_driver);
        flag("exec-opt", "native.cgroupdriver=cgroupfs");
        flag("default-cgroupns-mode", "private");
        flag("no-new-privileges", "true");
        if engine.remapped {
            // dockerd makes the user and its ranges when the image has them not.
            flag("userns-remap", "default");
        }
        flag("host", &format!("unix://{}", engine.socket.display()));
        if engine.socket != Path::new(STANDARD_SOCKET) {
            flag("host", &format!("unix://{STANDARD_SOCKET}"));
        }
        if engine.tcp == Tcp::Full {
            flag("host", &format!("tcp://{}", self.address));
            // Said explicitly, it costs one second of start-up instead of sixteen
            // (moby cmd/dockerd/daemon.go, loadListeners).
            flag("tls", "false");
        }
        flag("group", &engine.socket_gid.to_string());
        flag(
            "shutdown-timeout",
            &self.shutdown.as_secs().max(1).to_string(),
        );
        for mirror in self.mirrors {
            flag("registry-mirror", &mirror.url);
        }
        flag("log-driver", &engine.log_driver);
        for (key, value) in log_options(engine) {
            flag("log-opt", &format!("{key}={value}"));
        }
        if let Some(mtu) = engine.mtu {
            flag("mtu", &mtu.to_string());
            if self.version.is_some_and(has_network_options) {
                let option = format!("bridge=com.docker.network.driver.mtu={mtu}");
                flag("default-network-opt", &option);
            }
        }
        for pool in &engine.address_pools {
            flag(
                "default-address-pool",
                &format!("base={},size={}", pool.base, pool.size),
            );
        }
        argv.extend(engine.arguments.iter().cloned());
        argv
    }
}

/// The options given, or rotation where nothing was said: a chatty job must not fill the volume.
fn log_options(engine: &Engine) -> Vec<(String, String)> {
    if engine.log_options.is_empty() && engine.log_driver == "json-file" {
        let rotation = [("max-size", "10m"), ("max-file", "3")];
        return rotation
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    }
    engine.log_options.clone()
}

/// Refuses a log target on which nobody listens. For a unix socket that is missing dockerd fails
/// when it starts, with less to go on (moby `daemon/logger/syslog`, `parseAddress`); for one without
/// a listener, and for TCP, every container fails. UDP never does.
///
/// # Errors
/// Names the target and the setting.
pub(crate) fn require_log_target(engine: &Engine) -> Result<()> {
    let targets = engine.log_options.iter();
    for (key, value) in targets.filter(|(key, _)| key.ends_with("-address")) {
        let Some((scheme, target)) = value.split_once("://") else {
            continue;
        };
        let connected = match scheme {
            "unix" => UnixStream::connect(target).map(drop),
            "unixgram" => UnixDatagram::unbound().and_then(|socket| socket.connect(target)),
            "tcp" | "tcp+tls" => connect(target),
            _ => continue,
        };
        let Err(cause) = connected else {
            continue;
        };
        match scheme {
            "tcp" | "tcp+tls" => bail!(
                "the log target {value} does not answer ({cause}); start it first, or change \
                 DINDD_LOG_OPTS ({key})"
            ),
            _ => bail!(
                "nobody listens on the log target {target} ({cause}); mount the directory of that \
                 socket into this container and start its owner first, or change DINDD_LOG_OPTS \
                 ({key})"
            ),
        }
    }
    Ok(())
}

fn connect(target: &str) -> std::io::Result<()> {
    let mut addresses = target.to_socket_addrs()?;
    let nobody = || std::io::Error::other("it has no address");
    let address = addresses.next().ok_or_else(nobody)?;
    TcpStream::connect_timeout(&address, LOG_TARGET_PATIENCE).map(drop)
}

/// Whether an engine of this major version gives user networks the MTU that it is told.
pub(crate) fn has_network_options(version: u32) -> bool {
    version >= WITH_NETWORK_OPTIONS
}

/// The engine's major version.
///
/// # Errors
/// When dockerd is not there or says something else.
pub(crate) async fn major_version(children: &Children) -> Result<u32> {
    let mut command = Command::new(PROGRAM);
    command.arg("--version");
    let captured = children
        .run(&mut command, Deadline::within(PATIENCE))
        .await?;
    let told = captured.checked()?;
    let told = String::from_utf8_lossy(&told);
    parse_major(&told).with_context(|| format!("dockerd --version said \"{}\"", told.trim()))
}

/// `Docker version 28.5.2+dfsg1, build …`.
fn parse_major(told: &str) -> Option<u32> {
    let version = told
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine {
            socket: "/run/dind/docker.sock".into(),
            socket_gid: 123,
            tcp: Tcp::Health,
            remapped: false,
            mirrors: Vec::new(),
            log_driver: "json-file".into(),
            log_options: Vec::new(),
            mtu: None,
            address_pools: Vec::new(),
            arguments: Vec::new(),
        }
    }

    fn argv(engine: &Engine, version: Option<u32>) -> String {
        let start = Start {
            engine,
            address: "127.0.0.1:2375".parse().unwrap(),
            mirrors: &engine.mirrors,
            storage_driver: "overlay2",
            version,
            shutdown: Duration::from_secs(20),
        };
        start.argv().join(" ")
    }

    #[test]
    fn the_plain_command_line_listens_on_unix_sockets_only() {
        assert_eq!(
            argv(&engine(), None),
            "dockerd --data-root=/var/lib/docker --exec-root=/run/docker \
             --pidfile=/run/docker/docker.pid --storage-driver=overlay2 \
             --exec-opt=native.cgroupdriver=cgroupfs --default-cgroupns-mode=private \
             --no-new-privileges=true --host=unix:///run/dind/docker.sock \
             --host=unix:///var/run/docker.sock --group=123 --shutdown-timeout=20 \
             --log-driver=json-file --log-opt=max-size=10m --log-opt=max-file=3"
        );
    }

    #[test]
    fn every_setting_of_the_engine_is_passed_on() {
        let engine = Engine {
            socket: STANDARD_SOCKET.into(),
            tcp: Tcp::Full,
            remapped: true,
            mirrors: vec!["http://mirror:5000".parse().unwrap()],
            log_driver: "syslog".into(),
            log_options: vec![("syslog-address".into(), "udp://127.0.0.1:5140".into())],
            mtu: Some(1400),
            address_pools: "10.1.0.0/16:24"
                .parse::<crate::config::AddressPools>()
                .unwrap()
                .0,
            arguments: vec!["--debug".into()],
            ..engine()
        };
        let modern = argv(&engine, Some(24));
        for part in [
            "--host=unix:///var/run/docker.sock --host=tcp://127.0.0.1:2375 --tls=false",
            "--registry-mirror=http://mirror:5000",
            "--userns-remap=default",
            "--log-driver=syslog --log-opt=syslog-address=udp://127.0.0.1:5140 --mtu=1400",
            "--default-network-opt=bridge=com.docker.network.driver.mtu=1400",
            "--default-address-pool=base=10.1.0.0/16,size=24 --debug",
        ] {
            assert!(modern.contains(part), "{part} is missing in {modern}");
        }
        assert!(!argv(&engine, Some(23)).contains("default-network-opt"));
    }

    #[test]
    fn the_major_version_is_read_from_what_engines_print() {
        for (told, major) in [
            ("Docker version 20.10.24+dfsg1, build 297e128\n", Some(20)),
            ("Docker version 28.5.2, build ecc6942\n", Some(28)),
            ("dockerd\n", None),
        ] {
            assert_eq!(parse_major(told), major, "{told}");
        }
    }

    #[test]
    fn a_log_target_without_a_listener_is_named_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let datagrams = folder.path().join("datagrams");
        let _datagrams = UnixDatagram::bind(&datagrams).unwrap();
        let stale = folder.path().join("stale");
        drop(UnixDatagram::bind(&stale).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for (value, good) in [
            ("udp://127.0.0.1:1".to_owned(), true),
            (format!("unixgram://{}", datagrams.display()), true),
            (format!("unixgram://{}", stale.display()), false),
            (format!("unix://{}", datagrams.display()), false),
            ("unixgram:///nowhere/log".to_owned(), false),
            (format!("tcp://127.0.0.1:{port}"), true),
            ("tcp://127.0.0.1:1".to_owned(), false),
        ] {
            let engine = Engine {
                log_options: vec![("syslog-address".into(), value.clone())],
                ..engine()
            };
            let found = require_log_target(&engine);
            assert_eq!(found.is_ok(), good, "{value}: {found:?}");
            if let Err(error) = found {
                let text = error.to_string();
                assert!(text.contains("DINDD_LOG_OPTS (syslog-address)"), "{text}");
            }
        }
    }
}
