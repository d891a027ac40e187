//! The test host on a real machine. Needs root, and the package mirror when no disk is cached:
//! `cargo test -p testhost --features root`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test driver, not the PID 1 of a container"
)]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod drivers;
mod things;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use drivers::{
    DRIVER, Driver, PREPARER, driver_that_prepares, driver_that_waits, start_driver, start_preparer,
};
use libtest_mimic::{Arguments, Trial};
use testhost::{Host, ImageBuild, Options, Plan, PreparedDisk, Stream, prepare};
use things::Thing;

const LIMIT: Duration = Duration::from_secs(30);

macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($name), || {
            $name();
            Ok(())
        })),*]
    };
}

fn main() -> ExitCode {
    testhost::reexec();
    match std::env::args().nth(1).as_deref() {
        Some(DRIVER) => return driver_that_waits(),
        Some(PREPARER) => return driver_that_prepares(),
        _ => {}
    }
    drop(disk()); // made once, before the tests share it
    libtest_mimic::run(
        &Arguments::from_args(),
        trials![
            a_container_with_dindds_capabilities_runs_under_cgroup_v2,
            a_volume_is_xfs_with_reflink,
            two_hosts_at_once_have_nothing_in_common,
            a_command_has_an_environment_of_its_own_and_reports_its_end,
            killing_a_command_kills_the_program,
            a_running_program_is_followed_live_and_gets_its_signals,
            a_folder_of_the_machine_appears_inside_and_can_be_read_only,
            a_container_reaches_a_process_of_the_host_at_the_gateway,
            a_warmed_build_needs_no_network,
            what_is_left_is_named,
            a_boot_that_fails_says_why_and_leaves_nothing,
            a_killed_driver_leaves_nothing,
            what_a_driver_killed_with_its_janitor_left_goes_at_the_next_boot,
            an_interrupted_driver_ends_in_order_and_leaves_nothing,
            a_killed_preparation_leaves_only_a_partial_image,
            an_interrupted_preparation_ends_in_order_and_leaves_no_image,
        ],
    )
    .exit_code()
}

fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    writeln!(err, "{text}").unwrap();
}

fn disk() -> PreparedDisk {
    prepare(&Plan::default(), &say).unwrap()
}

fn boot() -> Host {
    let begin = Instant::now();
    let host = Host::boot(&disk(), &Options::default()).unwrap();
    say(&format!("booted in {:.1} s", begin.elapsed().as_secs_f32()));
    host
}

/// Ends a host in which nothing should be left.
fn end(host: Host) {
    let left = host.shutdown().unwrap();
    assert!(left.is_empty(), "{left}");
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "{what}: not after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn a_container_with_dindds_capabilities_runs_under_cgroup_v2() {
    let host = boot();
    let script =
        "stat -f -c %T /sys/fs/cgroup; mkdir /tmp/m; mount -t tmpfs none /tmp/m && echo mounted";
    let added = ["--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"];
    let words = [
        &["docker", "run", "--rm"],
        added.as_slice(),
        &["debian:trixie-slim", "sh", "-c", script],
    ]
    .concat();
    assert_eq!(host.run(words).unwrap(), "cgroup2fs\nmounted\n");
    let info = host.run([
        "docker",
        "info",
        "--format",
        "{{.CgroupVersion}} {{.CgroupDriver}} {{.Driver}}",
    ]);
    assert_eq!(info.unwrap(), "2 cgroupfs overlay2\n");
    end(host);
}

fn a_volume_is_xfs_with_reflink() {
    let mut host = boot();
    let path = host.volume("one", 1 << 30).unwrap();
    assert_eq!(path, PathBuf::from("/ebs/one"));
    let script =
        "stat -f -c %T /ebs/one; cd /ebs/one; echo x >a; cp --reflink=always a b; cat b; rm a b";
    assert_eq!(host.run(["sh", "-ec", script]).unwrap(), "xfs\nx\n");
    let mounts = host.run([
        "docker",
        "run",
        "--rm",
        "-v",
        "/ebs/one:/v",
        "debian:trixie-slim",
        "stat",
        "-f",
        "-c",
        "%T",
        "/v",
    ]);
    assert_eq!(mounts.unwrap(), "xfs\n");
    end(host);
}

fn two_hosts_at_once_have_nothing_in_common() {
    let one = boot();
    let two = boot();
    one.run([
        "docker",
        "run",
        "-d",
        "--name",
        "only-in-one",
        "debian:trixie-slim",
        "sleep",
        "60",
    ])
    .unwrap();
    fs::write(one.path("/root/file"), "1").unwrap();
    assert_eq!(two.run(["docker", "ps", "-aq"]).unwrap(), "");
    assert!(!two.path("/root/file").exists());
    assert!(!two.run(["ps", "-A"]).unwrap().contains("sleep"));
    one.run(["docker", "rm", "-f", "only-in-one"]).unwrap();
    end(one);
    assert_eq!(
        two.run([
            "docker",
            "run",
            "--rm",
            "debian:trixie-slim",
            "echo",
            "alive"
        ])
        .unwrap(),
        "alive\n"
    );
    end(two);
}

fn a_command_has_an_environment_of_its_own_and_reports_its_end() {
    let host = boot();
    let environment = host.run(["env"]).unwrap();
    let mut names: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "PATH"]);
    let output = host
        .command_in("/usr/bin", "sh")
        .args(["-c", "pwd; echo $WORD; exit 7"])
        .env("WORD", "w")
        .output();
    let output = output.unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(7), b"/usr/bin\nw\n".as_slice())
    );
    let code = |program: &str, script: &str| {
        host.command(program)
            .args(["-c", script])
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(code("sh", "kill -KILL $$"), Some(137));
    assert_eq!(code("no-such-program", ""), Some(127));
    let error = host
        .run(["sh", "-c", "echo why >&2; exit 3"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("exit status: 3") && error.contains("why"),
        "{error}"
    );
    end(host);
}

fn killing_a_command_kills_the_program() {
    let host = boot();
    let mut child = host.command("sleep").arg("987").spawn().unwrap();
    let runs = || {
        host.run(["ps", "-A", "-o", "args"])
            .unwrap()
            .contains("sleep 987")
    };
    until("the program runs", runs);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the program is gone", || !runs());
    end(host);
}

fn a_running_program_is_followed_live_and_gets_its_signals() {
    let host = boot();
    let (send, lines) = channel();
    let script = "trap 'echo bye >&2; exit 5' TERM; echo hello; while :; do sleep 0.1; done";
    let running = host
        .follow(["sh", "-c", script], move |stream, line| {
            send.send((stream, line.to_owned())).unwrap()
        })
        .unwrap();
    assert_eq!(
        lines.recv_timeout(LIMIT).unwrap(),
        (Stream::Stdout, "hello".to_owned())
    );
    assert_eq!(running.stop(LIMIT).unwrap().code(), Some(5));
    assert_eq!(
        lines.recv_timeout(LIMIT).unwrap(),
        (Stream::Stderr, "bye".to_owned())
    );
    end(host);
}

fn a_folder_of_the_machine_appears_inside_and_can_be_read_only() {
    let host = boot();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "from the machine").unwrap();
    host.bind(folder.path(), "/opt/read", true).unwrap();
    host.bind(folder.path(), "/opt/write", false).unwrap();
    host.bind(&folder.path().join("file"), "/opt/one-file", true)
        .unwrap();
    assert_eq!(
        host.run(["cat", "/opt/read/file"]).unwrap(),
        "from the machine"
    );
    assert_eq!(
        host.run(["cat", "/opt/one-file"]).unwrap(),
        "from the machine"
    );
    let error = host
        .run(["touch", "/opt/read/new"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("Read-only"), "{error}");
    host.run(["touch", "/opt/write/new"]).unwrap();
    assert!(folder.path().join("new").exists());
    end(host);
}

fn a_container_reaches_a_process_of_the_host_at_the_gateway() {
    let host = boot();
    fs::write(host.path("/tmp/page"), "served").unwrap();
    let server = host
        .follow(
            ["busybox", "httpd", "-f", "-p", "8080", "-h", "/tmp"],
            |_, _| (),
        )
        .unwrap();
    let address = format!("{}/8080", host.gateway());
    let script = format!(
        "for i in $(seq 300); do exec 3<>/dev/tcp/{address} && break; sleep 0.1; done 2>/dev/null; \
         printf 'GET /page HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let answer = host
        .run([
            "docker",
            "run",
            "--rm",
            "debian:trixie-slim",
            "bash",
            "-c",
            &script,
        ])
        .unwrap();
    assert!(answer.ends_with("served"), "{answer}");
    server.stop(LIMIT).unwrap();
    end(host);
}

fn a_warmed_build_needs_no_network() {
    let context = tempfile::tempdir().unwrap();
    let dockerfile = "FROM debian:trixie-slim\n\
        RUN apt-get -q update && apt-get -q -y --no-install-recommends install cowsay\n\
        COPY word /word\n";
    fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    fs::write(context.path().join("word"), "first").unwrap();
    let image = ImageBuild {
        context: context.path().to_owned(),
        dockerfile: "Dockerfile".into(),
        target: None,
        arguments: Vec::new(),
        keyed_by: Vec::new(),
    };
    let plan = Plan {
        warm: vec![image.clone()],
        ..Plan::default()
    };
    let disk = prepare(&plan, &say).unwrap();
    let host = Host::boot(&disk, &Options::default()).unwrap();
    assert_eq!(
        host.run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"])
            .unwrap(),
        "debian:trixie-slim\n"
    );
    fs::write(context.path().join("word"), "second").unwrap();
    host.bind(context.path(), "/context", true).unwrap();
    let mut words = image.command_line("/context");
    words.push("--tag=warm".into());
    host.run(&words).unwrap();
    let script = "cat /word && test -x /usr/games/cowsay";
    assert_eq!(
        host.run(["docker", "run", "--rm", "warm", "sh", "-c", script])
            .unwrap(),
        "second"
    );
    end(host);
}

fn what_is_left_is_named() {
    let mut host = boot();
    host.volume("one", 1 << 30).unwrap();
    host.run([
        "docker",
        "run",
        "-d",
        "--name",
        "forgotten",
        "debian:trixie-slim",
        "sleep",
        "60",
    ])
    .unwrap();
    host.run([
        "sh",
        "-c",
        "mkdir -p /ebs/one/a/b && mount -t tmpfs none /ebs/one/a/b",
    ])
    .unwrap();
    host.run([
        "sh",
        "-c",
        "mkdir /sys/fs/cgroup/stray; ip link add stray0 type bridge",
    ])
    .unwrap();
    host.run(["sh", "-c", "setsid sleep 4321 >/dev/null 2>&1 &"])
        .unwrap();
    let left = host.shutdown().unwrap();
    assert_eq!(left.containers, ["forgotten (debian:trixie-slim, running)"]);
    assert!(left.mounts.contains(&"/ebs/one/a/b".to_owned()), "{left}");
    assert!(left.cgroups.contains(&"stray".to_owned()), "{left}");
    assert!(
        left.network_devices.contains(&"stray0".to_owned()),
        "{left}"
    );
    assert!(
        left.processes
            .iter()
            .any(|line| line.ends_with(" sleep 4321")),
        "{left}"
    );
    assert_eq!(left.volume_entries, ["/ebs/one/a", "/ebs/one/a/b"]);
    assert!(left.machine.is_empty(), "{left}");
}

fn a_boot_that_fails_says_why_and_leaves_nothing() {
    let (_driver, lines) = Driver::start(&[DRIVER, "--no-such-option"]);
    let lines: Vec<_> = lines.collect();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("unknown flag: --no-such-option")),
        "{lines:?}"
    );
    assert!(
        lines.ends_with(&["processes []".into(), "cgroups []".into()]),
        "{lines:?}"
    );
}

fn a_killed_driver_leaves_nothing() {
    let (mut driver, mine) = start_driver();
    driver.kill();
    until("all is gone", || mine.iter().all(|thing| !thing.exists()));
}

fn what_a_driver_killed_with_its_janitor_left_goes_at_the_next_boot() {
    let (mut driver, mine) = start_driver();
    let janitor = |thing: &&Thing| thing.command().contains(" __testhost janitor ");
    let Some(Thing::Process(janitor, _)) = mine.iter().find(janitor) else {
        panic!("no janitor")
    };
    assert!(
        Command::new("kill")
            .args(["-KILL", &janitor.to_string()])
            .status()
            .unwrap()
            .success()
    );
    driver.kill();
    let folder = |thing: &&Thing| matches!(thing, Thing::Folder(_));
    until("processes and devices are gone", || {
        mine.iter()
            .filter(|thing| !folder(thing))
            .all(|thing| !thing.exists())
    });
    until("the next boot removes the cgroup", || {
        end(boot());
        mine.iter().all(|thing| !thing.exists())
    });
}

fn an_interrupted_driver_ends_in_order_and_leaves_nothing() {
    let (mut driver, mine) = start_driver();
    assert_eq!(driver.interrupt(), Some(3));
    // In order means: gone before the driver was.
    let left: Vec<_> = mine.iter().filter(|thing| thing.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn a_killed_preparation_leaves_only_a_partial_image() {
    let cache = tempfile::tempdir().unwrap();
    let (mut driver, mine) = start_preparer(&cache);
    driver.kill();
    until("all is gone", || mine.iter().all(|thing| !thing.exists()));
    let mut names: Vec<_> = names(&cache);
    names.retain(|name| !name.ends_with(".partial"));
    assert_eq!(names, ["lock"]);
}

fn an_interrupted_preparation_ends_in_order_and_leaves_no_image() {
    let cache = tempfile::tempdir().unwrap();
    let (mut driver, mine) = start_preparer(&cache);
    assert_eq!(driver.interrupt(), Some(3));
    let left: Vec<_> = mine.iter().filter(|thing| thing.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(names(&cache), ["lock"]);
}

fn names(cache: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(cache.path()).unwrap();
    entries
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}
