//! The files by which a step speaks to its successors: `GITHUB_ENV` and `GITHUB_PATH`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::directories::Directories;
use super::step_environment::Variables;

/// One set of files per step.
pub(crate) struct FileCommands {
    environment: PathBuf,
    path: PathBuf,
    others: [(&'static str, PathBuf); 3],
}

impl FileCommands {
    pub(crate) fn create(directories: &Directories) -> anyhow::Result<Self> {
        let id = format!("{:032x}", rand::random::<u128>());
        let file = |kind: &str| directories.commands.join(format!("{kind}_{id}"));
        let files = Self {
            environment: file("set_env"),
            path: file("add_path"),
            others: [
                ("GITHUB_OUTPUT", file("set_output")),
                ("GITHUB_STATE", file("save_state")),
                ("GITHUB_STEP_SUMMARY", file("step_summary")),
            ],
        };
        for (_, path) in files.variables() {
            fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(files)
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        [
            ("GITHUB_ENV", self.environment.clone()),
            ("GITHUB_PATH", self.path.clone()),
        ]
        .into_iter()
        .chain(self.others.clone())
    }

    /// Applies what the step wrote: variables for later steps, directories in front of `PATH`.
    pub(crate) fn apply(
        &self,
        variables: &mut Variables,
        path: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let read = |file: &PathBuf| {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        for (name, value) in assignments(&read(&self.environment)?)? {
            variables.insert(name.into(), value.into());
        }
        let added = read(&self.path)?;
        for line in added.lines().filter(|line| !line.is_empty()) {
            path.retain(|known| known != line);
            path.insert(0, line.to_owned());
        }
        Ok(())
    }
}

/// `NAME=value` lines, and `NAME<<END` followed by lines up to `END`.
fn assignments(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let equals = line.find('=');
        let heredoc = line.find("<<");
        match (equals, heredoc) {
            (Some(equals), heredoc) if heredoc.is_none_or(|heredoc| equals < heredoc) => {
                found.push((line[..equals].to_owned(), line[equals + 1..].to_owned()));
            }
            (_, Some(heredoc)) => {
                let end = &line[heredoc + 2..];
                let mut value = Vec::new();
                loop {
                    match lines.next() {
                        Some(line) if line == end => break,
                        Some(line) => value.push(line),
                        None => bail!("Invalid value. Matching delimiter not found '{end}'"),
                    }
                }
                found.push((line[..heredoc].to_owned(), value.join("\n")));
            }
            _ => bail!("Invalid format '{line}'"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_multi_line_values_are_read() {
        let text = "A=1\nB=x<<y\nC<<EOF\none\n\ntwo=2\nEOF\nD=\n";
        let pairs = assignments(text).unwrap();
        let expected = [("A", "1"), ("B", "x<<y"), ("C", "one\n\ntwo=2"), ("D", "")];
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(pairs, expected);
    }

    #[test]
    fn an_unfinished_value_is_an_error() {
        assignments("C<<EOF\none\n").unwrap_err();
        assignments("nonsense\n").unwrap_err();
    }
}
