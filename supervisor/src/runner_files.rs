//! The runner's configuration files: `.runner`, `.credentials` and their kin in its home.
//!
//! Owns decoding a just-in-time configuration, writing it, and reading back what the runner will
//! believe. So the configuration, a secret, is in no command line and no environment.
//! Source: actions/runner `Runner.cs` (ExecuteCommand), `ConfigurationStore.cs`, `IOUtil.cs`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use init::settings::Secret;
use serde_json::Value;

use crate::user::User;

/// What a former life of the container, or the image, may have left. `.env` and `.path` would
/// override the environment that we give the listener.
const STALE: &[&str] = &[
    ".runner",
    ".runner_migrated",
    ".credentials",
    ".credentials_migrated",
    ".credentials_rsaparams",
    ".env",
    ".path",
];

/// What `.runner` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Configured {
    pub(crate) id: Option<u64>,
    pub(crate) name: Option<String>,
    pub(crate) ephemeral: bool,
}

/// Removes what would make the runner another one than we configure.
pub(crate) fn clean(home: &Path) -> anyhow::Result<()> {
    STALE.iter().try_for_each(|name| {
        let path = home.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    })
}

/// Writes a just-in-time configuration into the runner's home, readable by its user alone.
pub(crate) fn write_jit(home: &Path, configuration: &Secret, user: &User) -> anyhow::Result<()> {
    for (name, content) in decode(configuration)? {
        let path = home.join(name);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(&content)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        user.own(&path)?;
    }
    Ok(())
}

/// Reads `.runner` back: what the runner will believe it is.
pub(crate) fn read_back(home: &Path) -> anyhow::Result<Configured> {
    let path = home.join(".runner");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no runner's configuration", path.display()))
}

/// base64 of a JSON object: file name → base64 of its content.
fn decode(configuration: &Secret) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    const BROKEN: &str = "the just-in-time configuration is not as documented";
    let json = STANDARD
        .decode(configuration.expose().trim())
        .ok()
        .context(BROKEN)?;
    let files: BTreeMap<String, String> = serde_json::from_slice(&json).ok().context(BROKEN)?;
    ensure!(files.contains_key(".runner"), BROKEN);
    let mut decoded = Vec::new();
    for (name, content) in files {
        let plain = name.starts_with('.')
            && name.len() > 2
            && !name.contains('/')
            && !name.starts_with("..");
        ensure!(
            plain,
            "the just-in-time configuration wants to write the file {name:?}"
        );
        decoded.push((name, STANDARD.decode(content).ok().context(BROKEN)?));
    }
    Ok(decoded)
}

/// The file starts with a byte order mark. `config.sh` writes camelCase keys and JSON types, a
/// just-in-time configuration PascalCase keys and strings.
fn parse(text: &[u8]) -> anyhow::Result<Configured> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let json: BTreeMap<String, Value> = serde_json::from_slice(text)?;
    let get = |wanted: &str| {
        json.iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| {
                let text = value.as_str().map(str::to_owned);
                text.unwrap_or_else(|| value.to_string())
            })
    };
    Ok(Configured {
        id: get("agentId").and_then(|id| id.parse().ok()),
        name: get("agentName"),
        ephemeral: get("ephemeral").is_some_and(|word| word.eq_ignore_ascii_case("true")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &str)]) -> Secret {
        let map: BTreeMap<&str, String> = files
            .iter()
            .map(|(name, content)| (*name, STANDARD.encode(content)))
            .collect();
        Secret::new(STANDARD.encode(serde_json::to_vec(&map).unwrap()))
    }

    #[test]
    fn both_spellings_of_the_configuration_are_read() {
        let expected = Configured {
            id: Some(16),
            name: Some("x".into()),
            ephemeral: true,
        };
        for text in [
            "\u{feff}{\"agentId\": 16, \"agentName\": \"x\", \"ephemeral\": true}",
            r#"{"AgentId":"16","AgentName":"x","Ephemeral":"True"}"#,
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert!(!parse(b"{\"agentId\": 16}").unwrap().ephemeral);
    }

    #[test]
    fn a_configuration_is_decoded_to_its_files() {
        let files = decode(&packed(&[(".runner", "{}"), (".credentials", "c")])).unwrap();
        let expected = [
            (".credentials".to_owned(), b"c".to_vec()),
            (".runner".to_owned(), b"{}".to_vec()),
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn a_configuration_that_is_broken_or_writes_elsewhere_is_refused() {
        let broken = Secret::new("%%%".to_owned());
        decode(&broken).unwrap_err();
        decode(&packed(&[(".credentials", "c")])).unwrap_err();
        for name in [
            "../.runner",
            ".x/../../etc/passwd",
            "run.sh",
            "..",
            "...x/y",
        ] {
            assert!(
                decode(&packed(&[(".runner", "{}"), (name, "")])).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn what_a_former_life_left_is_removed() {
        let home = tempfile::tempdir().unwrap();
        for name in STALE {
            fs::write(home.path().join(name), "").unwrap();
        }
        fs::write(home.path().join("run.sh"), "").unwrap();
        clean(home.path()).unwrap();
        clean(home.path()).unwrap();
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
