//! What must still happen before exit.
//!
//! A duty is recorded before the act that creates it and removed after it was performed. So a
//! signal at any await is safe, and a second signal performs the interrupted duty again: every
//! duty is idempotent.

use std::fmt;

/// A stack of duties; the last one owed is the first one performed.
#[derive(Debug)]
pub struct Owed<T: fmt::Debug> {
    duties: Vec<T>,
}

impl<T: fmt::Debug> Default for Owed<T> {
    fn default() -> Self {
        Self { duties: Vec::new() }
    }
}

impl<T: fmt::Debug> Owed<T> {
    /// Records a duty. Call it before the act that creates the duty.
    pub fn owe(&mut self, duty: T) -> &mut T {
        self.duties.push(duty);
        let last = self.duties.len() - 1;
        &mut self.duties[last]
    }

    /// The duty to perform next.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.duties.last_mut()
    }

    /// Removes the duty that was just performed.
    pub fn done(&mut self) {
        self.duties.pop();
    }

    /// Every duty that is still owed, the oldest first.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.duties.iter()
    }

    /// Every duty that is still owed, the oldest first, for duties that are performed together.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.duties.iter_mut()
    }

    /// Takes a duty back that another path has settled, the newest that matches.
    pub fn settled(&mut self, matches: impl Fn(&T) -> bool) {
        if let Some(index) = self.duties.iter().rposition(matches) {
            self.duties.remove(index);
        }
    }
}

impl<T: fmt::Debug> Drop for Owed<T> {
    fn drop(&mut self) {
        for duty in self.duties.iter().rev() {
            tracing::error!(
                ?duty,
                "left behind: this duty was not performed before exit"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duties_are_performed_in_the_reverse_of_the_order_in_which_they_were_owed() {
        let mut owed = Owed::default();
        owed.owe("remove root");
        owed.owe("unmount");
        owed.owe("stop");
        let mut performed = Vec::new();
        while let Some(duty) = owed.last_mut() {
            performed.push(*duty);
            owed.done();
        }
        assert_eq!(performed, ["stop", "unmount", "remove root"]);
    }

    #[test]
    fn a_duty_that_was_interrupted_is_still_owed() {
        let mut owed = Owed::default();
        owed.owe("deregister");
        assert_eq!(owed.last_mut().copied(), Some("deregister"));
        assert_eq!(owed.last_mut().copied(), Some("deregister"));
        owed.done();
        assert!(owed.last_mut().is_none());
    }

    #[test]
    fn duties_that_do_not_depend_on_each_other_can_be_performed_together() {
        let mut owed = Owed::default();
        owed.owe(1);
        owed.owe(2);
        let [first, second] = owed.iter_mut().collect::<Vec<_>>().try_into().unwrap();
        std::mem::swap(first, second);
        assert_eq!(owed.iter().copied().collect::<Vec<_>>(), [2, 1]);
        owed.done();
        owed.done();
    }

    #[test]
    fn a_duty_settled_by_another_path_is_taken_back_and_no_other() {
        let mut owed = Owed::default();
        owed.owe("stop");
        owed.owe("publish");
        owed.settled(|duty| *duty == "stop");
        assert_eq!(owed.iter().copied().collect::<Vec<_>>(), ["publish"]);
        owed.done();
    }
}
