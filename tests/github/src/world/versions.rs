//! Which runner versions the service still takes, and until when.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `None`: no floor. Versions as `2.336.0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Versions {
    /// Below it a runner registers and connects, but gets no message.
    pub minimum_runtime: Option<String>,
    /// Below it registering answers 404 with a text that says why.
    pub minimum_registration: Option<String>,
    /// What the deprecations API knows: version and the time from which it is refused, if set.
    pub deprecations: BTreeMap<String, Option<String>>,
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            minimum_runtime: None,
            minimum_registration: None,
            deprecations: BTreeMap::from([("2.336.0".to_owned(), None)]),
        }
    }
}

/// Compares by numbers, not by letters; anything that is no number counts as zero.
pub(crate) fn is_older(version: &str, floor: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect()
    };
    numbers(version).cmp(&numbers(floor)) == Ordering::Less
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_older("2.99.0", "2.329.0"));
        assert!(!is_older("2.336.0", "2.336.0"));
        assert!(!is_older("3.0.0", "2.336.0"));
    }
}
