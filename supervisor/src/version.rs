//! Whether GitHub still takes this version of the runner, and for how long.
//!
//! Source: GitHub changelog 2026-09-03, "runners/deprecations" endpoints. What GitHub does not
//! tell is unknown, and unknown is no reason to refuse.

use jiff::civil::Date;

use crate::github::Deprecations;

/// From here on every task warns.
const WARN_DAYS: i32 = 14;

/// What GitHub says about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    Unknown,
    /// Days left.
    Until(i32),
    Over(Date),
}

/// The earlier of the two dates decides: what cannot register cannot run.
pub(crate) fn support(deprecations: Option<&Deprecations>, today: Date) -> Support {
    let dates = deprecations.into_iter().flat_map(|known| {
        [
            &known.runtime_deprecates_at,
            &known.registration_deprecates_at,
        ]
        .into_iter()
        .flatten()
        // A date, or a time whose date is enough.
        .filter_map(|text| text.get(..10)?.parse::<Date>().ok())
    });
    match dates.min() {
        None => Support::Unknown,
        Some(date) if date <= today => Support::Over(date),
        Some(date) => Support::Until(today.until(date).map_or(i32::MAX, |span| span.get_days())),
    }
}

/// Today, as GitHub counts.
pub(crate) fn today() -> Date {
    jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
}

impl Support {
    pub(crate) fn is_short(self) -> bool {
        matches!(self, Self::Until(days) if days <= WARN_DAYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_date_decides_and_the_unknown_is_no_reason_to_refuse() {
        let today: Date = "2026-11-21".parse().unwrap();
        for (runtime, registration, expected) in [
            (None, None, Support::Unknown),
            (Some("soon"), None, Support::Unknown),
            (Some("2026-12-01"), None, Support::Until(10)),
            (Some("2026-12-01T00:00:00Z"), None, Support::Until(10)),
            (Some("2027-01-01"), Some("2026-11-22"), Support::Until(1)),
            (Some("2026-11-21"), None, Support::Over(today)),
            (
                Some("2026-11-05"),
                None,
                Support::Over("2026-11-05".parse().unwrap()),
            ),
        ] {
            let deprecations = Deprecations {
                runtime_deprecates_at: runtime.map(str::to_owned),
                registration_deprecates_at: registration.map(str::to_owned),
            };
            assert_eq!(
                support(Some(&deprecations), today),
                expected,
                "{deprecations:?}"
            );
        }
        assert_eq!(support(None, today), Support::Unknown);
        assert!(Support::Until(14).is_short() && !Support::Until(15).is_short());
    }
}
