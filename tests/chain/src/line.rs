//! What a container says, told apart: a phase that is done, an event of its log, a child's output.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use testhost::Stream;

/// A line and the container that said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `dindd` or `supervisor`.
    pub container: &'static str,
    pub said: Said,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A phase has ended after this many milliseconds; `detail` is empty when there is none.
    Phase {
        name: String,
        elapsed_ms: u64,
        detail: String,
    },
    /// Any other event of its own log; the message with the event's fields.
    Event { level: String, message: String },
    /// The output of a child of it, unchanged.
    Output(String),
}

#[derive(Deserialize)]
struct Event {
    level: String,
    message: String,
    phase: Option<String>,
    elapsed_ms: Option<u64>,
    #[serde(default)]
    detail: String,
    #[serde(rename = "timestamp")]
    _time: Option<String>,
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

impl Event {
    fn said(self) -> Said {
        if let (Some(name), Some(elapsed_ms)) = (self.phase, self.elapsed_ms) {
            let detail = self.detail;
            return Said::Phase {
                name,
                elapsed_ms,
                detail,
            };
        }
        // A text without its quotes, anything else as it is.
        let fields = self.fields.iter().map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), Into::into);
            format!(" {name}={text}")
        });
        Said::Event {
            level: self.level,
            message: self.message + &fields.collect::<String>(),
        }
    }
}

impl Line {
    /// Reads a line: the log is JSON on standard error, children's output is on standard output.
    pub(crate) fn read(container: &'static str, stream: Stream, text: &str) -> Self {
        let event: Option<Event> = match stream {
            Stream::Stderr => serde_json::from_str(text).ok(),
            Stream::Stdout => None,
        };
        let said = event.map_or_else(|| Said::Output(text.to_owned()), Event::said);
        Self { container, said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_log_is_read_as_json() {
        let phase = r#"{"level":"INFO","message":"phase done","phase":"register","elapsed_ms":7}"#;
        let said = |stream, text| Line::read("supervisor", stream, text).said;
        assert_eq!(
            said(Stream::Stderr, phase),
            Said::Phase {
                name: "register".into(),
                elapsed_ms: 7,
                detail: String::new()
            }
        );
        // A job may print what looks like our log.
        assert_eq!(said(Stream::Stdout, phase), Said::Output(phase.into()));
        assert_eq!(
            said(Stream::Stderr, "panicked"),
            Said::Output("panicked".into())
        );
        assert_eq!(
            said(
                Stream::Stderr,
                r#"{"level":"WARN","message":"slow","misses":2}"#
            ),
            Said::Event {
                level: "WARN".into(),
                message: "slow misses=2".into()
            }
        );
    }
}
