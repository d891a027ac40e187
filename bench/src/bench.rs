//! What a section works with: comparisons in alternating rounds, single figures, plots, progress.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::plot::Plot;
use crate::results::{Compared, Figure, Outcome, SectionResults, State, Unit, ratio_text};
use crate::selection::Selection;

/// Rounds of a comparison; a median of fewer says little.
pub(crate) const ROUNDS: usize = 5;
/// Rounds of what takes long each time.
pub(crate) const FEW: usize = 3;

/// What a contender does in a round: the whole work, set-up and clean-up included, and returns the
/// cost of the part that counts.
pub type Measure<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

enum Plan<'a> {
    Run(Measure<'a>),
    /// Measured already, together with something else.
    Measured(Vec<f64>),
    NotRun(String),
}

struct Contender<'a> {
    name: String,
    label: String,
    promised: Option<f64>,
    plan: Plan<'a>,
}

/// Contenders for the same work, to be measured side by side.
pub struct Comparison<'a> {
    name: String,
    what: String,
    unit: Unit,
    rounds: usize,
    patience: Duration,
    contenders: Vec<Contender<'a>>,
}

impl std::fmt::Debug for Comparison<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.contenders.iter().map(|one| &one.name);
        f.debug_struct("Comparison")
            .field("name", &self.name)
            .field("contenders", &names.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl<'a> Comparison<'a> {
    /// `name` begins with the section's name and is how the figures' names begin; `what` says the
    /// work in words. `ours` is this project's way, described by `label`.
    pub fn new(
        name: impl Into<String>,
        what: impl Into<String>,
        unit: Unit,
        (label, ours): (&str, Measure<'a>),
    ) -> Self {
        Self::of((name.into(), what.into()), unit).contender(("ours", label), Plan::Run(ours))
    }

    /// Of what was measured in the rounds of another comparison.
    pub(crate) fn measured(
        name: impl Into<String>,
        what: impl Into<String>,
        unit: Unit,
        (label, ours): (&str, Vec<f64>),
    ) -> Self {
        Self::of((name.into(), what.into()), unit).contender(("ours", label), Plan::Measured(ours))
    }

    fn of((name, what): (String, String), unit: Unit) -> Self {
        Self {
            name,
            what,
            unit,
            rounds: ROUNDS,
            patience: Duration::MAX,
            contenders: Vec::new(),
        }
    }

    fn contender(mut self, (name, label): (&str, &str), plan: Plan<'a>) -> Self {
        self.contenders.push(Contender {
            name: name.into(),
            label: label.into(),
            promised: None,
            plan,
        });
        self
    }

    /// What one would use instead. `label` is as its users call it, with the settings it runs with.
    pub fn peer(self, name: &str, label: &str, measure: impl FnMut() -> Result<f64> + 'a) -> Self {
        self.contender((name, label), Plan::Run(Box::new(measure)))
    }

    /// A peer that was measured in the rounds of another comparison, unless it could not run there.
    pub(crate) fn peer_measured(self, name: &str, label: &str, samples: Vec<f64>) -> Self {
        if samples.is_empty() {
            return self.not_run(name, label, "it did not run");
        }
        self.contender((name, label), Plan::Measured(samples))
    }

    /// A peer that cannot run here, and why. It is listed, and nothing is estimated for it.
    pub fn not_run(self, name: &str, label: &str, reason: &str) -> Self {
        self.contender((name, label), Plan::NotRun(reason.into()))
    }

    /// Ours costs at most `at_most` times what the peer added last costs.
    pub fn promise(mut self, at_most: f64) -> Self {
        if let Some(last) = self.contenders.last_mut() {
            last.promised = Some(at_most);
        }
        self
    }

    /// Other than five rounds: more for what is quick and noisy, fewer for what takes minutes. The
    /// page says how many.
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds.max(1);
        self
    }

    /// A peer that has taken so long altogether has had its rounds; the page says how many. Ours has
    /// all of them.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// A section under way.
#[derive(Debug)]
pub struct Bench<'a> {
    selection: &'a Selection,
    begin: Instant,
    results: SectionResults,
}

impl<'a> Bench<'a> {
    /// `begin` is when the whole run began.
    pub fn new((name, title): (&str, &str), selection: &'a Selection, begin: Instant) -> Self {
        Self {
            selection,
            begin,
            results: SectionResults {
                name: name.into(),
                title: title.into(),
                ..SectionResults::default()
            },
        }
    }

    /// Whether `name`, a comparison, a figure or what several of them begin with, is asked for: for
    /// a section that would otherwise prepare in vain.
    pub fn wants(&self, name: &str) -> bool {
        self.selection.wants(name)
    }

    /// Whether the sizes are wanted that do not fit into the everyday run.
    pub fn full(&self) -> bool {
        self.selection.full()
    }

    /// Measures the contenders in alternating rounds. `None` when `ONLY` leaves the comparison out.
    ///
    /// # Errors
    /// Our own side fails, or the run is interrupted. A peer that fails is listed as not run with
    /// its error.
    pub fn compare(&mut self, comparison: Comparison<'_>) -> Result<Option<Compared>> {
        if !self.wants(&comparison.name) {
            return Ok(None);
        }
        self.check_name(&comparison.name)?;
        let Comparison {
            name,
            what,
            unit,
            rounds,
            patience,
            mut contenders,
        } = comparison;
        self.say(&format!("{name}: {what}"));
        let samples = self.rounds((rounds, patience), unit, &mut contenders)?;
        let mut outcomes = contenders.into_iter().zip(samples).map(outcome);
        let compared = Compared {
            name,
            what,
            unit,
            ours: outcomes.next().context("a comparison without ours")?,
            peers: outcomes.collect(),
        };
        for peer in &compared.peers {
            if let Some(ratio) = compared.ratio(peer) {
                let name = compared.ratio_name(peer);
                self.say(&format!("  {name} {}", ratio_text(ratio.median)));
            }
        }
        self.results.comparisons.push(compared.clone());
        Ok(Some(compared))
    }

    fn rounds(
        &self,
        (rounds, patience): (usize, Duration),
        unit: Unit,
        contenders: &mut [Contender<'_>],
    ) -> Result<Vec<Vec<f64>>> {
        let measured = |contender: &Contender<'_>| match &contender.plan {
            Plan::Measured(samples) => samples.clone(),
            Plan::Run(_) | Plan::NotRun(_) => Vec::new(),
        };
        let mut samples: Vec<Vec<f64>> = contenders.iter().map(measured).collect();
        let mut taken = vec![Duration::ZERO; contenders.len()];
        for round in 0..rounds {
            // Each round begins with another contender: nobody always follows the same one.
            for turn in 0..contenders.len() {
                let turn = (round + turn) % contenders.len();
                let contender = &mut contenders[turn];
                let Plan::Run(measure) = &mut contender.plan else {
                    continue;
                };
                if turn != 0 && !samples[turn].is_empty() && taken[turn] >= patience {
                    continue;
                }
                let begin = Instant::now();
                let sample = measure();
                taken[turn] += begin.elapsed();
                ensure!(!testhost::interrupted(), "interrupted");
                let said = match sample {
                    Ok(sample) => {
                        samples[turn].push(sample);
                        unit.text(sample)
                    }
                    Err(error) if turn == 0 => return Err(error).context("our own side"),
                    Err(error) => {
                        contender.plan = Plan::NotRun(format!("{error:#}"));
                        format!("not run: {error:#}")
                    }
                };
                let (round, label) = (round + 1, &contender.label);
                self.say(&format!("  round {round} of {rounds}: {label}: {said}"));
            }
        }
        Ok(samples)
    }

    /// A value that one look gives, such as a size. `promised` is what it may be at most.
    ///
    /// # Errors
    /// The name does not begin with the section's.
    pub fn figure(
        &mut self,
        (name, what): (&str, &str),
        unit: Unit,
        value: f64,
        promised: Option<f64>,
    ) -> Result<()> {
        self.check_name(name)?;
        if self.wants(name) {
            self.say(&format!("{name}: {what}: {}", unit.text(value)));
            self.results.figures.push(Figure {
                name: name.into(),
                what: what.into(),
                unit,
                value,
                promised,
            });
        }
        Ok(())
    }

    /// Adds a plot to the page.
    pub fn plot(&mut self, plot: Plot) {
        if !plot.is_empty() {
            self.results.plots.push(plot);
        }
    }

    /// One line of progress, with the time since the run began.
    pub fn say(&self, text: &str) {
        let seconds = self.begin.elapsed().as_secs();
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        drop(
            std::io::stderr().write_all(format!("[{minutes:2}:{seconds:02}] {text}\n").as_bytes()),
        );
    }

    pub fn finish(mut self, outcome: Result<()>, seconds: f64) -> SectionResults {
        if let Err(error) = outcome {
            self.say(&format!("{} failed: {error:#}", self.results.name));
            self.results.failed = Some(format!("{error:#}"));
        }
        self.results.seconds = seconds;
        self.results
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let section = &self.results.name;
        ensure!(
            name.strip_prefix(section.as_str())
                .is_some_and(|rest| rest.starts_with('_')),
            "the name {name} does not begin with {section}_"
        );
        let twice = self.results.comparisons.iter().any(|one| one.name == name)
            || self.results.figures.iter().any(|one| one.name == name);
        ensure!(!twice, "the name {name} is used twice");
        Ok(())
    }
}

fn outcome((contender, samples): (Contender<'_>, Vec<f64>)) -> Outcome {
    let state = match contender.plan {
        Plan::Run(_) | Plan::Measured(_) => State::Samples(samples),
        Plan::NotRun(reason) => State::NotRun(reason),
    };
    Outcome {
        name: contender.name,
        label: contender.label,
        state,
        promised: contender.promised,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    fn bench(selection: &Selection) -> Bench<'_> {
        Bench::new(("x", "X"), selection, Instant::now())
    }

    fn ours<'a>(measure: impl FnMut() -> Result<f64> + 'a) -> (&'static str, Measure<'a>) {
        ("our way", Box::new(measure))
    }

    #[test]
    fn rounds_alternate_and_each_begins_with_another_contender() {
        let order = RefCell::new(String::new());
        let turn = |name: char| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(1.0)
            }
        };
        let comparison = Comparison::new("x_y", "work", Unit::Ms, ours(turn('o')))
            .peer("a", "A", turn('a'))
            .peer("b", "B", turn('b'));
        let all = Selection::default();
        let compared = bench(&all).compare(comparison).unwrap().unwrap();
        assert_eq!(order.into_inner(), "oababoboaoababo");
        assert_eq!(compared.ours.samples().unwrap().len(), 5);
    }

    #[test]
    fn a_peer_that_has_used_up_the_patience_has_no_more_rounds_and_ours_has_all() {
        let comparison = Comparison::new("x_y", "work", Unit::Ms, ours(|| Ok(1.0)))
            .peer("slow", "slow", || Ok(2.0))
            .patience(Duration::ZERO);
        let all = Selection::default();
        let compared = bench(&all).compare(comparison).unwrap().unwrap();
        assert_eq!(compared.ours.samples().unwrap().len(), 5);
        assert_eq!(compared.peers[0].samples().unwrap().len(), 1);
    }

    #[test]
    fn a_peer_that_fails_is_listed_as_not_run_with_its_error() {
        let comparison =
            Comparison::new("x_y", "work", Unit::Ms, ours(|| Ok(1.0)))
                .peer("a", "A", || bail!("no such program"));
        let all = Selection::default();
        let compared = bench(&all).compare(comparison).unwrap().unwrap();
        let State::NotRun(reason) = &compared.peers[0].state else {
            panic!("{compared:?}");
        };
        assert_eq!(reason, "no such program");
        assert_eq!(compared.ratio(&compared.peers[0]), None);
    }

    #[test]
    fn our_own_failure_is_an_error() {
        let comparison = Comparison::new("x_y", "work", Unit::Ms, ours(|| bail!("broken")));
        let all = Selection::default();
        let error = bench(&all).compare(comparison).unwrap_err();
        assert!(format!("{error:#}").contains("broken"), "{error:#}");
    }

    #[test]
    fn names_begin_with_the_sections_and_are_used_once() {
        let all = Selection::default();
        let mut bench = bench(&all);
        let add = |bench: &mut Bench<'_>, name| bench.figure((name, ""), Unit::Bytes, 1.0, None);
        assert!(add(&mut bench, "other").is_err());
        add(&mut bench, "x_size").unwrap();
        assert!(add(&mut bench, "x_size").is_err());
    }

    #[test]
    fn what_only_leaves_out_is_not_measured() {
        let only = Selection::of(&["x_wanted".into()], false);
        let comparison = Comparison::new("x_other", "work", Unit::Ms, ours(|| panic!("measured")));
        assert!(bench(&only).compare(comparison).unwrap().is_none());
    }
}
