//! What the drivers of end-to-end tests share: one stage for all tests of a target, what a task's
//! containers have said, and the sidecar's ordinary start and end.
//!
//! Owns the frame only: which tests there are, and what they check, is each target's business.

use std::num::NonZero;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use testhost::PreparedDisk;

use crate::container::Container;
use crate::line::Line;
use crate::stage::{self, Stage};
use crate::task::Task;

/// How long anything may take that ends by itself.
pub const LIMIT: Duration = Duration::from_secs(300);
/// The stop timeout of a task definition.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A test: its name, a sentence, and what it does on the stage that all share.
pub type Case = (&'static str, fn(&Stage) -> Result<()>);

/// A test whose name is made at run time: one of a table's rows, or of a matrix.
pub struct Test {
    name: String,
    run: Box<Run>,
}

type Run = dyn Fn(&Stage) -> Result<()> + Send + Sync;

impl Test {
    pub fn new(
        name: impl Into<String>,
        run: impl Fn(&Stage) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

impl From<&Case> for Test {
    fn from(&(name, case): &Case) -> Self {
        Self::new(name, case)
    }
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Test").field(&self.name).finish()
    }
}

/// What makes the disk of a stage: [`crate::prepare`] or [`crate::prepare_all_engines`].
pub type Prepare = fn(&dyn Fn(&str)) -> Result<PreparedDisk>;

/// The `main` of a test target: one host serves all `cases`, each makes tasks of its own. The last
/// check, after all of them, is that nothing is left in the host and on the machine.
#[must_use]
pub fn main(target: &str, cases: &[Case]) -> ExitCode {
    main_on(
        stage::prepare,
        target,
        cases.iter().map(Test::from).collect(),
    )
}

/// Like [`main`], on the disk that `prepare` makes.
#[must_use]
pub fn main_on(prepare: Prepare, target: &str, tests: Vec<Test>) -> ExitCode {
    testhost::reexec();
    let mut arguments = Arguments::from_args();
    // A test waits for containers more than it computes.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    arguments.test_threads.get_or_insert(2 * cores);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(tests, None)).exit_code();
    }
    match run(&arguments, prepare, tests) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("test {target} failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, prepare: Prepare, tests: Vec<Test>) -> Result<ExitCode> {
    testhost::watch_signals()?;
    let disk = prepare(&|step| tell(step))?;
    let stage = Stage::open(&disk, &|step, elapsed| {
        tell(&format!("{step}: {elapsed} ms"))
    })?;
    let stage = Arc::new(stage);
    let conclusion = libtest_mimic::run(arguments, trials(tests, Some(&stage)));
    let stage = Arc::into_inner(stage).context("a test still holds the stage")?;
    let left = stage.close()?;
    if !conclusion.has_failed() {
        ensure!(
            left.is_empty(),
            "all tests passed, but not everything is gone:\n{left}"
        );
    }
    Ok(conclusion.exit_code())
}

fn trials(tests: Vec<Test>, stage: Option<&Arc<Stage>>) -> Vec<Trial> {
    tests
        .into_iter()
        .map(|Test { name, run }| {
            let stage = stage.cloned();
            Trial::test(name, move || {
                let stage = stage
                    .context("listed only")
                    .map_err(|error| format!("{error:#}"))?;
                run(&stage).map_err(|error| format!("{error:#}").into())
            })
        })
        .collect()
}

/// Tells whoever runs the tests something, on standard error.
pub fn tell(text: &str) {
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{text}\n").as_bytes(),
    ));
}

/// What the containers of a task have said so far.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<Line>>>);

impl Heard {
    /// What [`Stage::task`] takes.
    pub fn listener(&self) -> impl Fn(Line) + Send + Sync + 'static {
        let heard = self.clone();
        move |line| heard.lines().push(line)
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, for the message of a failure.
    #[must_use]
    pub fn transcript(&self) -> String {
        self.lines()
            .iter()
            .map(|line| format!("\n  {line:?}"))
            .collect()
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// It is not said within [`LIMIT`].
    pub fn wait_for(&self, what: &str, found: impl Fn(&Line) -> bool) -> Result<()> {
        wait_until(what, || Ok(self.lines().iter().any(&found)))
            .with_context(|| format!("heard:{}", self.transcript()))
    }
}

/// Waits until `holds`.
///
/// # Errors
/// It does not within [`LIMIT`], or fails.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !holds()? {
        ensure!(
            begin.elapsed() < LIMIT && !testhost::interrupted(),
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts the sidecar and waits until it is healthy.
///
/// # Errors
/// It ends or does not get healthy.
pub fn healthy_dind<'a>(task: &Task<'a>) -> Result<Container<'a>> {
    let mut dind = task.start_dind()?;
    task.wait_for_docker(&mut dind)?;
    Ok(dind)
}

/// The sidecar stops in order and the task's volumes go.
///
/// # Errors
/// It ends with anything but 0; the message has what was heard.
pub fn end(mut dind: Container<'_>, task: Task<'_>, heard: &Heard) -> Result<()> {
    let code = dind.stop(STOP_TIMEOUT)?;
    ensure!(code == 0, "dindd ended with {code}:{}", heard.transcript());
    dind.remove()?;
    task.remove()
}

/// Where the sidecar's data-root is in the host: the one whose `task.json` names its container.
///
/// # Errors
/// There is none.
pub fn data_root(stage: &Stage, dind: &Container<'_>) -> Result<String> {
    let hostname = dind.exec(&["cat", "/etc/hostname"])?;
    for entry in std::fs::read_dir(stage.host().path(stage.volume()))? {
        let entry = entry?;
        let task = std::fs::read_to_string(entry.path().join("task.json"));
        if task.is_ok_and(|task| task.contains(hostname.trim())) {
            let name = entry.file_name();
            return Ok(stage.volume().join(name).display().to_string());
        }
    }
    bail!("no data-root names the container {}", hostname.trim())
}
