//! The double's idea of now: the machine's clock, moved by an offset that a test sets.
//!
//! Every expiry, every `Date` header and every rule about `iat` and `exp` goes through here, so
//! that a test can put the service ten minutes away from the supervisor.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset_seconds: AtomicI64,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_secs(self.offset_seconds.load(Ordering::Relaxed));
        Timestamp::now()
            .saturating_add(offset)
            .unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn set_offset(&self, seconds: i64) {
        self.offset_seconds.store(seconds, Ordering::Relaxed);
    }
}

/// `Sat, 21 Nov 2026 09:00:00 GMT`, the form of the `Date` header.
pub(crate) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// `2026-11-21T09:00:00Z`, the form of every time in the REST API.
pub(crate) fn rest_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_moves_now() {
        let clock = Clock::default();
        clock.set_offset(600);
        let ahead = clock.now().duration_since(Timestamp::now());
        assert!(ahead > SignedDuration::from_secs(598), "{ahead}");
    }

    #[test]
    fn times_have_the_forms_of_http_and_of_the_rest_api() {
        let time = Timestamp::from_second(1_795_251_600).unwrap();
        assert_eq!(http_date(time), "Sat, 21 Nov 2026 09:00:00 GMT");
        assert_eq!(rest_time(time), "2026-11-21T09:00:00Z");
    }
}
