//! The command line's side of the settings: a flag for each, and what `--help` shows of them.

use clap::{Arg, ArgMatches, Command};

use super::Setting;
use crate::exit_code;

impl Setting {
    fn flag(&self) -> Arg {
        let value = if self.secret { "FILE" } else { self.value };
        Arg::new(self.name)
            .long(self.flag)
            .value_name(value)
            .global(true)
    }

    fn help(&self) -> String {
        let mut help = format!("{} [env: {}", self.help, self.name);
        if self.secret {
            help += &format!(" or {}_FILE", self.name);
        }
        if !self.aliases.is_empty() {
            help += &format!(", alias {}", self.aliases.join(", "));
        }
        help += "]";
        if let Some(default) = self.default {
            help += &format!(" [default: {default}]");
        }
        help
    }
}

/// Adds the settings' flags to a command; they may stand before or after a subcommand.
#[must_use]
pub fn with_flags(command: Command, settings: &[Setting]) -> Command {
    command.args(
        settings
            .iter()
            .map(|setting| setting.flag().help(setting.help())),
    )
}

/// Lets the help of a subcommand, and of those below it, show only the settings that concern it. The
/// flags of the others are understood all the same: a task's arguments fit every command.
///
/// # Panics
/// When `shown` names something that is not in the table.
#[must_use]
pub fn showing(command: Command, settings: &[Setting], shown: &[&str]) -> Command {
    for name in shown {
        assert!(
            settings.iter().any(|setting| setting.name == *name),
            "{name} is not in the table of settings"
        );
    }
    let others = settings
        .iter()
        .filter(|setting| !shown.contains(&setting.name));
    command.args(others.map(|setting| setting.flag().hide(true)))
}

/// Parses the command line. `Err` is the code to exit with: 0 after `--help`, else 64.
///
/// # Errors
/// When the process should end at once; what there was to say has been printed.
pub fn parse(command: Command) -> Result<ArgMatches, u8> {
    command.try_get_matches().map_err(|error| {
        // A closed terminal is no reason for another exit code.
        error.print().ok();
        if error.use_stderr() {
            exit_code::USAGE
        } else {
            exit_code::DONE
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::TABLE;
    use super::*;

    #[test]
    fn a_subcommand_shows_the_settings_that_concern_it_and_understands_all() {
        let below = Command::new("part").subcommand(Command::new("piece"));
        let part = showing(below, TABLE, &["DEMO_PORT"]);
        let mut command = with_flags(Command::new("demo").subcommand(part), TABLE);
        for words in [&["part"][..], &["part", "piece"]] {
            let asked = [&["demo"], words, &["--help"]].concat();
            let help = command.try_get_matches_from_mut(asked).unwrap_err();
            let help = help.to_string();
            assert!(
                help.contains("--port") && !help.contains("--token"),
                "{help}"
            );
            let given = [&["demo"], words, &["--token-file", "x"]].concat();
            let flags = command.try_get_matches_from_mut(given).unwrap();
            assert_eq!(
                flags.get_one::<String>("DEMO_TOKEN").map(String::as_str),
                Some("x")
            );
        }
    }
}
