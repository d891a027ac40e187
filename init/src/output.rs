//! Carries a child's output to ours, whole lines at a time, on a thread of its own.
//!
//! Owns the copying and the bound on how long it may go on after the child's exit. No encoding is
//! assumed and nothing is added; whoever observes the lines decides what they mean. A thread and
//! not a task, because a blocked log driver must not hold up the rest of the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use crate::Deadline;

/// The longest line that is kept in one piece.
const LONGEST_LINE: usize = 64 * 1024;

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

/// Copies `from` to `to` until it ends, and shows every line, without its end, to `observe`.
///
/// # Errors
/// When no thread can be started.
pub fn copy(
    from: OwnedFd,
    to: impl Write + Send + 'static,
    observe: impl FnMut(&[u8]) + Send + 'static,
) -> io::Result<Copying> {
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("output".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            if let Err(error) = copy_lines(File::from(from), to, observe) {
                tracing::warn!(%error, "a child's output could not be copied to ours");
            }
            // Nobody may be waiting any more.
            end.send(()).ok();
        })?;
    Ok(Copying { ended })
}

fn copy_lines(
    mut from: impl Read,
    mut to: impl Write,
    mut observe: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_LINE];
    let mut filled = 0;
    // When our own output fails, the child must not be stopped by a full pipe: read on.
    let mut failed = None;
    let mut write = |bytes: &[u8]| {
        if failed.is_none() {
            failed = to.write_all(bytes).and_then(|()| to.flush()).err();
        }
    };
    loop {
        let read = match from.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        filled += read;
        let whole = match buffer[..filled].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if read == 0 || filled == buffer.len() => filled,
            None => continue,
        };
        // Whole lines in one write: lines of ours and of the child never mix.
        write(&buffer[..whole]);
        let ended = buffer[..whole].strip_suffix(b"\n");
        if whole > 0 {
            for line in ended
                .unwrap_or(&buffer[..whole])
                .split(|byte| *byte == b'\n')
            {
                observe(line);
            }
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if read == 0 && filled == 0 {
            return failed.map_or(Ok(()), Err);
        }
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
        copy_lines(pieces, &mut out, |line| lines.push(line.to_vec())).unwrap();
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
        let pieces = Pieces(vec![b"one\n".to_vec(), b"two\n".to_vec()]);
        let error = copy_lines(pieces, Broken, |_| lines += 1).unwrap_err();
        assert_eq!((lines, error.kind()), (2, io::ErrorKind::BrokenPipe));
    }
}
