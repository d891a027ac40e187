//! The child that asks what the host allows and prints the answers.
//!
//! Owns the system calls. They do nothing to others where they are allowed: no such directory, a
//! session keyring and a user namespace for this process, which ends at once.

use std::io::Write;

use init::exit_code;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};

use crate::isolation::Allowed;

/// The hidden command.
pub(crate) const NAME: &str = "probe";

/// `KEYCTL_JOIN_SESSION_KEYRING` (linux/keyctl.h).
const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Whether this process is the child.
pub(crate) fn is_asked() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == NAME)
}

/// Whether nothing that runc needs is filtered; asks in this process, which the filter may kill.
pub(crate) fn allows_plain_runc() -> bool {
    pivot_root() && keyctl()
}

fn ask() -> Allowed {
    Allowed {
        pivot_root: pivot_root(),
        keyctl: keyctl(),
        // Only for a process with one thread.
        user_namespaces: unshare(CloneFlags::CLONE_NEWUSER).is_ok(),
    }
}

pub(crate) fn run() -> u8 {
    let told = serde_json::to_string(&ask()).map(|text| writeln!(std::io::stdout(), "{text}"));
    match told {
        Ok(Ok(())) => exit_code::DONE,
        Ok(Err(_)) | Err(_) => exit_code::UNEXPECTED,
    }
}

/// The kernel answers ENOENT, or EPERM to one without SYS_ADMIN, who would not get here.
fn pivot_root() -> bool {
    nix::unistd::pivot_root("", "") != Err(Errno::EPERM)
}

fn keyctl() -> bool {
    #[expect(unsafe_code, reason = "no crate of ours has keyctl")]
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    Errno::result(serial).map(drop) != Err(Errno::EPERM)
}
