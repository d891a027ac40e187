//! What jobs do with Docker works in the sidecar as on any Docker host.

use anyhow::{Result, ensure};
use chain::driver::{Heard, STOP_TIMEOUT, Test, end, healthy_dind};
use chain::{Container, Engine, Stage, Task, TaskOptions};

type Case = (&'static str, fn(&Stage, Engine) -> Result<()>);

const CASES: [Case; 12] = [
    (
        "a_container_runs_and_others_are_executed_in_it",
        a_container_runs_and_others_are_executed_in_it,
    ),
    (
        "a_container_of_any_user_is_entered_and_joined",
        a_container_of_any_user_is_entered_and_joined,
    ),
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
        "a_health_check_tells_healthy_from_unhealthy",
        a_health_check_tells_healthy_from_unhealthy,
    ),
    (
        "a_job_runs_a_docker_of_its_own",
        a_job_runs_a_docker_of_its_own,
    ),
    (
        "containers_are_told_to_stop_before_they_are_killed",
        containers_are_told_to_stop_before_they_are_killed,
    ),
    ("the_engine_is_the_one_named", the_engine_is_the_one_named),
];

/// Every case with every engine.
pub(crate) fn tests() -> impl Iterator<Item = Test> {
    Engine::ALL.into_iter().flat_map(|engine| {
        CASES.into_iter().map(move |(name, case)| {
            let name = format!("engine_{}::{name}", engine.version());
            Test::new(name, move |stage| case(stage, engine))
        })
    })
}

/// Runs a script as the job of a task of its own, and checks what it prints last.
fn job(stage: &Stage, engine: Engine, name: &str, script: &str, last: &str) -> Result<()> {
    with_sidecar(stage, engine, name, |task, _| expect(task, script, last))
}

fn with_sidecar(
    stage: &Stage,
    engine: Engine,
    name: &str,
    work: impl FnOnce(&Task<'_>, &Container<'_>) -> Result<()>,
) -> Result<()> {
    let heard = Heard::default();
    let options = TaskOptions {
        engine,
        ..TaskOptions::default()
    };
    let name = format!("{name}-{}", engine.suite());
    let task = stage.task(&name, options, heard.listener())?;
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

fn the_engine_is_the_one_named(stage: &Stage, engine: Engine) -> Result<()> {
    with_sidecar(stage, engine, "version", |task, _| {
        let version = task.docker("docker version --format '{{.Server.Version}}'")?;
        ensure!(version.starts_with(engine.version()), "it is {version}");
        Ok(())
    })
}

fn a_container_runs_and_others_are_executed_in_it(stage: &Stage, engine: Engine) -> Result<()> {
    let script = r#"
if docker run --rm busybox sh -c 'exit 7'; then exit 1; else test $? = 7; fi
echo in | docker run --rm --interactive --user 1000:1000 --workdir /tmp --env WORD=word --hostname host busybox \
  sh -c 'cat; pwd; echo $WORD; hostname; id -u; touch /tmp/x 2>/dev/null || echo not mine'
docker run --detach --name long --init --memory 64m --pids-limit 100 busybox sh -c 'echo started; sleep 1000' >/dev/null
docker exec --user 1000 --env WORD=executed long sh -c 'echo $WORD; id -u'
echo copied >file && docker cp file long:/file && docker exec long cat /file
docker logs long
docker pause long && docker unpause long
docker restart --time 0 long >/dev/null && docker exec --interactive long cat /file
docker commit --change 'CMD ["cat", "/file"]' long committed >/dev/null && docker run --rm committed
docker rm --force long"#;
    let last = "in\n/tmp\nword\nhost\n1000\nnot mine\nexecuted\n1000\ncopied\nstarted\nlong\nlong\ncopied\n\
                copied\nlong";
    job(stage, engine, "run", script, last)
}

/// The sidecar has no `SYS_PTRACE`, without which Linux shows nobody the namespaces of another
/// user's processes.
const USERS: &str = r#"
namespace='readlink /proc/self/ns/net'
for user in 0 1000:1000; do
  docker run --detach --user $user --ipc shareable --name first busybox sleep 1000 >/dev/null
  docker exec first id -u
  docker exec --user 1001 first id -u
  docker exec --user 0 first id -u
  docker run --detach --user 1002 --network container:first --ipc container:first --name second busybox \
    sleep 1000 >/dev/null
  docker exec second id -u
  test "$(docker exec first $namespace)" = "$(docker exec second $namespace)"
  test "$(docker run --rm --network container:second busybox $namespace)" = "$(docker exec first $namespace)"
  docker run --rm --network none --user 1003 busybox id -u
  docker rm --force --volumes first second >/dev/null
done"#;

fn a_container_of_any_user_is_entered_and_joined(stage: &Stage, engine: Engine) -> Result<()> {
    let last = "0\n1001\n0\n1002\n1003\n1000\n1001\n0\n1002\n1003";
    job(stage, engine, "user", USERS, last)
}

const HEALTH: &str = r#"
docker run --detach --name sick --health-cmd 'cat /well' --health-interval 200ms --health-retries 2 \
  busybox sleep 1000 >/dev/null
is() { until test "$(docker inspect --format '{{.State.Health.Status}}' sick)" = $1; do sleep 0.1; done; echo $1; }
is unhealthy
docker exec sick touch /well
is healthy"#;

fn a_health_check_tells_healthy_from_unhealthy(stage: &Stage, engine: Engine) -> Result<()> {
    job(stage, engine, "health", HEALTH, "unhealthy\nhealthy")
}

/// The task's own image once more: its programs are the sidecar's, its root filesystem is made of
/// links to them. The socket is on the task's volume, so that the job's client reaches it.
const NEST: &str = r#"
mkdir root && cd root
mkdir -p etc proc sys dev tmp usr run/docker run/dind run/containerd var/lib/docker var/docker-storage
for folder in bin sbin lib lib64; do ln -s usr/$folder $folder; done
ln -s ../run var/run
tar -c . | docker import - nest >/dev/null
options="--detach --volume /usr:/usr:ro --volume /etc/alternatives:/etc/alternatives:ro --volume /etc/passwd:/etc/passwd:ro
  --volume /etc/group:/etc/group:ro --volume /run/dind/nest:/run/dind"
docker run $options --name nest --cap-add SYS_ADMIN --cap-add NET_ADMIN --volume storage:/var/docker-storage \
  --env DINDD_ALLOW_ANY_FS=1 nest /usr/local/bin/dindd >/dev/null
until docker exec nest dindd health; do
  test "$(docker inspect --format '{{.State.Running}}' nest)" = true || { docker logs nest >&2; exit 1; }
  sleep 0.1
done
inner() { docker --host unix:///run/dind/nest/docker.sock "$@"; }
inner import --change 'CMD ["sh"]' /busybox/busybox.tar busybox >/dev/null
inner network create net >/dev/null
inner run --detach --name web --network net --publish 8080:80 busybox sh -c   'mkdir /www; echo deep >/www/index.html; exec httpd -f -p 80 -h /www' >/dev/null
inner run --rm --network net busybox sh -c 'until wget -q -T 2 -O - http://web/; do sleep 0.1; done'
docker run --rm --network container:nest busybox wget -q -O - http://127.0.0.1:8080/
printf 'FROM busybox\nRUN echo built >/word\nCMD ["cat", "/word"]\n' >Dockerfile
inner build --quiet --tag built . >/dev/null
inner run --rm built
inner info --format '{{.Driver}}'
docker stop --time 20 nest
docker inspect --format '{{.State.ExitCode}}' nest
docker run --rm --volume storage:/storage busybox find /storage -mindepth 1 -maxdepth 1 ! -name .trash
"#;

fn a_job_runs_a_docker_of_its_own(stage: &Stage, engine: Engine) -> Result<()> {
    job(
        stage,
        engine,
        "nest",
        NEST,
        "deep\ndeep\nbuilt\noverlay2\nnest\n0",
    )
}

fn images_are_built_by_both_builders(stage: &Stage, engine: Engine) -> Result<()> {
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
    job(
        stage,
        engine,
        "build",
        script,
        "legacy\ndata\nbuildkit\ndata",
    )
}

fn containers_find_each_other_by_name(stage: &Stage, engine: Engine) -> Result<()> {
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
        engine,
        "network",
        script,
        "web-of-inner\nweb-of-inner\non-bridge\nweb-of-inner\nweb-of-inner",
    )
}

fn a_published_port_is_reached_from_the_task(stage: &Stage, engine: Engine) -> Result<()> {
    with_sidecar(stage, engine, "port", |task, dind| {
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

fn volumes_keep_what_containers_leave(stage: &Stage, engine: Engine) -> Result<()> {
    let script = r#"
docker volume create kept
docker run --rm --volume kept:/kept busybox sh -c 'echo word >/kept/file; chown 1000:1000 /kept/file'
if docker run --rm --volume kept:/kept:ro busybox touch /kept/other; then exit 1; fi
docker run --name source --volume /anonymous busybox sh -c 'echo anonymous >/anonymous/file'
docker run --rm --volumes-from source busybox cat /anonymous/file
docker rm --volumes source
docker run --rm --tmpfs /small:size=1m busybox sh -c 'head -c 2000000 /dev/zero >/small/x || echo full'
docker run --rm --volume kept:/kept --user 1000 busybox sh -c 'cat /kept/file; stat -c %u /kept/file'"#;
    job(stage, engine, "volume", script, "word\n1000")
}

fn a_privileged_container_may_mount(stage: &Stage, engine: Engine) -> Result<()> {
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
    if engine == Engine::Bookworm {
        // It asks for every capability, whatever the sidecar has; from 23.0 on for those.
        let refused = format!(
            "if {} 2>/tmp/why; then exit 1; fi\ncat /tmp/why",
            script.trim()
        );
        return with_sidecar(stage, engine, "privileged", |task, _| {
            let why = task.docker(&refused)?;
            ensure!(why.contains("unable to apply caps"), "it says {why}");
            expect(task, "docker run --rm busybox echo unharmed", "unharmed")
        });
    }
    job(stage, engine, "privileged", script, "changed")
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

fn a_compose_project_waits_for_health_and_talks(stage: &Stage, engine: Engine) -> Result<()> {
    job(stage, engine, "compose", COMPOSE, "healthy\nrows\nthe end")
}

fn containers_are_told_to_stop_before_they_are_killed(stage: &Stage, engine: Engine) -> Result<()> {
    let heard = Heard::default();
    let options = TaskOptions {
        engine,
        ..TaskOptions::default()
    };
    let name = format!("told-{}", engine.suite());
    let task = stage.task(&name, options, heard.listener())?;
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
    let read =
        format!("cat $(docker volume inspect --format '{{{{.Mountpoint}}}}' {name}-work)/told");
    let told = stage.host().run(["sh", "-c", &read])?;
    ensure!(told == "done\n", "the container wrote {told:?}");
    task.remove()
}
