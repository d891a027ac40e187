//! The columns of the table: a fault, and how it strikes a life that is in a phase.

use std::time::Duration;

use github_double::script::{Act, Phase as Moment, Script};
use github_double::{Action, Hangup, Rule};
use nix::sys::signal::Signal;

use crate::harness::{Supervisor, wait_until};
use crate::table::{Life, STOP_TIMEOUT};
use crate::table_phases::{About, Phase, REGISTER, TOKENS};

pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) happens: fn(&Phase) -> bool,
    /// Before the start.
    pub(crate) arrange: fn(&mut Life, &Phase),
    /// In the phase.
    pub(crate) strike: fn(&mut Life, &Phase, &Supervisor),
    /// The phase goes on afterwards.
    pub(crate) goes_on: bool,
    /// What is left is removed by the sweep.
    pub(crate) sweeps: bool,
    /// How long the rest of the life may take.
    pub(crate) budget: Duration,
    pub(crate) job_lock: Duration,
}

const PLAIN: Fault = Fault {
    name: "",
    happens: |_| true,
    arrange: |_, _| {},
    strike: |_, _, _| {},
    goes_on: true,
    sweeps: false,
    // GITHUB_TIMEOUT, one answer that is waited for, and the listener's pauses.
    budget: Duration::from_secs(55),
    job_lock: Duration::from_hours(1),
};

/// What never answers keeps a last phase from ending before the signal comes.
const SIGNAL: Fault = Fault {
    arrange: |life, phase| match phase.about {
        About::Store("publish") => life.trial.hang_store("publish"),
        About::GitHub("DELETE", path) => {
            let never = Action::NeverAnswer { effect: false };
            life.trial.double.clear_faults();
            life.trial
                .double
                .fail(Rule::on("DELETE", path, never).times(1));
        }
        About::Store(_) | About::Docker | About::GitHub(..) | About::Listener(_) => {}
    },
    goes_on: false,
    budget: STOP_TIMEOUT,
    ..PLAIN
};

const GITHUB: Fault = Fault {
    happens: asks_github,
    ..PLAIN
};

const CLOCK: Fault = Fault {
    happens: asks_github,
    goes_on: false,
    ..PLAIN
};

const EXIT: Fault = Fault {
    happens: |phase| matches!(phase.about, About::Listener(_)),
    goes_on: false,
    job_lock: Duration::from_secs(3),
    ..PLAIN
};

/// In the other phases nothing is asked of GitHub, and nothing follows that was not in the table.
fn asks_github(phase: &Phase) -> bool {
    match phase.about {
        About::GitHub(..) | About::Store("publish") => true,
        About::Listener(moment) => moment != Moment::Start,
        About::Store(_) | About::Docker => false,
    }
}

/// GitHub answers the calls of the phase so, a deregistration only `times` times.
fn before(life: &mut Life, phase: &Phase, action: &Action, times: u32) {
    let About::GitHub(method, path) = phase.about else {
        return;
    };
    if path == TOKENS {
        crate::github::use_app(&mut life.trial);
    }
    if path == TOKENS || path == REGISTER {
        // It does not get better: the time is short, and is not in the way of other cells.
        life.trial.set("GITHUB_TIMEOUT", 8);
    }
    let mut action = action.clone();
    if method == "DELETE" && matches!(action, Action::Answer { status: 404, .. }) {
        // What is not found any more is gone: another's removal came first.
        action = action.after_effect();
    }
    let rule = || Rule::on(method, path, action.clone());
    life.trial.double.clear_faults();
    let first = rule().delay(Duration::from_millis(700)).times(1);
    life.trial.double.fail(first);
    if method != "DELETE" {
        life.trial.double.fail(rule());
    } else if times > 1 {
        life.trial.double.fail(rule().times(times - 1));
    }
}

/// In the phases that wait for something else it is the deregistration that comes next.
fn then(life: &Life, phase: &Phase, action: &Action, times: u32) {
    if !matches!(phase.about, About::GitHub(..)) {
        let rule = Rule::on("DELETE", "**/actions/runners/*", action.clone());
        life.trial.double.fail(rule.times(times));
    }
}

macro_rules! github {
    ($name:literal, $action:expr, $times:expr) => {
        Fault {
            name: $name,
            arrange: |life, phase| before(life, phase, &$action, $times),
            strike: |life, phase, _| then(life, phase, &$action, $times),
            ..GITHUB
        }
    };
}

/// The listener has its own opinion about clocks and waits for half an hour: a clock that is
/// wrong from the start is followed until the listener was started.
fn move_clock(life: &Life, phase: &Phase, supervisor: &Supervisor, seconds: i64) {
    match phase.about {
        About::GitHub(method, _) if method != "DELETE" => {
            supervisor.wait_for_phase("listener-start");
            supervisor.signal(Signal::SIGTERM);
        }
        About::GitHub(..) | About::Store(_) | About::Docker | About::Listener(_) => {
            life.trial.double.set_clock_offset(seconds);
            (phase.leave)(life);
        }
    }
}

fn set_clock(life: &mut Life, phase: &Phase, seconds: i64) {
    crate::github::use_app(&mut life.trial);
    if matches!(phase.about, About::GitHub(method, _) if method != "DELETE") {
        life.trial.double.set_clock_offset(seconds);
    }
}

macro_rules! clock {
    ($name:literal, $seconds:expr) => {
        Fault {
            name: $name,
            arrange: |life, phase| set_clock(life, phase, $seconds),
            strike: |life, phase, supervisor| move_clock(life, phase, supervisor, $seconds),
            ..CLOCK
        }
    };
}

fn act(life: &Life, phase: &Phase, act: Act) {
    if let About::Listener(moment) = phase.about {
        // A session that was not ended keeps the next one waiting for half a minute.
        life.trial
            .script(Script::default().at(moment, act).wait_scale(0.01));
    }
    // What the runner's update leaves when it has succeeded.
    std::fs::write(life.trial.path("home/update.finished"), "").unwrap();
}

macro_rules! exit {
    ($name:literal, $act:expr) => {
        Fault {
            name: $name,
            arrange: |life, phase| act(life, phase, $act),
            ..EXIT
        }
    };
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "SIGTERM",
        strike: |_, _, supervisor| supervisor.terminate(),
        ..SIGNAL
    },
    Fault {
        name: "SIGTERM twice",
        strike: |_, _, supervisor| {
            supervisor.terminate();
            supervisor.terminate();
        },
        ..SIGNAL
    },
    Fault {
        name: "SIGKILL",
        strike: |life, _, supervisor| {
            supervisor.signal(Signal::SIGKILL);
            life.trial.go();
        },
        sweeps: true,
        job_lock: Duration::from_secs(3),
        ..SIGNAL
    },
    github!("401", Action::status(401), 2),
    github!("403", Action::status(403), 2),
    github!("404", Action::status(404), 2),
    github!("409", Action::status(409), 2),
    github!("422", Action::status(422), 2),
    github!("429", Action::status(429).header("retry-after", 1), 2),
    github!("500", Action::status(500), 2),
    github!("silent", Action::NeverAnswer { effect: false }, 1),
    github!(
        "reset",
        Action::Disconnect {
            how: Hangup::Reset,
            effect: true
        },
        2
    ),
    Fault {
        name: "store hangs",
        happens: |phase| matches!(phase.about, About::Store(_)),
        arrange: |life, phase| {
            if let About::Store(way) = phase.about {
                life.trial.hang_store(way);
            }
        },
        strike: |life, phase, supervisor| {
            if phase.about == About::Store("publish") {
                // It costs the registration nothing, and goes on until somebody stops it.
                wait_until("nothing is registered", || {
                    life.trial.registrations().is_empty()
                });
                supervisor.terminate();
            }
        },
        ..PLAIN
    },
    Fault {
        name: "store full",
        happens: |phase| matches!(phase.about, About::Store(_)),
        arrange: |life, phase| {
            if let About::Store(way) = phase.about {
                life.trial.fill_disk(way);
            }
        },
        ..PLAIN
    },
    Fault {
        name: "Docker dies",
        happens: |phase| match phase.about {
            About::Docker | About::Store("publish") => true,
            About::GitHub(method, _) => method == "DELETE",
            About::Listener(moment) => moment != Moment::Start,
            About::Store(_) => false,
        },
        strike: |life, phase, _| {
            life.docker.die();
            if phase.about == About::Docker {
                life.docker.be_silent(false);
            }
        },
        ..PLAIN
    },
    clock!("clock 10 min ahead", 600),
    clock!("clock 10 min behind", -600),
    exit!("0", Act::Exit { code: 0 }),
    exit!("1", Act::Exit { code: 1 }),
    exit!("2", Act::Exit { code: 2 }),
    exit!("3", Act::Exit { code: 3 }),
    exit!("4", Act::Exit { code: 4 }),
    exit!("5", Act::Exit { code: 5 }),
    exit!("7", Act::Exit { code: 7 }),
    exit!("102", Act::Exit { code: 102 }),
    exit!(
        "killed",
        Act::Die {
            signal: Signal::SIGKILL as i32
        }
    ),
];
