//! What goes wrong is told with its remedy, by a documented exit code, and leaves nothing behind.

use std::process::Output;

use anyhow::{Result, ensure};
use chain::driver::{Case, Heard, LIMIT, end, healthy_dind};
use chain::{Container, Engine, Said, Stage, TaskOptions};

use crate::storage::Storage;

pub(crate) const CASES: [Case; 6] = [
    (
        "a_dockerd_that_is_killed_ends_the_task_with_its_last_lines",
        a_dockerd_that_is_killed_ends_the_task_with_its_last_lines,
    ),
    (
        "a_dockerd_that_is_stopped_ends_the_task",
        a_dockerd_that_is_stopped_ends_the_task,
    ),
    (
        "what_is_missing_is_named_and_nothing_is_left",
        what_is_missing_is_named_and_nothing_is_left,
    ),
    (
        "a_host_that_keeps_something_back_gets_a_weaker_sidecar_that_says_so",
        a_host_that_keeps_something_back_gets_a_weaker_sidecar_that_says_so,
    ),
    (
        "images_are_built_on_a_volume_that_the_host_mounts_without_devices",
        images_are_built_on_a_volume_that_the_host_mounts_without_devices,
    ),
    (
        "a_port_that_another_task_has_is_named",
        a_port_that_another_task_has_is_named,
    ),
];

/// Sends a signal to the sidecar's dockerd, as the kernel's OOM killer or a debugger would.
fn signal_dockerd(dind: &Container<'_>, signal: &str) -> Result<()> {
    let script = format!(
        r#"for process in /proc/[0-9]*; do
             read -r name <$process/comm && test $name != dockerd || kill -{signal} ${{process#/proc/}}
           done 2>/dev/null; true"#
    );
    dind.exec(&["bash", "-c", &script]).map(drop)
}

/// dindd ends by itself with `code` and says `why`.
fn ends_when_dockerd_gets(
    stage: &Stage,
    name: &'static str,
    (signal, code, why): (&str, i32, &str),
) -> Result<()> {
    let storage = Storage::make(stage, name)?;
    for engine in Engine::ALL {
        let heard = Heard::default();
        let options = TaskOptions {
            engine,
            ..TaskOptions::default()
        };
        let task = storage.task(&format!("{name}-{}", engine.suite()), &heard, options)?;
        let mut dind = healthy_dind(&task)?;
        task.docker("docker run --detach --restart=always busybox sleep 10000")?;
        signal_dockerd(&dind, signal)?;
        let ended = dind.wait(LIMIT)?;
        ensure!(ended == code, "{engine}: {ended}:{}", heard.transcript());
        heard.wait_for(
            why,
            |line| matches!(&line.said, Said::Event { message, .. } if message.contains(why)),
        )?;
        dind.remove()?;
        task.remove()?;
        ensure!(storage.entries()?.is_empty(), "{:?}", storage.entries()?);
    }
    storage.end()
}

fn a_dockerd_that_is_killed_ends_the_task_with_its_last_lines(stage: &Stage) -> Result<()> {
    // Every engine's log has lines with their time.
    let why = "its last lines: time=";
    ends_when_dockerd_gets(stage, "dockerd-killed", ("KILL", 70, why))
}

fn a_dockerd_that_is_stopped_ends_the_task(stage: &Stage) -> Result<()> {
    ends_when_dockerd_gets(stage, "dockerd-stopped", ("STOP", 71, "it hangs"))
}

/// How a sidecar is started wrongly: arguments of `docker run`, then the exit code and what the
/// log must say.
type Wrong<'a> = (&'a str, &'a [&'a str], i32, &'a [&'a str]);

const CAPABLE: &[&str] = &["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN"];

/// The volume is at `STORAGE` in the host; `/srv/plain` is a folder on its root disk.
const WRONG: &[Wrong<'_>] = &[
    (
        "no volume",
        &[],
        69,
        &["/var/docker-storage is not XFS", "DINDD_ALLOW_ANY_FS"],
    ),
    (
        "a host path that is not mounted",
        &["--volume=/srv/plain:/var/docker-storage"],
        69,
        &["is on the same device", "mount it on the host"],
    ),
    (
        "another filesystem",
        &["--tmpfs=/var/docker-storage"],
        69,
        &["/var/docker-storage is not XFS"],
    ),
    (
        "a volume that is not there",
        &["--env=DINDD_STORAGE=/nowhere"],
        69,
        &["/nowhere is not there", "DINDD_STORAGE"],
    ),
    (
        "a volume that cannot be written",
        &["--volume=STORAGE:/var/docker-storage:ro"],
        69,
        &["/var/docker-storage", "Read-only file system"],
    ),
    (
        "a full volume",
        &[
            "--tmpfs=/var/docker-storage:size=1m",
            "--env=DINDD_ALLOW_ANY_FS=1",
        ],
        69,
        &["/var/docker-storage is full"],
    ),
    (
        "a log target that is not there",
        &[
            "--volume=STORAGE:/var/docker-storage",
            "--env=DINDD_LOG_DRIVER=syslog",
            "--env=DINDD_LOG_OPTS=syslog-address=unixgram:///run/log/there-is-none",
        ],
        69,
        &["the log target /run/log/there-is-none", "DINDD_LOG_OPTS"],
    ),
    (
        "cgroup v1",
        &[
            "--volume=STORAGE:/var/docker-storage",
            "--volume=/srv/cgroup-v1:/sys/fs/cgroup",
        ],
        69,
        &["/sys/fs/cgroup", "cgroup v2"],
    ),
    (
        "wrong settings",
        &[
            "--volume=STORAGE:/var/docker-storage",
            "--env=DINDD_REGISTRY_MIRRORS=mirror:5000",
            "--env=DINDD_SOCKET=/run/dind/LONG.sock",
        ],
        64,
        &[
            "DINDD_REGISTRY_MIRRORS",
            "http://mirror:5000",
            "DINDD_SOCKET",
            "107",
        ],
    ),
];

/// Without one of the capabilities.
const INCAPABLE: [(&str, &str); 2] = [
    ("--cap-add=SYS_ADMIN", "NET_ADMIN is missing"),
    ("--cap-add=NET_ADMIN", "SYS_ADMIN is missing"),
];

fn what_is_missing_is_named_and_nothing_is_left(stage: &Stage) -> Result<()> {
    let storage = Storage::make(stage, "wrong")?;
    // What a host with cgroup v1 has there.
    stage.host().run([
        "sh",
        "-c",
        "mkdir -p /srv/plain /srv/cgroup-v1/memory /srv/cgroup-v1/pids /srv/cgroup-v1/systemd",
    ])?;
    for (what, arguments, code, said) in WRONG {
        let arguments: Vec<String> = CAPABLE
            .iter()
            .chain(*arguments)
            .map(|argument| {
                argument
                    .replace("STORAGE:", &format!("{}:", storage.inside().display()))
                    .replace("LONG", &"x".repeat(100))
            })
            .collect();
        is_refused(&storage, what, &arguments, (*code, said))?;
    }
    let volume = format!(
        "--volume={}:/var/docker-storage",
        storage.inside().display()
    );
    for (capability, missing) in INCAPABLE {
        let arguments = [capability.to_owned(), volume.clone()];
        is_refused(&storage, missing, &arguments, (77, &[missing, "--cap-add"]))?;
    }
    storage.end()
}

fn is_refused(
    storage: &Storage<'_>,
    what: &str,
    arguments: &[String],
    (code, said): (i32, &[&str]),
) -> Result<()> {
    let output = run_sidecar(storage, arguments)?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{what}: {}, expected {code}:\n{log}",
        output.status
    );
    for part in said {
        ensure!(log.contains(part), "{what}: no {part:?} in:\n{log}");
    }
    let left = storage.entries()?;
    ensure!(left.is_empty(), "{what}: left on the volume: {left:?}");
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test driver, not the PID 1 of a container"
)]
fn run_sidecar(storage: &Storage<'_>, arguments: &[String]) -> Result<Output> {
    let mut command = storage.stage.host().command("docker");
    command.args(["run", "--rm"]).args(arguments);
    Ok(command.arg("ecs-dind").output()?)
}

fn a_port_that_another_task_has_is_named(stage: &Stage) -> Result<()> {
    let heard = Heard::default();
    let storage = Storage::make(stage, "port-taken")?;
    let task = storage.task("port-taken", &heard, TaskOptions::default())?;
    let dind = healthy_dind(&task)?;
    let second = Storage::make(stage, "port-taken-second")?;
    let mut arguments: Vec<String> = CAPABLE.iter().map(|argument| (*argument).into()).collect();
    arguments.push(format!("--network=container:{}", dind.name()));
    arguments.push(format!(
        "--volume={}:/var/docker-storage",
        second.inside().display()
    ));
    let said = ["127.0.0.1:2375", "DINDD_HEALTH_ADDR"];
    is_refused(&second, "a port that is taken", &arguments, (69, &said))?;
    end(dind, task, &heard)?;
    second.end()?;
    storage.end()
}

fn images_are_built_on_a_volume_that_the_host_mounts_without_devices(stage: &Stage) -> Result<()> {
    let storage = Storage::make(stage, "without-devices")?;
    let folder = storage.inside().display().to_string();
    let mount = format!("mount --bind {folder} {folder} && mount -o remount,bind,nodev {folder}");
    stage.host().run(["sh", "-ec", &mount])?;
    let heard = Heard::default();
    let task = storage.task("nodev", &heard, TaskOptions::default())?;
    let dind = healthy_dind(&task)?;
    task.docker(
        "mkdir nodev && cd nodev
         printf 'FROM busybox AS first\nRUN echo x >/x\nFROM busybox\nCOPY --from=first /x /x\n\
           RUN --mount=type=bind,from=first,target=/first cat /first/x\n' >Dockerfile
         DOCKER_BUILDKIT=1 docker build .",
    )?;
    end(dind, task, &heard)?;
    stage.host().run(["umount", &folder])?;
    storage.end()
}

/// What a host keeps back, as a change of the seccomp profile in jq's language; what dindd says then
/// at its start, and the verdict of its check.
const KEPT_BACK: [(&str, &str, &str, &str); 2] = [
    (
        "namespaces",
        // All of unshare's flags but CLONE_NEWUSER.
        r#"(.syscalls[].names) -= ["unshare"] | .syscalls += [{names: ["unshare"], action: "SCMP_ACT_ALLOW",
           args: [{index: 0, value: 268435456, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ"}]}]"#,
        "a privileged job could change what is started in this container from outside",
        "weak",
    ),
    (
        "mounts",
        r#"(.syscalls[].names) -= ["open_tree"]"#,
        "a job could change what is started in this container from outside",
        "ok",
    ),
];

fn a_host_that_keeps_something_back_gets_a_weaker_sidecar_that_says_so(
    stage: &Stage,
) -> Result<()> {
    for (name, change, warning, verdict) in KEPT_BACK {
        let profile = format!("/run/{name}.json");
        let make = format!("jq '{change}' /run/chain/trixie/images/dind/seccomp.json >{profile}");
        stage.host().run(["sh", "-ec", &make])?;
        let heard = Heard::default();
        let options = TaskOptions {
            create: vec![format!("--security-opt=seccomp={profile}")],
            ..TaskOptions::default()
        };
        let task = stage.task(&format!("kept-back-{name}"), options, heard.listener())?;
        let dind = healthy_dind(&task)?;
        heard.wait_for(
            warning,
            |line| matches!(&line.said, Said::Event { message, .. } if message.starts_with(warning)),
        )?;
        let said =
            task.docker("docker run --rm --volume /:/host:ro busybox ls /host/var/docker-storage")?;
        ensure!(said.trim().is_empty(), "the volume is to be seen: {said}");
        let check = dind.exec(&["dindd", "check"])?;
        let row = check.lines().find(|row| row.starts_with("outside"));
        ensure!(
            row.is_some_and(|row| row.split_whitespace().nth(1) == Some(verdict)),
            "{name}: {check}"
        );
        end(dind, task, &heard)?;
    }
    Ok(())
}
