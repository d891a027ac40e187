//! The sealed units of a tool cache: `<tool>/<version>/<arch>` with the marker `<arch>.complete`
//! beside it.
//!
//! Source: actions/toolkit `packages/tool-cache/src/tool-cache.ts`. A directory without a marker
//! is unfinished and nobody's; a marker without its directory means nothing.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// What the toolkit puts behind a unit's name.
pub(crate) const MARKER: &str = ".complete";
/// What a pack's file name ends with.
pub(crate) const PACK: &str = ".tar.zst";

/// One tool of one version for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Unit {
    tool: String,
    version: String,
    arch: String,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tool, self.version, self.arch)
    }
}

impl From<Unit> for String {
    fn from(unit: Unit) -> Self {
        unit.to_string()
    }
}

impl TryFrom<String> for Unit {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl FromStr for Unit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split('/');
        let (Some(tool), Some(version), Some(arch), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            anyhow::bail!("\"{text}\" is no unit: it must be <tool>/<version>/<arch>");
        };
        for part in [tool, version, arch] {
            ensure!(
                is_name(part),
                "\"{text}\" is no unit: \"{part}\" is no name"
            );
        }
        Ok(Self {
            tool: tool.to_owned(),
            version: version.to_owned(),
            arch: arch.to_owned(),
        })
    }
}

/// A hidden name is the store's or a program's own, and never a tool's.
fn is_name(part: &str) -> bool {
    !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\0'])
}

impl Unit {
    /// Its directory below a tool cache.
    #[must_use]
    pub fn directory(&self, root: &Path) -> PathBuf {
        root.join(&self.tool).join(&self.version).join(&self.arch)
    }

    /// Its marker below a tool cache.
    #[must_use]
    pub fn marker(&self, root: &Path) -> PathBuf {
        root.join(&self.tool)
            .join(&self.version)
            .join(format!("{}{MARKER}", self.arch))
    }

    /// Whether it is complete below a tool cache. Symbolic links do not count.
    #[must_use]
    pub fn is_complete(&self, root: &Path) -> bool {
        let kind = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.file_type());
        kind(&self.marker(root)).is_ok_and(|kind| kind.is_file())
            && kind(&self.directory(root)).is_ok_and(|kind| kind.is_dir())
    }

    /// Whether it changed after it was completed: an installation over an old marker that was
    /// interrupted (actions/python-versions does not remove the marker first).
    #[must_use]
    pub fn is_in_doubt(&self, root: &Path) -> bool {
        let time = |path: &Path| fs::symlink_metadata(path).and_then(|meta| meta.modified());
        match (time(&self.directory(root)), time(&self.marker(root))) {
            (Ok(directory), Ok(marker)) => directory > marker,
            _ => true,
        }
    }

    /// The name of its pack: the three parts, apart by `@`, with what shells and file systems
    /// dislike as `%XX`.
    #[must_use]
    pub fn pack_name(&self) -> String {
        let [tool, version, arch] =
            [&self.tool, &self.version, &self.arch].map(|part| escape(part.as_bytes()));
        format!("{tool}@{version}@{arch}{PACK}")
    }

    /// The unit of a pack's file name; `None` for names of other things.
    #[must_use]
    pub fn of_pack_name(name: &str) -> Option<Self> {
        let parts: Vec<String> = name
            .strip_suffix(PACK)?
            .split('@')
            .map(|part| String::from_utf8(unescape(part)?).ok())
            .collect::<Option<_>>()?;
        let unit: Self = parts.join("/").parse().ok()?;
        // Only one spelling counts, or a unit could be there twice.
        (unit.pack_name() == name).then_some(unit)
    }
}

/// Bytes as text that is a plain file name: everything else than letters, digits and `._+-/` as
/// `%XX`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'-' | b'/' => {
                text.push(char::from(*byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// The reverse of [`escape`].
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    Some(bytes)
}

/// The complete units below `root`, in order. A root that does not exist has none.
///
/// Symbolic links are not followed: a job could make one that leads out of the cache.
///
/// # Errors
/// When a directory cannot be read.
pub fn scan(root: &Path) -> anyhow::Result<Vec<Unit>> {
    let mut units = Vec::new();
    for tool in directories(root)? {
        let versions = root.join(&tool);
        for version in directories(&versions)? {
            let place = versions.join(&version);
            for arch in directories(&place)? {
                let unit = format!("{tool}/{version}/{arch}").parse::<Unit>();
                units.extend(unit.ok().filter(|unit| unit.is_complete(root)));
            }
        }
    }
    units.sort();
    Ok(units)
}

/// The names of the directories in one, but for hidden ones.
fn directories(path: &Path) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("cannot read {}", path.display());
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(cannot)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(cannot)?;
        if entry.file_type().with_context(cannot)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
            && is_name(&name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a path that is three names deep looks like a unit's directory: an architecture as
/// Node's `os.arch()` and the setup actions name them. Without a marker it is unfinished.
pub(crate) fn looks_like_arch(name: &[u8]) -> bool {
    const ARCHES: &[&str] = &[
        "x64", "x86", "ia32", "arm64", "arm", "aarch64", "amd64", "i686", "ppc64", "s390x",
        "riscv64", "loong64", "armv6l", "armv7l",
    ];
    ARCHES.iter().any(|arch| {
        name.strip_prefix(arch.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'-' || rest[0] == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, name: &str) {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(format!("{name}{MARKER}")), "").unwrap();
    }

    #[test]
    fn only_directories_with_a_marker_are_units() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), "node/22.1.0/x64");
        make(root.path(), "node/22.1.0/.hidden");
        fs::create_dir_all(root.path().join("node/23.0.0/x64")).unwrap();
        fs::create_dir_all(root.path().join("go/1.2.3")).unwrap();
        fs::write(root.path().join("go/1.2.3/x64.complete"), "").unwrap();
        std::os::unix::fs::symlink("x64", root.path().join("node/22.1.0/link")).unwrap();
        fs::write(root.path().join("node/22.1.0/link.complete"), "").unwrap();
        let names: Vec<String> = scan(root.path())
            .unwrap()
            .iter()
            .map(Unit::to_string)
            .collect();
        assert_eq!(names, ["node/22.1.0/x64"]);
        assert_eq!(scan(&root.path().join("missing")).unwrap(), []);
    }

    #[test]
    fn a_pack_name_says_which_unit_it_is_and_only_one_name_does() {
        for name in [
            "node/22.1.0/x64",
            "Java_Temurin-Hotspot_jdk/17.0.1+12/x64",
            "a@b/1%2/ä ö",
        ] {
            let unit: Unit = name.parse().unwrap();
            let pack = unit.pack_name();
            assert!(pack.bytes().all(|byte| byte.is_ascii_graphic()), "{pack}");
            assert_eq!(Unit::of_pack_name(&pack), Some(unit), "{pack}");
        }
        for name in [
            "a@1@x64",
            "a@1.tar.zst",
            "%61@1@x64.tar.zst",
            "..@1@x64.tar.zst",
            "a%2Fb@1@x64.tar.zst",
        ] {
            assert_eq!(Unit::of_pack_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_no_unit() {
        for name in ["a/b", "a/b/c/d", "../b/c", "a//c", "a/b/.."] {
            assert!(name.parse::<Unit>().is_err(), "{name}");
        }
    }
}
