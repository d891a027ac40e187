//! The environment as the listener sees it and hands it on: the process's own, overridden by
//! `.env`, without what was only input.
//!
//! A map of our own instead of changes to the process's environment, which threads make unsafe.
//! `/proc/<pid>/environ` therefore keeps the inputs, as it does for the real listener.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

#[derive(Clone)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The process's environment with `<root>/.env` on top.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Self> {
        let mut environment = Self::inherited();
        let file = root.join(".env");
        match std::fs::read(&file) {
            Ok(content) => environment.apply(&content),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        }
        Ok(environment)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the stand-in reads its environment"
    )]
    pub(crate) fn inherited() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// `.env`: KEY=VALUE per line, nothing quoted; an empty value takes the variable away.
    fn apply(&mut self, content: &[u8]) {
        for line in content.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (key, value) = (&line[..equals], &line[equals + 1..]);
            if key.is_empty() {
                continue;
            }
            let key = OsString::from_vec(key.to_vec());
            if value.is_empty() {
                self.0.remove(&key);
            } else {
                self.0.insert(key, OsString::from_vec(value.to_vec()));
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name)?.to_string_lossy().into_owned())
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }

    /// actions/runner `StringUtil.ConvertToBoolean`.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        let value = self.text(name).unwrap_or_default().to_ascii_lowercase();
        matches!(value.as_str(), "1" | "true" | "$true")
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    /// Takes every `<prefix>NAME` out; the rest of each name in lower case.
    pub(crate) fn take_prefixed(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let mut taken = BTreeMap::new();
        self.0.retain(|key, value| {
            let head = key.as_bytes().get(..prefix.len());
            let Some(true) = head.map(|head| head.eq_ignore_ascii_case(prefix.as_bytes())) else {
                return true;
            };
            let name =
                String::from_utf8_lossy(&key.as_bytes()[prefix.len()..]).to_ascii_lowercase();
            taken.insert(name, value.to_string_lossy().into_owned());
            false
        });
        taken
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.0.iter()
    }

    /// The directory for tools: the first variable that is set decides, and an empty one means
    /// `<work>/_tool` (actions/runner `HostContext.cs`).
    pub(crate) fn tool_cache(&self, work: &Path) -> PathBuf {
        [
            "RUNNER_TOOL_CACHE",
            "RUNNER_TOOLSDIRECTORY",
            "AGENT_TOOLSDIRECTORY",
            "agent.ToolsDirectory",
        ]
        .iter()
        .find_map(|name| self.get(name))
        .filter(|value| !value.is_empty())
        .map_or_else(|| work.join("_tool"), PathBuf::from)
    }
}

/// The parent of `bin/`, where this program lies.
pub(crate) fn runner_root() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find out where this program lies")?;
    program
        .parent()
        .and_then(Path::parent)
        .map(Path::to_owned)
        .with_context(|| format!("{} is not in a directory bin/", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment(
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        )
    }

    #[test]
    fn the_file_overrides_and_an_empty_value_unsets() {
        let mut all = environment(&[("A", "image"), ("B", "image"), ("C", "image")]);
        all.apply(b"A=file=x\nB=\n\n=nothing\nD=\"quoted\"\n");
        assert_eq!(all.text("A").unwrap(), "file=x");
        assert_eq!(all.get("B"), None);
        assert_eq!(all.text("C").unwrap(), "image");
        assert_eq!(all.text("D").unwrap(), "\"quoted\"");
    }

    #[test]
    fn inputs_are_taken_out_whatever_their_case() {
        let mut all = environment(&[
            ("ACTIONS_RUNNER_INPUT_JITCONFIG", "abc"),
            ("actions_runner_input_no-default-labels", "true"),
            ("HOME", "/root"),
        ]);
        let taken = all.take_prefixed("ACTIONS_RUNNER_INPUT_");
        assert_eq!(taken["jitconfig"], "abc");
        assert_eq!(taken["no-default-labels"], "true");
        assert_eq!(all.iter().count(), 1);
    }

    #[test]
    fn the_first_tool_cache_variable_that_is_set_decides() {
        let work = Path::new("/w");
        let of = |pairs: &[(&str, &str)]| environment(pairs).tool_cache(work);
        assert_eq!(of(&[]), Path::new("/w/_tool"));
        assert_eq!(
            of(&[("AGENT_TOOLSDIRECTORY", "/opt/t")]),
            Path::new("/opt/t")
        );
        let empty_first = [
            ("RUNNER_TOOL_CACHE", ""),
            ("AGENT_TOOLSDIRECTORY", "/opt/t"),
        ];
        assert_eq!(of(&empty_first), Path::new("/w/_tool"));
    }
}
