//! The command line with the real parser's quirks (actions/runner `CommandLineParser.cs`,
//! `CommandSettings.cs`).
//!
//! Anything can also come as `ACTIONS_RUNNER_INPUT_<NAME>`; the command line wins. A value that
//! starts with `-` is no value, the first of two wins, and an unknown option is only warned of.

use std::collections::BTreeMap;

use crate::environment::Environment;
use crate::terminal::Terminal;

const OPTIONS: [&str; 12] = [
    "auth",
    "jitconfig",
    "labels",
    "monitorsocketaddress",
    "name",
    "pat",
    "runnergroup",
    "startuptype",
    "token",
    "url",
    "username",
    "work",
];
const FLAGS: [&str; 12] = [
    "check",
    "commit",
    "disableupdate",
    "ephemeral",
    "generateserviceconfig",
    "help",
    "local",
    "no-default-labels",
    "once",
    "replace",
    "unattended",
    "version",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Configure,
    Remove,
    Run,
    Version,
    Help,
}

pub(crate) struct Arguments {
    pub(crate) command: Command,
    /// Option or flag name to its value; a flag's is `true`.
    given: BTreeMap<String, String>,
    unknown: Vec<String>,
}

impl Arguments {
    pub(crate) fn parse(words: &[String], environment: &mut Environment) -> Self {
        let inputs = environment.take_prefixed("ACTIONS_RUNNER_INPUT_");
        let mut given = BTreeMap::new();
        let mut commands = Vec::new();
        let mut unknown = Vec::new();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                commands.push(word.to_ascii_lowercase());
                continue;
            };
            let name = name.to_ascii_lowercase();
            let value = words.next_if(|next| !next.starts_with('-')).cloned();
            if !OPTIONS.contains(&name.as_str()) && !FLAGS.contains(&name.as_str()) {
                unknown.push(name);
                continue;
            }
            let value = value.unwrap_or_else(|| "true".to_owned());
            given.entry(name).or_insert(value);
        }
        for (name, value) in inputs {
            if !value.is_empty() {
                given.entry(name).or_insert(value);
            }
        }
        let flag = |name: &str| given.get(name).is_some_and(|value| is_true(value));
        let command = match commands.first().map(String::as_str) {
            _ if flag("version") => Command::Version,
            _ if flag("help") => Command::Help,
            Some("configure") => Command::Configure,
            Some("remove") => Command::Remove,
            Some("run") => Command::Run,
            Some(other) => {
                unknown.push(other.to_owned());
                Command::Help
            }
            None => Command::Help,
        };
        Self {
            command,
            given,
            unknown,
        }
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.option(name).is_some_and(is_true)
    }

    pub(crate) fn warn_of_unknown(&self, terminal: &Terminal) {
        if self.unknown.is_empty() {
            return;
        }
        let command = format!("{:?}", self.command).to_ascii_lowercase();
        terminal.error(&format!(
            "Unrecognized command-line input arguments for command {command}: '{}'. \
             For usage refer to: .\\config.cmd --help or ./config.sh --help",
            self.unknown.join(", ")
        ));
    }
}

/// .NET's `bool`: `true` in any case, and not `1`.
fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Arguments {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut environment = Environment::inherited();
        environment.take_prefixed("ACTIONS_RUNNER_INPUT_");
        environment.set("ACTIONS_RUNNER_INPUT_NAME", "from-input");
        environment.set("ACTIONS_RUNNER_INPUT_EPHEMERAL", "1");
        Arguments::parse(&words, &mut environment)
    }

    #[test]
    fn the_command_line_wins_over_inputs_and_the_first_over_the_second() {
        let arguments = parse(&["configure", "--name", "a", "--name", "b", "--unattended"]);
        assert_eq!(arguments.command, Command::Configure);
        assert_eq!(arguments.option("name"), Some("a"));
        assert!(arguments.flag("unattended"));
        assert_eq!(parse(&["run"]).option("name"), Some("from-input"));
    }

    #[test]
    fn a_flag_by_input_needs_the_word_true() {
        assert!(!parse(&["configure"]).flag("ephemeral"));
        assert!(parse(&["configure", "--ephemeral"]).flag("ephemeral"));
    }

    #[test]
    fn a_mistyped_option_is_remembered_and_does_nothing() {
        let arguments = parse(&["configure", "--ephemerl", "--url", "http://x/o/r"]);
        assert_eq!(arguments.unknown, ["ephemerl"]);
        assert_eq!(arguments.option("url"), Some("http://x/o/r"));
    }

    #[test]
    fn a_value_that_starts_with_a_dash_is_no_value() {
        let arguments = parse(&["configure", "--work", "--replace"]);
        assert_eq!(arguments.option("work"), Some("true"));
        assert!(arguments.flag("replace"));
    }
}
