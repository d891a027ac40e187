//! The child that asks the seccomp filter two questions and prints the answers.
//!
//! Owns the two system calls. Their arguments are such that they do nothing where they are
//! allowed: no such directory, and a session keyring for this process, which ends at once.

use std::io::Write;

use init::exit_code;
use nix::errno::Errno;
use nix::libc;

use crate::isolation::Allowed;

/// The hidden command.
pub(crate) const NAME: &str = "probe";

/// `KEYCTL_JOIN_SESSION_KEYRING` (linux/keyctl.h).
const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Asks in this process, which the filter may kill for it.
pub(crate) fn ask() -> Allowed {
    Allowed {
        // The kernel answers ENOENT, or EPERM to one without SYS_ADMIN, who would not get here.
        pivot_root: nix::unistd::pivot_root("", "") != Err(Errno::EPERM),
        keyctl: join_session_keyring() != Err(Errno::EPERM),
    }
}

pub(crate) fn run() -> u8 {
    let told = serde_json::to_string(&ask()).map(|text| writeln!(std::io::stdout(), "{text}"));
    match told {
        Ok(Ok(())) => exit_code::DONE,
        Ok(Err(_)) | Err(_) => exit_code::UNEXPECTED,
    }
}

fn join_session_keyring() -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "no crate of ours has keyctl")]
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    Errno::result(serial).map(drop)
}
