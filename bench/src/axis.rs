//! An axis of a plot: linear or logarithmic, marked where it helps to read it.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::plot::Scale;
use crate::results::{Unit, short};

/// What the marks of an axis say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text {
    Cost(Unit),
    Number,
}

#[derive(Clone, Debug)]
pub(crate) struct Axis {
    scale: Scale,
    range: Range<f64>,
    marks: Vec<f64>,
    text: Text,
}

impl Axis {
    /// For costs: from zero, or a power of ten, with round marks.
    pub(crate) fn of_costs(scale: Scale, unit: Unit, values: &[f64]) -> Self {
        let (range, marks) = match scale {
            Scale::Linear => linear(values),
            Scale::Log => log(values),
        };
        Self {
            scale,
            range,
            marks,
            text: Text::Cost(unit),
        }
    }

    /// For what the costs depend on: marked where something was measured.
    pub(crate) fn of_measured(scale: Scale, values: &[f64]) -> Self {
        let mut marks = values.to_vec();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        let first = marks.first().copied().unwrap_or(0.0);
        let last = marks.last().copied().unwrap_or(1.0);
        let range = match scale {
            Scale::Linear => {
                let room = ((last - first) * 0.05).max(f64::EPSILON);
                first - room..last + room
            }
            Scale::Log => first * 0.85..last * 1.18,
        };
        Self {
            scale,
            range,
            marks,
            text: Text::Number,
        }
    }

    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10(),
        }
    }
}

fn linear(values: &[f64]) -> (Range<f64>, Vec<f64>) {
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let step = nice_step(most);
    let marks = (0..=10).map(|n| f64::from(n) * step);
    (0.0..most, marks.filter(|mark| *mark <= most).collect())
}

/// 1, 2 or 5 times a power of ten: three to ten of them reach `most`.
fn nice_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 3.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|factor| factor * power);
    let fits = |step: &f64| most / step >= 3.0;
    steps.into_iter().find(fits).unwrap_or(power)
}

fn log(values: &[f64]) -> (Range<f64>, Vec<f64>) {
    let positive = || values.iter().copied().filter(|value| *value > 0.0);
    let least = positive().fold(f64::INFINITY, f64::min).log10().floor();
    let most = positive().fold(0.0, f64::max).log10().ceil();
    let mut power = if least.is_finite() { least } else { 0.0 };
    let last = most.max(power + 1.0);
    let range = 10f64.powf(power)..10f64.powf(last);
    let mut marks = Vec::new();
    while power <= last {
        marks.push(10f64.powf(power));
        power += 1.0;
    }
    (range, marks)
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let (begin, end) = (self.place(self.range.start), self.place(self.range.end));
        let share = (self.place(*value) - begin) / (end - begin);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a place in a plot of some hundred units"
        )]
        let place = (f64::from(to - from) * share.clamp(0.0, 1.0)).round() as i32;
        from + place
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        match self.text {
            Text::Cost(_) if *value == 0.0 => "0".into(),
            Text::Cost(Unit::Ms) if self.scale == Scale::Linear && self.range.end >= 5000.0 => {
                format!("{} s", round(value / 1000.0))
            }
            Text::Cost(Unit::Ms) if *value >= 1000.0 => format!("{} s", round(value / 1000.0)),
            Text::Cost(unit) => {
                let text = unit.text(*value);
                let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
                let number = number.parse().map_or_else(|_| number.into(), round);
                format!("{number} {unit}").trim_end().to_owned()
            }
            Text::Number => number(*value),
        }
    }
}

/// Without zeros at the end: marks are round.
fn round(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 160000 as `160k`.
fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{}k", (value / 1000.0).round())
    } else if (value - value.round()).abs() < 1e-6 {
        format!("{value:.0}")
    } else {
        short(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_zero_and_holds_all_values() {
        let axis = Axis::of_costs(Scale::Linear, Unit::Ms, &[3.0, 47.0]);
        assert!(axis.range.start == 0.0 && axis.range.end > 47.0);
        assert_eq!(axis.marks, [0.0, 10.0, 20.0, 30.0, 40.0]);
    }

    #[test]
    fn a_logarithmic_axis_goes_from_power_of_ten_to_power_of_ten() {
        let axis = Axis::of_costs(Scale::Log, Unit::Ms, &[3.0, 4700.0]);
        assert_eq!(axis.marks, [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(axis.map(&100.0, (0, 400)), 200);
    }

    #[test]
    fn the_marks_of_an_axis_are_round_and_in_one_unit_when_it_is_linear() {
        let axis = Axis::of_costs(Scale::Linear, Unit::Ms, &[17_000.0]);
        let marks: Vec<_> = axis
            .marks
            .iter()
            .map(|mark| axis.format_ext(mark))
            .collect();
        assert_eq!(marks, ["0", "5 s", "10 s", "15 s"]);
        let axis = Axis::of_costs(Scale::Log, Unit::Ms, &[70.0, 1700.0]);
        let marks: Vec<_> = axis
            .marks
            .iter()
            .map(|mark| axis.format_ext(mark))
            .collect();
        assert_eq!(marks, ["10 ms", "100 ms", "1 s", "10 s"]);
    }

    #[test]
    fn values_that_were_measured_are_marked_with_short_numbers() {
        let axis = Axis::of_measured(Scale::Log, &[160_000.0, 10_000.0, 10_000.0]);
        assert_eq!(axis.marks, [10_000.0, 160_000.0]);
        assert_eq!(axis.format_ext(&160_000.0), "160k");
        assert_eq!((number(0.5), number(3.0)), ("0.50".into(), "3".into()));
    }
}
