//! Costs that were measured together with others, for a comparison of their own.

use std::cell::RefCell;

/// For each key the costs in the order in which they were measured.
#[derive(Debug)]
pub(crate) struct Along<K>(RefCell<Vec<(K, Vec<f64>)>>);

impl<K> Default for Along<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Copy + PartialEq> Along<K> {
    pub(crate) fn push(&self, key: K, cost: f64) {
        let mut all = self.0.borrow_mut();
        match all.iter_mut().find(|(of, _)| *of == key) {
            Some((_, costs)) => costs.push(cost),
            None => all.push((key, vec![cost])),
        }
    }

    /// None for whoever was not measured.
    pub(crate) fn of(&self, key: K) -> Vec<f64> {
        let all = self.0.borrow();
        let found = all.iter().find(|(of, _)| *of == key);
        found.map(|(_, costs)| costs.clone()).unwrap_or_default()
    }
}
