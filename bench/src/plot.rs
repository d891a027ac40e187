//! What a plot shows, apart from how it is drawn.

use serde::{Deserialize, Serialize};

use crate::results::{Compared, Outcome, Unit};
use crate::stats::Summary;

/// A plot and the sentence that says what it means.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plot {
    /// Begins with the section's name; names the file of the plot in the record.
    pub name: String,
    pub title: String,
    pub meaning: String,
    pub unit: Unit,
    pub drawn: Drawn,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drawn {
    Bars(Vec<Group>),
    Lines(Lines),
}

/// Bars with a heading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    pub heading: String,
    pub bars: Vec<Bar>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bar {
    pub name: String,
    pub label: String,
    pub summary: Summary,
}

/// How a cost grows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lines {
    pub x_label: String,
    pub x: Scale,
    pub y: Scale,
    pub series: Vec<Series>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Begins at zero.
    Linear,
    /// Values above zero only.
    Log,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// `ours`, a peer's name, or [`LIMIT`].
    pub name: String,
    pub label: String,
    pub points: Vec<(f64, Summary)>,
}

/// Name of the series that is calculated and not measured: what physics allows.
pub const LIMIT: &str = "limit";

impl Plot {
    /// Bars for each comparison, below the comparison's own heading.
    pub fn bars<'c>(
        (name, title, meaning): (&str, &str, &str),
        comparisons: impl IntoIterator<Item = (&'c str, &'c Compared)>,
    ) -> Self {
        let mut unit = Unit::Ms;
        let groups = comparisons.into_iter().map(|(heading, compared)| {
            unit = compared.unit;
            let outcomes = std::iter::once(&compared.ours).chain(&compared.peers);
            Group {
                heading: heading.into(),
                bars: outcomes.filter_map(bar).collect(),
            }
        });
        let drawn = Drawn::Bars(groups.collect());
        Self {
            name: name.into(),
            title: title.into(),
            meaning: meaning.into(),
            unit,
            drawn,
        }
    }

    /// A line for each contender over the comparisons' `x`.
    pub fn lines<'c>(
        (name, title, meaning): (&str, &str, &str),
        (x_label, x, y): (&str, Scale, Scale),
        comparisons: impl IntoIterator<Item = (f64, &'c Compared)>,
    ) -> Self {
        let mut unit = Unit::Ms;
        let mut series: Vec<Series> = Vec::new();
        for (x, compared) in comparisons {
            unit = compared.unit;
            for outcome in std::iter::once(&compared.ours).chain(&compared.peers) {
                if let Some(summary) = outcome.summary() {
                    add_point(&mut series, outcome, (x, summary));
                }
            }
        }
        Self {
            name: name.into(),
            title: title.into(),
            meaning: meaning.into(),
            unit,
            drawn: Drawn::Lines(Lines {
                x_label: x_label.into(),
                x,
                y,
                series,
            }),
        }
    }

    /// Adds the line that nobody can get below: calculated, and drawn so.
    pub fn limit(mut self, label: &str, points: &[(f64, f64)]) -> Self {
        if let Drawn::Lines(lines) = &mut self.drawn {
            let exact = |&(x, y): &(f64, f64)| (x, Summary::exact(y));
            lines.series.push(Series {
                name: LIMIT.into(),
                label: label.into(),
                points: points.iter().map(exact).collect(),
            });
        }
        self
    }

    /// Nothing was measured for it, or not enough for a line.
    pub fn is_empty(&self) -> bool {
        match &self.drawn {
            Drawn::Bars(groups) => groups.iter().all(|group| group.bars.is_empty()),
            Drawn::Lines(lines) => {
                let measured = |series: &Series| series.name != LIMIT && series.points.len() > 1;
                !lines.series.iter().any(measured)
            }
        }
    }
}

fn bar(outcome: &Outcome) -> Option<Bar> {
    Some(Bar {
        name: outcome.name.clone(),
        label: outcome.label.clone(),
        summary: outcome.summary()?,
    })
}

fn add_point(series: &mut Vec<Series>, outcome: &Outcome, point: (f64, Summary)) {
    match series.iter_mut().find(|one| one.name == outcome.name) {
        Some(one) => one.points.push(point),
        None => series.push(Series {
            name: outcome.name.clone(),
            label: outcome.label.clone(),
            points: vec![point],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::section;

    #[test]
    fn a_line_has_a_point_for_each_comparison_that_its_contender_ran_in() {
        let one = section(&[1.0], &[2.0]).comparisons.remove(0);
        let other = section(&[3.0], &[4.0]).comparisons.remove(0);
        let axes = ("files", Scale::Log, Scale::Linear);
        let plot = Plot::lines(("x_l", "", ""), axes, [(10.0, &one), (20.0, &other)]);
        let Drawn::Lines(lines) = &plot.drawn else {
            panic!("{plot:?}");
        };
        let names: Vec<_> = lines.series.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["ours", "plain_shell"]);
        assert_eq!(lines.series[1].points[1], (20.0, Summary::exact(4.0)));
    }

    #[test]
    fn a_plot_of_one_point_or_of_the_limit_alone_is_empty() {
        let axes = ("files", Scale::Linear, Scale::Linear);
        let plot = Plot::lines(("x_l", "", ""), axes, []).limit("light", &[(1.0, 1.0)]);
        assert!(plot.is_empty());
        let one = section(&[1.0], &[2.0]).comparisons.remove(0);
        let plot = |xs: &[f64]| {
            let points = xs.iter().map(|x| (*x, &one));
            Plot::lines(("x_l", "", ""), axes, points)
        };
        assert!(plot(&[1.0]).is_empty() && !plot(&[1.0, 2.0]).is_empty());
    }
}
