//! What an operator gets wrong: the container's log says it in one line that names the setting.

use anyhow::{Result, ensure};
use chain::Stage;
use chain::driver::Case;

use crate::project::lay_out;

pub(crate) const CASES: [Case; 1] = [(
    "every_mistake_is_one_line_that_names_the_setting",
    every_mistake_is_one_line_that_names_the_setting,
)];

struct Mistake {
    what: &'static str,
    /// Arguments of `docker run`.
    run: &'static str,
    code: i32,
    /// What one line has.
    names: &'static [&'static str],
}

/// What a sidecar is started with.
const SIDECAR: &str = "--cap-add=SYS_ADMIN --cap-add=NET_ADMIN";

const MISTAKES: [Mistake; 7] = [
    Mistake {
        what: "a missing credential",
        run: "--env=GITHUB_URL=https://github.com/acme ecs-runner",
        code: 64,
        names: &["GITHUB_PAT", "GITHUB_APP_ID"],
    },
    Mistake {
        what: "a URL without a scheme",
        run: "--env=GITHUB_URL=github.com/acme --env=GITHUB_PAT=x ecs-runner",
        code: 64,
        names: &["GITHUB_URL"],
    },
    Mistake {
        what: "a secret's file that is not mounted",
        run: "--env=GITHUB_URL=https://github.com/acme --env=GITHUB_PAT_FILE=/run/secrets/pat ecs-runner",
        code: 64,
        names: &["GITHUB_PAT_FILE", "/run/secrets/pat"],
    },
    Mistake {
        what: "a runner of another architecture",
        // An ELF header of the architecture that this machine has not.
        run: "--env=GITHUB_URL=https://github.com/acme --env=GITHUB_PAT=x --entrypoint=bash ecs-runner -c \
              'other=$(test $(uname -m) = x86_64 && echo b7 || echo 3e); cd /home/runner/bin; \
              (head -c 18 /bin/true; printf \"\\x$other\"; tail -c +20 /bin/true) >other && chmod 755 other && \
              mv other Runner.Listener; exec supervisor'",
        code: 69,
        names: &[
            "the runner's program in RUNNER_HOME does not work here",
            "/home/runner/bin/Runner.Listener",
        ],
    },
    Mistake {
        what: "an absent storage volume",
        run: "{sidecar} ecs-dind",
        code: 69,
        names: &["/var/docker-storage", "DINDD_STORAGE"],
    },
    Mistake {
        what: "a log target whose owner does not run",
        run: "{sidecar} --volume=/ebs/docker-storage:/var/docker-storage --env=DINDD_LOG_DRIVER=syslog \
              --env=DINDD_LOG_OPTS=syslog-address=unixgram:///run/log-router/syslog.sock ecs-dind",
        code: 69,
        names: &["/run/log-router/syslog.sock", "DINDD_LOG_OPTS"],
    },
    Mistake {
        what: "a task without the capabilities",
        run: "--volume=/ebs/docker-storage:/var/docker-storage ecs-dind",
        code: 77,
        names: &["SYS_ADMIN"],
    },
];

fn every_mistake_is_one_line_that_names_the_setting(stage: &Stage) -> Result<()> {
    lay_out(stage)?;
    for mistake in &MISTAKES {
        let run = mistake.run.replace("{sidecar}", SIDECAR);
        let line = format!("docker run --rm {run} 2>&1; echo \"exit $?\"");
        let said = stage.host().run(["sh", "-c", &line])?;
        let named = said
            .lines()
            .any(|line| mistake.names.iter().all(|name| line.contains(name)));
        ensure!(
            named && said.ends_with(&format!("exit {}\n", mistake.code)),
            "{}: expected {:?} and exit {}:\n{said}",
            mistake.what,
            mistake.names,
            mistake.code
        );
    }
    Ok(())
}
