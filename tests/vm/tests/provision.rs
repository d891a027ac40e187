//! What provisioning lays down, and the small programs of a host: no root, no network.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers fail by panicking, and start what they test"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;
use vm::checkout;

/// Provisions a tree with some steps.
fn provision(root: &Path, steps: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(checkout("ami/provision/provision"))
        .args(steps)
        .env("ROOT", root)
        .env("DINDD", "/bin/true")
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

fn provisioned() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let done = provision(root.path(), &["files"], &[]);
    assert!(done.status.success(), "{done:?}");
    root
}

fn text(root: &TempDir, path: &str) -> String {
    std::fs::read_to_string(root.path().join(path)).unwrap()
}

/// The settings of a file of `NAME=value` lines.
fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once('=').unwrap())
        .collect()
}

/// dockerd's configuration: the keys that its documentation has for what we set. An unknown key
/// would keep dockerd from starting.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Daemon {
    storage_driver: String,
    exec_opts: Vec<String>,
    default_cgroupns_mode: String,
    seccomp_profile: String,
    registry_mirrors: Vec<String>,
    log_driver: String,
    log_opts: BTreeMap<String, String>,
    max_concurrent_downloads: u32,
    default_address_pools: Vec<AddressPool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressPool {
    base: String,
    size: u8,
}

#[test]
fn the_hosts_docker_is_configured_for_nested_containers() {
    let root = provisioned();
    let daemon: Daemon = serde_json::from_str(&text(&root, "etc/docker/daemon.json")).unwrap();
    assert_eq!(daemon.storage_driver, "overlay2");
    assert_eq!(daemon.exec_opts, ["native.cgroupdriver=systemd"]);
    assert_eq!(daemon.default_cgroupns_mode, "private");
    assert_eq!(daemon.log_driver, "local");
    assert!(daemon.log_opts.contains_key("max-size"));
    assert!(daemon.registry_mirrors.is_empty());
    assert!(daemon.max_concurrent_downloads > 3);
    let pool = &daemon.default_address_pools[0];
    assert!(pool.base.ends_with("/16") && pool.size == 24);
    // The profile is where the configuration says, and it is the one that the images are made for.
    let profile = text(&root, daemon.seccomp_profile.trim_start_matches('/'));
    assert_eq!(
        profile,
        std::fs::read_to_string(checkout("images/dind/seccomp.json")).unwrap()
    );
}

#[test]
fn mirrors_that_are_asked_for_are_in_the_configuration_and_nothing_else_changes() {
    let root = provisioned();
    let plain = text(&root, "etc/docker/daemon.json");
    let mirrors = [(
        "REGISTRY_MIRRORS",
        "https://one.example,https://two.example",
    )];
    assert!(
        provision(root.path(), &["files"], &mirrors)
            .status
            .success()
    );
    let mut daemon: serde_json::Value =
        serde_json::from_str(&text(&root, "etc/docker/daemon.json")).unwrap();
    let expected = serde_json::json!(["https://one.example", "https://two.example"]);
    assert_eq!(daemon["registry-mirrors"], expected);
    daemon["registry-mirrors"] = serde_json::json!([]);
    assert_eq!(
        daemon,
        serde_json::from_str::<serde_json::Value>(&plain).unwrap()
    );
}

/// The CloudWatch agent's configuration, as far as we use it; it ignores what it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudWatch {
    agent: CloudWatchAgent,
    metrics: Metrics,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudWatchAgent {
    metrics_collection_interval: u32,
    omit_hostname: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metrics {
    namespace: String,
    append_dimensions: BTreeMap<String, String>,
    aggregation_dimensions: Vec<Vec<String>>,
    metrics_collected: Collected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Collected {
    disk: Source,
    diskio: Source,
    mem: Source,
    swap: Source,
    processes: Source,
    statsd: Statsd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    #[serde(default)]
    resources: Vec<String>,
    measurement: Vec<String>,
    #[serde(default)]
    drop_device: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statsd {
    service_address: String,
    metrics_collection_interval: u32,
    metrics_aggregation_interval: u32,
}

#[test]
fn the_metrics_have_space_and_inodes_of_the_volume_memory_and_pressure() {
    let root = provisioned();
    let path = "opt/aws/amazon-cloudwatch-agent/etc/ecs-runner-host.json";
    let CloudWatch { agent, metrics } = serde_json::from_str(&text(&root, path)).unwrap();
    assert!(agent.metrics_collection_interval <= 60 && agent.omit_hostname);
    assert_eq!(metrics.namespace, "EcsRunnerHost");
    assert!(metrics.append_dimensions.contains_key("InstanceId"));
    assert!(!metrics.aggregation_dimensions.is_empty());
    let collected = metrics.metrics_collected;
    let storage = "/var/docker-storage".to_owned();
    assert!(collected.disk.resources.contains(&storage) && collected.disk.drop_device);
    for measurement in ["used_percent", "inodes_free"] {
        assert!(collected.disk.measurement.contains(&measurement.to_owned()));
    }
    for source in [
        collected.diskio,
        collected.mem,
        collected.swap,
        collected.processes,
    ] {
        assert!(!source.measurement.is_empty());
    }
    // What host-pressure sends to when it is told nothing else.
    let program = text(&root, "usr/local/libexec/host-pressure");
    let (address, port) = collected.statsd.service_address.split_once(':').unwrap();
    assert!(program.contains(&format!("${{1:-{address}}} port=${{2:-{port}}}")));
    assert!(
        collected.statsd.metrics_collection_interval
            <= collected.statsd.metrics_aggregation_interval
    );
}

/// What Fluent Bit's documentation has for the plugins that we use; an unknown key keeps it from
/// starting. Every input has `tag` and `storage.type` besides.
const LOG_SETTINGS: [(&str, &str); 5] = [
    (
        "service",
        "flush log_level parsers_file storage.path storage.sync storage.backlog.mem_limit",
    ),
    (
        "systemd",
        "db read_from_tail strip_underscores lowercase systemd_filter tag storage.type",
    ),
    ("tail", "path db tag storage.type"),
    (
        "syslog",
        "mode path unix_perm parser buffer_chunk_size tag storage.type",
    ),
    (
        "cloudwatch_logs",
        "match region log_group_name log_stream_prefix auto_create_group retry_limit storage.total_limit_size",
    ),
];

#[test]
fn logs_of_the_host_and_of_containers_go_to_cloudwatch() {
    let root = provisioned();
    let config = text(&root, "etc/fluent-bit/fluent-bit.conf");
    let mut found = Vec::new();
    let mut known = "";
    for line in config.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let plugin = match words[..] {
            [] | ["[INPUT]" | "[OUTPUT]"] => continue,
            ["[SERVICE]"] => "service",
            ["name", plugin] => plugin,
            [key, value] => {
                assert!(known.split(' ').any(|name| name == key), "{line}");
                // The units of others are the host's Docker and the agent.
                if let Some(unit) = value.strip_prefix("_SYSTEMD_UNIT=") {
                    let ours = root.path().join("etc/systemd/system").join(unit);
                    let others = ["docker.service", "ecs.service"].contains(&unit);
                    assert!(others || ours.exists(), "{unit}");
                }
                continue;
            }
            _ => panic!("neither a section nor a setting: {line}"),
        };
        let settings = LOG_SETTINGS.iter().find(|(name, _)| *name == plugin);
        known = settings.expect(plugin).1;
        found.push(plugin);
    }
    assert_eq!(found, LOG_SETTINGS.map(|(name, _)| name));
    // What host-identity writes for it.
    let identity = text(&root, "usr/local/libexec/host-identity");
    for (variable, _) in config
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
    {
        assert!(
            identity.contains(&format!("echo \"{variable}=")),
            "{variable}"
        );
    }
}

/// The agent's settings that this repository uses, as its README lists them.
const ECS_SETTINGS: [&str; 14] = [
    "ECS_AVAILABLE_LOGGING_DRIVERS",
    "ECS_AWSVPC_BLOCK_IMDS",
    "ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM",
    "ECS_CONTAINER_START_TIMEOUT",
    "ECS_CONTAINER_STOP_TIMEOUT",
    "ECS_DISABLE_PRIVILEGED",
    "ECS_ENABLE_SPOT_INSTANCE_DRAINING",
    "ECS_ENABLE_TASK_CPU_MEM_LIMIT",
    "ECS_ENABLE_TASK_IAM_ROLE",
    "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION",
    "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER",
    "ECS_IMAGE_CLEANUP_INTERVAL",
    "ECS_IMAGE_MINIMUM_CLEANUP_AGE",
    "ECS_IMAGE_PULL_BEHAVIOR",
];

#[test]
fn every_setting_of_the_agent_is_known_and_has_its_reason() {
    let root = provisioned();
    let config = text(&root, "etc/ecs/ecs.config");
    let known = |name: &str| {
        ECS_SETTINGS.contains(&name)
            || ["ECS_RESERVED_MEMORY", "ECS_TASK_PIDS_LIMIT"].contains(&name)
    };
    let mut before = "";
    for line in config.lines() {
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            assert!(known(name), "{name}");
            assert!(!value.is_empty(), "{name}");
            // Two settings that belong together share a reason.
            assert!(
                before.starts_with("# ") || before.starts_with("ECS_"),
                "{name} has no reason"
            );
        }
        before = line;
    }
    let drivers = variables(&config)["ECS_AVAILABLE_LOGGING_DRIVERS"];
    let drivers: Vec<String> = serde_json::from_str(drivers).unwrap();
    assert!(drivers.contains(&"syslog".to_owned()));
}

#[test]
fn provisioning_again_keeps_what_the_operator_added() {
    let root = provisioned();
    let path = root.path().join("etc/ecs/ecs.config");
    let mut config = std::fs::File::options().append(true).open(&path).unwrap();
    writeln!(config, "ECS_CLUSTER=builds").unwrap();
    assert!(provision(root.path(), &["files"], &[]).status.success());
    let config = text(&root, "etc/ecs/ecs.config");
    assert_eq!(config.matches("ECS_CLUSTER=builds\n").count(), 1);
    assert_eq!(config.matches("ECS_TASK_PIDS_LIMIT=").count(), 1);
}

#[test]
fn a_step_that_does_not_exist_is_refused_before_anything_is_done() {
    let root = tempfile::tempdir().unwrap();
    let done = provision(root.path(), &["files", "everything"], &[]);
    assert_eq!(done.status.code(), Some(64));
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        error.contains("everything") && error.contains("packages"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_snapshot_has_no_identity_no_state_and_no_logs() {
    let root = provisioned();
    let gone = [
        "etc/ssh/ssh_host_ed25519_key",
        "home/ec2-user/.ssh/authorized_keys",
        "root/.bash_history",
        "var/lib/ecs/data/agent.db",
        "var/lib/docker/engine-id",
        "var/lib/cloud/instance/user-data.txt",
        "var/log/ecs/ecs-agent.log",
        "var/log/journal/1/system.journal",
    ];
    for path in gone.iter().chain(&["etc/machine-id"]) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let done = provision(root.path(), &["clean"], &[]);
    assert!(done.status.success(), "{done:?}");
    for path in gone {
        assert!(!root.path().join(path).exists(), "{path}");
    }
    // Empty and not missing: systemd makes a new one at the next boot.
    assert_eq!(text(&root, "etc/machine-id"), "");
    assert!(root.path().join("etc/ecs/ecs.config").exists());
}

#[test]
fn modules_and_kernel_settings_are_written_as_the_kernel_names_them() {
    let root = provisioned();
    let modules = text(&root, "etc/modules-load.d/ecs-runner-host.conf");
    let named = |line: &&str| !line.starts_with('#');
    for module in modules.lines().filter(named) {
        assert!(
            module
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{module}"
        );
    }
    let settings = text(&root, "etc/sysctl.d/60-ecs-runner-host.conf");
    for line in settings.lines().filter(named) {
        let (name, value) = line.split_once(" = ").unwrap();
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        // Those of modules that this machine has not loaded are not there.
        let of_a_module = name.starts_with("net.bridge.") || name.starts_with("net.netfilter.");
        assert!(path.exists() || of_a_module, "{name}");
        assert!(value.parse::<u64>().is_ok(), "{name} = {value}");
    }
}

/// Answers like EC2's metadata service, version 2 only: no token, no answer.
fn metadata_service(listener: &TcpListener) -> std::io::Result<()> {
    for stream in listener.incoming() {
        answer(&mut stream?)?;
    }
    Ok(())
}

fn answer(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut *stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let headers: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let has = |header: &str| headers.iter().any(|line| line == header);
    let (status, body) = match request.as_str() {
        "PUT /latest/api/token HTTP/1.1" if has("X-aws-ec2-metadata-token-ttl-seconds: 60") => {
            ("200 OK", "secret")
        }
        _ if !has("X-aws-ec2-metadata-token: secret") => ("401 Unauthorized", ""),
        "GET /latest/meta-data/instance-id HTTP/1.1" => ("200 OK", "i-0123456789abcdef0"),
        "GET /latest/meta-data/placement/region HTTP/1.1" => ("200 OK", "eu-west-1"),
        _ => ("404 Not Found", ""),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn identity(imds: &str) -> (Output, TempDir) {
    identity_with(imds, &[])
}

fn identity_with(imds: &str, settings: &[(&str, &str)]) -> (Output, TempDir) {
    let run = tempfile::tempdir().unwrap();
    let done = Command::new(checkout("systemd/libexec/host-identity"))
        .envs(settings.iter().copied())
        .env("HOST_IDENTITY_IMDS", imds)
        .env("HOST_IDENTITY_RUN", run.path())
        .env("LOG_GROUP", "/builds")
        .output()
        .unwrap();
    (done, run)
}

#[test]
fn a_host_learns_its_id_and_region_from_the_metadata_service_with_a_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || metadata_service(&listener));
    let (done, run) = identity(&url);
    assert!(done.status.success(), "{done:?}");
    let identity = text(&run, "identity.env");
    let expected = [
        ("AWS_REGION", "eu-west-1"),
        ("HOST_ID", "i-0123456789abcdef0"),
        ("LOG_GROUP", "/builds"),
    ];
    assert_eq!(variables(&identity), expected.into());
}

#[test]
fn the_licence_for_new_relic_is_read_by_the_instance_and_for_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || metadata_service(&listener));
    let programs = tempfile::tempdir().unwrap();
    let aws = programs.path().join("aws");
    std::fs::write(&aws, "#!/bin/sh\necho \"$*\" >&2\necho licence\n").unwrap();
    std::fs::set_permissions(&aws, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        programs.path().display(),
        std::env::var("PATH").unwrap()
    );
    let settings = [
        ("NEW_RELIC_LICENSE_PARAMETER", "/licence"),
        ("PATH", path.as_str()),
    ];
    let (done, run) = identity_with(&url, &settings);
    assert!(done.status.success(), "{done:?}");
    let asked = String::from_utf8_lossy(&done.stderr);
    assert!(
        asked.contains("--region eu-west-1 --name /licence --with-decryption"),
        "{asked}"
    );
    assert_eq!(text(&run, "newrelic.env"), "NRIA_LICENSE_KEY=licence\n");
    let file = run.path().join("newrelic.env");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // Without it the agent's unit is not started.
    let root = provisioned();
    let unit = text(
        &root,
        "etc/systemd/system/newrelic-infra.service.d/50-host.conf",
    );
    assert!(unit.contains("ConditionPathExists=/run/ecs-runner-host/newrelic.env\n"));
    let (done, run) = identity(&url);
    assert!(done.status.success() && !run.path().join("newrelic.env").exists());
}

#[test]
fn a_host_outside_ec2_is_known_by_its_machine_id() {
    // A port that was free a moment ago, of an address that nobody else uses.
    let free = TcpListener::bind("127.0.0.2:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (done, run) = identity(&format!("http://{free}"));
    if !Path::new("/etc/machine-id").exists() {
        assert!(!done.status.success() && !run.path().join("identity.env").exists());
        return;
    }
    assert!(done.status.success(), "{done:?}");
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap();
    let identity = text(&run, "identity.env");
    assert_eq!(variables(&identity)["HOST_ID"], machine.trim());
    assert_eq!(variables(&identity)["AWS_REGION"], "");
}

#[test]
fn pressure_is_told_to_the_metrics_agent() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for resource in ["cpu", "memory", "io"] {
        let figures = "some avg10=1.25 avg60=0.50 avg300=0.10 total=9\n\
                       full avg10=0.75 avg60=0.00 avg300=0.00 total=3\n";
        std::fs::write(folder.path().join(resource), figures).unwrap();
    }
    let mut program = Command::new(checkout("systemd/libexec/host-pressure"))
        .args([
            "127.0.0.1",
            &socket.local_addr().unwrap().port().to_string(),
        ])
        .env("HOST_PRESSURE_FOLDER", folder.path())
        .env("HOST_PRESSURE_EVERY", "0.1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut missing = vec![
        "pressure_cpu_some:1.25|g",
        "pressure_memory_full:0.75|g",
        "pressure_io_full:0.75|g",
    ];
    let mut buffer = [0; 4096];
    while !missing.is_empty() {
        let length = socket.recv(&mut buffer).unwrap();
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        missing.retain(|line| !said.lines().any(|said| said == *line));
    }
    program.kill().unwrap();
    program.wait().unwrap();
}
