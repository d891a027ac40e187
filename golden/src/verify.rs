//! Compares the files of a version with its manifest.

use std::fs;

use serde::Serialize;

use crate::checksum;
use crate::store::Store;

/// What was found of one version.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub version: String,
    /// What is wrong with the manifest, if anything.
    pub error: Option<String>,
    pub files: Vec<Checked>,
}

/// What was found of one file.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub file: String,
    pub bytes: u64,
    /// What is wrong with it, if anything.
    pub error: Option<String>,
}

impl Verified {
    /// Whether everything is as the manifest says.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.error.is_none() && self.files.iter().all(|file| file.error.is_none())
    }
}

impl Store {
    /// Reads every byte of a version; `progress` gets a line per file.
    #[must_use]
    pub fn verify(&self, version: &str, progress: &dyn Fn(&str)) -> Verified {
        let manifest = match self.manifest(version) {
            Ok(manifest) => manifest,
            Err(cause) => {
                let error = Some(format!("{cause:#}"));
                return Verified {
                    version: version.to_owned(),
                    error,
                    files: Vec::new(),
                };
            }
        };
        let files = manifest.files.iter().map(|file| {
            let path = self.path_of(file);
            progress(&format!(
                "reading {} ({} MB)",
                path.display(),
                file.bytes / 1_000_000
            ));
            let error = match fs::metadata(&path) {
                Err(cause) => Some(format!("it is not there: {cause}")),
                Ok(there) if there.len() != file.bytes => Some(format!(
                    "it has {} bytes instead of {}",
                    there.len(),
                    file.bytes
                )),
                Ok(_) => match checksum::of_file(&path) {
                    Ok(sum) if sum == file.sha256 => None,
                    Ok(sum) => Some(format!("it is damaged: its checksum is {sum}")),
                    Err(cause) => Some(format!("{cause:#}")),
                },
            };
            Checked {
                file: path.display().to_string(),
                bytes: file.bytes,
                error,
            }
        });
        Verified {
            version: version.to_owned(),
            error: None,
            files: files.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::example;

    #[test]
    fn every_kind_of_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let lock = store.lock_or_make().unwrap();
        let mut manifest = example();
        for file in &mut manifest.files {
            file.bytes = 3;
            file.sha256 = checksum::of_bytes(file.uuid[5..].repeat(3).as_bytes());
        }
        let paths: Vec<_> = manifest
            .files
            .iter()
            .map(|file| store.path_of(file))
            .collect();
        let whole = || {
            fs::write(&paths[0], "111").unwrap();
            fs::write(&paths[1], "222").unwrap();
        };
        whole();
        let version = store.publish(&manifest).unwrap();
        drop(lock);
        let sound = || store.verify(&version, &|_| ()).is_sound();
        assert!(sound());
        for (text, what) in [("112", "damaged"), ("11", "bytes instead of")] {
            fs::write(&paths[0], text).unwrap();
            let verified = store.verify(&version, &|_| ());
            let error = verified.files[0].error.clone().unwrap();
            assert!(error.contains(what) && !verified.is_sound(), "{error}");
            whole();
        }
        fs::remove_file(&paths[1]).unwrap();
        assert!(!sound());
        whole();
        assert!(sound());
        fs::write(store.dir().join("current/manifest.json"), "{}").unwrap();
        assert!(!sound());
    }
}
