//! The caches: which directories, in which store, and what may happen to it.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use init::settings::Given;

use super::absolute;
use super::values::{CacheMode, CachePublish, Seconds};

/// The caches and their store.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    pub(crate) place: ::caches::Caches,
    /// Which units are restored before the runner listens; all of them when empty.
    pub(crate) first: Vec<String>,
    pub(crate) mode: CacheMode,
    pub(crate) publish: CachePublish,
    pub(crate) restore_timeout: Duration,
    pub(crate) publish_timeout: Duration,
}

/// The cached directories, all absolute, with different last names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    /// Tools in the layout of actions/tool-cache.
    pub(crate) tools: PathBuf,
    /// Trees of any layout.
    pub(crate) trees: Vec<PathBuf>,
}

pub(super) fn read(given: &mut Given<'_>, roots: Option<Roots>) -> Option<Option<Caches>> {
    let mode = given.parsed::<CacheMode>("CACHE_MODE");
    let publish = given.parsed::<CachePublish>("CACHE_PUBLISH");
    let restore_timeout = given.parsed::<Seconds>("CACHE_RESTORE_TIMEOUT");
    let publish_timeout = given.parsed::<Seconds>("CACHE_PUBLISH_TIMEOUT");
    let first = words(given, "CACHE_RESTORE_FIRST");
    let exclude = words(given, "CACHE_EXCLUDE");
    let read_only = words(given, "CACHE_READ_ONLY_ROOTS");
    let store = absolute(given, "CACHE_STORE");
    if store.is_none() && given.is_given("CACHE_STORE") {
        return None;
    }
    let (restore_timeout, publish_timeout) = (restore_timeout?.0, publish_timeout?.0);
    let (mode, publish, roots) = (mode?, publish?, roots?);
    let Some(store) = store.filter(|_| mode != CacheMode::Off) else {
        return Some(None);
    };
    if roots
        .all()
        .any(|root| root.starts_with(&store) || store.starts_with(root))
    {
        given.mistake(
            "CACHE_STORE",
            "and CACHE_ROOTS contain each other; the store must be apart from what it keeps",
        );
        return None;
    }
    let names: Vec<_> = roots.all().filter_map(Path::file_name).collect();
    if let Some(unknown) = read_only
        .iter()
        .find(|name| !names.contains(&OsStr::new(name)))
    {
        given.mistake(
            "CACHE_READ_ONLY_ROOTS",
            &format!("\"{unknown}\" is the last name of none of CACHE_ROOTS"),
        );
        return None;
    }
    Some(Some(Caches {
        place: ::caches::Caches {
            store,
            roots: roots
                .all()
                .map(|path| root(path, &exclude, &read_only))
                .collect(),
        },
        first,
        mode,
        publish,
        restore_timeout,
        publish_timeout,
    }))
}

/// What a setting lists, apart by colons.
pub(crate) fn words(given: &mut Given<'_>, name: &str) -> Vec<String> {
    let text = given.text(name).unwrap_or_default();
    let words = text.split(':').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// A root with its own settings: a pattern `NAME=PATTERN` is for the root of that name only.
pub(crate) fn root(path: &Path, exclude: &[String], read_only: &[String]) -> ::caches::Root {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let own = exclude
        .iter()
        .filter_map(|pattern| match pattern.split_once('=') {
            Some((root, pattern)) => (root == name).then(|| pattern.to_owned()),
            None => Some(pattern.clone()),
        });
    ::caches::Root {
        path: path.to_owned(),
        read_only: read_only.iter().any(|read_only| read_only == name),
        exclude: own.collect(),
    }
}

impl Roots {
    /// All of them, the tool cache first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.tools.as_path()).chain(self.trees.iter().map(PathBuf::as_path))
    }

    /// Orders directories into a tool cache and trees. The error completes "must be …".
    pub(crate) fn of(paths: Vec<PathBuf>) -> Result<Self, &'static str> {
        let normal = |path: &PathBuf| {
            path.is_absolute()
                && path.file_name().is_some()
                && path
                    .components()
                    .all(|part| !matches!(part, Component::ParentDir))
        };
        if paths.is_empty() || !paths.iter().all(normal) {
            return Err("a list of absolute directories, separated by colons");
        }
        let mut names: Vec<_> = paths[1..].iter().map(|path| path.file_name()).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        if names.len() != count {
            return Err(
                "a list of directories with different last names, under which the store keeps them",
            );
        }
        let mut paths = paths.into_iter();
        let Some(tools) = paths.next() else {
            return Err("a list of absolute directories, separated by colons");
        };
        Ok(Self {
            tools,
            trees: paths.collect(),
        })
    }
}

pub(crate) fn roots(given: &mut Given<'_>) -> Option<Roots> {
    let text = given.text("CACHE_ROOTS")?;
    let paths = text
        .split(':')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    match Roots::of(paths.collect()) {
        Ok(roots) => Some(roots),
        Err(expected) => {
            given.mistake(
                "CACHE_ROOTS",
                &format!("\"{text}\" is not valid; it must be {expected}"),
            );
            None
        }
    }
}
