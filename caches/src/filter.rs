//! What is never moved: credentials, leftovers of copying programs, and what a root excludes.

use crate::Root;
use crate::tree::{Entry, Kind, Wanted};

/// Credentials that tools keep beside their caches, and what is only good for one process.
const NEVER: &[&str] = &[
    ".npmrc",
    ".netrc",
    ".pypirc",
    "pip.conf",
    ".git-credentials",
    ".docker/config.json",
    ".nfs*",
    ".~tmp~",
    ".cache-restore-*",
];

/// Decides about every entry of one root.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    root: &'a Root,
}

impl<'a> Filter<'a> {
    pub(crate) fn of(root: &'a Root) -> Self {
        Self { root }
    }

    pub(crate) fn look(&self, entry: &Entry<'_>) -> Wanted {
        let own = self.root.exclude.iter().map(String::as_str);
        let mut patterns = NEVER.iter().copied().chain(own);
        if is_leftover(entry) || patterns.any(|pattern| matches(pattern, entry)) {
            return Wanted::No;
        }
        Wanted::Yes
    }
}

/// Whether it is what a killed rsync leaves: `.NAME.XXXXXX`, closed to others until it is renamed
/// (rsync `receiver.c`, `get_tmpname`).
pub(crate) fn is_leftover(entry: &Entry<'_>) -> bool {
    let meta = entry.meta();
    let name = entry.name();
    let Some(dot) = name.len().checked_sub(7).filter(|dot| *dot > 1) else {
        return false;
    };
    meta.kind == Kind::File
        && meta.mode == 0o600
        && name[0] == b'.'
        && name[dot] == b'.'
        && name[dot + 1..].iter().all(u8::is_ascii_alphanumeric)
}

/// Whether a pattern means this entry: its last names, as many as the pattern has.
fn matches(pattern: &str, entry: &Entry<'_>) -> bool {
    let mut at = Some(*entry);
    for part in pattern.trim_start_matches('/').rsplit('/') {
        let Some(one) = at else { return false };
        if !wildcard(part.as_bytes(), one.name()) {
            return false;
        }
        at = one.parent();
    }
    // A pattern that begins with a slash begins at the top.
    !pattern.starts_with('/') || at.is_none()
}

/// `*` stands for any bytes, `?` for one.
pub(crate) fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            wildcard(&pattern[1..], name) || (!name.is_empty() && wildcard(pattern, &name[1..]))
        }
        (Some(b'?'), Some(_)) => wildcard(&pattern[1..], &name[1..]),
        (Some(one), Some(other)) if one == other => wildcard(&pattern[1..], &name[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::tree::Tree;

    fn paths(top: &Path, exclude: &[&str]) -> Vec<String> {
        let root = Root {
            path: top.to_owned(),
            read_only: false,
            exclude: exclude.iter().map(|&one| one.to_owned()).collect(),
        };
        let filter = Filter::of(&root);
        let tree = Tree::local(top, &|entry| filter.look(entry)).unwrap();
        let mut paths: Vec<String> = tree
            .entries()
            .map(|entry| entry.path().display().to_string())
            .collect();
        paths.sort();
        paths
    }

    #[test]
    fn credentials_and_leftovers_stay_where_they_are() {
        let top = tempfile::tempdir().unwrap();
        for name in [
            ".npmrc",
            "a/.netrc",
            ".docker/config.json",
            "config.json",
            ".file.Ab12xY",
            ".eslint.config",
        ] {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
        }
        let half = top.path().join(".file.Ab12xY");
        fs::set_permissions(half, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(
            paths(top.path(), &[]),
            [".docker", ".eslint.config", "a", "config.json"]
        );
    }

    #[test]
    fn a_root_excludes_by_last_names_or_from_its_top() {
        let top = tempfile::tempdir().unwrap();
        for name in ["a/tmp/x", "tmp/y", "b/x.pyc", "b/x.py"] {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
        }
        assert_eq!(
            paths(top.path(), &["/tmp", "*.pyc"]),
            ["a", "a/tmp", "a/tmp/x", "b", "b/x.py"]
        );
        assert_eq!(paths(top.path(), &["a/tmp", "b"]), ["a", "tmp", "tmp/y"]);
    }
}
