//! What a job does with attached images is what it does with images that were pulled; what it does
//! to them concerns nobody else.

use anyhow::{Context, Result, ensure};
use chain::driver::{Case, Test};
use chain::{Engine, Stage, TaskOptions};

use crate::store::{ARCHIVE, Job, Registry, Store};

pub(crate) const CASES: [Case; 3] = [
    (
        "attached_images_are_pushed_and_newer_ones_pulled_by_layers",
        attached_images_are_pushed_and_newer_ones_pulled_by_layers,
    ),
    (
        "attached_images_are_the_same_as_loaded_ones_to_the_byte",
        attached_images_are_the_same_as_loaded_ones_to_the_byte,
    ),
    (
        "a_job_cannot_change_what_its_neighbour_sees",
        a_job_cannot_change_what_its_neighbour_sees,
    ),
];

/// One store for all engines, made by one of them.
pub(crate) fn with_every_engine() -> impl Iterator<Item = Test> {
    Engine::ALL.into_iter().map(|engine| {
        let name = format!("attached_images_serve_as_any_others_with_{engine}").replace(' ', "_");
        Test::new(name, move |stage| {
            attached_images_serve_as_any_others(stage, engine)
        })
    })
}

const SERVE: &str = r#"
docker images --format '{{.Repository}}:{{.Tag}}' | sort | tr '\n' ' '
test "$(docker run --rm app:1 cat /version)" = 1
docker run --name changed app:1 sh -c 'echo more >>/odd/a; rm /odd/suid /odd/opaque/new; touch /new'
docker diff changed | grep -x 'D /odd/suid'
docker commit changed committed
docker run --rm committed sh -c 'cat /odd/a /odd/b; ! test -e /odd/suid' | grep -x more
mkdir context && cd context
printf 'FROM app:1\nRUN echo built >/built && rm -r /odd/opaque\nRUN test ! -e /odd/opaque\nCOPY --from=odd:1 /odd/dated /copied\n' >Dockerfile
DOCKER_BUILDKIT=0 docker build --tag legacy .
DOCKER_BUILDKIT=1 docker build --progress=plain --tag buildkit .
for image in legacy buildkit; do docker run --rm $image cat /built /odd/b /copied; done
docker tag app:1 other:name
docker save other:name | tar -t >/dev/null
docker rmi app:1
docker run --rm other:name cat /version
docker rm --force changed
docker system prune --all --force >/dev/null
docker images --quiet | wc -l"#;

fn attached_images_serve_as_any_others(stage: &Stage, engine: Engine) -> Result<()> {
    let store = Store::with_images(stage, engine.suite())?;
    let job = store.task_with(&format!("serve-{}", engine.suite()), engine)?;
    job.expect(SERVE, "\n0")?;
    // What a job has deleted is gone for the job alone.
    let next = store.task_with(&format!("next-{}", engine.suite()), engine)?;
    next.expect("docker run --rm app:1 cat /version /odd/a", "1\none")?;
    next.end()?;
    job.end()?;
    store.golden(&["verify"]).map(drop)
}

fn attached_images_are_pushed_and_newer_ones_pulled_by_layers(stage: &Stage) -> Result<()> {
    let store = Store::new(stage, "layers")?;
    let registry = Registry::start(stage, 5002)?;
    registry.push(stage, "app:1", "app:latest")?;
    let image = format!("{}/app", registry.address);
    let trust = "--dockerd-args=--insecure-registry=172.17.0.0/16";
    store.golden(&["build", trust, &image])?;
    registry.push(stage, "app:2", "app:latest")?;
    let job = store.task("layers")?;
    let script = format!(
        r#"
test "$(docker run --rm {image} cat /version)" = 1
docker tag {image} {image}/pushed:1
docker push {image}/pushed:1 | tee pushed >&2
docker pull {image} | tee pulled >&2
grep -c 'Already exists' pulled
grep -c 'Pull complete' pulled
docker rmi {image}/pushed:1 >/dev/null
docker pull {image}/pushed:1 >&2
docker run --rm {image}/pushed:1 cat /version
docker run --rm {image} cat /version"#
    );
    // Of the five layers the last one is new.
    job.expect(&script, "4\n1\n1\n2")?;
    job.end()
}

/// Everything that a layer's files are, and what `docker save` makes of them.
const PRINTS: &str = r#"
for image in odd:1 app:1; do
  docker run --rm --network none $image sh -c '
    cd / && tar --create --file=- --sort=name --format=posix --pax-option=delete=atime,delete=ctime \
      --xattrs "--xattrs-include=*" --one-file-system \
      $(ls -A | grep -vxE "dev|proc|sys|etc|[.]dockerenv") \
      $(ls -d etc/* | grep -vxE "etc/(hosts|hostname|resolv.conf|mtab)")' >tree
  mkdir "saved-$image" && docker save $image | tar -x --directory="saved-$image"
  grep -ac SCHILY.xattr tree || true
  sha256sum <tree
  (cd "saved-$image" && find . -type f -exec sha256sum {} + | sort)
done"#;

fn attached_images_are_the_same_as_loaded_ones_to_the_byte(stage: &Stage) -> Result<()> {
    let store = Store::with_images(stage, "bytes")?;
    let attached = store.task("attached")?;
    let ours = attached.docker(PRINTS)?;
    attached.end()?;
    let options = TaskOptions {
        dind: vec!["DINDD_DOCKERD_ARGS=--insecure-registry=172.17.0.0/16".into()],
        ..TaskOptions::default()
    };
    let loaded = Job::begin(stage, "loaded", options)?;
    let archive = stage.host().path(ARCHIVE);
    let work = stage.host().run([
        "docker",
        "volume",
        "inspect",
        "--format",
        "{{.Mountpoint}}",
        "loaded-work",
    ])?;
    std::fs::copy(archive, stage.host().path(work.trim()).join("one.tar"))?;
    let theirs = loaded.docker(&format!(
        "docker run --rm --volume /home/runner/_work:/work busybox cat /work/one.tar | docker load >&2\n{PRINTS}"
    ))?;
    loaded.end()?;
    ensure!(ours.lines().count() > 10, "little was compared: {ours}");
    ensure!(ours == theirs, "attached:\n{ours}\nloaded:\n{theirs}");
    Ok(())
}

/// Whatever a job tries as root with its Docker, from a container and from dockerd's own place.
const ATTACKS: &str = r#"
set +e
try() { docker run --rm --privileged --pid=host --volume /var/lib/docker:/d app:1 sh -c "$1" 2>&1; }
try 'ls -d /d/golden/1/trees/* | head -n 1'
try 'for tree in /d/golden/1/trees/*; do touch $tree/hacked && echo CHANGED; done'
try 'mount -o remount,rw /d/golden/1 && touch /d/golden/1/hacked && echo CHANGED'
try 'mount -o remount,bind,rw /d/golden/1 && touch /d/golden/1/hacked && echo CHANGED'
try 'for layer in /d/overlay2/*; do test -L $layer/diff && echo hacked >$layer/diff/version && echo CHANGED; done'
try 'rm -rf /d/golden/1/trees/* 2>&1 | tail -n 1'
try 'nsenter -t 1 -m sh -c "mount -o remount,rw /var/lib/docker/golden/1; touch /var/lib/docker/golden/1/hacked && echo CHANGED"'
try 'nsenter -t 1 -m sh -c "umount /var/lib/docker/golden/1; umount /golden; ls /golden /var/docker-storage; find / -xdev -path \*files\*.erofs"'
docker rmi --force $(docker images --quiet) >/dev/null 2>&1
docker images --quiet | wc -l"#;

fn a_job_cannot_change_what_its_neighbour_sees(stage: &Stage) -> Result<()> {
    let store = Store::with_images(stage, "attacked")?;
    let neighbour = store.task("neighbour")?;
    let look = "docker run --rm --network none app:1 tar --create --file=- --sort=name --directory=/ \
                usr odd var version | sha256sum";
    let before = neighbour.docker(look)?;
    let attacker = store.task("attacker")?;
    let found = attacker.docker(ATTACKS)?;
    ensure!(
        found.contains("/d/golden/1/trees/"),
        "the attack did not find the files: {found}"
    );
    ensure!(!found.contains("CHANGED"), "the store was changed: {found}");
    ensure!(
        !found.contains("/files/"),
        "the store's files were found: {found}"
    );
    ensure!(
        found.contains("Read-only file system"),
        "nothing was refused: {found}"
    );
    attacker.end()?;
    let after = neighbour
        .docker(look)
        .context("the neighbour cannot start containers")?;
    ensure!(
        before == after,
        "the neighbour sees something else: {before}{after}"
    );
    neighbour.end()?;
    store.golden(&["verify"]).map(drop)
}
