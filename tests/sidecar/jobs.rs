//! What jobs do with Docker works in the sidecar as on any Docker host.

use anyhow::{Result, ensure};
use chain::driver::{Case, Heard, STOP_TIMEOUT, end, healthy_dind};
use chain::{Container, Stage, Task, TaskOptions};

pub(crate) const CASES: [Case; 7] = [
    (
        "images_are_built_by_both_builders",
        images_are_built_by_both_builders,
    ),
    (
        "containers_find_each_other_by_name",
        containers_find_each_other_by_name,
    ),
    (
        "a_published_port_is_reached_from_the_task",
        a_published_port_is_reached_from_the_task,
    ),
    (
        "volumes_keep_what_containers_leave",
        volumes_keep_what_containers_leave,
    ),
    (
        "a_privileged_container_may_mount",
        a_privileged_container_may_mount,
    ),
    (
        "a_compose_project_waits_for_health_and_talks",
        a_compose_project_waits_for_health_and_talks,
    ),
    (
        "containers_are_told_to_stop_before_they_are_killed",
        containers_are_told_to_stop_before_they_are_killed,
    ),
];

/// Runs a script as the job of a task of its own, and checks what it prints last.
fn job(stage: &Stage, name: &str, script: &str, last: &str) -> Result<()> {
    with_sidecar(stage, name, |task, _| expect(task, script, last))
}

fn with_sidecar(
    stage: &Stage,
    name: &str,
    work: impl FnOnce(&Task<'_>, &Container<'_>) -> Result<()>,
) -> Result<()> {
    let heard = Heard::default();
    let task = stage.task(name, TaskOptions::default(), heard.listener())?;
    let dind = healthy_dind(&task)?;
    work(&task, &dind)?;
    end(dind, task, &heard)
}

fn expect(task: &Task<'_>, script: &str, last: &str) -> Result<()> {
    let said = task.docker(script)?;
    ensure!(
        said.trim_end().ends_with(last),
        "expected {last:?} at the end of:\n{said}"
    );
    Ok(())
}

fn images_are_built_by_both_builders(stage: &Stage) -> Result<()> {
    let script = r#"
mkdir context && cd context && echo data >data
cat >Dockerfile <<'DOCKERFILE'
FROM busybox AS first
ARG WORD=unset
RUN mkdir /made && echo $WORD >/made/word && id -u >/made/id
RUN chown -R 1000:1000 /made && cat /proc/self/status >/made/status
FROM busybox
COPY --from=first /made /made
COPY data /made/
RUN cat /made/* >/made/all
CMD ["cat", "/made/word", "/made/data"]
DOCKERFILE
DOCKER_BUILDKIT=0 docker build --build-arg WORD=legacy --tag legacy .
DOCKER_BUILDKIT=1 docker build --progress=plain --build-arg WORD=buildkit --tag buildkit .
printf 'FROM busybox\nRUN --mount=type=cache,target=/cache --mount=type=secret,id=word \\\n  cat /run/secrets/word >/word && touch /cache/x\n' \
  >Dockerfile.mounts
DOCKER_BUILDKIT=1 docker build --file Dockerfile.mounts --secret id=word,src=data --tag mounts .
docker run --rm mounts cat /word
for image in legacy buildkit; do docker run --rm $image; done"#;
    job(stage, "build", script, "legacy\ndata\nbuildkit\ndata")
}

fn containers_find_each_other_by_name(stage: &Stage) -> Result<()> {
    let script = r#"
serve='mkdir /www; hostname >/www/index.html; exec httpd -f -p 80 -h /www'
get='until wget -q -T 2 -O - http://$0/; do sleep 0.1; done'
docker network create inner
docker network create --internal --subnet 10.77.0.0/24 closed
docker run --detach --name web --hostname web-of-inner --network inner --network-alias www busybox sh -c "$serve"
docker run --detach --name bridge --hostname on-bridge busybox sh -c "$serve"
docker run --rm --network inner busybox sh -c "$get" web
docker run --rm --network inner busybox sh -c "$get" www
docker run --rm busybox sh -c "$get" "$(docker inspect --format '{{.NetworkSettings.IPAddress}}' bridge)"
# Another network does not know the name, nor does the default one.
if docker run --rm --network closed busybox wget -q -T 2 -O - http://web/; then exit 1; fi
if docker run --rm busybox wget -q -T 2 -O - http://web/; then exit 1; fi
docker network connect closed web
docker run --rm --network closed busybox sh -c "$get" web
docker run --rm --network container:web busybox wget -q -O - http://127.0.0.1/"#;
    job(
        stage,
        "network",
        script,
        "web-of-inner\nweb-of-inner\non-bridge\nweb-of-inner\nweb-of-inner",
    )
}

fn a_published_port_is_reached_from_the_task(stage: &Stage) -> Result<()> {
    with_sidecar(stage, "port", |task, dind| {
        let script = r#"
docker run --detach --name web --publish 8088:80 --publish 127.0.0.1:8089:80 busybox \
  sh -c 'mkdir /www; echo published >/www/index.html; exec httpd -f -p 80 -h /www'
until docker run --rm --network host busybox wget -q -T 2 -O - http://127.0.0.1:8088/; do :; done
docker port web | grep 8089"#;
        expect(task, script, "80/tcp -> 127.0.0.1:8089")?;
        // On ECS both containers of a task have the sidecar's network.
        for port in [8088, 8089] {
            let get = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
            );
            let page = dind.exec(&["bash", "-ec", &get])?;
            ensure!(page.contains("published"), "port {port} answers {page}");
        }
        Ok(())
    })
}

fn volumes_keep_what_containers_leave(stage: &Stage) -> Result<()> {
    let script = r#"
docker volume create kept
docker run --rm --volume kept:/kept busybox sh -c 'echo word >/kept/file; chown 1000:1000 /kept/file'
if docker run --rm --volume kept:/kept:ro busybox touch /kept/other; then exit 1; fi
docker run --name source --volume /anonymous busybox sh -c 'echo anonymous >/anonymous/file'
docker run --rm --volumes-from source busybox cat /anonymous/file
docker rm --volumes source
docker run --rm --tmpfs /small:size=1m busybox sh -c 'head -c 2000000 /dev/zero >/small/x || echo full'
docker run --rm --volume kept:/kept --user 1000 busybox sh -c 'cat /kept/file; stat -c %u /kept/file'"#;
    job(stage, "volume", script, "word\n1000")
}

fn a_privileged_container_may_mount(stage: &Stage) -> Result<()> {
    let script = r#"
docker run --rm --privileged busybox sh -c '
  set -e
  mkdir /one /two /lower /upper-of-overlay
  mount -t tmpfs tmpfs /one
  mount --bind /one /two
  touch /one/x && ls /two
  ip link add dummy0 type dummy || ip link
  echo 1 >/proc/sys/net/ipv4/ip_forward
  mkdir /sys/fs/cgroup/below && rmdir /sys/fs/cgroup/below
  hostname changed; hostname'"#;
    job(stage, "privileged", script, "changed")
}

const COMPOSE: &str = r#"
mkdir project && cd project
cat >compose.yaml <<'YAML'
services:
  database:
    image: busybox
    command: sh -c 'sleep 1; mkdir /www; echo rows >/www/index.html; exec httpd -f -p 5432 -h /www'
    stop_signal: SIGKILL
    volumes: ["data:/data"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:5432/"]
      interval: 200ms
      timeout: 5s
      retries: 50
  web:
    build: .
    stop_signal: SIGKILL
    ports: ["8090:80"]
    depends_on: {database: {condition: service_healthy}}
volumes: {data: {}}
YAML
cat >Dockerfile <<'DOCKERFILE'
FROM busybox
RUN mkdir /www
CMD ["sh", "-c", "wget -q -O /www/index.html http://database:5432/ && exec httpd -f -p 80 -h /www"]
DOCKERFILE
docker compose --progress=plain up --detach --build
docker inspect --format '{{.State.Health.Status}}' project-database-1
until docker run --rm --network host busybox wget -q -T 2 -O /dev/null http://127.0.0.1:8090/; do :; done
docker compose exec --no-TTY web cat /www/index.html
docker compose down --volumes
docker ps --all --quiet; docker volume ls --quiet; echo the end
"#;

fn a_compose_project_waits_for_health_and_talks(stage: &Stage) -> Result<()> {
    job(stage, "compose", COMPOSE, "healthy\nrows\nthe end")
}

fn containers_are_told_to_stop_before_they_are_killed(stage: &Stage) -> Result<()> {
    let heard = Heard::default();
    let task = stage.task("told", TaskOptions::default(), heard.listener())?;
    let mut dind = healthy_dind(&task)?;
    task.docker(
        r#"
docker run --detach --name polite --volume /home/runner/_work:/work busybox sh -c '
  trap "sleep 0.5; echo done >/work/told; exit" TERM; echo ready >/work/ready; while :; do sleep 0.1; done'
until docker exec polite cat /work/ready; do :; done"#,
    )?;
    let code = dind.stop(STOP_TIMEOUT)?;
    ensure!(code == 0, "dindd ended with {code}:{}", heard.transcript());
    dind.remove()?;
    let told = stage.host().run([
        "sh",
        "-c",
        "cat $(docker volume inspect --format '{{.Mountpoint}}' told-work)/told",
    ])?;
    ensure!(told == "done\n", "the container wrote {told:?}");
    task.remove()
}
