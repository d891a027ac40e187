//! Settings: every one of them, once, with its meaning, its default and what is wrong with it.
//!
//! Owns the table that `--help` and the README show, and turns text into plain data that the
//! other modules consume. After this file no string from outside is compared any more.

mod values;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use init::settings::{Environment, Given, Mistakes, Setting};

use values::{AbsolutePath, Driver, LogOptions, Mirrors, Mtu, OffOn, Seconds, Size, Switch};
pub(crate) use values::{AddressPool, AddressPools, Log, Mirror, Tcp};

/// Every setting of dindd, in the order in which `--help` and the README list them.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "DINDD_STORAGE",
        "storage",
        "DIR",
        Some("/var/docker-storage"),
        "The storage volume: XFS with ftype=1 on a device of its own.",
    ),
    setting(
        "DINDD_ALLOW_ANY_FS",
        "allow-any-fs",
        "0|1",
        Some("0"),
        "Take any directory as the storage volume.",
    ),
    setting(
        "DINDD_SOCKET",
        "socket",
        "PATH",
        Some("/run/dind/docker.sock"),
        "dockerd's socket on the shared volume; /var/run/docker.sock exists besides.",
    ),
    setting(
        "DINDD_SOCKET_GID",
        "socket-gid",
        "GID",
        Some("123"),
        "The group that may use the sockets.",
    ),
    setting(
        "DINDD_HEALTH_ADDR",
        "health-addr",
        "ADDR:PORT",
        Some("127.0.0.1:2375"),
        "Where /_ping, /version, /healthz and /metrics are served.",
    ),
    setting(
        "DINDD_TCP",
        "tcp",
        "health|full",
        Some("health"),
        "Whether that address serves health only, or is dockerd's whole API: root for whoever \
         reaches it.",
    ),
    setting(
        "DINDD_REGISTRY_MIRRORS",
        "registry-mirrors",
        "URL,…",
        None,
        "Mirrors of Docker Hub; those that do not answer at start are left out.",
    ),
    setting(
        "DINDD_LOG_DRIVER",
        "log-driver",
        "NAME",
        Some("json-file"),
        "The log driver of containers.",
    ),
    setting(
        "DINDD_LOG_OPTS",
        "log-opts",
        "K=V,…",
        None,
        "Its options; json-file rotates at max-size=10m,max-file=3 when none are given.",
    ),
    setting(
        "DINDD_USERNS",
        "userns",
        "off|on",
        Some("off"),
        "Whether root in a container is an unprivileged user outside of it; needs SYS_PTRACE.",
    ),
    setting(
        "DINDD_QUOTA",
        "quota",
        "SIZE",
        None,
        "What the data-root may hold, for example 60G; the volume must be mounted with prjquota.",
    ),
    setting(
        "DINDD_PIDS_LIMIT",
        "pids-limit",
        "NUMBER",
        None,
        "How many processes a job's containers may have; three quarters of the sidecar's own limit \
         when not given.",
    ),
    setting(
        "DINDD_GOLDEN",
        "golden",
        "DIR",
        None,
        "The golden image store, whose images every task has from its start.",
    ),
    setting(
        "DINDD_MTU",
        "mtu",
        "BYTES",
        None,
        "MTU of the default bridge and of user networks; on engines before 24.0, of the latter's TCP.",
    ),
    setting(
        "DINDD_ADDRESS_POOLS",
        "address-pools",
        "BASE/LEN:SIZE,…",
        None,
        "Where networks get their addresses, for example 10.200.0.0/16:24.",
    ),
    setting(
        "DINDD_DOCKERD_ARGS",
        "dockerd-args",
        "ARGS",
        None,
        "Further arguments of dockerd, separated by spaces; they come last and win.",
    ),
    setting(
        "DINDD_START_TIMEOUT",
        "start-timeout",
        "SECONDS",
        Some("120"),
        "How long dockerd may take until containers can be started.",
    ),
    setting(
        "DINDD_STOP_TIMEOUT",
        "stop-timeout",
        "SECONDS",
        Some("30"),
        "The task definition's stopTimeout; dindd is done a second before it is over.",
    ),
    setting(
        "DINDD_HEALTH_INTERVAL",
        "health-interval",
        "SECONDS",
        Some("2"),
        "How often dockerd is asked, and how long an answer may take.",
    ),
    setting(
        "DINDD_CGROUP",
        "cgroup",
        "DIR",
        Some("/sys/fs/cgroup"),
        "Where the container's cgroup v2 is mounted.",
    ),
    setting(
        "LOG_FORMAT",
        "log-format",
        "text|json",
        None,
        "How dindd's own log is written; text by default on a terminal, else json.",
    ),
    setting(
        "LOG_LEVEL",
        "log-level",
        "LEVEL",
        Some("info"),
        "error, warn, info, debug or trace.",
    ),
];

const fn setting(
    name: &'static str,
    flag: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        flag,
        aliases: &[],
        default,
        secret: false,
        value,
        help,
    }
}

/// What was asked for, valid and complete.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) storage: PathBuf,
    /// Take storage that is not XFS on a device of its own.
    pub(crate) allow_any_fs: bool,
    pub(crate) health_addr: SocketAddr,
    pub(crate) engine: Engine,
    /// What the data-root may hold, in bytes.
    pub(crate) quota: Option<u64>,
    /// How many processes and threads the containers may have together.
    pub(crate) pids: Option<NonZero<u32>>,
    /// The directory of the golden image store.
    pub(crate) golden: Option<PathBuf>,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) health_interval: Duration,
    pub(crate) cgroup: PathBuf,
    pub(crate) log: Log,
}

/// What dockerd is told.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) socket: PathBuf,
    pub(crate) socket_gid: u32,
    pub(crate) tcp: Tcp,
    /// Whether root in a container is somebody else outside.
    pub(crate) remapped: bool,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) log_driver: String,
    pub(crate) log_options: Vec<(String, String)>,
    pub(crate) mtu: Option<u32>,
    pub(crate) address_pools: Vec<AddressPool>,
    pub(crate) arguments: Vec<String>,
}

/// The longest path that fits into a socket address (`sun_path` of unix(7), with its end).
const LONGEST_SOCKET_PATH: usize = 107;

impl Settings {
    /// Reads every setting from flags and environment.
    ///
    /// # Errors
    /// All mistakes at once, each with its remedy.
    pub(crate) fn read(flags: &ArgMatches, environment: &Environment) -> Result<Self, Mistakes> {
        let mut given = Given::new(SETTINGS, flags, environment, (&["DINDD_"], &[]));
        let storage = given.parsed::<AbsolutePath>("DINDD_STORAGE");
        let allow_any_fs = given.parsed::<Switch>("DINDD_ALLOW_ANY_FS");
        let health_addr = given.parsed("DINDD_HEALTH_ADDR");
        let engine = read_engine(&mut given);
        let quota = given.parsed::<Size>("DINDD_QUOTA");
        let pids = given.parsed("DINDD_PIDS_LIMIT");
        let golden = given.parsed::<AbsolutePath>("DINDD_GOLDEN");
        let mut seconds = |name| given.parsed::<Seconds>(name).map(|seconds| seconds.0);
        let start_timeout = seconds("DINDD_START_TIMEOUT");
        let stop_timeout = seconds("DINDD_STOP_TIMEOUT");
        let health_interval = seconds("DINDD_HEALTH_INTERVAL");
        let cgroup = given.parsed::<AbsolutePath>("DINDD_CGROUP");
        let log = read_log(&mut given);
        given.finish()?;
        // Every setting below has a default, so a missing one is a mistake that was just reported.
        let complete = || {
            Some(Self {
                storage: storage?.0,
                allow_any_fs: allow_any_fs?.0,
                health_addr: health_addr?,
                engine: engine?,
                quota: quota.map(|size| size.0),
                pids,
                golden: golden.map(|golden| golden.0),
                start_timeout: start_timeout?,
                stop_timeout: stop_timeout?,
                health_interval: health_interval?,
                cgroup: cgroup?.0,
                log: log?,
            })
        };
        complete().ok_or_else(Mistakes::default)
    }
}

fn read_engine(given: &mut Given<'_>) -> Option<Engine> {
    let socket = given.parsed::<AbsolutePath>("DINDD_SOCKET");
    if let Some(AbsolutePath(path)) = &socket
        && path.as_os_str().len() > LONGEST_SOCKET_PATH
    {
        let remedy = format!(
            "the path has {} bytes; a socket's path may have {LONGEST_SOCKET_PATH}: choose a \
             shorter one",
            path.as_os_str().len()
        );
        given.mistake("DINDD_SOCKET", &remedy);
    }
    let socket_gid = given.parsed("DINDD_SOCKET_GID");
    let tcp = given.parsed("DINDD_TCP");
    let remapped = given.parsed::<OffOn>("DINDD_USERNS");
    let mirrors = given.parsed::<Mirrors>("DINDD_REGISTRY_MIRRORS");
    let log_driver = given.parsed::<Driver>("DINDD_LOG_DRIVER");
    let log_options = given.parsed::<LogOptions>("DINDD_LOG_OPTS");
    let mtu = given.parsed::<Mtu>("DINDD_MTU");
    let address_pools = given.parsed::<AddressPools>("DINDD_ADDRESS_POOLS");
    let arguments = given.text("DINDD_DOCKERD_ARGS").unwrap_or_default();
    Some(Engine {
        socket: socket?.0,
        socket_gid: socket_gid?,
        tcp: tcp?,
        remapped: remapped?.0,
        mirrors: mirrors.map_or_else(Vec::new, |mirrors| mirrors.0),
        log_driver: log_driver?.0,
        log_options: log_options.map_or_else(Vec::new, |options| options.0),
        mtu: mtu.map(|mtu| mtu.0),
        address_pools: address_pools.map_or_else(Vec::new, |pools| pools.0),
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
    })
}

fn read_log(given: &mut Given<'_>) -> Option<Log> {
    let format = given.parsed("LOG_FORMAT");
    let level = given.parsed::<values::Level>("LOG_LEVEL")?.0;
    Some(Log { format, level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings, String> {
        let command = init::settings::with_flags(clap::Command::new("dindd"), SETTINGS);
        let flags = command
            .try_get_matches_from(std::iter::once(&"dindd").chain(arguments))
            .unwrap();
        let environment = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        Settings::read(&flags, &environment).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn nothing_need_be_given() {
        let settings = read(&[], &[]).unwrap();
        assert_eq!(settings.storage, PathBuf::from("/var/docker-storage"));
        assert_eq!(settings.engine.socket_gid, 123);
        assert_eq!(settings.health_addr.to_string(), "127.0.0.1:2375");
        assert_eq!(settings.stop_timeout, Duration::from_secs(30));
    }

    #[test]
    fn every_mistake_is_named_with_its_remedy_in_one_message() {
        let long = format!("/{}", "x".repeat(107));
        let message = read(
            &["--storage", "relative", "--socket", &long],
            &[
                ("DINDD_STORGE", "/x"),
                ("DINDD_HEALTH_ADDR", "2375"),
                ("DINDD_TCP", "yes"),
                ("DINDD_REGISTRY_MIRRORS", "mirror:5000"),
                ("DINDD_LOG_OPTS", "tag"),
                ("DINDD_USERNS", "perhaps"),
                ("DINDD_QUOTA", "60X"),
                ("DINDD_PIDS_LIMIT", "0"),
                ("DINDD_STOP_TIMEOUT", "-1"),
                ("DINDD_MTU", "12"),
                ("LOG_LEVEL", "loud=="),
            ],
        )
        .unwrap_err();
        assert!(message.starts_with("13 wrong settings"), "{message}");
        for part in [
            "DINDD_STORGE: no such setting; did you mean DINDD_STORAGE?",
            "DINDD_STORAGE: \"relative\" is not valid; it must be an absolute path",
            "DINDD_SOCKET: the path has 108 bytes",
            "DINDD_HEALTH_ADDR",
            "DINDD_TCP: \"yes\" is not valid; it must be health or full",
            "DINDD_REGISTRY_MIRRORS",
            "DINDD_LOG_OPTS",
            "DINDD_USERNS",
            "DINDD_QUOTA",
            "DINDD_PIDS_LIMIT",
            "DINDD_STOP_TIMEOUT",
            "DINDD_MTU",
            "LOG_LEVEL",
        ] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
    }

    #[test]
    fn the_readme_lists_every_setting_with_its_default_and_no_other() {
        let readme = include_str!("../README.md");
        let rows: Vec<&str> = readme
            .lines()
            .filter(|line| line.starts_with("| `DINDD_") || line.starts_with("| `LOG_"))
            .collect();
        let expected: Vec<String> = SETTINGS
            .iter()
            .map(|setting| {
                let default = setting
                    .default
                    .map_or("–".into(), |value| format!("`{value}`"));
                format!("| `{}` | {default} | {} |", setting.name, setting.help)
            })
            .collect();
        assert_eq!(rows, expected, "the table in dindd/README.md");
    }
}
