//! The order of dindd's life and the faults in it: the real binary, in namespaces of its own, with
//! a fake `dockerd` that is strict and misbehaves on demand.
//!
//! It needs no root; an ordinary user needs user namespaces, and the tests fail without them.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "test drivers and fakes: no PID 1 of a container, and a case that cannot be set up \
              has failed"
)]

#[path = "fakes/dockerd.rs"]
mod fake_dockerd;
#[path = "dindd/sandbox.rs"]
mod sandbox;
#[path = "dindd/world.rs"]
mod world;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use world::World;

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    if words.next().as_deref() == Some(sandbox::ARGUMENT) {
        return ExitCode::from(sandbox::main());
    }
    match Path::new(&called)
        .file_name()
        .and_then(|name| name.to_str())
    {
        Some("dockerd") => return ExitCode::from(fake_dockerd::main()),
        Some("iptables") => return ExitCode::from(fake_iptables()),
        _ => {}
    }
    let mut trials: Vec<Trial> = Vec::new();
    for (name, test) in TESTS {
        trials.push(Trial::test(*name, move || {
            test();
            Ok(())
        }));
    }
    for point in POINTS {
        for (times, signals) in [("SIGTERM", 1), ("two SIGTERMs", 2)] {
            let name = format!("{times}_{}_leaves_nothing", point.name).replace(' ', "_");
            trials.push(Trial::test(name, move || {
                point.is_survived(signals);
                Ok(())
            }));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn fake_iptables() -> u8 {
    sandbox::journal("iptables");
    while std::env::var("FAKE_IPTABLES").is_ok() && !sandbox::trigger("iptables-works") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    0
}

/// Where dindd waits for something, and a SIGTERM must find everything in order.
struct Point {
    name: &'static str,
    variables: &'static [&'static str],
    /// What is told when dindd has got there.
    reached: &'static str,
    code: u8,
}

const POINTS: &[Point] = &[
    Point {
        name: "while iptables hangs",
        variables: &["FAKE_IPTABLES=hangs"],
        reached: "journal iptables",
        code: 143,
    },
    Point {
        name: "while a mirror does not answer",
        // When it is given up, dockerd lets wait.
        variables: &[
            "SILENT_MIRROR=127.0.0.1:5000",
            "DINDD_REGISTRY_MIRRORS=http://127.0.0.1:5000",
            "FAKE_DOCKERD=silent",
        ],
        reached: "journal a mirror is asked",
        code: 143,
    },
    Point {
        name: "while dockerd is asked for its version",
        variables: &["FAKE_DOCKERD=version-hangs", "DINDD_MTU=1400"],
        reached: "journal dockerd --version",
        code: 143,
    },
    Point {
        name: "while dockerd has no socket yet",
        variables: &["FAKE_DOCKERD=silent"],
        reached: "journal dockerd starts",
        code: 143,
    },
    Point {
        name: "while dockerd does not answer a ping",
        variables: &["FAKE_DOCKERD=mute"],
        reached: "journal dockerd does not answer /_ping",
        code: 143,
    },
    Point {
        name: "while dockerd does not tell what it uses",
        variables: &["FAKE_DOCKERD=info-hangs,fork"],
        reached: "journal dockerd does not answer /info",
        code: 143,
    },
    Point {
        name: "while containers run",
        variables: &["FAKE_DOCKERD=container,fork"],
        reached: "healthy: containers can be started",
        code: 0,
    },
    Point {
        name: "while no container runs",
        variables: &["FAKE_DOCKERD=fork"],
        reached: "healthy: containers can be started",
        code: 0,
    },
];

impl Point {
    fn is_survived(&self, signals: usize) {
        let mut world = World::start(self.variables);
        world.wait_for(self.reached);
        for _ in 0..signals {
            world.tell("TERM");
        }
        world.ends_with(self.code);
        assert!(!world.journal().contains("wrong"), "{world}");
    }
}

const TESTS: &[(&str, fn())] = &[
    (
        "a_life_has_its_phases_in_order",
        a_life_has_its_phases_in_order,
    ),
    (
        "containers_get_their_sigterm_before_everything_is_killed",
        containers_get_their_sigterm_before_everything_is_killed,
    ),
    (
        "containers_deaf_to_sigterm_are_killed_within_the_stop_timeout",
        containers_deaf_to_sigterm_are_killed_within_the_stop_timeout,
    ),
    ("a_second_sigterm_hurries", a_second_sigterm_hurries),
    (
        "a_dockerd_that_dies_at_its_start_is_told_with_its_last_line",
        a_dockerd_that_dies_at_its_start_is_told_with_its_last_line,
    ),
    (
        "a_dockerd_that_dies_while_it_serves_ends_the_task",
        a_dockerd_that_dies_while_it_serves_ends_the_task,
    ),
    (
        "without_what_mounts_for_containers_the_task_ends",
        without_what_mounts_for_containers_the_task_ends,
    ),
    (
        "a_dockerd_that_hangs_ends_the_task",
        a_dockerd_that_hangs_ends_the_task,
    ),
    (
        "a_dockerd_that_never_gets_ready_is_given_up",
        a_dockerd_that_never_gets_ready_is_given_up,
    ),
    (
        "a_dockerd_with_another_storage_driver_is_not_healthy",
        a_dockerd_with_another_storage_driver_is_not_healthy,
    ),
    ("health_is_told_over_tcp", health_is_told_over_tcp),
    (
        "an_orphan_is_reaped_while_dockerd_serves",
        an_orphan_is_reaped_while_dockerd_serves,
    ),
    (
        "a_sigterm_while_the_data_root_is_removed_removes_the_rest",
        a_sigterm_while_the_data_root_is_removed_removes_the_rest,
    ),
    (
        "wrong_settings_are_told_together",
        wrong_settings_are_told_together,
    ),
    ("a_port_that_is_taken_is_told", a_port_that_is_taken_is_told),
    (
        "check_tells_every_precondition_also_while_dindd_runs",
        check_tells_every_precondition_also_while_dindd_runs,
    ),
    (
        "a_full_volume_is_told_by_its_name",
        a_full_volume_is_told_by_its_name,
    ),
    (
        "a_quota_on_a_volume_that_counts_none_is_refused",
        a_quota_on_a_volume_that_counts_none_is_refused,
    ),
    (
        "user_namespaces_have_a_whole_sysfs_to_be_seen",
        user_namespaces_have_a_whole_sysfs_to_be_seen,
    ),
    (
        "user_namespaces_without_sys_ptrace_are_refused",
        user_namespaces_without_sys_ptrace_are_refused,
    ),
];

const HEALTHY: &str = "healthy: containers can be started";

fn a_life_has_its_phases_in_order() {
    let mut world = World::start(&[]);
    world.wait_for(HEALTHY);
    world.tell("TERM");
    world.ends_with(0);
    let expected = [
        "preconditions",
        "storage",
        "data-root",
        "cgroup",
        "isolation",
        "dockerd",
        "stop-dockerd",
        "clear-cgroup",
        "remove-data-root",
    ];
    assert_eq!(world.phases(), expected, "{world}");
    assert_eq!(world.journal(), "iptables, dockerd starts", "{world}");
}

fn containers_get_their_sigterm_before_everything_is_killed() {
    let mut world = World::start(&["FAKE_DOCKERD=container,fork"]);
    world.wait_for(HEALTHY);
    world.tell("TERM");
    world.ends_with(0);
    let journal = world.journal();
    assert_eq!(
        journal, "iptables, dockerd starts, dockerd gets 15, dockerd ends",
        "{world}"
    );
}

fn containers_deaf_to_sigterm_are_killed_within_the_stop_timeout() {
    let mut world = World::start(&["FAKE_DOCKERD=container,deaf", "DINDD_STOP_TIMEOUT=4"]);
    world.wait_for(HEALTHY);
    let begun = std::time::Instant::now();
    world.tell("TERM");
    world.ends_with(0);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(4),
        "{world}"
    );
    assert_eq!(
        world.journal(),
        "iptables, dockerd starts, dockerd gets 15",
        "{world}"
    );
}

fn a_second_sigterm_hurries() {
    let mut world = World::start(&["FAKE_DOCKERD=container,deaf", "DINDD_STOP_TIMEOUT=100"]);
    world.wait_for(HEALTHY);
    world.tell("TERM");
    world.wait_for("journal dockerd gets 15");
    let begun = std::time::Instant::now();
    world.tell("TERM");
    world.ends_with(0);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(10),
        "{world}"
    );
}

fn a_dockerd_that_dies_at_its_start_is_told_with_its_last_line() {
    let mut world = World::start(&["FAKE_DOCKERD=dies"]);
    world.ends_with(70);
    world.wait_for(
        "dockerd ended with exit status 1; its last lines: failed to start daemon: the fake was \
         told to",
    );
    // Its output is ours, unchanged.
    world.wait_for("out failed to start daemon: the fake was told to");
}

fn a_dockerd_that_dies_while_it_serves_ends_the_task() {
    let mut world = World::start(&["FAKE_DOCKERD=fork"]);
    world.wait_for(HEALTHY);
    world.tell("die");
    world.ends_with(70);
    world.wait_for("dockerd ended with exit status 3; its last lines: fatal: the fake was told");
}

fn a_dockerd_that_hangs_ends_the_task() {
    let mut world = World::start(&["DINDD_HEALTH_INTERVAL=0.1"]);
    world.wait_for(HEALTHY);
    world.tell("hang");
    world.ends_with(71);
    world.wait_for("dockerd missed 3 probes: it hangs");
}

fn a_dockerd_that_never_gets_ready_is_given_up() {
    let mut world = World::start(&["FAKE_DOCKERD=mute", "DINDD_START_TIMEOUT=0.5"]);
    world.ends_with(69);
    world.wait_for("DINDD_START_TIMEOUT");
}

fn a_dockerd_with_another_storage_driver_is_not_healthy() {
    let mut world = World::start(&["FAKE_DOCKERD=other-driver"]);
    world.ends_with(69);
    world.wait_for("dockerd uses the storage driver");
}

fn health_is_told_over_tcp() {
    let mut world = World::start(&["FAKE_DOCKERD=mute"]);
    world.wait_for("journal dockerd does not answer /_ping");
    world.tell("health");
    world.wait_for("health 1");
    world.tell("TERM");
    world.ends_with(143);

    let mut world = World::start(&[]);
    world.wait_for(HEALTHY);
    world.tell("health");
    world.wait_for("health 0");
    world.tell("TERM");
    world.ends_with(0);
}

fn an_orphan_is_reaped_while_dockerd_serves() {
    let mut world = World::start(&["FAKE_IPTABLES=hangs"]);
    world.wait_for("journal iptables");
    world.tell("orphan");
    world.tell("count");
    world.wait_for("roots 2");
    world.tell("iptables-works");
    world.wait_for(HEALTHY);
    world.ask_until("count", "roots 1");
    world.tell("TERM");
    world.ends_with(0);
}

fn a_sigterm_while_the_data_root_is_removed_removes_the_rest() {
    let mut world = World::start(&["FAKE_DOCKERD=litter"]);
    world.wait_for(HEALTHY);
    world.tell("TERM");
    world.wait_for("\"phase\":\"clear-cgroup\"");
    world.tell("TERM");
    world.ends_with(0);
}

fn wrong_settings_are_told_together() {
    let mut world = World::start(&["DINDD_TCP=perhaps", "DINDD_STORGE=/x", "DINDD_USERNS=1"]);
    world.ends_with(64);
    let told = world.wait_for("wrong settings, nothing was started");
    for name in ["DINDD_TCP", "DINDD_STORGE", "DINDD_USERNS"] {
        assert!(told.contains(name), "{world}");
    }
    assert_eq!(world.journal(), "");
}

fn a_port_that_is_taken_is_told() {
    let mut world = World::start(&["DINDD_HEALTH_ADDR=192.0.2.7:80"]);
    world.ends_with(69);
    world.wait_for("cannot listen on 192.0.2.7:80; set DINDD_HEALTH_ADDR");
    assert_eq!(world.journal(), "");
}

fn a_quota_on_a_volume_that_counts_none_is_refused() {
    let mut world = World::start(&["DINDD_QUOTA=1G"]);
    world.ends_with(69);
    world.wait_for("is not mounted with the option prjquota");
    assert_eq!(world.journal(), "");
}

fn user_namespaces_have_a_whole_sysfs_to_be_seen() {
    let mut world = World::start(&["DINDD_USERNS=on"]);
    world.wait_for(HEALTHY);
    world.tell("TERM");
    world.ends_with(0);
    assert_eq!(
        world.journal(),
        "iptables, dockerd starts, containers are remapped",
        "{world}"
    );
}

fn user_namespaces_without_sys_ptrace_are_refused() {
    let mut world = World::start(&["DINDD_USERNS=on", "WITHOUT_SYS_PTRACE=1"]);
    world.ends_with(77);
    world.wait_for("DINDD_USERNS=on needs the capability SYS_PTRACE");
    assert_eq!(world.journal(), "");
}

fn a_full_volume_is_told_by_its_name() {
    let mut world = World::start(&["FULL_STORAGE=1"]);
    world.ends_with(69);
    world.wait_for("the storage volume /run/world/storage is full: ");
    assert_eq!(world.journal(), "");
}

fn check_tells_every_precondition_also_while_dindd_runs() {
    let mut world = World::start(&[]);
    world.wait_for(HEALTHY);
    world.tell("check");
    world.wait_for(
        "check 0 capabilities seccomp outside cgroup filesystem space quota engine iptables modules sysctls \
         mirrors log-target health-port",
    );
    world.tell("TERM");
    world.ends_with(0);
}

fn without_what_mounts_for_containers_the_task_ends() {
    let mut world = World::start(&[]);
    world.wait_for(HEALTHY);
    world.tell("kill-broker");
    world.ends_with(70);
    world.wait_for("what mounts for containers ended with signal SIGKILL");
}
