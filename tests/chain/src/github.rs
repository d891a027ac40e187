//! The control plane of the GitHub double that runs in the host.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use github_double::JobSpec;
use serde_json::Value;
use testhost::{Host, Running, Stream};

use crate::binaries;

/// Where programs of this workspace are shown in the host.
const PROGRAMS: &str = "/run/chain/programs";
const PORT: u16 = 8080;
/// The token that the double accepts. It opens nothing else.
pub(crate) const TOKEN: &str = "ghp_a_token_for_the_double_only";
/// The repository that the runners are registered with.
pub(crate) const REPOSITORY: &str = "acme/widgets";
/// How long the double may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The double, running in the host as a process of its own.
#[derive(Debug)]
pub struct Github {
    url: String,
    running: Running,
}

impl Github {
    pub(crate) fn start(host: &mut Host) -> Result<Self> {
        let program = format!("{PROGRAMS}/github-double");
        host.bind(&binaries::find("github-double")?, &program, true)?;
        let listen = format!("0.0.0.0:{PORT}");
        let words = [
            &program, "--listen", &listen, "--pat", TOKEN, "--repo", REPOSITORY,
        ];
        let running = host.follow(words, |stream, line| {
            if stream == Stream::Stderr {
                drop(std::io::Write::write_all(
                    &mut std::io::stderr(),
                    format!("github-double: {line}\n").as_bytes(),
                ));
            }
        })?;
        let github = Self {
            url: format!("http://{}:{PORT}", host.gateway()),
            running,
        };
        let begin = Instant::now();
        while let Err(error) = github.get(host, "events") {
            if begin.elapsed() > START_LIMIT || testhost::interrupted() {
                return Err(error.context("the GitHub double does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(github)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The `GITHUB_URL` of a task.
    #[must_use]
    pub fn repository_url(&self) -> String {
        format!("{}/{REPOSITORY}", self.url)
    }

    /// Queues a job; its id.
    ///
    /// # Errors
    /// The double refuses it.
    pub fn queue(&self, host: &Host, job: &JobSpec) -> Result<String> {
        let body = serde_json::to_string(job).context("the job as JSON")?;
        let url = format!("{}/_double/jobs", self.url);
        let answer = curl(host, &["--json", &body, &url])?;
        match answer.get("id").and_then(Value::as_str) {
            Some(id) => Ok(id.to_owned()),
            None => bail!("the GitHub double did not queue the job: {answer}"),
        }
    }

    /// `succeeded`, `failed`, `canceled` or `lost` when the job has ended.
    ///
    /// # Errors
    /// The double does not know the job.
    pub fn conclusion(&self, host: &Host, job: &str) -> Result<Option<String>> {
        let job = self.get(host, &format!("jobs/{job}"))?;
        Ok(job
            .pointer("/conclusion")
            .and_then(Value::as_str)
            .map(Into::into))
    }

    /// The names of the runners that are registered.
    ///
    /// # Errors
    /// The double does not answer.
    pub fn runners(&self, host: &Host) -> Result<Vec<String>> {
        let all = self.get(host, "runners")?;
        let all = all.as_array().context("the double's runners are no list")?;
        Ok(all
            .iter()
            .filter_map(|runner| runner.get("name").and_then(Value::as_str))
            .map(Into::into)
            .collect())
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.running.stop(START_LIMIT).map(drop)
    }

    fn get(&self, host: &Host, what: &str) -> Result<Value> {
        curl(host, &[&format!("{}/_double/{what}", self.url)])
    }
}

fn curl(host: &Host, words: &[&str]) -> Result<Value> {
    let command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--max-time",
        "10",
    ];
    let answer = host.run(command.iter().chain(words))?;
    serde_json::from_str(&answer).with_context(|| format!("the double's answer {answer:?}"))
}
