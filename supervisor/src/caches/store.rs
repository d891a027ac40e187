//! The store's layout, and putting a unit into it so that nobody ever sees half of one.
//!
//! ```text
//! <store>/toolcache/<tool>/<version>/<arch>/…           the tree, readable by plain rsync
//! <store>/toolcache/<tool>/<version>/<arch>/.cache-unit the stamp: whose publication it is
//! <store>/toolcache/<tool>/<version>/<arch>.complete    the marker, as actions/tool-cache has it
//! <store>/trees/<name>/…                                the other roots, by their last name
//! <store>/.cs/stage/<random>/                           what is not published yet
//! ```
//!
//! A unit is built in the stage, stamped last, moved into place by one rename, and marked after
//! that. So a directory in place is complete at every instant; the marker only says it again.
//! All functions block as long as the storage does: call them on a thread of their own.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde_json::json;

use super::units::{Unit, scan};

/// The stamp's name inside a unit.
pub(super) const STAMP: &str = ".cache-unit";
/// A stage that nobody has touched for that long was left by a publisher that was killed.
const STALE: Duration = Duration::from_secs(3600);

/// A directory in the store in which a unit or tree is built.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    publication: String,
    directory: PathBuf,
}

/// How placing a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Published,
    /// Somebody else was first; theirs stays.
    LostRace,
}

/// Where the store keeps the tool cache: where we put it or, in a store that was filled by plain
/// rsync, under the root's own name or at the top.
pub(super) fn tools(store: &Path, root: &Path) -> io::Result<PathBuf> {
    let ours = store.join("toolcache");
    if ours.is_dir() {
        return Ok(ours);
    }
    if let Some(named) = root.file_name().map(|name| store.join(name))
        && named.is_dir()
    {
        return Ok(named);
    }
    if scan(store)?.is_empty() {
        Ok(ours)
    } else {
        Ok(store.to_owned())
    }
}

/// Where the store keeps a tree.
pub(super) fn tree(store: &Path, root: &Path) -> PathBuf {
    store
        .join("trees")
        .join(root.file_name().unwrap_or_default())
}

impl Stage {
    /// Makes an empty stage, and removes those that were left long ago.
    pub(super) fn make(store: &Path) -> anyhow::Result<Self> {
        let all = store.join(".cs/stage");
        fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
        if let Err(error) = remove_stale(&all) {
            tracing::debug!(%error, "cannot tidy the store's stage");
        }
        let publication = format!("{:032x}", rand::random::<u128>());
        let directory = all.join(&publication);
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self {
            publication,
            directory,
        })
    }

    pub(super) fn content(&self) -> PathBuf {
        self.directory.join("unit")
    }

    /// Moves the staged unit to its place and marks it. `tools` is the store's tool cache.
    pub(super) fn place(&self, unit: &Unit, tools: &Path) -> anyhow::Result<Placed> {
        let stamp = json!({ "publication": self.publication, "unit": unit.to_string() });
        let stamp_path = self.content().join(STAMP);
        fs::write(&stamp_path, stamp.to_string())
            .with_context(|| format!("cannot write {}", stamp_path.display()))?;
        let place = unit.directory(tools);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let mut renamed = fs::rename(self.content(), &place);
        if renamed.is_err() && self.give_way(unit, tools)? {
            renamed = fs::rename(self.content(), &place);
        }
        // What is there decides, not the error: a retried rename over NFS may fail although it
        // succeeded.
        let placed = match (publication_of(&place), renamed) {
            (Some(found), _) if found == self.publication => Placed::Published,
            (Some(_), _) => Placed::LostRace,
            (None, Err(error)) if unit.marker(tools).exists() => {
                tracing::debug!(%unit, %error, "a unit without stamp was there first");
                return Ok(Placed::LostRace);
            }
            (None, Err(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot move a unit to {}", place.display()));
            }
            (None, Ok(())) => Placed::LostRace,
        };
        // Also for a winner that died before it could: a stamped directory is complete.
        let marker = unit.marker(tools);
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&marker)
            .with_context(|| format!("cannot write {}", marker.display()))?;
        Ok(placed)
    }

    /// A directory without stamp and marker is unfinished: it goes to our stage. Whether it did.
    fn give_way(&self, unit: &Unit, tools: &Path) -> io::Result<bool> {
        let place = unit.directory(tools);
        if unit.marker(tools).exists() || publication_of(&place).is_some() || !place.is_dir() {
            return Ok(false);
        }
        // Somebody may be copying into it at this moment by other means.
        let age = SystemTime::now().duration_since(fs::metadata(&place)?.modified()?);
        if age.unwrap_or_default() < STALE {
            return Ok(false);
        }
        fs::rename(&place, self.directory.join("unfinished"))?;
        Ok(true)
    }

    /// Removes the stage with everything that is still in it.
    pub(super) fn remove(self) {
        if let Err(error) = remove_tree(&self.directory) {
            tracing::debug!(%error, "cannot remove a stage; the next publisher will");
        }
    }
}

fn publication_of(directory: &Path) -> Option<String> {
    let text = fs::read(directory.join(STAMP)).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(json.get("publication")?.as_str()?.to_owned())
}

fn remove_stale(stages: &Path) -> io::Result<()> {
    for entry in fs::read_dir(stages)? {
        let entry = entry?;
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?);
        if age.unwrap_or_default() > STALE {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a stage is our own directory inside the store; nothing is mounted in it"
    )]
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::tests::make;
    use super::*;

    fn unit(root: &Path, name: &str) -> Unit {
        make(root, name, "local");
        let all = scan(root).unwrap();
        all.into_iter()
            .find(|unit| unit.to_string() == name)
            .unwrap()
    }

    fn staged(store: &Path, content: &str) -> Stage {
        let stage = Stage::make(store).unwrap();
        fs::create_dir(stage.content()).unwrap();
        fs::write(stage.content().join("tool"), content).unwrap();
        stage
    }

    fn content(tools: &Path, unit: &Unit) -> String {
        fs::read_to_string(unit.directory(tools).join("tool")).unwrap()
    }

    #[test]
    fn the_first_publisher_wins_and_the_second_leaves_nothing() {
        let (root, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let unit = unit(root.path(), "a/1/x64");
        let tools = tools(store.path(), root.path()).unwrap();
        let (first, second) = (
            staged(store.path(), "first"),
            staged(store.path(), "second"),
        );
        assert_eq!(first.place(&unit, &tools).unwrap(), Placed::Published);
        assert_eq!(second.place(&unit, &tools).unwrap(), Placed::LostRace);
        first.remove();
        second.remove();
        assert_eq!(content(&tools, &unit), "first");
        assert!(unit.marker(&tools).exists());
        assert_eq!(
            fs::read_dir(store.path().join(".cs/stage"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn a_winner_that_died_before_marking_is_marked_by_the_next_publisher() {
        let (root, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let unit = unit(root.path(), "a/1/x64");
        let tools = tools(store.path(), root.path()).unwrap();
        staged(store.path(), "first").place(&unit, &tools).unwrap();
        fs::remove_file(unit.marker(&tools)).unwrap();
        let placed = staged(store.path(), "second").place(&unit, &tools).unwrap();
        assert_eq!(placed, Placed::LostRace);
        assert!(unit.marker(&tools).exists());
        assert_eq!(content(&tools, &unit), "first");
    }

    #[test]
    fn an_unfinished_directory_gives_way_once_nobody_can_be_writing_it() {
        let (root, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let unit = unit(root.path(), "a/1/x64");
        let tools = store.path().join("toolcache");
        let place = unit.directory(&tools);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("half"), "").unwrap();
        assert!(
            staged(store.path(), "new").place(&unit, &tools).is_err(),
            "replaced a fresh one"
        );
        let old = SystemTime::now() - 2 * STALE;
        fs::File::open(&place).unwrap().set_modified(old).unwrap();
        assert_eq!(
            staged(store.path(), "new").place(&unit, &tools).unwrap(),
            Placed::Published
        );
        assert_eq!(content(&tools, &unit), "new");
        assert!(!place.join("half").exists());
    }

    #[test]
    fn a_store_that_plain_rsync_filled_is_found() {
        let root = Path::new("/opt/hostedtoolcache");
        for (made, expected) in [
            ("toolcache/a/1/x64", "toolcache"),
            ("hostedtoolcache/a/1/x64", "hostedtoolcache"),
            ("a/1/x64", ""),
            ("other/a/1/x64", "toolcache"),
        ] {
            let store = tempfile::tempdir().unwrap();
            make(store.path(), made, "");
            let found = tools(store.path(), root).unwrap();
            assert_eq!(found, store.path().join(expected), "{made}");
        }
    }

    #[test]
    fn a_stage_that_was_left_long_ago_is_removed_by_the_next_publisher() {
        let store = tempfile::tempdir().unwrap();
        let left = staged(store.path(), "left");
        let fresh = staged(store.path(), "fresh");
        let old = SystemTime::now() - 2 * STALE;
        fs::File::open(&left.directory)
            .unwrap()
            .set_modified(old)
            .unwrap();
        Stage::make(store.path()).unwrap().remove();
        assert!(!left.directory.exists());
        assert!(fresh.directory.exists());
    }
}
