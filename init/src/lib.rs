//! What `supervisor` and `dindd` owe the kernel because they are PID 1 of a container.
//!
//! Owns: the only fork and the only wait ([`Children`]), the only signal handlers ([`Signals`]),
//! the one instant by which a shutdown is over ([`Deadline`]), the list of what must still happen
//! before exit ([`Owed`]). Tolerated beside these, because both binaries need the same: carrying
//! a child's output ([`output`]), reading settings ([`settings`]) and the log ([`log`]).
//!
//! Does not know GitHub, Docker or the name of any setting of either binary.

mod children;
mod deadline;
pub mod exit_code;
pub mod log;
pub mod output;
mod owed;
pub mod settings;
mod signals;

pub use children::{Captured, Child, Children, Exit};
pub use deadline::Deadline;
pub use owed::Owed;
pub use signals::{Signals, start};
