//! Root in a container is nobody outside of it, where that was asked for and can be had.

use anyhow::{Result, ensure};
use chain::driver::{Case, Heard, LIMIT, end, healthy_dind};
use chain::{Engine, Stage, TaskOptions};

pub(crate) const CASES: [Case; 4] = [
    ("containers_are_remapped_by_engine_20_10", |stage| {
        remapped(stage, Engine::Bookworm)
    }),
    ("containers_are_remapped_by_engine_26_1", |stage| {
        remapped(stage, Engine::Trixie)
    }),
    ("containers_are_remapped_by_engine_28_5", |stage| {
        remapped(stage, Engine::Sid)
    }),
    (
        "remapping_without_sys_ptrace_is_refused",
        remapping_without_sys_ptrace_is_refused,
    ),
];

fn options(engine: Engine, create: &[&str]) -> TaskOptions {
    TaskOptions {
        dind: vec!["DINDD_USERNS=on".into()],
        create: create.iter().map(|word| (*word).into()).collect(),
        engine,
        ..TaskOptions::default()
    }
}

fn remapped(stage: &Stage, engine: Engine) -> Result<()> {
    let heard = Heard::default();
    let name = format!("userns-{engine:?}").to_lowercase();
    let options = options(engine, &["--cap-add=SYS_PTRACE"]);
    let task = stage.task(&name, options, heard.listener())?;
    let dind = healthy_dind(&task)?;
    let found = task.docker(
        r#"
docker run --rm busybox sh -ec 'id -u; echo map $(cat /proc/self/uid_map); mount | grep -c "^sysfs on /sys"'
docker run --rm --volume kept:/kept busybox sh -c 'touch /kept/x && chown 1000 /kept/x && ls -n /kept'
docker run --detach --name web busybox sh -c 'mkdir /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www'
docker exec web id -u
until docker run --rm --network container:web busybox wget -q -O - http://127.0.0.1/; do :; done
mkdir context && printf 'FROM busybox\nRUN id -u >/who && chown 7:7 /who\nCMD ["ls", "-n", "/who"]\n' >context/Dockerfile
DOCKER_BUILDKIT=0 docker build --quiet --tag built context && docker run --rm built
# Whoever is outside cannot be reached as root: a file of the sidecar's own.
docker run --rm --volume /:/x busybox sh -c 'cat /x/etc/shadow || echo kept out'"#,
    )?;
    let map = found.lines().find(|line| line.starts_with("map 0 "));
    ensure!(
        map.is_some_and(|map| !map.starts_with("map 0 0 ")),
        "root is root outside:\n{found}"
    );
    for line in ["page", "kept out", "1000"] {
        ensure!(found.contains(line), "no {line:?} in:\n{found}");
    }
    end(dind, task, &heard)
}

fn remapping_without_sys_ptrace_is_refused(stage: &Stage) -> Result<()> {
    let heard = Heard::default();
    let task = stage.task(
        "userns-refused",
        options(Engine::default(), &[]),
        heard.listener(),
    )?;
    let mut dind = task.start_dind()?;
    let code = dind.wait(LIMIT)?;
    ensure!(code == 77, "it ended with {code}:{}", heard.transcript());
    ensure!(
        heard.transcript().contains("SYS_PTRACE"),
        "no remedy in:{}",
        heard.transcript()
    );
    dind.remove()?;
    task.remove()
}
