//! The double as a program: options in, one line with the address out, then it serves.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use github_double::{App, GithubDouble, Grant, Options, Scope};

/// A test double of the GitHub API for self-hosted runners. It is not GitHub: it serves the
/// endpoints that a runner and its supervisor use, checks what GitHub checks, and can be told to
/// fail below /_double/. Every answer carries the header `X-Double: github-double`.
#[derive(Parser)]
#[command(name = "github-double", version)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// File for the event log, one JSON object per line
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// A personal access token that may do everything
    #[arg(long, value_name = "TOKEN")]
    pat: Option<String>,
    /// A repository that exists
    #[arg(long, value_name = "OWNER/REPO")]
    repo: Vec<Scope>,
    /// An organisation that exists
    #[arg(long, value_name = "ORG")]
    org: Vec<String>,
    /// An enterprise that exists
    #[arg(long, value_name = "NAME")]
    enterprise: Vec<String>,
    /// The id of a GitHub App that is installed everywhere
    #[arg(long, value_name = "N", requires = "app_public_key")]
    app_id: Option<u64>,
    /// The client id of that App
    #[arg(
        long,
        value_name = "ID",
        default_value = "Iv23double",
        requires = "app_id"
    )]
    app_client_id: String,
    /// PEM file with the public key of that App
    #[arg(long, value_name = "FILE", requires = "app_id")]
    app_public_key: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let double = GithubDouble::start(arguments.options()?)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "github-double: a test double of the GitHub API, listening on {}",
        double.url()
    )?;
    out.flush()?;
    drop(out);
    double.wait();
    Ok(())
}

impl Arguments {
    fn options(self) -> anyhow::Result<Options> {
        let mut scopes = self.repo;
        scopes.extend(self.org.into_iter().map(Scope::Organization));
        scopes.extend(self.enterprise.into_iter().map(Scope::Enterprise));
        let app = match (self.app_id, self.app_public_key) {
            (Some(id), Some(file)) => Some(App {
                id,
                client_id: self.app_client_id,
                public_key: std::fs::read_to_string(&file)
                    .with_context(|| format!("--app-public-key: cannot read {}", file.display()))?,
                grant: Grant::default(),
            }),
            _ => None,
        };
        Ok(Options {
            listen: self.listen,
            event_log: self.event_log,
            pat: self.pat,
            scopes,
            app,
            ..Options::default()
        })
    }
}
