//! The sections, in the order in which they run.

use anyhow::Result;

use crate::bench::Bench;

/// A part of the benchmark that can be run alone.
#[derive(Debug)]
pub struct Section {
    /// What `ONLY` and the figures' names begin with.
    pub name: &'static str,
    pub title: &'static str,
    pub run: fn(&mut Bench<'_>) -> Result<()>,
}

/// Together at most 20 minutes on two cores, without `FULL`: cache 9, golden 3, dindd 5, supervisor 1,
/// task 1.5, sizes and instructions half of one.
pub const SECTIONS: &[Section] = &[
    crate::cache::SECTION,
    crate::golden::SECTION,
    crate::dindd::SECTION,
    crate::supervisor::SECTION,
    crate::task::SECTION,
    crate::size::SECTION,
    crate::hot::SECTION,
];
