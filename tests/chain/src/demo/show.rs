//! What the demo prints: phases as they end, the job's output between them, a table at the end.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chain::{Line, Said};

/// How much of dockerd's log is shown when something failed.
const LAST_LINES: usize = 40;

#[derive(Debug)]
struct Row {
    who: String,
    phase: String,
    milliseconds: u128,
}

#[derive(Debug, Default)]
struct Told {
    rows: Vec<Row>,
    verified: Vec<String>,
    dockerd: Vec<String>,
}

/// Prints, and remembers what the summary needs.
#[derive(Debug, Default)]
pub(crate) struct Show {
    told: Mutex<Told>,
}

impl Show {
    pub(crate) fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A closed terminal must not keep the demo from cleaning up.
        drop(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    pub(crate) fn title(&self, text: &str) {
        self.line(&format!("\n== {text}"));
    }

    /// A phase has ended.
    pub(crate) fn phase(&self, who: &str, phase: &str, milliseconds: u128) {
        self.phase_with(who, phase, milliseconds, "");
    }

    fn phase_with(&self, who: &str, phase: &str, milliseconds: u128, detail: &str) {
        let row = row(who, phase, milliseconds);
        self.line(format!("  {row}  {detail}").trim_end());
        let (who, phase) = (who.to_owned(), phase.to_owned());
        self.told().rows.push(Row {
            who,
            phase,
            milliseconds,
        });
    }

    /// A container has said something.
    pub(crate) fn said(&self, line: &Line) {
        match &line.said {
            Said::Phase {
                name,
                elapsed_ms,
                detail,
            } => self.phase_with(line.container, name, u128::from(*elapsed_ms), detail),
            Said::Event { level, message } => {
                self.line(&format!("  {:<10} {level}: {message}", line.container));
            }
            // dockerd's own log is for those who look for a fault.
            Said::Output(text) if line.container == "dindd" => {
                self.told().dockerd.push(text.clone());
            }
            Said::Output(text) => {
                if let Some((who, text)) = told_by_runner(text) {
                    self.line(&format!("  {who:<10} │ {text}"));
                }
            }
        }
    }

    pub(crate) fn verified(&self, what: &str) {
        self.line(&format!("  verified   {what}"));
        self.told().verified.push(what.to_owned());
    }

    /// What was kept back until something went wrong.
    pub(crate) fn failure(&self) {
        let told = self.told();
        let from = told.dockerd.len().saturating_sub(LAST_LINES);
        let lines: Vec<_> = told.dockerd[from..]
            .iter()
            .map(|text| format!("  {text}"))
            .collect();
        drop(told);
        if !lines.is_empty() {
            self.title("The end of dockerd's log");
            self.line(&lines.join("\n"));
        }
    }

    pub(crate) fn summary(&self) {
        self.title("Summary");
        let told = self.told();
        let mut lines: Vec<String> = vec![format!(
            "  {:<10} {:<44} {:>10}",
            "who", "phase", "duration"
        )];
        let rows = told.rows.iter();
        lines.extend(
            rows.map(|done| format!("  {}", row(&done.who, &done.phase, done.milliseconds))),
        );
        lines.extend(
            told.verified
                .iter()
                .map(|what| format!("  verified   {what}")),
        );
        drop(told);
        self.line(&lines.join("\n"));
        self.line("");
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose line the runner printed: the listener's own or, out of its trace, one of the job's.
fn told_by_runner(line: &str) -> Option<(&'static str, &str)> {
    let Some(trace) = line.strip_prefix('[') else {
        return Some(("listener", line));
    };
    let (source, text) = trace.split_once("] ")?;
    source.ends_with(" ScriptHandler").then_some(("job", text))
}

fn row(who: &str, phase: &str, milliseconds: u128) -> String {
    let duration = if milliseconds < 1000 {
        format!("{milliseconds} ms")
    } else {
        format!("{}.{:02} s", milliseconds / 1000, milliseconds % 1000 / 10)
    };
    format!("{who:<10} {phase:<44} {duration:>10}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_runners_trace_only_the_output_of_the_job_is_shown() {
        for (line, shown) in [
            ("2026-01-01 00:00:00Z: Listening for Jobs", Some("listener")),
            (
                "[WORKER 2026-01-01 00:00:00Z INFO ScriptHandler] hello",
                Some("job"),
            ),
            (
                "[WORKER 2026-01-01 00:00:00Z INFO StepsRunner] Step done",
                None,
            ),
            (
                "[RUNNER 2026-01-01 00:00:00Z INFO Terminal] WRITE LINE: x",
                None,
            ),
        ] {
            assert_eq!(told_by_runner(line).map(|(who, _)| who), shown, "{line}");
        }
    }
}
