//! The engines that the sidecar is tested with: three generations, as Debian's suites bring them.

use std::fmt;

/// An engine by the suite of Debian that its image is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    Bookworm,
    /// What `images/dind/Dockerfile` takes by itself.
    #[default]
    Trixie,
    Sid,
}

impl Engine {
    /// From the oldest to the newest.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Sid];
    /// Those that only the tests of the sidecar use.
    pub(crate) const OTHERS: [Self; 2] = [Self::Bookworm, Self::Sid];

    /// The suite, which is the image's build argument.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// Docker's version in that suite, as far as a test depends on it.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Bookworm => "20.10",
            Self::Trixie => "26.1",
            Self::Sid => "28.5",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {}", self.version())
    }
}
