//! One job, as the listener sees it: keeping its lock, running the worker, telling the result
//! (actions/runner `JobDispatcher.cs`).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::broker::JobConnection;
use crate::failure::Outcome;
use crate::listener::Event;
use crate::script::Performance;
use crate::worker::Order;
use crate::{Runner, process_tree, terminal};

const RENEWALS: u32 = 5;
/// Seconds between two renewals of the lock.
const RENEWAL_PAUSE: f64 = 60.0;

pub(crate) struct Job {
    stage: Arc<Mutex<Stage>>,
    performance: Arc<Performance>,
}

enum Stage {
    /// The lock is being renewed for the first time.
    Preparing,
    Running {
        orders: ChildStdin,
        worker: u32,
    },
    /// An order was given; a second one changes nothing. The worker takes the end of its input
    /// for the listener's death, so that stays open.
    Ending {
        worker: Option<(ChildStdin, u32)>,
    },
    Ended,
}

/// Everything that the job's thread needs.
struct Errand {
    runner: Arc<Runner>,
    performance: Arc<Performance>,
    stage: Arc<Mutex<Stage>>,
    connection: JobConnection,
    name: String,
    message: Value,
}

impl Job {
    /// `message` is the acquired job message with a member `runner` for the worker.
    pub(crate) fn start(
        runner: &Arc<Runner>,
        performance: &Arc<Performance>,
        message: Value,
        listener: Sender<Event>,
    ) -> anyhow::Result<Self> {
        let errand = Errand {
            runner: Arc::clone(runner),
            performance: Arc::clone(performance),
            stage: Arc::new(Mutex::new(Stage::Preparing)),
            connection: JobConnection::of(&message)?,
            name: display_name(&message),
            message,
        };
        let job = Self {
            stage: Arc::clone(&errand.stage),
            performance: Arc::clone(performance),
        };
        thread::spawn(move || {
            let outcome = errand.run();
            drop(listener.send(Event::JobEnded(outcome)));
        });
        Ok(job)
    }

    /// The runner shuts down; the job has all the time it needs to notice.
    pub(crate) fn shut_down(&self) {
        self.order(&Order::RunnerShutdown);
    }

    /// The service cancels; after `limit` (at least a minute, less fifteen seconds) the worker
    /// is killed.
    pub(crate) fn cancel(&self, limit: Duration) {
        self.order(&Order::CancelRequest);
        let stage = Arc::clone(&self.stage);
        let seconds = limit.as_secs_f64().max(60.0) - 15.0;
        let limit = self.performance.wait(seconds);
        thread::spawn(move || {
            thread::sleep(limit);
            if let Stage::Ending {
                worker: Some((_, worker)),
            } = &*lock(&stage)
            {
                process_tree::kill_tree(*worker);
            }
        });
    }

    fn order(&self, order: &Order) {
        let mut stage = lock(&self.stage);
        let worker = match std::mem::replace(&mut *stage, Stage::Ended) {
            Stage::Preparing => None,
            Stage::Running { mut orders, worker } => {
                // A worker that does not read any more is ending anyway.
                let order = serde_json::to_value(order).unwrap_or_default();
                drop(send(&mut orders, &order));
                Some((orders, worker))
            }
            other @ (Stage::Ending { .. } | Stage::Ended) => {
                *stage = other;
                return;
            }
        };
        *stage = Stage::Ending { worker };
    }
}

impl Errand {
    fn run(&self) -> Outcome {
        let diag = self.runner.terminal.diag();
        if let Err(error) = self.renew_first() {
            diag.error(
                "JobDispatcher",
                &format!("unable to renew the job: {error:#}"),
            );
            return Outcome::Abandoned;
        }
        let (renewals, stop) = channel::<()>();
        let renewing = self.keep_renewing(stop);
        let (outcome, printed) = self.run_worker().unwrap_or_else(|error| {
            diag.error("JobDispatcher", &format!("{error:#}"));
            (Outcome::Failed, false)
        });
        *lock(&self.stage) = Stage::Ended;
        diag.info(
            "JobDispatcher",
            &format!(
                "finish job request for job {} with result: {}",
                self.connection.job,
                outcome.word()
            ),
        );
        if printed {
            self.runner.terminal.timed(&format!(
                "Job {} completed with result: {}",
                self.name,
                outcome.word()
            ));
        }
        drop(renewals);
        drop(renewing.join());
        outcome
    }

    fn renew_first(&self) -> anyhow::Result<()> {
        let mut last = None;
        for _ in 0..RENEWALS {
            match self.connection.renew() {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            thread::sleep(self.performance.wait(5.0));
        }
        last.map_or(Ok(()), Err)
    }

    /// Renews until the other end of `stop` is dropped.
    fn keep_renewing(&self, stop: Receiver<()>) -> thread::JoinHandle<()> {
        let connection = self.connection.clone();
        let pause = self.performance.wait(RENEWAL_PAUSE);
        thread::spawn(move || {
            while stop.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // A failed renewal is made good by the next one.
                drop(connection.renew());
            }
        })
    }

    /// The outcome, and whether the operator is told.
    fn run_worker(&self) -> anyhow::Result<(Outcome, bool)> {
        let mut worker = {
            let mut stage = lock(&self.stage);
            if let Stage::Ending { .. } = *stage {
                let conclusion = json!({ "conclusion": Outcome::Canceled.conclusion() });
                self.connection.complete(conclusion)?;
                return Ok((Outcome::Canceled, false));
            }
            let mut worker = self.spawn_worker()?;
            let mut orders = worker.stdin.take().context("the worker has no input")?;
            send(&mut orders, &self.message)?;
            *stage = Stage::Running {
                orders,
                worker: worker.id(),
            };
            worker
        };
        let output = worker.stdout.take().map(|output| self.copy_output(output));
        let complaints = worker.stderr.take().map(|mut errors| {
            thread::spawn(move || {
                let mut text = String::new();
                // Anything that is not text is no explanation.
                drop(errors.read_to_string(&mut text));
                text
            })
        });
        let status = worker.wait().context("cannot wait for the worker")?;
        drop(output.map(thread::JoinHandle::join));
        if let Stage::Ending { .. } = *lock(&self.stage) {
            return Ok((Outcome::Canceled, true));
        }
        if let Some(outcome) = Outcome::from_exit_code(status.code()) {
            return Ok((outcome, true));
        }
        let words = complaints
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let report = json!({
            "conclusion": Outcome::Failed.conclusion(),
            "annotations": [{ "message": format!("The worker ended with {status}. {words}") }],
        });
        if let Err(error) = self.connection.complete(report) {
            let diag = self.runner.terminal.diag();
            diag.error("JobDispatcher", &format!("cannot fail the job: {error:#}"));
        }
        Ok((Outcome::Failed, true))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the stand-in is no PID 1 and has no init::Children"
    )]
    fn spawn_worker(&self) -> anyhow::Result<Child> {
        let bin = self.runner.root.join("bin");
        Command::new(std::env::current_exe()?)
            .arg0(bin.join("Runner.Worker"))
            .arg("spawnclient")
            .current_dir(&bin)
            .env_clear()
            .envs(self.runner.environment.iter())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the worker")
    }

    /// The worker's lines go to our standard output only when all are wanted there.
    fn copy_output(&self, output: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let wanted = self
            .runner
            .environment
            .is_true("ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT");
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if wanted && !line.is_empty() {
                    terminal::print_bytes(line);
                }
            }
        })
    }
}

/// What the operator reads; the workflow's author chose it.
pub(crate) fn display_name(message: &Value) -> String {
    message["jobDisplayName"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn send(orders: &mut ChildStdin, value: &Value) -> std::io::Result<()> {
    orders.write_all(format!("{value}\n").as_bytes())?;
    orders.flush()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
