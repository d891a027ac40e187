//! Settings: declared once in a table, read once, all mistakes reported together.
//!
//! Owns the rules that hold for every setting of both binaries: a flag beats the variable of the
//! same name, an empty variable counts as unset, an alias is the same setting, a secret comes from
//! a variable or a file and never from a flag's value (argv is public). Does not know any setting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ArgMatches;

mod flags;
pub use flags::{parse, showing, with_flags};

/// A setting: the environment variable `name`, the flag `--flag`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// The long flag, without its dashes. A secret's flag takes the path of a file that holds it.
    pub flag: &'static str,
    /// Variables that mean the same, in the order of their precedence.
    pub aliases: &'static [&'static str],
    /// What is used when nothing was given.
    pub default: Option<&'static str>,
    /// Whether the value must never be shown; `NAME_FILE` is understood then.
    pub secret: bool,
    /// What the value is, in capitals, for `--help`.
    pub value: &'static str,
    /// One sentence for `--help` and the README.
    pub help: &'static str,
}

/// A value that must never be shown: no `Debug`, no `Display`.
#[derive(Clone, PartialEq, Eq)]
#[expect(
    missing_debug_implementations,
    reason = "a secret must not be printable"
)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value at the moment at which it enters the process.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the one place that must send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A copy of the environment; an empty variable is not in it.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that reads it"
        )]
        let variables = std::env::vars_os();
        variables.collect()
    }

    /// The value of a variable that is set and not empty, if it is UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str())
    }

    /// All variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OsString)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
        Self(
            set.filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
        )
    }
}

/// Everything that is wrong with the settings, for one message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "wrong setting, nothing was started: {only}"),
            all => {
                write!(f, "{} wrong settings, nothing was started:", all.len())?;
                all.iter().try_for_each(|one| write!(f, "\n  {one}"))
            }
        }
    }
}

/// What was given, and what was found to be wrong with it so far.
#[derive(Debug)]
pub struct Given<'a> {
    settings: &'a [Setting],
    flags: &'a ArgMatches,
    environment: &'a Environment,
    mistakes: Mistakes,
}

impl<'a> Given<'a> {
    /// Looks at flags and environment. A variable that starts with one of `families` and is no
    /// setting is a mistake, and so is one that looks like a misspelt setting; `foreign` names
    /// variables that look so and belong to somebody else.
    #[must_use]
    pub fn new(
        settings: &'a [Setting],
        flags: &'a ArgMatches,
        environment: &'a Environment,
        (families, foreign): (&[&str], &[&str]),
    ) -> Self {
        let mut given = Self {
            settings,
            flags,
            environment,
            mistakes: Mistakes::default(),
        };
        given.report_unknown(families, foreign);
        given
    }

    /// Whether the setting was given by flag, variable, alias or file; its default does not count.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        let setting = self.setting(name);
        self.flag(name).is_some()
            || self.file_of(setting).is_some()
            || std::iter::once(&setting.name)
                .chain(setting.aliases)
                .any(|variable| self.environment.0.contains_key(*variable))
    }

    /// The setting's text, or its default.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let setting = *self.setting(name);
        self.flag(name)
            .or_else(|| self.variable(&setting))
            .or_else(|| setting.default.map(str::to_owned))
    }

    /// The setting as a `T`. The error of `T::from_str` completes "must be …".
    pub fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(expected) => {
                self.mistake(
                    name,
                    &format!("\"{text}\" is not valid; it must be {expected}"),
                );
                None
            }
        }
    }

    /// A secret, from its variable or from the file that `NAME_FILE` or its flag names.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        let setting = *self.setting(name);
        let value = self.variable(&setting);
        let Some(path) = self.file_of(&setting) else {
            return value.map(Secret);
        };
        if value.is_some() {
            self.mistake(
                name,
                &format!("also given as {name}_FILE; give only one of them"),
            );
        }
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {
                self.mistake(
                    &format!("{name}_FILE"),
                    &format!("the file {path} is empty"),
                );
                None
            }
            Ok(text) => Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                let told = format!("cannot read the file {path}: {error}");
                self.mistake(&format!("{name}_FILE"), &told);
                None
            }
        }
    }

    /// Records that a setting is wrong and what to do about it.
    pub fn mistake(&mut self, name: &str, remedy: &str) {
        self.mistakes.0.push(format!("{name}: {remedy}"));
    }

    /// The end of reading.
    ///
    /// # Errors
    /// All mistakes that were recorded.
    pub fn finish(self) -> Result<(), Mistakes> {
        if self.mistakes.0.is_empty() {
            Ok(())
        } else {
            Err(self.mistakes)
        }
    }

    fn setting(&self, name: &str) -> &'a Setting {
        let found = self.settings.iter().find(|setting| setting.name == name);
        found.unwrap_or_else(|| unreachable!("{name} is not in the table of settings"))
    }

    fn flag(&self, name: &str) -> Option<String> {
        let setting = self.setting(name);
        let text: Option<&String> = self.flags.get_one(setting.name);
        text.filter(|_| !setting.secret).cloned()
    }

    /// The file that a secret comes from, if it comes from one.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.file_of(self.setting(name)).map(PathBuf::from)
    }

    fn file_of(&self, setting: &Setting) -> Option<String> {
        if !setting.secret {
            return None;
        }
        let flag: Option<&String> = self.flags.get_one(setting.name);
        let names = std::iter::once(&setting.name).chain(setting.aliases);
        flag.cloned().or_else(|| {
            names
                .filter_map(|name| self.environment.get(&format!("{name}_FILE")))
                .next()
                .map(str::to_owned)
        })
    }

    /// The variable or an alias of it. Two of them that differ contradict each other.
    fn variable(&mut self, setting: &Setting) -> Option<String> {
        let mut found: Option<(&str, String)> = None;
        for name in std::iter::once(&setting.name).chain(setting.aliases) {
            let Some(value) = self.environment.0.get(*name) else {
                continue;
            };
            let Some(value) = value.to_str() else {
                self.mistake(name, "is not valid UTF-8");
                continue;
            };
            match &found {
                None => found = Some((name, value.to_owned())),
                Some((first, other)) if other != value => {
                    let remedy = format!("contradicts {first}, which means the same; set one");
                    self.mistake(name, &remedy);
                }
                Some(_) => {}
            }
        }
        found.map(|(_, value)| value)
    }

    fn report_unknown(&mut self, families: &[&str], foreign: &[&str]) {
        let known: Vec<String> = self.settings.iter().flat_map(names_of).collect();
        for (name, _) in self.environment.iter() {
            if known.iter().any(|one| one == name) || foreign.contains(&name) {
                continue;
            }
            let ours = families.iter().any(|family| name.starts_with(family));
            match known.iter().find(|one| looks_like(name, one)) {
                Some(like) => self
                    .mistakes
                    .0
                    .push(format!("{name}: no such setting; did you mean {like}?")),
                _ if ours => self.mistakes.0.push(format!(
                    "{name}: no such setting; see --help for those that exist"
                )),
                _ => {}
            }
        }
    }
}

fn names_of(setting: &Setting) -> Vec<String> {
    let names = std::iter::once(&setting.name).chain(setting.aliases);
    names
        .flat_map(|name| {
            let file = setting.secret.then(|| format!("{name}_FILE"));
            std::iter::once((*name).to_owned()).chain(file)
        })
        .collect()
}

/// Whether `name` is `setting` with a slip: one in four letters of what follows the first word,
/// which many names share, at the most.
fn looks_like(name: &str, setting: &str) -> bool {
    let Some((_, own)) = name.split_once('_') else {
        return false;
    };
    let slips = own.len() / 4;
    // The distance costs more than all else at a start, and lengths alone rule most names out.
    name.len().abs_diff(setting.len()) <= slips && strsim::osa_distance(name, setting) <= slips
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    pub(super) const TABLE: &[Setting] = &[
        Setting {
            name: "DEMO_PORT",
            flag: "port",
            aliases: &["PORT_OF_OLD"],
            default: Some("80"),
            secret: false,
            value: "N",
            help: "A port.",
        },
        Setting {
            name: "DEMO_TOKEN",
            flag: "token-file",
            aliases: &[],
            default: None,
            secret: true,
            value: "TOKEN",
            help: "A token.",
        },
    ];

    fn given<T>(
        arguments: &[&str],
        variables: &[(&str, &str)],
        read: impl FnOnce(&mut Given<'_>) -> T,
    ) -> (T, Result<(), String>) {
        let command = with_flags(Command::new("demo"), TABLE);
        let flags = command
            .try_get_matches_from(std::iter::once(&"demo").chain(arguments))
            .unwrap();
        let environment = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        let mut given = Given::new(TABLE, &flags, &environment, (&["DEMO_"], &["DEMO_FOREIGN"]));
        let value = read(&mut given);
        (
            value,
            given.finish().map_err(|mistakes| mistakes.to_string()),
        )
    }

    fn port(given: &mut Given<'_>) -> Option<u16> {
        given.parsed("DEMO_PORT")
    }

    #[test]
    fn a_flag_beats_the_variable_which_beats_the_alias_which_beats_the_default() {
        let variable = ("DEMO_PORT", "2");
        for (arguments, variables, expected) in [
            (&["--port", "1"][..], &[variable][..], 1),
            (&[], &[variable, ("PORT_OF_OLD", "2")], 2),
            (&[], &[("PORT_OF_OLD", "3")], 3),
            (&[], &[("DEMO_PORT", "")], 80),
            (&[], &[("DEMO_FOREIGN", "x")], 80),
        ] {
            let (value, mistakes) = given(arguments, variables, port);
            assert_eq!((value, mistakes), (Some(expected), Ok(())), "{variables:?}");
        }
    }

    #[test]
    fn every_mistake_is_reported_in_one_message() {
        let variables = [
            ("DEMO_PORT", "none"),
            ("DEMO_PROT", "1"),
            ("DEMO_OTHER", "1"),
        ];
        let (_, mistakes) = given(&[], &variables, port);
        assert_eq!(
            mistakes.unwrap_err(),
            "3 wrong settings, nothing was started:\
             \n  DEMO_OTHER: no such setting; see --help for those that exist\
             \n  DEMO_PROT: no such setting; did you mean DEMO_PORT?\
             \n  DEMO_PORT: \"none\" is not valid; it must be invalid digit found in string"
        );
    }

    #[test]
    fn a_name_looks_like_a_setting_when_few_of_its_own_letters_differ() {
        for (name, setting, alike) in [
            ("RUNNER_LABLES", "RUNNER_LABELS", true),
            ("RUNNER_HOMES", "RUNNER_HOME", true),
            ("RUNNER_REGISTRASHON", "RUNNER_REGISTRATION", true),
            ("RUNNER_ROLE", "RUNNER_HOME", false),
            ("RUNNER_HOST", "RUNNER_HOME", false),
            ("LABEL", "LABELS", false),
        ] {
            assert_eq!(looks_like(name, setting), alike, "{name}");
        }
    }

    #[test]
    fn a_variable_and_its_alias_that_differ_contradict_each_other() {
        let (_, mistakes) = given(&[], &[("DEMO_PORT", "1"), ("PORT_OF_OLD", "2")], port);
        assert!(
            mistakes
                .unwrap_err()
                .contains("PORT_OF_OLD: contradicts DEMO_PORT")
        );
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_final_newline() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"hush\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        for (arguments, variables) in [
            (vec!["--token-file", &path], vec![]),
            (vec![], vec![("DEMO_TOKEN_FILE", path.as_str())]),
        ] {
            let (secret, mistakes) =
                given(&arguments, &variables, |given| given.secret("DEMO_TOKEN"));
            assert_eq!(mistakes, Ok(()));
            assert_eq!(
                secret.map(|secret| secret.expose().to_owned()).as_deref(),
                Some("hush")
            );
        }
    }

    #[test]
    fn a_secret_given_twice_or_from_a_file_that_is_not_there_is_a_mistake() {
        let variables = [("DEMO_TOKEN", "a"), ("DEMO_TOKEN_FILE", "/nowhere/token")];
        let (_, mistakes) = given(&[], &variables, |given| {
            given.secret("DEMO_TOKEN").is_some()
        });
        let text = mistakes.unwrap_err();
        assert!(text.contains("give only one of them"), "{text}");
        assert!(
            text.contains("DEMO_TOKEN_FILE: cannot read the file /nowhere/token"),
            "{text}"
        );
    }
}
