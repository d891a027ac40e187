//! Carries a child's output to ours, whole lines at a time, on threads of its own.
//!
//! Owns the copying and the bound on how long it may go on after the child's exit. No encoding is
//! assumed and nothing is added; whoever observes the lines decides what they mean. Threads and
//! not tasks, because a blocked log driver must hold up neither the rest of the process nor the
//! child: what our output does not take is kept, in memory first and then in a file without a name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use tokio::sync::oneshot;

use crate::Deadline;

/// The longest line that is kept in one piece, and what is read and written at once.
const LONGEST_LINE: usize = 128 * 1024;
/// Fewer changes between the child and us, and room for a burst.
const PIPE: i32 = 1024 * 1024;
/// How many pieces wait in memory.
const WAITING: usize = 4;
const SPARE: usize = 2;
/// Where the file without a name is kept.
const SPOOL: &str = "/tmp";

/// Bytes that were read and are not written yet.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// A copy that is under way.
#[derive(Debug)]
pub struct Copying {
    ended: oneshot::Receiver<()>,
}

impl Copying {
    /// Waits until the child's output has ended or the deadline passes; whether it ended.
    ///
    /// A grandchild that holds the pipe keeps it open for ever: end of output is no sign of exit.
    pub async fn ended(self, deadline: Deadline) -> bool {
        deadline.bound(self.ended).await.is_some()
    }
}

/// Waits until everything that was read is written too, or the deadline passes; whether it is.
pub async fn flushed(deadline: Deadline) -> bool {
    while UNWRITTEN.load(Ordering::Acquire) > 0 {
        if deadline.is_over() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// Copies `from` to `to` until it ends, and shows every line, without its end, to `observe`.
///
/// # Errors
/// When no thread can be started.
pub fn copy(
    from: OwnedFd,
    to: impl Write + Send + 'static,
    observe: impl FnMut(&[u8]) + Send + 'static,
) -> io::Result<Copying> {
    // A kernel that refuses leaves the pipe as it is.
    fcntl(&from, FcntlArg::F_SETPIPE_SZ(PIPE)).ok();
    let (end, ended) = oneshot::channel();
    let kept = Arc::new(Kept::default());
    let taken = Arc::clone(&kept);
    std::thread::Builder::new()
        .name("write".into())
        .stack_size(64 * 1024)
        .spawn(move || taken.write_to(to))?;
    std::thread::Builder::new()
        .name("output".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            if let Err(error) = copy_lines(File::from(from), &kept, observe) {
                tracing::warn!(%error, "a child's output could not be read");
            }
            kept.end();
            // Nobody may be waiting any more.
            end.send(()).ok();
        })?;
    Ok(Copying { ended })
}

/// Puts whole lines into `kept` until `from` ends.
fn copy_lines(mut from: impl Read, kept: &Kept, mut observe: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = kept.spare();
    let mut filled = 0;
    loop {
        let read = match from.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        filled += read;
        let whole = match memchr::memrchr(b'\n', &buffer[..filled]) {
            Some(end) => end + 1,
            None if read == 0 || filled == buffer.len() => filled,
            None => continue,
        };
        // The begin of a line goes on into the next piece.
        let mut next = kept.spare();
        next[..filled - whole].copy_from_slice(&buffer[whole..filled]);
        filled -= whole;
        let lines = Piece {
            bytes: std::mem::replace(&mut buffer, next),
            length: whole,
        };
        show(lines.content(), &mut observe);
        // Whole lines in one write: lines of ours and of the child never mix.
        kept.put(lines);
        if read == 0 && filled == 0 {
            return Ok(());
        }
    }
}

fn show(lines: &[u8], observe: &mut impl FnMut(&[u8])) {
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        observe(&lines[begin..end]);
        begin = end + 1;
    }
    if begin < lines.len() {
        observe(&lines[begin..]);
    }
}

/// Some bytes in a buffer that is used again.
#[derive(Debug)]
struct Piece {
    bytes: Box<[u8]>,
    length: usize,
}

impl Piece {
    fn content(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What was read and is not written yet.
#[derive(Debug, Default)]
struct Kept {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    /// The older part.
    waiting: VecDeque<Piece>,
    /// Written pieces, to be used again.
    spare: Vec<Box<[u8]>>,
    /// The younger part, from `begin` to `end`.
    spool: Option<File>,
    begin: u64,
    end: u64,
    ended: bool,
    /// Our own output is broken: nothing can be written, and the child must not be stopped by it.
    broken: bool,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Each change under the lock is complete in itself.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> Box<[u8]> {
        self.lock().spare()
    }

    /// Takes a piece; waits only when there is no place for it anywhere.
    fn put(&self, piece: Piece) {
        let length = piece.length as u64;
        if length == 0 {
            return;
        }
        UNWRITTEN.fetch_add(length, Ordering::AcqRel);
        let mut inside = self.lock();
        loop {
            let spooling = inside.begin < inside.end;
            if inside.broken {
                UNWRITTEN.fetch_sub(length, Ordering::AcqRel);
                return inside.use_again(piece);
            }
            if !spooling && inside.waiting.len() < WAITING {
                inside.waiting.push_back(piece);
                break;
            }
            match inside.spool(piece.content()) {
                Ok(()) => {
                    inside.use_again(piece);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "our output is blocked and its overflow cannot be kept in {SPOOL}");
                    inside = self
                        .changed
                        .wait(inside)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        drop(inside);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// The next piece in the order of reading; `None` when all is over.
    fn take(&self) -> Option<Piece> {
        let mut inside = self.lock();
        loop {
            if let Some(piece) = inside.waiting.pop_front() {
                return Some(piece);
            }
            match inside.unspool() {
                Ok(Some(piece)) => return Some(piece),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "output that was kept in {SPOOL} is lost");
                    UNWRITTEN.fetch_sub(inside.end - inside.begin, Ordering::AcqRel);
                    inside.begin = inside.end;
                }
            }
            if inside.ended {
                return None;
            }
            inside = self
                .changed
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_to(&self, mut to: impl Write) {
        while let Some(piece) = self.take() {
            let written = to.write_all(piece.content()).and_then(|()| to.flush());
            UNWRITTEN.fetch_sub(piece.length as u64, Ordering::AcqRel);
            let mut inside = self.lock();
            inside.use_again(piece);
            if let Err(error) = written {
                tracing::warn!(%error, "a child's output could not be copied to ours");
                inside.give_up();
            }
            drop(inside);
            self.changed.notify_all();
        }
    }
}

impl Inside {
    fn spare(&mut self) -> Box<[u8]> {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| vec![0; LONGEST_LINE].into_boxed_slice())
    }

    fn use_again(&mut self, piece: Piece) {
        self.spare.push(piece.bytes);
        self.spare.truncate(SPARE);
    }

    fn spool(&mut self, piece: &[u8]) -> io::Result<()> {
        let file = match &self.spool {
            Some(file) => file,
            None => {
                let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
                let file = open(SPOOL, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
                self.spool.insert(File::from(file))
            }
        };
        file.write_all_at(piece, self.end)?;
        self.end += piece.len() as u64;
        Ok(())
    }

    fn unspool(&mut self) -> io::Result<Option<Piece>> {
        let mut bytes = self.spare();
        let Some(file) = self.spool.as_ref().filter(|_| self.begin < self.end) else {
            self.spare.push(bytes);
            return Ok(None);
        };
        let left = usize::try_from(self.end - self.begin).unwrap_or(usize::MAX);
        let length = left.min(LONGEST_LINE);
        file.read_exact_at(&mut bytes[..length], self.begin)?;
        self.begin += length as u64;
        if self.begin == self.end {
            // All of it was read: the disk gets its space back.
            file.set_len(0)?;
            (self.begin, self.end) = (0, 0);
        }
        Ok(Some(Piece { bytes, length }))
    }

    fn give_up(&mut self) {
        let waiting: usize = self.waiting.iter().map(|piece| piece.length).sum();
        UNWRITTEN.fetch_sub(waiting as u64 + self.end - self.begin, Ordering::AcqRel);
        self.waiting.clear();
        self.begin = self.end;
        self.broken = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one read at a time.
    struct Pieces(Vec<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let mut piece = self.0.remove(0);
            let rest = piece.split_off(piece.len().min(buffer.len()));
            if !rest.is_empty() {
                self.0.insert(0, rest);
            }
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn lines_of(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut out = Vec::new();
        let mut lines = Vec::new();
        let pieces = Pieces(pieces.iter().map(|piece| piece.to_vec()).collect());
        let kept = Kept::default();
        copy_lines(pieces, &kept, |line| lines.push(line.to_vec())).unwrap();
        kept.end();
        kept.write_to(&mut out);
        (out, lines)
    }

    #[test]
    fn output_passes_through_unchanged_whatever_its_pieces_and_encoding() {
        let (out, lines) = lines_of(&[b"on", b"e\ntw", b"o\n\xff\xfe", b"\nlast"]);
        assert_eq!(out, b"one\ntwo\n\xff\xfe\nlast");
        assert_eq!(lines, [&b"one"[..], b"two", b"\xff\xfe", b"last"]);
    }

    #[test]
    fn an_empty_line_is_a_line() {
        let (_, lines) = lines_of(&[b"\n\n"]);
        assert_eq!(lines, [b"", b""]);
    }

    #[test]
    fn a_line_longer_than_the_buffer_loses_no_byte() {
        let long = vec![b'x'; LONGEST_LINE * 2 + 5];
        let (out, lines) = lines_of(&[&long, b"\nnext\n"]);
        assert_eq!(out.len(), long.len() + 6);
        assert_eq!(lines.last().unwrap(), b"next");
        assert_eq!(lines.iter().map(Vec::len).sum::<usize>(), long.len() + 4);
    }

    #[test]
    fn a_broken_output_of_ours_does_not_stop_the_reading() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut lines = 0;
        let kept = Kept::default();
        let bytes = vec![b'x'; LONGEST_LINE].into_boxed_slice();
        kept.put(Piece { bytes, length: 5 });
        kept.lock().ended = true;
        kept.write_to(Broken);
        let pieces = Pieces(vec![vec![b'x'; LONGEST_LINE]; 20]);
        copy_lines(pieces, &kept, |_| lines += 1).unwrap();
        assert_eq!(lines, 20);
        assert!(kept.lock().waiting.is_empty(), "it is kept for nobody");
    }

    #[test]
    fn an_output_that_is_blocked_holds_up_nobody_and_loses_nothing() {
        let pieces: Vec<Vec<u8>> = (0..200)
            .map(|number| format!("{number}\n").repeat(3000).into_bytes())
            .collect();
        let expected = pieces.concat();
        let kept = Kept::default();
        // Nobody writes yet: all of it must find a place.
        copy_lines(Pieces(pieces), &kept, |_| {}).unwrap();
        kept.end();
        assert!(kept.lock().waiting.len() <= WAITING);
        let mut out = Vec::new();
        kept.write_to(&mut out);
        assert!(out == expected, "{} of {} bytes", out.len(), expected.len());
    }
}
