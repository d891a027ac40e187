//! What the values of single settings look like. Every error completes "must be …".

use std::str::FromStr;
use std::time::Duration;

/// A whole number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A week is beyond every job; more is a number in another unit.
        match text.parse() {
            Ok(seconds @ 0..=604_800) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err("a number of seconds, at most a week"),
        }
    }
}

/// `on` or `off`, with the words that other images use for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch(pub(crate) bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "1" | "yes" => Ok(Self(true)),
            "off" | "false" | "0" | "no" => Ok(Self(false)),
            _ => Err("on or off"),
        }
    }
}

/// How the runner is registered (`RUNNER_REGISTRATION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Jit,
    Config,
}

impl FromStr for Way {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "jit" => Ok(Self::Jit),
            "config" => Ok(Self::Config),
            _ => Err("jit or config"),
        }
    }
}

/// What a request to stop does to a running job (`ON_STOP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnStop {
    /// It goes on while there is time.
    Drain,
    /// It is interrupted at once.
    Cancel,
}

impl FromStr for OnStop {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "drain" => Ok(Self::Drain),
            "cancel" => Ok(Self::Cancel),
            _ => Err("drain or cancel"),
        }
    }
}

/// What may happen to the store (`CACHE_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheMode {
    ReadWrite,
    ReadOnly,
    Off,
}

impl FromStr for CacheMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "read-write" => Ok(Self::ReadWrite),
            "read-only" => Ok(Self::ReadOnly),
            "off" => Ok(Self::Off),
            _ => Err("read-write, read-only or off"),
        }
    }
}

/// Whose new tools are published (`CACHE_PUBLISH`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CachePublish {
    /// Those of jobs whose trigger cannot be another's code.
    Trusted,
    Off,
    /// Nobody's; what would have been published is logged.
    Report,
    All,
}

impl FromStr for CachePublish {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "trusted" => Ok(Self::Trusted),
            "off" => Ok(Self::Off),
            "report" => Ok(Self::Report),
            "all" => Ok(Self::All),
            _ => Err("trusted, off, report or all"),
        }
    }
}

/// Names separated by commas, without blanks around them and without empty ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl FromStr for Names {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if names.iter().any(|name| name.len() > 256) {
            return Err("a list of labels, each of at most 256 bytes");
        }
        Ok(Self(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_other_images_switch_on_and_off() {
        for (text, expected) in [
            ("on", Some(true)),
            ("True", Some(true)),
            ("1", Some(true)),
            ("off", Some(false)),
            ("no", Some(false)),
            ("maybe", None),
        ] {
            assert_eq!(
                text.parse::<Switch>().ok().map(|switch| switch.0),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn seconds_are_a_whole_number_of_at_most_a_week() {
        for (text, expected) in [
            ("0", Some(0)),
            ("604800", Some(604_800)),
            ("604801", None),
            ("1s", None),
            ("-1", None),
        ] {
            assert_eq!(
                text.parse::<Seconds>()
                    .ok()
                    .map(|seconds| seconds.0.as_secs()),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn labels_lose_their_blanks() {
        assert_eq!(
            " a, b c ,,d".parse(),
            Ok(Names(vec!["a".into(), "b c".into(), "d".into()]))
        );
    }
}
