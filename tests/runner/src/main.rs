//! A stand-in for `bin/Runner.Listener` of actions/runner, for tests of whatever starts it.
//!
//! It keeps the contract that a supervisor can see: commands, options and their environment
//! twins, files in the runner's root, output lines and their streams, exit codes, what SIGINT and
//! SIGTERM do, hooks, tool cache variables, environment inheritance, and a process tree of
//! listener, worker and steps. The steps of a job are plain bash scripts. Its first line says
//! what it is. Sources: actions/runner at 2.336.0, file by file where a module names one.
//!
//! Known differences: the port of `--url` is kept (the real `config.sh` drops it for hosts that
//! are not GitHub's), no self-update is downloaded, no container jobs, no actions, no V1 flow, and
//! it refuses to run as root by itself (the real one leaves that to its shell scripts).
//!
//! It is told to misbehave by the double it talks to: see [`script`].

mod arguments;
mod broker;
mod configure;
mod conversation;
mod diag;
mod dispatch;
mod ending;
mod environment;
mod failure;
mod http;
mod listener;
mod process_tree;
mod registrar;
mod remove;
mod script;
mod signals;
mod store;
mod terminal;
mod worker;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use diag::Diag;
use environment::Environment;
use store::Store;
use terminal::Terminal;

/// The version that it plays.
pub(crate) const VERSION: &str = "2.336.0";
const NOTICE: &str = "Runner.Listener stand-in: a test double of the GitHub Actions runner";

/// What every command needs.
pub(crate) struct Runner {
    pub(crate) root: PathBuf,
    pub(crate) environment: Environment,
    pub(crate) terminal: Terminal,
    pub(crate) store: Store,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| first == "spawnclient")
    {
        return ExitCode::from(worker::main());
    }
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            terminal::print_error(&format!("An error occurred: {error:#}"));
            ExitCode::from(failure::TERMINATED)
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<u8> {
    let root = environment::runner_root()?;
    let mut environment = Environment::load(&root)?;
    let arguments = Arguments::parse(arguments, &mut environment);
    if let Command::Version = arguments.command {
        // Nothing but the version may stand on standard output.
        terminal::print_error(NOTICE);
        writeln!(std::io::stdout(), "{VERSION}")?;
        return Ok(0);
    }
    terminal::print(NOTICE);
    if nix::unistd::geteuid().is_root() && !environment.is_set("RUNNER_ALLOW_RUNASROOT") {
        terminal::print("Must not run interactively with sudo");
        return Ok(failure::TERMINATED);
    }
    let diag = Diag::create(&root, "Runner", &environment)?;
    let runner = Runner {
        store: Store::new(root.clone()),
        terminal: Terminal::new(diag),
        environment,
        root,
    };
    arguments.warn_of_unknown(&runner.terminal);
    match arguments.command {
        Command::Configure => configure::run(&runner, &arguments),
        Command::Remove => remove::run(&runner, &arguments),
        Command::Run => listener::run(runner, &arguments),
        Command::Version | Command::Help => {
            terminal::print("Commands: configure, remove, run [--jitconfig BASE64], --version");
            Ok(0)
        }
    }
}
