//! Fault rules: which requests go wrong, how often, and in which way.
//!
//! Owns the rules and the decision for one request; the gate in `server` carries the decision
//! out. Rules never apply below `/_double/`, so a broken service can always be mended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One fault. Rules are asked in the order in which they were added; the first that matches
/// decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `None`: any method.
    #[serde(default)]
    pub method: Option<String>,
    /// The path without `/api/v3` and without query; `*` stands for any part of one segment,
    /// `**` for anything.
    pub path: String,
    /// That many matching requests pass first.
    #[serde(default)]
    pub skip: u32,
    /// Then that many are hit; `None`: all further ones.
    #[serde(default)]
    pub times: Option<u32>,
    /// Milliseconds to wait before anything else happens.
    #[serde(default)]
    pub delay_ms: u64,
    pub action: Action,
}

/// What happens to a request that a rule hits. `effect` says whether the request is carried out
/// all the same, so that only its answer is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Only the rule's delay.
    Pass,
    /// This answer instead of the true one.
    Answer {
        status: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: Option<serde_json::Value>,
        #[serde(default)]
        effect: bool,
    },
    /// The connection ends without an answer.
    Disconnect {
        #[serde(default)]
        how: Hangup,
        #[serde(default)]
        effect: bool,
    },
    /// The true answer, that many bytes at a time.
    SlowBody { bytes: usize, every_ms: u64 },
    /// The connection stays open for ever and nothing is said.
    NeverAnswer {
        #[serde(default)]
        effect: bool,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hangup {
    /// An orderly end of the stream.
    #[default]
    Close,
    /// A TCP reset.
    Reset,
}

impl Rule {
    /// Hits every request to `path`, until told otherwise.
    pub fn on(method: &str, path: &str, action: Action) -> Self {
        Self {
            method: Some(method.to_owned()),
            path: path.to_owned(),
            skip: 0,
            times: None,
            delay_ms: 0,
            action,
        }
    }

    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    #[must_use]
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        let same_method = self
            .method
            .as_deref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
        same_method && glob(self.path.as_bytes(), path.as_bytes())
    }
}

impl Action {
    /// A status with GitHub's usual error body, and no effect.
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: BTreeMap::new(),
            body: None,
            effect: false,
        }
    }

    /// Adds a header to an answer; nothing for other actions.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.insert(name.to_owned(), value.to_string());
        }
        self
    }

    /// Replaces the body of an answer; nothing for other actions.
    #[must_use]
    pub fn body(mut self, json: serde_json::Value) -> Self {
        if let Self::Answer { body, .. } = &mut self {
            *body = Some(json);
        }
        self
    }

    /// The request is carried out although its answer is lost; nothing for actions that answer.
    #[must_use]
    pub fn after_effect(mut self) -> Self {
        match &mut self {
            Self::Answer { effect, .. }
            | Self::Disconnect { effect, .. }
            | Self::NeverAnswer { effect } => *effect = true,
            Self::Pass | Self::SlowBody { .. } => {}
        }
        self
    }
}

/// A rule as it stands, and how many requests it has hit.
#[derive(Clone, Debug, Serialize)]
pub struct Armed {
    pub id: u64,
    pub rule: Rule,
    pub matched: u32,
    pub hits: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Armed>,
    issued: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, rule: Rule) -> u64 {
        self.issued += 1;
        self.rules.push(Armed {
            id: self.issued,
            rule,
            matched: 0,
            hits: 0,
        });
        self.issued
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn armed(&self) -> Vec<Armed> {
        self.rules.clone()
    }

    /// The rule that decides this request, counted.
    pub(crate) fn decide(&mut self, method: &str, path: &str) -> Option<Rule> {
        for armed in &mut self.rules {
            if !armed.rule.matches(method, path) {
                continue;
            }
            armed.matched += 1;
            let spent = armed.rule.times.is_some_and(|times| armed.hits >= times);
            if armed.matched > armed.rule.skip && !spent {
                armed.hits += 1;
                return Some(armed.rule.clone());
            }
        }
        None
    }
}

fn glob(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|cut| glob(rest, &path[cut..])),
        [b'*', rest @ ..] => {
            let segment = path.iter().take_while(|byte| **byte != b'/').count();
            (0..=segment).any(|cut| glob(rest, &path[cut..]))
        }
        [first, rest @ ..] => path.first() == Some(first) && glob(rest, &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_segment_and_two_do_not() {
        for (pattern, path, expected) in [
            ("/message", "/message", true),
            ("/message", "/messages", false),
            (
                "/repos/*/*/actions/runners",
                "/repos/o/r/actions/runners",
                true,
            ),
            (
                "/repos/*/actions/runners",
                "/repos/o/r/actions/runners",
                false,
            ),
            ("**/actions/runners/*", "/orgs/o/actions/runners/7", true),
            ("**/actions/runners/*", "/orgs/o/actions/runners", false),
            ("**", "/anything", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn a_rule_skips_then_hits_then_lets_pass() {
        let mut faults = Faults::default();
        faults.add(Rule::on("GET", "/x", Action::status(500)).skip(1).times(2));
        let hits: Vec<bool> = (0..5)
            .map(|_| faults.decide("get", "/x").is_some())
            .collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert!(faults.decide("POST", "/x").is_none());
    }

    #[test]
    fn the_second_rule_decides_when_the_first_is_spent() {
        let mut faults = Faults::default();
        faults.add(Rule::on("GET", "/x", Action::status(500)).times(1));
        faults.add(Rule::on("GET", "/x", Action::status(502)));
        let mut answered = || faults.decide("GET", "/x").unwrap().action;
        assert_eq!(answered(), Action::status(500));
        assert_eq!(answered(), Action::status(502));
    }
}
