//! The calls by which a runner registers and removes itself (actions/runner
//! `ConfigurationManager.cs`, `RunnerDotcomServer.cs`).

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::VERSION;
use crate::http::{Call, Content, call};
use crate::terminal::Terminal;

/// What the server answered to a registration.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) client_id: String,
    pub(crate) authorization_url: String,
    pub(crate) server_url: String,
    pub(crate) tenant_url: String,
}

pub(crate) struct Registrar<'a> {
    pub(crate) terminal: &'a Terminal,
    /// `--url`.
    pub(crate) url: &'a str,
    /// A registration or remove token.
    pub(crate) token: String,
}

const LIMIT: Duration = Duration::from_secs(100);
const ATTEMPTS: u32 = 3;

impl Registrar<'_> {
    /// Asks whether the token is good; the answer is the tenant's URL.
    pub(crate) fn connect(&self) -> anyhow::Result<String> {
        let url = format!("{}/actions/runner-registration", api(self.url)?);
        let body = json!({ "url": self.url, "runner_event": "register" });
        let answer = self.retry(Method::POST, &url, Some(&body))?;
        Ok(text(&answer["url"]))
    }

    /// Id and name of the wanted group, or of the default one.
    pub(crate) fn group(&self, wanted: Option<&str>) -> anyhow::Result<(u64, String)> {
        let url = format!("{}/runner-groups", entity(self.url)?);
        let answer = self.retry(Method::GET, &url, None)?;
        let groups = answer["runner_groups"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = groups.iter().find(|group| match wanted {
            Some(name) => text(&group["name"]).eq_ignore_ascii_case(name),
            None => group["default"] == json!(true),
        });
        match (found, wanted) {
            (Some(group), _) => Ok((
                group["id"].as_u64().unwrap_or_default(),
                text(&group["name"]),
            )),
            (None, Some(name)) => {
                bail!("Could not find any self-hosted runner group named \"{name}\".")
            }
            (None, None) => {
                bail!("Could not find any self-hosted runner groups. Contact support.")
            }
        }
    }

    pub(crate) fn find(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let url = format!("{}/runners?name={name}", entity(self.url)?);
        let answer = self.retry(Method::GET, &url, None)?;
        Ok(answer["runners"][0]["id"].as_u64())
    }

    /// Registers; `body` has everything but the URL and the version.
    pub(crate) fn register(
        &self,
        mut body: Value,
        tenant_url: String,
    ) -> anyhow::Result<Registered> {
        body["url"] = json!(self.url);
        body["version"] = json!(VERSION);
        let url = format!("{}/actions/runners/register", api(self.url)?);
        let answer = self.retry(Method::POST, &url, Some(&body))?;
        let authorization = &answer["authorization"];
        Ok(Registered {
            id: answer["id"]
                .as_u64()
                .context("the server gave no runner id")?,
            name: text(&answer["name"]),
            client_id: text(&authorization["client_id"]),
            authorization_url: text(&authorization["authorization_url"]),
            server_url: text(&authorization["server_url"]),
            tenant_url,
        })
    }

    pub(crate) fn delete(&self, id: u64) -> anyhow::Result<()> {
        let url = format!("{}/runners/{id}", entity(self.url)?);
        self.retry(Method::DELETE, &url, None).map(|_| ())
    }

    /// Three attempts with one to five seconds between them; a 404 is final.
    fn retry(&self, method: Method, url: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let answer = call(Call {
                method: method.clone(),
                url,
                authorization: Some(format!("RemoteAuth {}", self.token)),
                content: body.map_or(Content::Nothing, Content::Json),
                limit: LIMIT,
            });
            match answer {
                Ok(answer) if answer.is_success() => return Ok(answer.json()),
                Ok(answer) => {
                    let reason = answer.reason_phrase();
                    self.terminal.error(&format!(
                        "Http response code: {reason} from '{method} {url}' (Request Id: {})",
                        answer.request_id
                    ));
                    self.terminal.error(&answer.body);
                    if answer.status == 404 || attempt >= ATTEMPTS {
                        bail!(
                            "Response status code does not indicate success: {} ({reason}).",
                            answer.status
                        );
                    }
                }
                Err(error) if attempt >= ATTEMPTS => return Err(error),
                Err(error) => self
                    .terminal
                    .diag()
                    .error("Registrar", &format!("{error:#}")),
            }
            let pause = rand::rng().random_range(1000..5000);
            std::thread::sleep(Duration::from_millis(pause));
        }
    }
}

/// `--pat`: has GitHub make a `registration` or `remove` token.
pub(crate) fn exchange_pat(url: &str, pat: &str, event: &str) -> anyhow::Result<String> {
    let address = format!("{}/runners/{event}-token", entity(url)?);
    let basic = STANDARD.encode(format!("github:{pat}"));
    let answer = call(Call {
        method: Method::POST,
        url: &address,
        authorization: Some(format!("basic {basic}")),
        content: Content::Nothing,
        limit: LIMIT,
    })?;
    if !answer.is_success() {
        bail!(
            "Response status code does not indicate success: {} ({}).",
            answer.status,
            answer.reason_phrase()
        );
    }
    Ok(text(&answer.json()["token"]))
}

/// The REST base for a GitHub URL: `api.` for GitHub's own hosts, `/api/v3` for others.
fn api(url: &str) -> anyhow::Result<String> {
    let (scheme, authority, _) = parts(url)?;
    let host = authority.split(':').next().unwrap_or_default();
    let hosted = ["github.com", "www.github.com", "github.localhost"].contains(&host)
        || host.ends_with(".ghe.com")
        || host.ends_with(".ghe.localhost");
    Ok(if hosted {
        format!("{scheme}://api.{host}")
    } else {
        format!("{scheme}://{authority}/api/v3")
    })
}

fn entity(url: &str) -> anyhow::Result<String> {
    let base = api(url)?;
    let (_, _, path) = parts(url)?;
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    match names.as_slice() {
        [organization] => Ok(format!("{base}/orgs/{organization}/actions")),
        ["enterprises", name] => Ok(format!("{base}/enterprises/{name}/actions")),
        [owner, name] => Ok(format!("{base}/repos/{owner}/{name}/actions")),
        _ => bail!("'{url}' should point to an org or enterprise."),
    }
}

fn parts(url: &str) -> anyhow::Result<(&str, &str, &str)> {
    let (scheme, rest) = url
        .split_once("://")
        .with_context(|| format!("Invalid URI: '{url}' has no scheme."))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((scheme, authority, path))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_lies_elsewhere_on_github_and_below_a_path_on_other_hosts() {
        for (url, expected) in [
            (
                "https://github.com/o/r",
                "https://api.github.com/repos/o/r/actions",
            ),
            (
                "https://x.ghe.com/o",
                "https://api.x.ghe.com/orgs/o/actions",
            ),
            ("http://h:81/o/r", "http://h:81/api/v3/repos/o/r/actions"),
            (
                "http://h/enterprises/e",
                "http://h/api/v3/enterprises/e/actions",
            ),
        ] {
            assert_eq!(entity(url).unwrap(), expected);
        }
        entity("http://h/").unwrap_err();
        entity("nonsense").unwrap_err();
    }
}
