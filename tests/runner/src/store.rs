//! The files of a configured runner: `.runner`, `.credentials`, `.credentials_rsaparams`.
//!
//! Two writers exist. `config.sh` writes camelCase keys with real booleans; a JIT configuration
//! has PascalCase keys and strings for everything. Both start with a byte order mark, and keys
//! are compared without regard to case, so one reader serves both.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use github_double::rsa_key::RsaKey;
use serde_json::{Value, json};

use crate::registrar::Registered;
use crate::terminal::Terminal;

const RUNNER: &str = ".runner";
const CREDENTIALS: &str = ".credentials";
const KEY: &str = ".credentials_rsaparams";

/// `.runner`, as far as it is used here.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) agent_id: u64,
    pub(crate) agent_name: String,
    pub(crate) ephemeral: bool,
    pub(crate) disable_update: bool,
    pub(crate) use_runner_admin_flow: bool,
    pub(crate) skip_session_recover: bool,
    /// Empty for a JIT runner.
    pub(crate) github_url: String,
    /// The broker, with a slash at its end.
    pub(crate) server_url_v2: String,
    pub(crate) work_folder: String,
}

/// `.credentials` and the key.
pub(crate) struct Credentials {
    pub(crate) client_id: String,
    pub(crate) authorization_url: String,
    pub(crate) key: RsaKey,
}

/// What `config.sh` decided besides the server's answer.
pub(crate) struct Configuration {
    pub(crate) github_url: String,
    pub(crate) pool_id: u64,
    pub(crate) pool_name: String,
    pub(crate) work_folder: String,
    pub(crate) ephemeral: bool,
    pub(crate) disable_update: bool,
}

pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn is_configured(&self) -> bool {
        self.exists(RUNNER) && self.exists(CREDENTIALS)
    }

    /// A service has to be uninstalled before the runner is removed.
    pub(crate) fn is_service(&self) -> bool {
        self.exists(".service")
    }

    fn exists(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }

    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let file = self.read(RUNNER)?;
        let text = |name: &str| text_of(&file, name);
        let server_url_v2 = text("serverUrlV2");
        if server_url_v2.is_empty() {
            bail!("ServerUrlV2 is not set");
        }
        Ok(Settings {
            agent_id: text("agentId").parse().unwrap_or_default(),
            agent_name: text("agentName"),
            ephemeral: text("ephemeral").eq_ignore_ascii_case("true"),
            disable_update: text("disableUpdate").eq_ignore_ascii_case("true"),
            use_runner_admin_flow: text("useRunnerAdminFlow").eq_ignore_ascii_case("true"),
            skip_session_recover: text("skipSessionRecover").eq_ignore_ascii_case("true"),
            github_url: text("gitHubUrl"),
            server_url_v2,
            work_folder: text("workFolder"),
        })
    }

    /// The work folder, which may be absolute.
    pub(crate) fn work(&self, settings: &Settings) -> PathBuf {
        self.root.join(&settings.work_folder)
    }

    pub(crate) fn credentials(&self) -> anyhow::Result<Credentials> {
        let file = self.read(CREDENTIALS)?;
        let data = member(&file, "data").cloned().unwrap_or_default();
        let text = |name: &str| {
            let text = text_of(&data, name);
            anyhow::ensure!(!text.is_empty(), "{CREDENTIALS} has no {name}");
            Ok(text)
        };
        let path = self.root.join(KEY);
        let key = serde_json::from_value(self.read(KEY)?)
            .with_context(|| format!("{} is no RSA key", path.display()))?;
        Ok(Credentials {
            client_id: text("clientId")?,
            authorization_url: text("authorizationUrl")?,
            key,
        })
    }

    /// Writes the files of a JIT configuration into the root.
    pub(crate) fn save_jit(&self, encoded: &str) -> anyhow::Result<()> {
        let decoded = STANDARD
            .decode(encoded)
            .context("the JIT configuration is no base64")?;
        let files: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(&decoded).context("the JIT configuration is no map of files")?;
        for (name, content) in files {
            let content = STANDARD
                .decode(content)
                .with_context(|| format!("{name} in the JIT configuration is no base64"))?;
            let path = self.root.join(name);
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes what `config.sh` writes.
    pub(crate) fn save_configuration(
        &self,
        configuration: &Configuration,
        registered: &Registered,
        key: &RsaKey,
    ) -> anyhow::Result<()> {
        let credentials = json!({
            "scheme": "OAuth",
            "data": {
                "clientId": registered.client_id,
                "authorizationUrl": registered.authorization_url,
                "requireFipsCryptography": "True",
            },
        });
        let mut settings = json!({
            "agentId": registered.id,
            "agentName": registered.name,
            "poolId": configuration.pool_id,
            "poolName": configuration.pool_name,
            "serverUrl": registered.tenant_url,
            "gitHubUrl": configuration.github_url,
            "workFolder": configuration.work_folder,
            "useV2Flow": true,
            "useRunnerAdminFlow": true,
            "serverUrlV2": registered.server_url,
        });
        // Members that have their default value are left out.
        if configuration.ephemeral {
            settings["ephemeral"] = json!(true);
        }
        if configuration.disable_update {
            settings["disableUpdate"] = json!(true);
        }
        self.write(KEY, &serde_json::to_value(key)?, 0o600)?;
        self.write(CREDENTIALS, &credentials, 0o644)?;
        self.write(RUNNER, &settings, 0o644)?;
        let service = self.root.join("svc.sh");
        fs::write(
            &service,
            "#!/bin/bash\necho 'svc.sh of a stand-in does nothing'\nexit 1\n",
        )
        .and_then(|()| fs::set_permissions(&service, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", service.display()))
    }

    /// Deletes the local configuration and says so.
    pub(crate) fn delete(&self, terminal: &Terminal) -> anyhow::Result<()> {
        let configured = self.is_configured();
        if self.exists(CREDENTIALS) {
            self.remove(CREDENTIALS)?;
            self.remove(KEY)?;
            terminal.success("Removed .credentials");
        } else {
            terminal.line("Does not exist. Skipping Removing .credentials");
        }
        if configured {
            self.remove(RUNNER)?;
            terminal.success("Removed .runner");
        } else {
            terminal.line("Does not exist. Skipping Removing .runner");
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read(&self, name: &str) -> anyhow::Result<Value> {
        read_json(&self.root.join(name))
    }

    fn write(&self, name: &str, value: &Value, mode: u32) -> anyhow::Result<()> {
        let path = self.root.join(name);
        let text = format!("\u{feff}{}", serde_json::to_string_pretty(value)?);
        fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Reads a file that may start with a byte order mark.
fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .with_context(|| format!("{} is no JSON", path.display()))
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let (_, value) = object
        .as_object()?
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(value)
}

/// A member as text, whatever it is; empty when it is not there.
fn text_of(object: &Value, name: &str) -> String {
    match member(object, name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_of_the_runner_file_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        for text in [
            r#"{"AgentId":"16","AgentName":"x","Ephemeral":"True","ServerUrlV2":"http://h/","WorkFolder":"_work"}"#,
            r#"{"agentId":16,"agentName":"x","ephemeral":true,"serverUrlV2":"http://h/","workFolder":"_work"}"#,
        ] {
            fs::write(directory.path().join(RUNNER), format!("\u{feff}{text}")).unwrap();
            let settings = store.settings().unwrap();
            assert_eq!(
                (settings.agent_id, settings.ephemeral),
                (16, true),
                "{text}"
            );
            assert!(!settings.disable_update);
        }
    }

    #[test]
    fn an_absolute_work_folder_is_not_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let text = r#"{"serverUrlV2":"http://h/","workFolder":"/elsewhere"}"#;
        fs::write(directory.path().join(RUNNER), text).unwrap();
        let settings = store.settings().unwrap();
        assert_eq!(store.work(&settings), Path::new("/elsewhere"));
    }
}
