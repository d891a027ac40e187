//! The exit codes that both binaries share; each README lists them with the finer ones.
//! They follow sysexits.h and the shell's 128 + n, so that ECS events can be read without a table.

/// The work is done and nothing is owed.
pub const DONE: u8 = 0;
/// An unexpected error; the log's last error line says which.
pub const UNEXPECTED: u8 = 1;
/// Settings are missing, unknown, malformed or contradict each other (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Something that is needed did not come up, after retries (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// Credentials or privileges were refused (`EX_NOPERM`).
pub const REFUSED: u8 = 77;
