//! The bundle of a container that is set up: what its configuration needs here.
//!
//! Owns `config.json` of the OCI runtime specification, between whoever wrote it (dockerd,
//! BuildKit) and runc.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{dumpable, namespaces};

const FILE: &str = "config.json";

/// What actions/runner gives the steps of a job besides (its `PIPELINE_JOB_OOMSCOREADJ`): as much as
/// half of the task's memory, far more than the daemons have.
const FIRST_TO_END: i64 = 500;

/// Where a command line of runc has the bundle.
pub(super) fn folder(words: &[OsString]) -> PathBuf {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--bundle" || word == "-b" {
            return words.next().map(PathBuf::from).unwrap_or_default();
        }
        if let Some(path) = word.as_bytes().strip_prefix(b"--bundle=") {
            return Path::new(std::ffi::OsStr::from_bytes(path)).into();
        }
    }
    PathBuf::from(".")
}

/// Has the container's namespaces kept reachable, for others and for runc itself.
///
/// # Errors
/// When the configuration cannot be read, understood or written; runc says more about it.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text).context("a configuration as JSON")?;
    let program = std::env::current_exe().context("find dindd")?;
    add_hook(&mut config, &program).context("hooks of another form")?;
    prefer_when_memory_is_short(&mut config);
    if joins(&config) {
        dumpable::keep().context("filter a system call (seccomp)")?;
    }
    let partial = folder.join("config.json.dindd");
    fs::write(&partial, serde_json::to_vec(&config)?)
        .and_then(|()| fs::rename(&partial, &path))
        .with_context(|| format!("write {}", path.display()))
}

fn add_hook(config: &mut Value, program: &Path) -> Option<()> {
    let hooks = config.as_object_mut()?.entry("hooks");
    let hooks = hooks.or_insert_with(|| Value::Object(Map::new()));
    let all = hooks.as_object_mut()?.entry("createRuntime");
    let all = all.or_insert_with(|| Value::Array(Vec::new()));
    all.as_array_mut()?
        .push(json!({ "path": program, "args": [namespaces::NAME] }));
    Some(())
}

/// Has the kernel end the container, and neither dockerd nor the task's supervisor, when the task
/// has no memory left. Docker writes 0 unless told otherwise, as the daemons have; a lower one than
/// theirs is refused without `SYS_RESOURCE`.
fn prefer_when_memory_is_short(config: &mut Value) {
    if let Some(process) = config.get_mut("process").and_then(Value::as_object_mut) {
        let given = process.get("oomScoreAdj").and_then(Value::as_i64);
        let score = given.unwrap_or_default().max(FIRST_TO_END);
        process.insert("oomScoreAdj".into(), score.into());
    }
}

/// Whether the container joins a namespace of another one.
fn joins(config: &Value) -> bool {
    let all = config
        .pointer("/linux/namespaces")
        .and_then(Value::as_array);
    all.is_some_and(|all| all.iter().any(|one| one.get("path").is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_found_as_runc_finds_it() {
        for (words, expected) in [
            ("--root /r create --bundle /b id", "/b"),
            ("create -b /b id", "/b"),
            ("run --bundle=/b id", "/b"),
            ("create id", "."),
        ] {
            let words: Vec<OsString> = words.split_whitespace().map(Into::into).collect();
            assert_eq!(folder(&words), Path::new(expected), "{words:?}");
        }
    }

    #[test]
    fn a_configuration_gets_the_hook_and_keeps_the_rest() {
        let bundle = tempfile::tempdir().unwrap();
        let file = bundle.path().join(FILE);
        let given = json!({
            "hooks": { "createRuntime": [{ "path": "/first" }], "prestart": [{ "path": "/p" }] },
            "linux": { "namespaces": [
                { "type": "pid" },
                { "type": "network" },
            ], "resources": { "memory": { "limit": 18_446_744_073_709_551_615_u64 } } },
        });
        fs::write(&file, given.to_string()).unwrap();
        prepare(bundle.path()).unwrap();
        let mut expected = given;
        let hook = json!({ "path": std::env::current_exe().unwrap(), "args": [namespaces::NAME] });
        let hooks = expected.pointer_mut("/hooks/createRuntime").unwrap();
        hooks.as_array_mut().unwrap().push(hook);
        let now: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(now, expected);
        assert_eq!(fs::read_dir(bundle.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_container_ends_before_the_daemons_when_memory_is_short() {
        for (given, expected) in [
            (json!({ "process": { "oomScoreAdj": 0 } }), 500),
            (json!({ "process": {} }), 500),
            (json!({ "process": { "oomScoreAdj": -900 } }), 500),
            (json!({ "process": { "oomScoreAdj": 800 } }), 800),
        ] {
            let mut config = given.clone();
            prefer_when_memory_is_short(&mut config);
            assert_eq!(config["process"]["oomScoreAdj"], expected, "{given}");
        }
    }

    #[test]
    fn a_container_joins_others_when_a_namespace_has_a_path() {
        let config =
            |network: Value| json!({ "linux": { "namespaces": [{ "type": "pid" }, network] } });
        assert!(joins(&config(
            json!({ "type": "network", "path": "/run/docker/netns/1" })
        )));
        assert!(!joins(&config(json!({ "type": "network" }))));
        assert!(!joins(&json!({})));
    }

    #[test]
    fn a_bundle_without_hooks_gets_them_and_a_broken_one_stays() {
        let bundle = tempfile::tempdir().unwrap();
        let file = bundle.path().join(FILE);
        fs::write(&file, "{}").unwrap();
        prepare(bundle.path()).unwrap();
        let now = fs::read_to_string(&file).unwrap();
        assert!(now.contains("createRuntime"), "{now}");
        fs::write(&file, "{").unwrap();
        prepare(bundle.path()).unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{");
    }
}
