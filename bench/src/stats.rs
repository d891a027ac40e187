//! The arithmetic of a measurement: median, quartiles, and the ratio of two contenders.

use serde::{Deserialize, Serialize};

/// What a set of samples comes to. `low` and `high` are the quartiles: half of the samples lie
/// between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Summary {
    /// A value that has no spread: a size, a count of instructions.
    pub fn exact(value: f64) -> Self {
        Self {
            low: value,
            median: value,
            high: value,
        }
    }

    /// `None` when there are no samples, or one of them is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        if sorted.is_empty() || sorted.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            low: quantile(&sorted, 1, 4),
            median: quantile(&sorted, 2, 4),
            high: quantile(&sorted, 3, 4),
        })
    }

    /// Ours divided by theirs, below 1 when ours costs less. The quotient is taken round by round:
    /// the rounds alternate, so what slows the machine for a while slows both sides of a quotient.
    /// In rounds that they did not take part in, their median stands for them.
    pub fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let median = Self::of(theirs)?.median;
        let theirs = theirs.iter().copied().chain(std::iter::repeat(median));
        let quotients: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        Self::of(&quotients)
    }
}

/// The `part`/`of` quantile of sorted samples, interpolated between neighbours.
fn quantile(sorted: &[f64], part: usize, of: usize) -> f64 {
    let steps = (sorted.len() - 1) * part;
    let (below, rest) = (steps / of, steps % of);
    let above = (below + 1).min(sorted.len() - 1);
    #[expect(clippy::cast_precision_loss, reason = "both are below a dozen")]
    let share = rest as f64 / of as f64;
    sorted[below] + (sorted[above] - sorted[below]) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_samples_lies_between_the_two_in_the_middle() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary.median, 2.5);
    }

    #[test]
    fn the_quartiles_of_five_samples_are_the_second_and_the_fourth() {
        let summary = Summary::of(&[50.0, 10.0, 40.0, 20.0, 30.0]).unwrap();
        assert_eq!(
            (summary.low, summary.median, summary.high),
            (20.0, 30.0, 40.0)
        );
    }

    #[test]
    fn one_outlier_moves_neither_the_median_nor_the_quartiles() {
        let calm = Summary::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(calm, Summary::of(&[1.0, 2.0, 3.0, 4.0, 500.0]));
    }

    #[test]
    fn no_samples_and_no_numbers_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn one_sample_is_its_own_median_and_quartiles() {
        assert_eq!(Summary::of(&[7.0]), Some(Summary::exact(7.0)));
    }

    #[test]
    fn a_ratio_is_ours_divided_by_theirs_in_the_same_round() {
        // The machine was ten times slower in the second round, for both.
        let ratio = Summary::ratio(&[1.0, 10.0, 1.0], &[2.0, 20.0, 2.0]).unwrap();
        assert_eq!(ratio, Summary::exact(0.5));
    }

    #[test]
    fn rounds_that_they_did_not_take_part_in_are_compared_with_their_median() {
        let ratio = Summary::ratio(&[1.0, 2.0, 3.0], &[2.0]).unwrap();
        assert_eq!((ratio.low, ratio.median, ratio.high), (0.75, 1.0, 1.25));
        assert_eq!(Summary::ratio(&[1.0], &[]), None);
    }
}
