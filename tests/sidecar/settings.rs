//! Settings do what they say, with the real things: a registry, a syslog daemon, networks.

use anyhow::{Context, Result, ensure};
use chain::driver::{Heard, Test, end, healthy_dind, wait_until};
use chain::{Container, Engine, Said, Stage, Task, TaskOptions};
use testhost::Running;

type Case = (&'static str, fn(&Stage, Engine) -> Result<()>);

const CASES: [Case; 5] = [
    (
        "plain_runc_starts_containers_where_the_hosts_filter_lets_it",
        plain_runc_starts_containers_where_the_hosts_filter_lets_it,
    ),
    (
        "images_come_from_the_mirror_that_answers",
        images_come_from_the_mirror_that_answers,
    ),
    (
        "a_syslog_daemon_gets_what_containers_say_with_their_names",
        a_syslog_daemon_gets_what_containers_say_with_their_names,
    ),
    (
        "the_whole_api_is_served_over_tcp_when_asked_for",
        the_whole_api_is_served_over_tcp_when_asked_for,
    ),
    (
        "networks_have_the_mtu_and_the_addresses_that_were_set",
        networks_have_the_mtu_and_the_addresses_that_were_set,
    ),
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

/// A task whose sidecar has `settings` and further `create` arguments.
fn with_settings(
    stage: &Stage,
    name: &str,
    options: TaskOptions,
    work: impl FnOnce(&Task<'_>, &Container<'_>, &Heard) -> Result<()>,
) -> Result<()> {
    let heard = Heard::default();
    let task = stage.task(name, options, heard.listener())?;
    let dind = healthy_dind(&task)?;
    work(&task, &dind, &heard)?;
    end(dind, task, &heard)
}

fn plain_runc_starts_containers_where_the_hosts_filter_lets_it(
    stage: &Stage,
    engine: Engine,
) -> Result<()> {
    // Where the host sees the folder that the image is built from.
    let profile = "/run/chain/trixie/images/dind/seccomp.json";
    let options = TaskOptions {
        engine,
        create: vec![format!("--security-opt=seccomp={profile}")],
        ..TaskOptions::default()
    };
    let name = format!("plain-{}", engine.suite());
    with_settings(stage, &name, options, |task, _, heard| {
        heard.wait_for("the choice is told", |line| {
            matches!(&line.said, Said::Event { message, .. } if message.contains("chosen=plain runc"))
        })?;
        let said = task.docker(
            "docker run --detach --user 1000 --name first busybox sleep 1000 >/dev/null
             docker exec first id -u
             docker run --rm --network container:first --volume /tmp:/shared:rshared busybox sh -c \
               'mkdir /shared/below && mount -t tmpfs tmpfs /shared/below 2>/dev/null || echo not mine'",
        )?;
        ensure!(said.ends_with("1000\nnot mine\n"), "it says {said:?}");
        Ok(())
    })
}

/// Two of Debian's registries in the host: a pull-through mirror of the other. Stopped on drop.
struct Registries {
    ports: [u16; 2],
    _running: [Running; 2],
}

impl Registries {
    fn start(stage: &Stage, folder: &str, first_port: u16) -> Result<Self> {
        let ports = [first_port, first_port + 1];
        let start = |port: u16, proxy: &str| {
            let root = format!("{folder}/{port}");
            let config = format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\n\
                 http: {{addr: ':{port}'}}\n{proxy}"
            );
            std::fs::create_dir_all(stage.host().path(&root))?;
            let file = format!("{folder}/{port}.yml");
            std::fs::write(stage.host().path(&file), config)?;
            let running = stage
                .host()
                .follow(["docker-registry", "serve", &file], |_, _| ())?;
            let url = format!("http://127.0.0.1:{port}/v2/");
            wait_until("the registry answers", || {
                Ok(stage
                    .host()
                    .run(["curl", "--fail", "--silent", &url])
                    .is_ok())
            })?;
            anyhow::Ok(running)
        };
        let proxy = format!("proxy: {{remoteurl: 'http://127.0.0.1:{first_port}'}}\n");
        let running = [start(ports[0], "")?, start(ports[1], &proxy)?];
        Ok(Self {
            ports,
            _running: running,
        })
    }
}

/// The upstream has an image that Docker Hub has not, and the mirror gets it from there.
fn images_come_from_the_mirror_that_answers(stage: &Stage, engine: Engine) -> Result<()> {
    let name = format!("mirror-{}", engine.suite());
    let folder = format!("/srv/{name}");
    let first_port = 5000 + 10 * u16::try_from(engine as usize)?;
    let registries = Registries::start(stage, &folder, first_port)?;
    let [upstream, mirror] = registries.ports;
    let image = format!("127.0.0.1:{upstream}/library/probe:1");
    stage.host().run([
        "sh",
        "-ec",
        &format!(
            "mkdir {folder}/image && echo {name} >{folder}/image/word && \
             tar -C {folder}/image -c . | docker import - {image} >/dev/null && \
             docker push --quiet {image} && docker rmi {image}"
        ),
    ])?;
    let gateway = stage.host().gateway();
    // Nobody listens at the first; the second swallows what it is sent.
    let dead = format!("http://{gateway}:1");
    let mirrors =
        format!("DINDD_REGISTRY_MIRRORS={dead},http://192.0.2.1:5000,http://{gateway}:{mirror}");
    let options = TaskOptions {
        engine,
        dind: vec![mirrors],
        ..TaskOptions::default()
    };
    with_settings(stage, &name, options, |task, _, heard| {
        for left_out in [&*dead, "http://192.0.2.1:5000"] {
            heard.wait_for("the dead mirror is told", |line| {
                matches!(&line.said, Said::Event { level, message }
                    if level == "WARN" && message.contains("left out") && message.contains(left_out))
            })?;
        }
        let said = task.docker(
            "docker pull --quiet probe:1 && docker create --name probe probe:1 none >/dev/null && \
             docker cp probe:/word - | tar -x -O",
        )?;
        ensure!(
            said.ends_with(&format!("{name}\n")),
            "the image has {said:?}"
        );
        Ok(())
    })?;
    let catalog = format!("http://127.0.0.1:{mirror}/v2/_catalog");
    let catalog = stage.host().run(["curl", "--silent", &catalog])?;
    ensure!(
        catalog.contains("library/probe"),
        "the mirror has {catalog}"
    );
    Ok(())
}

fn a_syslog_daemon_gets_what_containers_say_with_their_names(
    stage: &Stage,
    engine: Engine,
) -> Result<()> {
    let name = format!("syslog-{}", engine.suite());
    let folder = format!("/srv/{name}");
    let config = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         input(type=\"imuxsock\" Socket=\"{folder}/log.sock\" CreatePath=\"on\" RateLimit.Interval=\"0\")\n\
         *.* action(type=\"omfile\" file=\"{folder}/messages\")\n"
    );
    std::fs::create_dir_all(stage.host().path(&folder))?;
    std::fs::write(stage.host().path(format!("{folder}/rsyslog.conf")), config)?;
    let (file, pid) = (format!("{folder}/rsyslog.conf"), format!("{folder}/pid"));
    let rsyslog = stage
        .host()
        .follow(["rsyslogd", "-n", "-f", &file, "-i", &pid], |_, _| ())?;
    let socket = stage.host().path(format!("{folder}/log.sock"));
    wait_until("the syslog daemon listens", || Ok(socket.exists()))?;
    let options = TaskOptions {
        engine,
        dind: vec![
            "DINDD_LOG_DRIVER=syslog".into(),
            "DINDD_LOG_OPTS=syslog-address=unixgram:///run/log-target/log.sock,tag={{.Name}}"
                .into(),
        ],
        create: vec![format!("--volume={folder}:/run/log-target")],
        ..TaskOptions::default()
    };
    with_settings(stage, &name, options, |task, _, _| {
        task.docker("docker run --name speaker busybox echo a word for the log")?;
        let messages = stage.host().path(format!("{folder}/messages"));
        wait_until("the line is in the log", || {
            let log = std::fs::read_to_string(&messages).unwrap_or_default();
            Ok(log
                .lines()
                .any(|line| line.contains("speaker[") && line.ends_with("a word for the log")))
        })
    })?;
    rsyslog.stop(std::time::Duration::from_secs(10)).map(drop)
}

fn the_whole_api_is_served_over_tcp_when_asked_for(stage: &Stage, engine: Engine) -> Result<()> {
    let options = TaskOptions {
        engine,
        dind: vec![
            "DINDD_TCP=full".into(),
            "DINDD_HEALTH_ADDR=0.0.0.0:2375".into(),
        ],
        ..TaskOptions::default()
    };
    let name = format!("tcp-{}", engine.suite());
    with_settings(stage, &name, options, |task, dind, _| {
        task.docker("docker run --detach --name seen busybox sleep 1000")?;
        let network = format!("--network=container:{}", dind.name());
        let ask = "docker --host tcp://127.0.0.1:2375 ps --format '{{.Names}}'";
        let words = [
            "docker",
            "run",
            "--rm",
            "--entrypoint=sh",
            &network,
            "ecs-runner",
            "-c",
            ask,
        ];
        let said = stage.host().run(words)?;
        ensure!(said == "seen\n", "over TCP there are {said:?}");
        Ok(())
    })
}

fn networks_have_the_mtu_and_the_addresses_that_were_set(
    stage: &Stage,
    engine: Engine,
) -> Result<()> {
    let options = TaskOptions {
        engine,
        dind: vec![
            "DINDD_MTU=1400".into(),
            "DINDD_ADDRESS_POOLS=10.200.0.0/16:24,10.201.0.0/16:28".into(),
        ],
        ..TaskOptions::default()
    };
    let name = format!("networks-{}", engine.suite());
    with_settings(stage, &name, options, |task, dind, _| {
        let script = r#"
docker network create user >/dev/null
for network in bridge user; do
  docker run --rm --network $network busybox sh -c \
    'echo $0 $(cat /sys/class/net/eth0/mtu) $(ip -4 -o addr show dev eth0 | sed "s/.*inet //; s/ .*//")' $network
done"#;
        let said = task.docker(script)?;
        let mut lines = said
            .lines()
            .rev()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let (user, bridge) = (
            lines.next().context(name.clone())?,
            lines.next().context(said.clone())?,
        );
        // No flag of the oldest engine reaches user networks.
        let of_user = if engine == Engine::Bookworm {
            "1500"
        } else {
            "1400"
        };
        for (line, network, mtu) in [(bridge, "bridge", "1400"), (user, "user", of_user)] {
            let [named, has, address] = line[..] else {
                anyhow::bail!("not three words: {line:?}");
            };
            ensure!((named, has) == (network, mtu), "{network}: {line:?}");
            ensure!(
                address.starts_with("10.200.") && address.ends_with("/24"),
                "{network}: {address}"
            );
        }
        // But its connections to the outside are no larger.
        if engine == Engine::Bookworm {
            task.docker(&format!(
                "docker run --rm --network user busybox wget -q -O /dev/null {}/_double/runners",
                stage.github().url()
            ))?;
            let rules = dind.exec(&["iptables", "-t", "mangle", "-nvxL", "FORWARD"])?;
            let ours = rules.lines().find(|line| line.ends_with("TCPMSS set 1360"));
            let used = ours.and_then(|line| line.split_whitespace().next());
            ensure!(used.is_some_and(|packets| packets != "0"), "{rules}");
        }
        Ok(())
    })
}
