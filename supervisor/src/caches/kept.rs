//! What a restore by hand found out about the store, kept for the publication that follows.
//!
//! Owns the files. They are written when a restore is over and never after a publication, which
//! others may have changed meanwhile; the engine believes them for a day. Whoever writes one
//! decides what is published, so a file or a directory that is not ours alone counts as none.

use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Seek;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ::caches::BELIEVED;
use anyhow::{Context, ensure};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;

/// A directory of such files, one for each combination of a store and its roots.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf);

impl Kept {
    pub(crate) fn in_directory(path: PathBuf) -> Self {
        Self(path)
    }

    /// The file of these caches. That it is theirs, and not of others with the same number, its
    /// content says.
    fn file(&self, caches: &::caches::Caches) -> anyhow::Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(caches)?.hash(&mut hasher);
        Ok(self.0.join(format!("{:016x}", hasher.finish())))
    }

    /// Keeps a memory until the next restore.
    pub(crate) fn keep(&self, caches: &::caches::Caches, mut memory: &File) -> anyhow::Result<()> {
        let path = self.file(caches)?;
        let cannot = || format!("cannot write {}", path.display());
        self.prepare().with_context(cannot)?;
        let draft = path.with_extension("new");
        remove(&draft).with_context(cannot)?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .with_context(cannot)?;
        memory.rewind().with_context(cannot)?;
        std::io::copy(&mut memory, &mut file).with_context(cannot)?;
        fs::rename(draft, &path).with_context(cannot)
    }

    /// What was kept of these caches, if anything was and nobody else can have written it.
    pub(crate) fn recall(&self, caches: &::caches::Caches) -> anyhow::Result<Option<File>> {
        let path = self.file(caches)?;
        let opened = File::options()
            .read(true)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        check(
            &self.0,
            &fs::symlink_metadata(&self.0)?,
            fs::FileType::is_dir,
        )?;
        check(&path, &file.metadata()?, fs::FileType::is_file)?;
        Ok(Some(file))
    }

    /// Forgets what was kept of these caches.
    pub(crate) fn forget(&self, caches: &::caches::Caches) -> anyhow::Result<()> {
        let path = self.file(caches)?;
        remove(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Makes the directory, and removes from it what is too old.
    fn prepare(&self) -> anyhow::Result<()> {
        if let Some(above) = self.0.parent() {
            fs::create_dir_all(above)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        check(
            &self.0,
            &fs::symlink_metadata(&self.0)?,
            fs::FileType::is_dir,
        )?;
        for entry in fs::read_dir(&self.0)?.flatten() {
            let written = entry.metadata().and_then(|meta| meta.modified());
            let age = written.map(|written| SystemTime::now().duration_since(written));
            if age.is_ok_and(|age| age.is_ok_and(|age| age > BELIEVED)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether something is of the right type and only ours to write.
fn check(path: &Path, meta: &Metadata, is: fn(&fs::FileType) -> bool) -> anyhow::Result<()> {
    let ours = meta.uid() == geteuid().as_raw() && meta.mode() & 0o022 == 0;
    ensure!(
        ours && is(&meta.file_type()),
        "{} is not believed, because others can write it; remove it",
        path.display()
    );
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn caches(store: &str) -> ::caches::Caches {
        ::caches::Caches {
            store: store.into(),
            roots: Vec::new(),
        }
    }

    /// A directory in which something is kept.
    fn kept() -> (tempfile::TempDir, Kept) {
        let top = tempfile::tempdir().unwrap();
        let kept = Kept::in_directory(top.path().join("above/caches"));
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(b"what it has").unwrap();
        kept.keep(&caches("/one"), &memory).unwrap();
        (top, kept)
    }

    #[test]
    fn what_is_kept_is_recalled_for_the_same_caches_until_it_is_forgotten() {
        let (_top, kept) = kept();
        let mut text = String::new();
        let mut file = kept.recall(&caches("/one")).unwrap().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "what it has");
        let modes = [&kept.0, &kept.file(&caches("/one")).unwrap()]
            .map(|path| fs::metadata(path).unwrap().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o600]);
        assert!(kept.recall(&caches("/other")).unwrap().is_none());
        kept.forget(&caches("/one")).unwrap();
        assert!(kept.recall(&caches("/one")).unwrap().is_none());
        kept.forget(&caches("/one")).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        let writable = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for case in ["directory", "file", "link"] {
            let (top, kept) = kept();
            let file = kept.file(&caches("/one")).unwrap();
            match case {
                "directory" => writable(&kept.0, 0o777),
                "file" => writable(&file, 0o666),
                _ => {
                    let elsewhere = top.path().join("elsewhere");
                    fs::rename(&file, &elsewhere).unwrap();
                    symlink(&elsewhere, &file).unwrap();
                }
            }
            assert!(kept.recall(&caches("/one")).is_err(), "{case}");
        }
    }

    #[test]
    fn a_directory_of_others_gets_nothing_and_what_is_old_goes() {
        let (_top, kept) = kept();
        let old = kept.0.join("old");
        let file = File::create(&old).unwrap();
        file.set_modified(SystemTime::now() - 2 * BELIEVED).unwrap();
        let memory = tempfile::tempfile().unwrap();
        kept.keep(&caches("/two"), &memory).unwrap();
        assert!(!old.exists() && kept.file(&caches("/one")).unwrap().exists());
        fs::set_permissions(&kept.0, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(kept.keep(&caches("/three"), &memory).is_err());
        assert!(!kept.file(&caches("/three")).unwrap().exists());
    }
}
