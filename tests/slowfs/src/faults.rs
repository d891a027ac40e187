//! What a store does in place of what it should.

use std::str::FromStr;

use rustix::io::Errno;

use crate::operations::Operation;

/// The errors that a store answers when something is wrong with it.
const ERRORS: [(&str, Errno); 7] = [
    ("EACCES", Errno::ACCESS),
    ("EDQUOT", Errno::DQUOT),
    ("EIO", Errno::IO),
    ("ENOSPC", Errno::NOSPC),
    ("EROFS", Errno::ROFS),
    ("ESTALE", Errno::STALE),
    ("ETIMEDOUT", Errno::TIMEDOUT),
];

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not carried out, and this is the answer.
    Fails(Errno),
    /// It is carried out, and the answer is an error.
    Lost,
    /// There is never an answer.
    Hangs,
}

/// Which requests have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    operations: Vec<Operation>,
    fault: Fault,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (which, what) = text.split_once('=').ok_or("it must be REQUEST=FAULT")?;
        let operations: Vec<Operation> = Operation::ALL
            .into_iter()
            .filter(|operation| match which {
                "all" => true,
                "changes" => operation.changes(),
                name => operation.name() == name,
            })
            .collect();
        if operations.is_empty() {
            return Err(format!("\"{which}\" is no request, nor all, nor changes"));
        }
        let error = ERRORS.iter().find(|(name, _)| *name == what);
        let fault = match (what, error) {
            ("lost", _) => Fault::Lost,
            ("hang", _) => Fault::Hangs,
            (_, Some((_, errno))) => Fault::Fails(*errno),
            (_, None) => {
                let names = ERRORS.map(|(name, _)| name).join(", ");
                return Err(format!("\"{what}\" must be one of {names}, lost, hang"));
            }
        };
        Ok(Self { operations, fault })
    }
}

/// The faults of a store. Of several rules for a request the last one counts.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Rule>);

impl Faults {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    pub(crate) fn of(&self, operation: Operation) -> Option<Fault> {
        let mut rules = self.0.iter().rev();
        let rule = rules.find(|rule| rule.operations.contains(&operation));
        rule.map(|rule| rule.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_for_a_request_counts() {
        let rules = ["all=EIO", "changes=hang", "link=lost"];
        let faults = Faults::new(rules.map(|rule| rule.parse().unwrap()).into());
        assert_eq!(faults.of(Operation::Read), Some(Fault::Fails(Errno::IO)));
        assert_eq!(faults.of(Operation::Write), Some(Fault::Hangs));
        assert_eq!(faults.of(Operation::Link), Some(Fault::Lost));
        assert_eq!(Faults::default().of(Operation::Link), None);
    }

    #[test]
    fn what_is_no_request_or_no_fault_is_refused() {
        for text in ["read", "=EIO", "opendir=EIO", "read=", "read=EPERM"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
