//! The unprivileged user of the runner, and how a child becomes that user for good.
//!
//! Owns reading `/etc/passwd` and `/etc/group` (by hand: the system's look-up loads libraries that
//! a static binary does not have) and the steps between fork and exec that take our privileges
//! away. Does not start anything.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use init::exit_code;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chown, geteuid, setgroups, setresgid, setresuid};

use crate::failure::Failure;

/// The runner's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) home: PathBuf,
    /// Supplementary groups, without that of the Docker socket.
    pub(crate) groups: Vec<Gid>,
    rights: Rights,
}

/// What becoming the user takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// We are root and give everything up.
    Drop,
    /// We are that user already.
    Keep,
}

/// Whether a job may become root in its own container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sudo {
    Allowed,
    Refused,
}

impl User {
    /// Finds the user below `root` (`/` but in tests).
    ///
    /// # Errors
    /// When there is no such user, or we can neither become that user nor are.
    pub(crate) fn find(name: &str, root: &Path) -> Result<Self, Failure> {
        let passwd = root.join("etc/passwd");
        let text = fs::read_to_string(&passwd)
            .with_context(|| format!("cannot read {}", passwd.display()))?;
        let Some((uid, gid, home)) = parse_passwd(&text, name) else {
            let error = anyhow!(
                "RUNNER_USER: there is no user \"{name}\" in {}; create it in the image",
                passwd.display()
            );
            return Err(Failure {
                code: exit_code::USAGE,
                error,
            });
        };
        let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        let rights = match geteuid() {
            us if us.is_root() && uid.is_root() => {
                return Err(Failure::refused(anyhow!(
                    "RUNNER_USER: \"{name}\" is root, who would have the supervisor's secrets; use RUNNER_SUDO=on"
                )));
            }
            us if us.is_root() => Rights::Drop,
            us if us == uid => Rights::Keep,
            us => {
                return Err(Failure::refused(anyhow!(
                    "RUNNER_USER: becoming \"{name}\" takes root, and this process is user {us}; start the container as root"
                )));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            uid,
            gid,
            home,
            groups: parse_groups(&groups, name),
            rights,
        })
    }

    /// Makes a directory that exists, or not, the user's. What is in it is left alone.
    pub(crate) fn own_directory(&self, path: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        self.own(path)
    }

    /// Makes a file or directory the user's, if we can make anything anybody's.
    pub(crate) fn own(&self, path: &Path) -> anyhow::Result<()> {
        if self.rights == Rights::Keep {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), self.name))
    }

    /// Whether we are root and can do what only root can.
    pub(crate) fn is_another(&self) -> bool {
        self.rights == Rights::Drop
    }

    /// `uid:gid` for programs that set owners; `None` when we cannot set any.
    pub(crate) fn owner(&self) -> Option<String> {
        self.is_another()
            .then(|| format!("{}:{}", self.uid, self.gid))
    }

    /// Makes `command` run as this user, with these further groups, for good.
    pub(crate) fn apply(&self, command: &mut Command, more: &[Gid], sudo: Sudo) {
        let mut groups = self.groups.clone();
        groups.extend(more);
        groups.push(self.gid);
        groups.sort_by_key(|group| group.as_raw());
        groups.dedup();
        let Self {
            uid, gid, rights, ..
        } = *self;
        #[expect(
            unsafe_code,
            reason = "std has no stable way to set the groups before the user"
        )]
        // SAFETY: the closure only makes system calls; all memory was allocated before the fork.
        unsafe {
            command.pre_exec(move || {
                if rights == Rights::Drop {
                    become_user(uid, gid, &groups, sudo)?;
                }
                if sudo == Sudo::Refused {
                    nix::sys::prctl::set_no_new_privs()?;
                }
                // A killed supervisor that is not PID 1 would leave a runner that takes jobs.
                // Only now: becoming another user clears it.
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
    }
}

/// Between fork and exec: the order matters, each step takes a privilege that the next ones no
/// longer need.
fn become_user(uid: Uid, gid: Gid, groups: &[Gid], sudo: Sudo) -> io::Result<()> {
    // Without the bounding set nothing that is executed can ever gain a capability. With sudo
    // allowed, root in the container keeps what the container has.
    if sudo == Sudo::Refused {
        drop_bounding_set()?;
    }
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    // Leaving uid 0 clears the permitted, effective and ambient sets.
    setresuid(uid, uid, uid)?;
    Ok(())
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..=63 {
        #[expect(unsafe_code, reason = "nix does not offer this prctl")]
        // SAFETY: these prctl operations take numbers only.
        let result = unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) {
                1 => libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0),
                // 0: not there; -1: beyond the last one that this kernel knows.
                _ => 0,
            }
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// uid, gid and home directory of a user (passwd(5)).
fn parse_passwd(text: &str, name: &str) -> Option<(Uid, Gid, PathBuf)> {
    let fields: Vec<&str> = text
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?;
    let [_, _, uid, gid, _, home, ..] = fields.as_slice() else {
        return None;
    };
    Some((
        Uid::from_raw(uid.parse().ok()?),
        Gid::from_raw(gid.parse().ok()?),
        PathBuf::from(home),
    ))
}

/// The groups that list a user as a member (group(5)).
fn parse_groups(text: &str, name: &str) -> Vec<Gid> {
    let lists_user = |members: &str| members.split(',').any(|member| member == name);
    text.lines()
        .filter_map(
            |line| match line.split(':').collect::<Vec<_>>().as_slice() {
                [_, _, gid, members] if lists_user(members) => gid.parse().ok().map(Gid::from_raw),
                _ => None,
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nrunner:x:1001:1002:,,,:/home/runner:/bin/bash\nbroken:x\n";

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let found = parse_passwd(PASSWD, "runner");
        let home = PathBuf::from("/home/runner");
        assert_eq!(
            found,
            Some((Uid::from_raw(1001), Gid::from_raw(1002), home))
        );
        for name in ["run", "broken", ""] {
            assert_eq!(parse_passwd(PASSWD, name), None, "{name}");
        }
    }

    #[test]
    fn a_user_has_the_groups_that_list_it_by_the_whole_name() {
        let groups = parse_groups(
            "docker:x:123:runner\nsudo:x:27:alice,runner\nadm:x:4:runner2\n",
            "runner",
        );
        assert_eq!(groups, [Gid::from_raw(123), Gid::from_raw(27)]);
    }

    #[test]
    fn a_user_that_does_not_exist_is_reported_with_the_setting() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), PASSWD).unwrap();
        let failure = User::find("ghost", root.path()).unwrap_err();
        assert_eq!(failure.code, exit_code::USAGE);
        let error = failure.error.to_string();
        assert!(
            error.starts_with("RUNNER_USER: there is no user \"ghost\""),
            "{error}"
        );
    }
}
