//! `RUNNER_SUDO=on`: the job may become root in its own container, and our secrets stay out of reach.
//!
//! Owns the rule of sudo, and what of the secrets' ways into the container root could follow: a file,
//! which is removed, and the variables of whatever is started in the container from outside, which
//! only the operator can do without. Our own process is closed to that root by `main`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::config::Runner;
use crate::failure::Failure;
use crate::user::User;

const RULES: &str = "/etc/sudoers.d";

/// Lets the runner's user become root by `sudo` without a password.
pub(crate) fn allow(runner: &Runner, user: &User) -> Result<(), Failure> {
    if !user.is_another() {
        return Err(Failure::refused(anyhow!(
            "RUNNER_SUDO=on takes root; start the container as root"
        )));
    }
    if !Path::new(RULES).is_dir() {
        return Err(Failure::unavailable(anyhow!(
            "RUNNER_SUDO=on: sudo is not installed in the image"
        )));
    }
    remove_secrets(&runner.secrets.files)?;
    if !runner.secrets.variables.is_empty() {
        tracing::warn!(
            "RUNNER_SUDO=on: a program that is started in this container from outside (a health \
             check, ECS Exec, docker exec) has {} in its environment, and a job can read it there; \
             configure none",
            runner.secrets.variables.join(" and ")
        );
    }
    let path = Path::new(RULES).join("supervisor");
    let rule = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", user.name);
    fs::write(&path, rule)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o440)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Removes the files that our secrets came from, once they were read: no mode of a file keeps root
/// from it.
fn remove_secrets(files: &[PathBuf]) -> Result<(), Failure> {
    for path in files {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::refused(anyhow!(
                    "RUNNER_SUDO=on: a job could read the secret in {}, and it cannot be removed: {error}; give the secret in a variable",
                    path.display()
                )));
            }
            Err(_) => {}
            Ok(()) => {
                tracing::info!(path = %path.display(), "removed the file of a secret, which a job with RUNNER_SUDO=on could read")
            }
        }
    }
    Ok(())
}
