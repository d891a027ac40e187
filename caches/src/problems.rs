//! What went wrong, in as few lines as it has causes.
//!
//! Owns what is said of what was left out: when a whole store fails, each of its units does, and
//! one line with the cause says more than one for each.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::stop::TOO_LATE;

/// How many names a line has.
const NAMED: usize = 5;
/// After which answers a store takes nothing more, and what is to be done.
const HOPELESS: [(Errno, &str); 4] = [
    (Errno::NOSPC, "is full; supervisor cache prune makes room"),
    (
        Errno::DQUOT,
        "has used its quota up; supervisor cache prune makes room",
    ),
    (
        Errno::ROFS,
        "is read-only; mount it to be written, or give CACHE_MODE=read-only",
    ),
    (Errno::STALE, "was taken away or replaced; mount it again"),
];

/// What could not be done.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// The store that is written to; nothing else is.
    written: Option<PathBuf>,
    causes: Vec<Cause>,
    left_out: Vec<String>,
}

#[derive(Debug)]
struct Cause {
    errno: Option<i32>,
    line: String,
    /// What else could not be done for the same reason.
    others: Vec<String>,
}

impl Problems {
    pub(crate) fn of_writing_to(store: PathBuf) -> Self {
        Self {
            written: Some(store),
            ..Self::default()
        }
    }

    /// Notes that nothing more can be done and why.
    pub(crate) fn end(&mut self, error: &anyhow::Error) {
        self.add("", error);
    }

    /// Notes that something is left out and why.
    pub(crate) fn add(&mut self, what: &str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if text.contains(TOO_LATE) && !what.is_empty() {
            return self.left_out.push(what.to_owned());
        }
        let errno = errno_of(error, &text);
        let known = self.causes.iter_mut().find(|cause| cause.errno == errno);
        if let (Some(cause), Some(_)) = (known, errno) {
            return cause.others.push(what.to_owned());
        }
        let text = match what {
            "" => text,
            what => format!("{what}: {text}"),
        };
        let line = match (&self.written, hopeless(errno)) {
            (Some(store), Some(remedy)) => {
                format!("CACHE_STORE: {} {remedy} ({text})", store.display())
            }
            _ => text,
        };
        self.causes.push(Cause {
            errno,
            line,
            others: Vec::new(),
        });
    }

    /// Whether the store that is written to takes nothing more.
    pub(crate) fn is_hopeless(&self) -> bool {
        let mut causes = self.causes.iter();
        self.written.is_some() && causes.any(|cause| hopeless(cause.errno).is_some())
    }

    /// Notes that something is not tried any more.
    pub(crate) fn give_up(&mut self, what: &str) {
        let hopeless = |cause: &&mut Cause| hopeless(cause.errno).is_some();
        if let Some(cause) = self.causes.iter_mut().find(hopeless) {
            cause.others.push(what.to_owned());
        }
    }

    /// Whether somebody else may do what we may not.
    pub(crate) fn is_denied(&self) -> bool {
        let denied = [Errno::ACCESS, Errno::PERM].map(|errno| Some(errno.raw_os_error()));
        let mut causes = self.causes.iter();
        causes.any(|cause| denied.contains(&cause.errno))
    }

    /// What did not fit in the time, and a line for each cause of the rest.
    pub(crate) fn told(self) -> (Vec<String>, Vec<String>) {
        let lines = self.causes.into_iter().map(|cause| {
            let named = cause.others.iter().take(NAMED).map(String::as_str);
            let named = named.collect::<Vec<_>>().join(", ");
            match cause.others.len() {
                0 => cause.line,
                others if others <= NAMED => format!("{}; neither {named}", cause.line),
                others => format!(
                    "{}; neither {named}, nor {} more",
                    cause.line,
                    others - NAMED
                ),
            }
        });
        (self.left_out, lines.collect())
    }
}

fn hopeless(errno: Option<i32>) -> Option<&'static str> {
    let mut all = HOPELESS.iter();
    let found = all.find(|(hopeless, _)| Some(hopeless.raw_os_error()) == errno);
    found.map(|(_, remedy)| *remedy)
}

/// The system's number of an error, also of one that rsync told: `…: No space left on device (28)`.
fn errno_of(error: &anyhow::Error, text: &str) -> Option<i32> {
    let own = error.chain().find_map(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        let errno = cause.downcast_ref::<Errno>().map(|e| e.raw_os_error());
        io.and_then(std::io::Error::raw_os_error).or(errno)
    });
    own.or_else(|| text.strip_suffix(')')?.rsplit_once('(')?.1.parse().ok())
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn failure(errno: Errno) -> anyhow::Error {
        let error = Err::<(), _>(std::io::Error::from(errno));
        error.context("cannot write").unwrap_err()
    }

    #[test]
    fn what_fails_for_the_same_reason_is_one_line() {
        let mut problems = Problems::default();
        for unit in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            problems.add(unit, &failure(Errno::IO));
        }
        problems.add("i", &anyhow!("it is damaged"));
        problems.add("j", &anyhow!("it is damaged"));
        problems.add("k", &anyhow!("{TOO_LATE}"));
        assert!(!problems.is_hopeless());
        let (left_out, lines) = problems.told();
        assert_eq!(left_out, ["k"]);
        assert_eq!(
            lines,
            [
                "a: cannot write: Input/output error (os error 5); neither b, c, d, e, f, nor 2 more",
                "i: it is damaged",
                "j: it is damaged"
            ]
        );
    }

    #[test]
    fn a_store_that_takes_nothing_more_is_named_with_the_remedy() {
        for (error, said) in [
            (
                failure(Errno::NOSPC),
                "/store is full; supervisor cache prune",
            ),
            (failure(Errno::ROFS), "/store is read-only; "),
            (failure(Errno::STALE), "/store was taken away"),
            (
                anyhow!("rsync: No space left on device (28)"),
                "/store is full",
            ),
        ] {
            let mut problems = Problems::of_writing_to("/store".into());
            problems.add("a", &error);
            assert!(problems.is_hopeless());
            problems.give_up("b");
            let (_, lines) = problems.told();
            assert_eq!(lines.len(), 1);
            assert!(
                lines[0].contains(said) && lines[0].ends_with("; neither b"),
                "{lines:?}"
            );
        }
        // Where nothing is written to the store, the local disk is the full one.
        let mut problems = Problems::default();
        problems.add("a", &failure(Errno::NOSPC));
        assert!(!problems.is_hopeless());
        assert!(!problems.told().1[0].contains("CACHE_STORE"));
    }
}
