//! The order of things: prepare, serve, settle. The only module that knows it.
//!
//! ```text
//! prepare_and_serve (may be dropped at any await)        settle (never returns early)
//!   preconditions  capabilities, health port, log target
//!   storage        the guard; orphans first if it is full
//!   data-root      owe RemoveRoot, make it ───────────────▶ 3 into the trash, remove
//!   golden         attach the images of the golden store, if there is one
//!   cgroup         owe ClearCgroup, leaf and controllers ─▶ 2 kill and remove what is left
//!   isolation      ask the filter, choose; iptables, mirrors
//!   dockerd        start it, owe StopDockerd ─────────────▶ 1 SIGTERM, at the deadline SIGKILL
//!   ready          until it answers and uses what was prepared
//!   (serving)      until SIGTERM, its death, or three misses
//! ```
//!
//! A duty is owed before the act that creates it, and every duty is idempotent: a second signal
//! performs the interrupted one again with less time.

use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use init::log::Format;
use init::settings::Environment;
use init::{Children, Deadline, Exit, Owed, Signals};
use tracing::{error, info, warn};

use crate::config::{Settings, Tcp};
use crate::data_root::DataRoot;
use crate::firewall::Flavour;
use crate::health::{Engine, Health, Probe};
use crate::inside::Plan;
use crate::isolation::Isolation;
use crate::mounts::{EXEC_ROOT, View};
use crate::nest::Nest;
use crate::removal::Removed;
use crate::report::{Report, State};
use crate::stop::Stop;
use crate::{
    cgroup, dockerd, firewall, golden, health_server, isolation, mirrors, overlay, privileges,
    quota, reap, runc, sockets, storage, sysctls,
};

/// What is left of the stop timeout when dindd is done, so that it exits before it is killed.
const MARGIN: Duration = Duration::from_secs(1);
/// What is kept of it for the removal of the data-root.
const FOR_REMOVAL: Duration = Duration::from_secs(5);
/// What is left after a second request to stop.
const HURRY: Duration = Duration::from_secs(3);

/// The folder below the exec-root that comes first in dockerd's `PATH`.
const TOOLS: &str = "bin";

/// What must happen before exit; performed in the reverse of this order.
#[derive(Debug)]
enum Duty {
    RemoveRoot(Rc<DataRoot>),
    ClearCgroup,
    StopDockerd(Box<Nest>),
}

/// `dindd run`; the code to exit with.
pub(crate) async fn run(settings: Settings, children: Children, mut signals: Signals) -> u8 {
    let report = Report::new();
    let mut owed = Owed::default();
    let stop = tokio::select! {
        biased;
        signal = signals.next() => {
            let state = report.reader().borrow().state;
            Stop::Asked { signal, served: matches!(state, State::Healthy | State::Failing) }
        }
        ended = prepare_and_serve(&settings, &children, &mut owed, &report) => match ended {
            Err(stop) => stop,
            Ok(never) => match never {},
        },
    };
    stop.log();
    report.state(State::Stopping, "dindd cleans up");
    let budget = settings
        .stop_timeout
        .saturating_sub(MARGIN)
        .max(settings.stop_timeout / 2);
    let hurried = tokio::select! {
        () = settle(&mut owed, &settings, Deadline::within(budget), &report) => false,
        signal = signals.next() => {
            warn!(%signal, "asked again: everything is killed and removed in a hurry");
            true
        }
    };
    if hurried {
        settle(
            &mut owed,
            &settings,
            Deadline::within(HURRY.min(budget)),
            &report,
        )
        .await;
    }
    stop.exit_code()
}

/// The story. Every `?` and every await may be its end.
async fn prepare_and_serve(
    settings: &Settings,
    children: &Children,
    owed: &mut Owed<Duty>,
    report: &Report,
) -> Result<Infallible, Stop> {
    preconditions(settings, report).await?;

    let phase = report.phase("data-root");
    let root = Rc::new(DataRoot::choose(&settings.storage));
    owed.owe(Duty::RemoveRoot(Rc::clone(&root)));
    root.make().map_err(Stop::Unavailable)?;
    if let Some(bytes) = settings.quota {
        quota::limit(&settings.storage, root.name(), bytes).map_err(Stop::Unavailable)?;
    }
    report.data_root(root.name());
    let storage_driver = storage_driver(settings, &root).map_err(Stop::Unavailable)?;
    phase.done();

    let golden = attach_golden(settings, &root, storage_driver, report);

    let phase = report.phase("cgroup");
    owed.owe(Duty::ClearCgroup);
    cgroup::nest(&settings.cgroup)
        .await
        .map_err(Stop::Unavailable)?;
    cgroup::limit_processes(&settings.cgroup, settings.pids);
    if let Err(cause) = sysctls::refuse(&settings.cgroup) {
        warn!("a privileged job could name programs that the kernel starts on the host: {cause:#}");
    }
    phase.done();

    let phase = report.phase("isolation");
    let mut plan = plan(settings, children, &root, storage_driver, report).await?;
    if let Some(golden) = &golden {
        plan.view.golden = golden.mounts().to_vec();
    }
    phase.done();

    let phase = report.phase("dockerd");
    // From here on there can be jobs. Not before: where this is a job itself, the outer dindd mounts
    // nothing for a process that is hidden.
    privileges::hide().map_err(Stop::Failed)?;
    let nest = Nest::start(children, &plan, std::io::stdout()).map_err(Stop::Unavailable)?;
    let Duty::StopDockerd(nest) = owed.owe(Duty::StopDockerd(Box::new(nest))) else {
        unreachable!("it was owed just now");
    };
    let engine = tokio::select! {
        biased;
        exit = nest.ended() => return Err(died(nest, exit).await),
        engine = become_ready(settings, storage_driver, report) => {
            engine.map_err(Stop::Unavailable)?
        }
    };
    sockets::show(&settings.engine);
    phase.done();
    serve(settings, nest, &engine, report).await
}

async fn preconditions(settings: &Settings, report: &Report) -> Result<(), Stop> {
    let phase = report.phase("preconditions");
    privileges::require().map_err(Stop::Refused)?;
    if settings.engine.remapped {
        privileges::require_tracing().map_err(Stop::Refused)?;
    }
    cgroup::require_own_namespace().map_err(Stop::Unavailable)?;
    dockerd::require_log_target(&settings.engine).map_err(Stop::Unavailable)?;
    if settings.engine.tcp == Tcp::Health {
        let listener = health_server::bind(settings.health_addr).await;
        let listener = listener.map_err(Stop::Unavailable)?;
        tokio::spawn(health_server::serve(listener, report.reader()));
    }
    phase.done();

    let phase = report.phase("storage");
    storage::require_suitable(&settings.storage, settings.allow_any_fs)
        .map_err(Stop::Unavailable)?;
    let space = || storage::Space::of(&settings.storage).map_err(Stop::Unavailable);
    let mut free = space()?;
    if free.is_tight() {
        warn!(
            free_bytes = free.free_bytes,
            "the storage volume is nearly full"
        );
        reap_orphans(settings).await;
        free = space()?;
    }
    free.require_enough(&settings.storage)
        .map_err(Stop::Unavailable)?;
    phase.done();
    Ok(())
}

/// Until dockerd dies or hangs; nobody asks for more.
async fn serve(
    settings: &Settings,
    nest: &mut Nest,
    engine: &Engine,
    report: &Report,
) -> Result<Infallible, Stop> {
    report.state(State::Healthy, "containers can be started");
    info!("healthy: containers can be started");

    let reaping = async {
        reap_orphans(settings).await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        exit = nest.ended() => Err(died(nest, exit).await),
        misses = watch_health(engine, settings.health_interval, report) => {
            Err(Stop::DockerdHung { misses })
        }
        never = reaping => never,
    }
}

async fn died(nest: &mut Nest, exit: Exit) -> Stop {
    Stop::DockerdDied {
        exit,
        lines: nest.last_lines().await,
    }
}

/// Asks everything that decides how dockerd is started, all at the same time.
async fn plan(
    settings: &Settings,
    children: &Children,
    root: &DataRoot,
    storage_driver: &str,
    report: &Report,
) -> Result<Plan, Stop> {
    let engine = &settings.engine;
    let (allowed, flavour, mirrors, version) = tokio::join!(
        isolation::probe(children),
        firewall(settings, children),
        mirrors::that_answer(&engine.mirrors),
        version_if_needed(settings, children),
    );
    let isolation = Isolation::strongest(allowed.map_err(Stop::Failed)?);
    info!(chosen = %isolation, stronger = isolation.stronger(), "isolation of containers");
    report.isolation(isolation);
    let tools = root.exec().join(TOOLS);
    isolation.install(&tools).map_err(Stop::Failed)?;
    let (flavour, version) = (
        flavour.map_err(Stop::Unavailable)?,
        version.map_err(Stop::Unavailable)?,
    );
    flavour.install(&tools).map_err(Stop::Failed)?;
    keep_below_mtu(settings, flavour, version, children).await;
    sockets::clear(&sockets::of(engine)).map_err(Stop::Unavailable)?;
    let start = dockerd::Start {
        engine,
        address: settings.health_addr,
        mirrors: &mirrors,
        storage_driver,
        version,
        shutdown: settings.stop_timeout.saturating_sub(MARGIN + FOR_REMOVAL),
    };
    let environment = Environment::of_process();
    let path = environment.get("PATH").unwrap_or(runc::DEFAULT_PATH);
    Ok(Plan {
        view: View {
            storage: root.storage().to_owned(),
            data: root.data(),
            exec: root.exec(),
            changes: Some(root.changes()),
            socket: engine.socket.parent().unwrap_or(Path::new("/")).to_owned(),
            root: isolation.root_mount(),
            remapped: engine.remapped,
            golden: Vec::new(),
            store: settings.golden.clone(),
        },
        dockerd: start.argv(),
        path: format!("{EXEC_ROOT}/{TOOLS}:{path}"),
        log_json: settings.log.format() == Format::Json,
        log_level: settings.log.level.clone(),
        quota: settings.quota.is_some(),
    })
}

/// Images of the host's store. They stay in use as long as the result lives.
fn attach_golden(
    settings: &Settings,
    root: &DataRoot,
    storage_driver: &str,
    report: &Report,
) -> Option<::golden::Attached> {
    let store = settings.golden.as_deref()?;
    let phase = report.phase("golden");
    let attached = golden::attach(store, &root.data(), (storage_driver, &settings.engine));
    phase.done();
    attached
}

async fn firewall(settings: &Settings, children: &Children) -> Result<Flavour> {
    if has_no_iptables(settings) {
        return Ok(Flavour::Installed);
    }
    firewall::choose(children).await
}

fn has_no_iptables(settings: &Settings) -> bool {
    let off = |argument: &String| argument == "--iptables=false";
    settings.engine.arguments.iter().any(off)
}

/// Where the engine cannot give user networks the MTU, their TCP connections keep below it.
async fn keep_below_mtu(
    settings: &Settings,
    flavour: Flavour,
    version: Option<u32>,
    children: &Children,
) {
    let Some(mtu) = settings.engine.mtu else {
        return;
    };
    if version.is_some_and(dockerd::has_network_options) || has_no_iptables(settings) {
        return;
    }
    if let Err(cause) = firewall::clamp(flavour, mtu, children).await {
        warn!(
            "user networks keep an MTU of 1500: this engine cannot be told (24.0 can), and TCP \
             cannot be kept below DINDD_MTU={mtu}; load xt_TCPMSS on the host: {cause:#}"
        );
    }
}

async fn version_if_needed(settings: &Settings, children: &Children) -> Result<Option<u32>> {
    match settings.engine.mtu {
        Some(_) => dockerd::major_version(children).await.map(Some),
        None => Ok(None),
    }
}

/// overlay2 where it works. Elsewhere dockerd can only copy whole images, and somebody must have
/// asked for that.
fn storage_driver(settings: &Settings, root: &DataRoot) -> Result<&'static str> {
    match overlay::try_mount(&root.exec()) {
        Ok(()) => Ok("overlay2"),
        Err(cause) if settings.allow_any_fs => {
            warn!("no overlay is possible, dockerd copies instead and is slow: {cause:#}");
            Ok("vfs")
        }
        Err(cause) => Err(cause),
    }
}

async fn become_ready(settings: &Settings, driver: &str, report: &Report) -> Result<Engine> {
    let patience = settings.start_timeout;
    let ready = async {
        let engine = Engine::answering(&settings.engine.socket).await;
        report.engine(engine.verify(driver).await?);
        Ok(engine)
    };
    Deadline::within(patience).bound(ready).await.unwrap_or_else(|| {
        Err(anyhow::anyhow!(
            "dockerd was not ready in {patience:?} (DINDD_START_TIMEOUT); its log is on standard \
             output"
        ))
    })
}

/// Probes dockerd until it hangs; how many probes it has missed.
async fn watch_health(engine: &Engine, interval: Duration, report: &Report) -> u32 {
    let mut health = Health::Healthy;
    loop {
        tokio::time::sleep(interval).await;
        let probe = engine.probe(interval).await;
        let before = health;
        health = health.after(&probe);
        match (health, &probe) {
            (Health::Hanging { misses }, _) => return misses,
            (Health::Failing { misses }, Probe::Missed(cause)) => {
                warn!(misses, cause, "dockerd missed a probe");
                report.state(State::Failing, cause);
            }
            (Health::Healthy | Health::Failing { .. }, _) if before != health => {
                info!("dockerd answers again");
                report.state(State::Healthy, "containers can be started");
            }
            (Health::Healthy | Health::Failing { .. }, _) => {}
        }
    }
}

/// Removes what dead dindds have left, on a thread of its own. Ends early when it is dropped.
async fn reap_orphans(settings: &Settings) {
    let storage = settings.storage.clone();
    let reaped = until_dropped(move |over| reap::reap(&storage, false, &|| over())).await;
    match reaped {
        Ok(reaped) if reaped.removed() + reaped.left() > 0 => {
            info!(
                removed = reaped.removed(),
                left = reaped.left(),
                "orphans reaped"
            );
        }
        Ok(_) => {}
        Err(cause) => warn!("cannot look for orphans: {cause:#}"),
    }
}

/// Performs every duty, the last one owed first. Nothing here returns early.
async fn settle(owed: &mut Owed<Duty>, settings: &Settings, deadline: Deadline, report: &Report) {
    while let Some(duty) = owed.last_mut() {
        match duty {
            Duty::StopDockerd(nest) => {
                let phase = report.phase("stop-dockerd");
                let containers = || cgroup::is_populated(&settings.cgroup);
                nest.stop(deadline.reserving(FOR_REMOVAL), containers).await;
                if let Err(cause) = sockets::clear(&sockets::of(&settings.engine)) {
                    warn!("{cause:#}");
                }
                phase.done();
            }
            Duty::ClearCgroup => {
                let phase = report.phase("clear-cgroup");
                cgroup::clear(&settings.cgroup, deadline.reserving(FOR_REMOVAL)).await;
                phase.done();
            }
            Duty::RemoveRoot(root) => {
                let phase = report.phase("remove-data-root");
                remove_root(root, deadline).await;
                phase.done();
            }
        }
        owed.done();
    }
}

async fn remove_root(root: &DataRoot, deadline: Deadline) {
    let (storage, name) = (root.storage().to_owned(), root.name().to_owned());
    let removed = until_dropped(move |over| {
        DataRoot::retire(&storage, &name, &|| over() || deadline.is_over())
    });
    match removed.await {
        Ok(Removed::Whole) => {}
        Ok(Removed::Partly) => warn!(
            root = root.name(),
            "the data-root is in the trash; the next dindd or dindd reap removes the rest"
        ),
        Err(cause) => error!("left behind: {cause:#}"),
    }
}

/// Runs blocking `work` on a thread; it is told to stop when nobody waits for it any more.
async fn until_dropped<T: Send + 'static>(
    work: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<T> + Send + 'static,
) -> Result<T> {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let dropped = Dropped(Arc::default());
    let over = Arc::clone(&dropped.0);
    tokio::task::spawn_blocking(move || work(&|| over.load(Ordering::Relaxed)))
        .await
        .context("a thread panicked")?
}
