//! What a run has measured: the one thing that the page, the flat report, the record and the check
//! are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plot::Plot;
use crate::stats::Summary;

/// What is counted. Always a cost: less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Ms,
    Bytes,
    /// Instructions that the processor retires, counted by callgrind.
    Instructions,
    /// Requests, files, processes.
    Count,
}

impl Unit {
    /// How a figure's name ends.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::Bytes => "bytes",
            Self::Instructions => "instructions",
            Self::Count => "count",
        }
    }

    /// A figure as people read it.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Ms if value >= 10_000.0 => format!("{} s", short(value / 1000.0)),
            Self::Ms => format!("{} ms", short(value)),
            Self::Bytes if value >= 1_048_576.0 => format!("{} MiB", short(value / 1_048_576.0)),
            Self::Bytes => format!("{} KiB", short(value / 1024.0)),
            Self::Instructions if value >= 1e6 => format!("{} M", short(value / 1e6)),
            Self::Count if value.fract() == 0.0 => format!("{value:.0}"),
            Self::Instructions | Self::Count => short(value),
        }
    }
}

/// Three significant digits, without an exponent.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A ratio as people read it: to its second digit, however small it is.
pub fn ratio_text(ratio: f64) -> String {
    match ratio {
        small if small > 0.0 && small < 0.000_95 => format!("{small:.5}"),
        small if small > 0.0 && small < 0.009_5 => format!("{small:.4}"),
        _ => format!("{ratio:.3}"),
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// In one line: processor, memory, kernel.
    pub machine: String,
    pub date: String,
    pub sections: Vec<SectionResults>,
}

/// A section and everything that it measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SectionResults {
    pub name: String,
    pub title: String,
    pub seconds: f64,
    pub comparisons: Vec<Compared>,
    pub figures: Vec<Figure>,
    pub plots: Vec<Plot>,
    /// Why the section ended early.
    pub failed: Option<String>,
}

/// Contenders that did the same work in alternating rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    pub name: String,
    /// The work, in words.
    pub what: String,
    pub unit: Unit,
    pub ours: Outcome,
    pub peers: Vec<Outcome>,
}

/// What one contender came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    /// As its users call it, with the settings that it ran with.
    pub label: String,
    #[serde(flatten)]
    pub state: State,
    /// The ratio of ours to this peer that is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Samples(Vec<f64>),
    /// Why there are none; never an estimate.
    NotRun(String),
}

/// A value that one look gives: a size, a count.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub what: String,
    pub unit: Unit,
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<f64>,
}

impl Outcome {
    pub fn samples(&self) -> Option<&[f64]> {
        match &self.state {
            State::Samples(samples) => Some(samples),
            State::NotRun(_) => None,
        }
    }

    pub fn summary(&self) -> Option<Summary> {
        Summary::of(self.samples()?)
    }
}

impl Compared {
    /// Ours divided by the peer.
    pub fn ratio(&self, peer: &Outcome) -> Option<Summary> {
        Summary::ratio(self.ours.samples()?, peer.samples()?)
    }

    pub fn ratio_name(&self, peer: &Outcome) -> String {
        format!("{}_vs_{}_ratio", self.name, peer.name)
    }
}

/// A figure with its spread, and how far it may go before a promise is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    pub summary: Summary,
    pub kind: Kind,
    pub promised: Option<f64>,
}

/// What a figure is worth on another machine or another day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours divided by a peer's, in one run.
    Ratio,
    /// Depends on the program only.
    Exact(Unit),
    /// Depends on the machine: shown, not compared.
    Absolute,
}

impl SectionResults {
    /// Every figure by its name in the report.
    pub fn values(&self) -> BTreeMap<String, Value> {
        let mut values = BTreeMap::new();
        for compared in &self.comparisons {
            compared_values(compared, &mut values);
        }
        for figure in &self.figures {
            let value = Value {
                summary: Summary::exact(figure.value),
                kind: kind(figure.unit),
                promised: figure.promised,
            };
            values.insert(format!("{}_{}", figure.name, figure.unit.suffix()), value);
        }
        values
    }
}

fn kind(unit: Unit) -> Kind {
    match unit {
        Unit::Ms => Kind::Absolute,
        Unit::Bytes | Unit::Instructions | Unit::Count => Kind::Exact(unit),
    }
}

fn compared_values(compared: &Compared, values: &mut BTreeMap<String, Value>) {
    let (name, unit) = (&compared.name, compared.unit.suffix());
    for outcome in std::iter::once(&compared.ours).chain(&compared.peers) {
        if let Some(summary) = outcome.summary() {
            let value = Value {
                summary,
                kind: Kind::Absolute,
                promised: None,
            };
            values.insert(format!("{name}_{}_{unit}", outcome.name), value);
        }
    }
    for peer in &compared.peers {
        if let Some(summary) = compared.ratio(peer) {
            let value = Value {
                summary,
                kind: Kind::Ratio,
                promised: peer.promised,
            };
            values.insert(compared.ratio_name(peer), value);
        }
    }
}

impl Results {
    /// The flat report: name → number. A measured figure has its quartiles beside it.
    pub fn flat(&self) -> BTreeMap<String, f64> {
        let mut flat = BTreeMap::new();
        for (name, value) in self.sections.iter().flat_map(SectionResults::values) {
            let Summary { low, median, high } = value.summary;
            if low < high {
                flat.insert(format!("{name}_low"), low);
                flat.insert(format!("{name}_high"), high);
            }
            flat.insert(name, median);
        }
        flat
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn outcome(name: &str, state: State) -> Outcome {
        Outcome {
            name: name.into(),
            label: name.into(),
            state,
            promised: None,
        }
    }

    /// A section `x` with one comparison of `ours` with `peer`, one peer that cannot run, and a
    /// size.
    pub(crate) fn section(ours: &[f64], peer: &[f64]) -> SectionResults {
        let compared = Compared {
            name: "x_start".into(),
            what: "a start".into(),
            unit: Unit::Ms,
            ours: outcome("ours", State::Samples(ours.into())),
            peers: vec![
                outcome("plain_shell", State::Samples(peer.into())),
                outcome("absent", State::NotRun("no such package".into())),
            ],
        };
        let figure = Figure {
            name: "x_binary".into(),
            what: "the binary".into(),
            unit: Unit::Bytes,
            value: 4096.0,
            promised: None,
        };
        SectionResults {
            name: "x".into(),
            title: "X".into(),
            seconds: 1.0,
            comparisons: vec![compared],
            figures: vec![figure],
            ..SectionResults::default()
        }
    }

    pub(crate) fn results(section: SectionResults) -> Results {
        Results {
            machine: "a machine".into(),
            date: "2026-01-01".into(),
            sections: vec![section],
        }
    }

    #[test]
    fn names_say_the_work_the_contender_and_the_unit_and_ratios_say_against_what() {
        let flat = results(section(&[10.0], &[20.0])).flat();
        let names: Vec<&str> = flat.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "x_binary_bytes",
                "x_start_ours_ms",
                "x_start_plain_shell_ms",
                "x_start_vs_plain_shell_ratio",
            ]
        );
        assert_eq!(flat["x_start_vs_plain_shell_ratio"], 0.5);
    }

    #[test]
    fn a_figure_with_a_spread_has_its_quartiles_beside_it() {
        let flat = results(section(
            &[1.0, 2.0, 3.0, 4.0, 5.0],
            &[1.0, 1.0, 1.0, 1.0, 1.0],
        ))
        .flat();
        assert_eq!(
            (
                flat["x_start_ours_ms_low"],
                flat["x_start_ours_ms"],
                flat["x_start_ours_ms_high"]
            ),
            (2.0, 3.0, 4.0)
        );
    }

    #[test]
    fn what_did_not_run_has_no_number() {
        let flat = results(section(&[1.0], &[1.0])).flat();
        assert!(flat.keys().all(|name| !name.contains("absent")), "{flat:?}");
    }

    #[test]
    fn results_survive_being_written_and_read() {
        let before = results(section(&[1.0, 2.0], &[3.0, 4.0]));
        let text = serde_json::to_string(&before).unwrap();
        let after: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(after.flat(), before.flat());
    }

    #[test]
    fn figures_are_read_with_three_digits_in_the_unit_that_suits_them() {
        assert_eq!(Unit::Ms.text(12_345.0), "12.3 s");
        assert_eq!(Unit::Ms.text(9_876.0), "9876 ms");
        assert_eq!(Unit::Ms.text(0.5), "0.50 ms");
        assert_eq!(Unit::Bytes.text(3.0 * 1_048_576.0), "3.00 MiB");
        assert_eq!(Unit::Instructions.text(12_500_000.0), "12.5 M");
        assert_eq!(Unit::Count.text(0.0), "0");
        assert_eq!(ratio_text(0.0004), "0.00040");
        assert_eq!(ratio_text(1.25), "1.250");
    }
}
