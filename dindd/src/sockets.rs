//! dockerd's sockets: the one on the shared volume and the one where everybody looks.
//!
//! Owns their files before dockerd starts and after it has ended. A container that is started
//! again, and a dockerd that was killed, leave files behind that nobody listens on.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tracing::debug;

use crate::config::Engine;
use crate::dockerd::STANDARD_SOCKET;

/// Where dockerd listens.
pub(crate) fn of(engine: &Engine) -> Vec<PathBuf> {
    let mut all = vec![engine.socket.clone(), PathBuf::from(STANDARD_SOCKET)];
    all.dedup();
    all
}

/// Removes files on which nobody listens and makes the directories for new ones.
///
/// # Errors
/// When somebody listens, or a file or directory is in the way.
pub(crate) fn clear(sockets: &[PathBuf]) -> Result<()> {
    sockets.iter().try_for_each(|socket| clear_one(socket))
}

/// Shows whoever enters the container the socket where everybody looks for it: dockerd's own is in
/// dockerd's root filesystem, unless a volume is mounted there.
pub(crate) fn show(engine: &Engine) {
    let standard = Path::new(STANDARD_SOCKET);
    if standard.exists() {
        return;
    }
    if let Err(cause) = symlink(&engine.socket, standard) {
        debug!("{STANDARD_SOCKET} is not to be seen outside of containers: {cause}");
    }
}

fn clear_one(socket: &Path) -> Result<()> {
    let path = socket.display();
    match UnixStream::connect(socket) {
        Ok(_) => bail!(
            "another daemon listens on {path}; give every task a socket directory of its own \
             (DINDD_SOCKET)"
        ),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            if socket.is_symlink() {
                fs::remove_file(socket).with_context(|| format!("cannot remove {path}"))?;
            }
            let Some(folder) = socket.parent() else {
                return Ok(());
            };
            fs::create_dir_all(folder).with_context(|| {
                format!(
                    "cannot make {} for the socket (DINDD_SOCKET)",
                    folder.display()
                )
            })
        }
        Err(_) => match fs::remove_file(socket) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(cause).with_context(|| format!("cannot remove the stale socket {path}"))
            }
            Ok(()) | Err(_) => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_stale_socket_is_removed_and_one_with_a_listener_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        let fresh = folder.path().join("not/yet/there.sock");
        clear(&[stale.clone(), fresh.clone()]).unwrap();
        assert!(!stale.exists());
        assert!(fresh.parent().unwrap().is_dir());

        let taken = folder.path().join("taken.sock");
        let _listener = UnixListener::bind(&taken).unwrap();
        let error = clear(std::slice::from_ref(&taken)).unwrap_err();
        assert!(error.to_string().contains("DINDD_SOCKET"), "{error}");
        assert!(taken.exists());
    }
}
