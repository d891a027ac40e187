//! What is mounted where in this namespace (proc(5), `/proc/[pid]/mountinfo`).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    /// The number of the mount that it is on.
    pub(super) parent: u32,
    pub(super) place: PathBuf,
}

/// Everything that can be seen from `/`, the lower first.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn table() -> Result<Vec<Entry>> {
    let text = fs::read("/proc/self/mountinfo").context("cannot read the mounts")?;
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| parse(line).context("a mount in a form that is not known"))
        .collect()
}

fn parse(line: &[u8]) -> Option<Entry> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
    Some(Entry {
        number: number()?,
        parent: number()?,
        place: OsString::from_vec(unescape(words.nth(2)?)).into(),
    })
}

/// Blanks and their like are three octal digits after a backslash.
fn unescape(mut word: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(word.len());
    while let Some((first, rest)) = word.split_first() {
        word = rest;
        let digits = rest
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) if *first == b'\\' => {
                whole.push(byte);
                word = &rest[3..];
            }
            _ => whole.push(*first),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_blanks_in_its_path() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw";
        let expected = Entry {
            number: 36,
            parent: 35,
            place: r"/mnt 2\x".into(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"36 x"), None);
    }
}
