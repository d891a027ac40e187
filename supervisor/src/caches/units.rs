//! The units of a tool cache: `<tool>/<version>/<arch>` with the marker `<arch>.complete` beside.
//!
//! Source: actions/toolkit `packages/tool-cache/src/tool-cache.ts`. A directory without a marker
//! is unfinished and nobody's; a marker without its directory means nothing.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the toolkit puts behind a unit's name.
pub(super) const MARKER: &str = ".complete";

/// One tool of one version for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit {
    tool: String,
    version: String,
    arch: String,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tool, self.version, self.arch)
    }
}

impl Unit {
    pub(super) fn directory(&self, root: &Path) -> PathBuf {
        root.join(&self.tool).join(&self.version).join(&self.arch)
    }

    pub(super) fn marker(&self, root: &Path) -> PathBuf {
        let name = format!("{}{MARKER}", self.arch);
        root.join(&self.tool).join(&self.version).join(name)
    }

    /// Whether it changed after it was completed: an installation over an old marker that was
    /// interrupted (actions/python-versions does not remove the marker first).
    pub(super) fn is_in_doubt(&self, root: &Path) -> bool {
        let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
        match (time(&self.directory(root)), time(&self.marker(root))) {
            (Ok(directory), Ok(marker)) => directory > marker,
            _ => true,
        }
    }
}

/// The complete units below `root`, in order. A root that does not exist has none.
///
/// Symbolic links are not followed: a job could make one that leads out of the cache.
pub(crate) fn scan(root: &Path) -> io::Result<Vec<Unit>> {
    let mut units = Vec::new();
    for tool in directories(root)? {
        let versions = root.join(&tool);
        for version in directories(&versions)? {
            let place = versions.join(&version);
            for arch in directories(&place)? {
                let marker = place.join(format!("{arch}{MARKER}"));
                if fs::symlink_metadata(marker).is_ok_and(|meta| meta.is_file()) {
                    units.push(Unit {
                        tool: tool.clone(),
                        version: version.clone(),
                        arch,
                    });
                }
            }
        }
    }
    units.sort();
    Ok(units)
}

/// The names of the directories in one, but for hidden ones, which are the store's own.
fn directories(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a unit with one file in it.
    pub(in crate::caches) fn make(root: &Path, name: &str, content: &str) {
        let directory = root.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("tool"), content).unwrap();
        fs::write(root.join(format!("{name}{MARKER}")), "").unwrap();
    }

    fn names(root: &Path) -> Vec<String> {
        scan(root).unwrap().iter().map(Unit::to_string).collect()
    }

    #[test]
    fn only_directories_with_a_marker_are_units() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), "node/22.14.0/x64", "");
        make(root.path(), ".cs/stage/x64", "");
        fs::create_dir_all(root.path().join("node/20.0.0/x64")).unwrap();
        fs::create_dir_all(root.path().join("go/1.25.0")).unwrap();
        fs::write(root.path().join("go/1.25.0/x64.complete"), "").unwrap();
        assert_eq!(names(root.path()), ["node/22.14.0/x64"]);
    }

    #[test]
    fn links_out_of_the_cache_are_no_units() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        make(outside.path(), "a/1/x64", "");
        std::os::unix::fs::symlink(outside.path().join("a"), root.path().join("a")).unwrap();
        fs::create_dir_all(root.path().join("b/1")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("a/1/x64"), root.path().join("b/1/x64"))
            .unwrap();
        fs::write(root.path().join("b/1/x64.complete"), "").unwrap();
        assert_eq!(names(root.path()), [""; 0]);
    }

    #[test]
    fn a_cache_that_does_not_exist_is_empty() {
        assert_eq!(names(Path::new("/nowhere/cache")), [""; 0]);
    }

    #[test]
    fn a_unit_that_changed_after_its_marker_is_in_doubt() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), "a/1/x64", "");
        let unit = scan(root.path()).unwrap().remove(0);
        assert!(!unit.is_in_doubt(root.path()));
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        fs::File::open(unit.directory(root.path()))
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(unit.is_in_doubt(root.path()));
    }
}
