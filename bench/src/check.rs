//! What got worse than its record by more than the noise, and which promises are broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::results::{Kind, Unit, Value};

/// A ratio that grew by less is not worse: so much two runs of the same programs differ.
const RATIO_TOLERANCE: f64 = 1.20;
/// File systems give room in larger pieces than what is measured.
const ROOM: f64 = 256.0 * 1024.0;

/// Why a check fails.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    Worse {
        name: String,
        was: f64,
        is: f64,
    },
    Broken {
        name: String,
        promised: f64,
        is: f64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worse { name, was, is } => {
                write!(f, "{name} got worse: {was:.3} in the record, {is:.3} now")
            }
            Self::Broken { name, promised, is } => {
                write!(
                    f,
                    "{name} breaks its promise: {promised:.3} at most, {is:.3} now"
                )
            }
        }
    }
}

/// Compares the figures that both have, and the promises of those measured now. Milliseconds are
/// not compared: they say more about the machine than about the program.
pub(crate) fn findings(
    now: &BTreeMap<String, Value>,
    record: &BTreeMap<String, Value>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lost = lost_against_all(now, record);
    for (name, value) in now {
        let fair = value.kind != Kind::Ratio || lost.contains(comparison(name));
        if let Some(was) = record.get(name).filter(|was| fair && worse(value, was)) {
            findings.push(Finding::Worse {
                name: name.clone(),
                was: was.summary.median,
                is: value.summary.median,
            });
        }
        // With all but the best quarter of the rounds beyond it, it is not the noise.
        if let Some(promised) = value.promised.filter(|most| value.summary.low > *most) {
            findings.push(Finding::Broken {
                name: name.clone(),
                promised,
                is: value.summary.median,
            });
        }
    }
    findings
}

/// The comparisons whose every ratio got worse. Where only one did, its peer was slow when the record
/// was made: ours would have lost against the others as well.
fn lost_against_all<'a>(
    now: &'a BTreeMap<String, Value>,
    record: &BTreeMap<String, Value>,
) -> BTreeSet<&'a str> {
    let mut lost: BTreeMap<&str, bool> = BTreeMap::new();
    for (name, value) in now.iter().filter(|(_, value)| value.kind == Kind::Ratio) {
        if let Some(was) = record.get(name) {
            *lost.entry(comparison(name)).or_insert(true) &= worse(value, was);
        }
    }
    lost.retain(|_, lost| *lost);
    lost.into_keys().collect()
}

/// What a ratio's name begins with.
fn comparison(ratio: &str) -> &str {
    ratio.rsplit_once("_vs_").map_or(ratio, |(name, _)| name)
}

fn worse(now: &Value, was: &Value) -> bool {
    let (is, before) = (now.summary, was.summary);
    let grown = |tolerance: f64| is.median > before.median * tolerance;
    match now.kind {
        Kind::Absolute => false,
        Kind::Exact(Unit::Bytes) => {
            grown(tolerance(Unit::Bytes)) && is.median > before.median + ROOM
        }
        Kind::Exact(unit) => grown(tolerance(unit)),
        // Half of the rounds of each side lie between its quartiles: these must not even touch.
        Kind::Ratio => grown(RATIO_TOLERANCE) && is.low > before.high,
    }
}

fn tolerance(unit: Unit) -> f64 {
    match unit {
        // Addresses and hash seeds differ from run to run.
        Unit::Instructions => 1.03,
        Unit::Count => 1.02,
        Unit::Bytes | Unit::Ms => 1.10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::section;
    use crate::stats::Summary;

    fn check(now: Value, was: Value) -> Vec<Finding> {
        let one = |value| BTreeMap::from([("x_y".to_owned(), value)]);
        findings(&one(now), &one(was))
    }

    fn value(kind: Kind, low: f64, median: f64, high: f64) -> Value {
        Value {
            summary: Summary { low, median, high },
            kind,
            promised: None,
        }
    }

    #[test]
    fn a_ratio_is_worse_when_the_quartiles_part_and_it_grew_by_a_fifth() {
        let was = value(Kind::Ratio, 0.9, 1.0, 1.1);
        assert_eq!(check(value(Kind::Ratio, 1.0, 1.5, 2.0), was), [], "overlap");
        let steady = value(Kind::Ratio, 1.0, 1.0, 1.0);
        assert_eq!(
            check(value(Kind::Ratio, 1.14, 1.15, 1.16), steady),
            [],
            "small"
        );
        let [Finding::Worse { name, was, is }] = &check(value(Kind::Ratio, 1.2, 1.3, 1.4), was)[..]
        else {
            panic!("a worse ratio was not found");
        };
        assert_eq!((name.as_str(), *was, *is), ("x_y", 1.0, 1.3));
    }

    #[test]
    fn a_comparison_is_worse_when_ours_lost_against_every_peer() {
        let ratios = |of: [f64; 3]| -> BTreeMap<String, Value> {
            let names = ["x_y_vs_a_ratio", "x_y_vs_b_ratio", "x_z_vs_a_ratio"];
            let values = of.map(|ratio| value(Kind::Ratio, ratio, ratio, ratio));
            names.map(str::to_owned).into_iter().zip(values).collect()
        };
        let was = ratios([1.0, 1.0, 1.0]);
        assert_eq!(findings(&ratios([2.0, 1.0, 1.0]), &was), []);
        let both = findings(&ratios([2.0, 2.0, 1.0]), &was);
        assert_eq!(both.len(), 2, "{both:?}");
    }

    #[test]
    fn a_better_figure_is_no_finding() {
        let was = value(Kind::Ratio, 0.9, 1.0, 1.1);
        assert_eq!(check(value(Kind::Ratio, 0.1, 0.2, 0.3), was), []);
    }

    #[test]
    fn instructions_may_grow_by_three_percent_and_bytes_by_ten() {
        let exact = |unit, value| Value {
            summary: Summary::exact(value),
            kind: Kind::Exact(unit),
            promised: None,
        };
        let found = |unit, was, is| check(exact(unit, is), exact(unit, was)).len();
        let mib = |count: f64| count * 1_048_576.0;
        for (unit, was, is, worse) in [
            (Unit::Instructions, 100.0, 102.0, 0),
            (Unit::Instructions, 100.0, 104.0, 1),
            (Unit::Bytes, mib(10.0), mib(10.9), 0),
            (Unit::Bytes, mib(10.0), mib(11.1), 1),
            // A piece of room more or less.
            (Unit::Bytes, mib(0.1), mib(0.3), 0),
        ] {
            assert_eq!(found(unit, was, is), worse, "{unit:?}: {was}, {is}");
        }
    }

    #[test]
    fn milliseconds_are_not_compared() {
        let was = value(Kind::Absolute, 1.0, 1.0, 1.0);
        assert_eq!(check(value(Kind::Absolute, 9.0, 9.0, 9.0), was), []);
    }

    #[test]
    fn a_promise_is_broken_without_a_record_too() {
        let mut section = section(&[3.0, 3.0], &[2.0, 2.0]);
        section.comparisons[0].peers[0].promised = Some(1.15);
        let [Finding::Broken { name, promised, is }] =
            &findings(&section.values(), &BTreeMap::new())[..]
        else {
            panic!("a broken promise was not found");
        };
        assert_eq!(
            (name.as_str(), *promised, *is),
            ("x_start_vs_plain_shell_ratio", 1.15, 1.5)
        );
    }
}
