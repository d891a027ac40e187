//! The figures of record in `docs/benchmarks/`: a file for each section, the plots, a page of them,
//! and the lines of the README.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::results::{Results, SectionResults, State, Value, ratio_text};
use crate::svg;

const BEGIN: &str = "<!-- figures: written by make bench-record -->";
const END: &str = "<!-- /figures -->";

/// The figures that the README shows: the ratio's name, and what it says.
const HEADLINES: [(&str, &str); 4] = [
    (
        "cache_restore_40k_1ms_vs_rsync_a_ratio",
        "tool cache of 40,000 files restored from a store with 1 ms latency, against `rsync -a`",
    ),
    (
        "golden_3_bring_vs_mirror_ratio",
        "three golden images attached to a task, against pulling them through a mirror on the same \
         host",
    ),
    (
        "dindd_start_1_vs_entrypoint_tcp_ratio",
        "Docker sidecar, container start to first container run, against the official \
         Docker-in-Docker entrypoint with its TCP port",
    ),
    (
        "task_start_warm_vs_shell_ratio",
        "whole task, start to the job's first step, against a shell entrypoint",
    ),
];

/// One section's record.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    machine: String,
    date: String,
    section: SectionResults,
}

/// Writes the record of what `results` has; the other sections' stay.
pub(crate) fn write(results: &Results, folder: &Path, readme: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for section in &results.sections {
        ensure!(
            section.failed.is_none(),
            "the section {} did not end well; nothing of it becomes a record",
            section.name
        );
    }
    for section in &results.sections {
        write_section(results, section, folder)?;
    }
    let records = read(folder)?;
    put(&folder.join("README.md"), &page(&records))?;
    let text = fs::read_to_string(readme).with_context(|| format!("read {}", readme.display()))?;
    put(readme, &with_headlines(&text, &records)?)
}

fn write_section(results: &Results, section: &SectionResults, folder: &Path) -> Result<()> {
    let record = Record {
        machine: results.machine.clone(),
        date: results.date.clone(),
        section: section.clone(),
    };
    let text = serde_json::to_string_pretty(&record)? + "\n";
    put(&folder.join(format!("{}.json", section.name)), &text)?;
    for plot in &section.plots {
        put(
            &folder.join(format!("{}.svg", plot.name)),
            &svg::file(plot)?,
        )?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn read(folder: &Path) -> Result<Vec<Record>> {
    let mut names: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    names.retain(|path| path.extension().is_some_and(|end| end == "json"));
    names.sort();
    names
        .iter()
        .map(|path| {
            let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
        })
        .collect()
}

/// Every figure of record by its name.
pub(crate) fn values(folder: &Path) -> Result<BTreeMap<String, Value>> {
    let records = read(folder)?;
    Ok(records
        .iter()
        .flat_map(|one| one.section.values())
        .collect())
}

/// The README with the lines between the two marks replaced.
fn with_headlines(readme: &str, records: &[Record]) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.context("the README has no place for the figures")?;
    Ok(format!(
        "{before}{BEGIN}\n{}{END}{after}",
        headlines(records)
    ))
}

fn headlines(records: &[Record]) -> String {
    let mut rows = String::new();
    for (name, what) in HEADLINES {
        let found = records
            .iter()
            .find_map(|record| Some((record, *record.section.values().get(name)?)));
        if let Some((_, value)) = found {
            rows.push_str(&format!("| {what} | {} |\n", times(value.summary.median)));
        }
    }
    let Some(first) = records.first().filter(|_| !rows.is_empty()) else {
        return String::new();
    };
    format!(
        "## Measured\n\n| | |\n|---|---|\n{rows}\nSide by side on one machine ({}; {}): \
         [all figures](docs/benchmarks/README.md), [how](bench/README.md).\n",
        first.machine, first.date
    )
}

/// A ratio of costs in words.
fn times(ratio: f64) -> String {
    if ratio < 0.95 {
        format!("{:.1} times faster", 1.0 / ratio)
    } else if ratio > 1.05 {
        format!("{ratio:.2} times as long")
    } else {
        "as fast".into()
    }
}

/// `docs/benchmarks/README.md`.
fn page(records: &[Record]) -> String {
    let mut text = String::from(
        "# Figures of record\n\n\
         Written by `make bench-record`; [how they are measured](../../bench/README.md). Figures are \
         medians with their quartiles. They are costs, and a ratio is ours divided by the peer's: \
         less is better. `make bench-check` measures again and fails when a ratio, a size or a \
         count of instructions got worse than here by more than the noise.\n",
    );
    for record in records {
        let section = &record.section;
        text.push_str(&format!(
            "\n## {}\n\nOn {}; {}.\n",
            section.title, record.machine, record.date
        ));
        for plot in &section.plots {
            text.push_str(&format!(
                "\n![{}]({}.svg)\n\n{}\n",
                plot.title, plot.name, plot.meaning
            ));
        }
        text.push_str(&tables(section));
    }
    text
}

fn tables(section: &SectionResults) -> String {
    let mut text = String::new();
    if !section.figures.is_empty() {
        text.push_str("\n| | |\n|---|--:|\n");
        for figure in &section.figures {
            let value = figure.unit.text(figure.value);
            text.push_str(&format!("| {} | {value} |\n", figure.what));
        }
    }
    for compared in &section.comparisons {
        let head = &compared.what;
        text.push_str(&format!(
            "\n| {head} | median | quartiles | rounds | ours ÷ this |\n|---|--:|--:|--:|--:|\n"
        ));
        for outcome in std::iter::once(&compared.ours).chain(&compared.peers) {
            let label = &outcome.label;
            if let State::NotRun(reason) = &outcome.state {
                text.push_str(&format!("| {label} | not run: {reason} | | | |\n"));
            }
            let Some(summary) = outcome.summary() else {
                continue;
            };
            let unit = compared.unit;
            let ratio = compared
                .ratio(outcome)
                .filter(|_| outcome.name != compared.ours.name);
            text.push_str(&format!(
                "| {label} | {} | {} – {} | {} | {} |\n",
                unit.text(summary.median),
                unit.text(summary.low),
                unit.text(summary.high),
                outcome.samples().map_or(0, <[f64]>::len),
                ratio.map(|one| ratio_text(one.median)).unwrap_or_default(),
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{results, section};

    fn checkout() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn a_record_that_is_written_is_read_again_beside_those_of_other_sections() {
        let folder = tempfile::tempdir().unwrap();
        let readme = folder.path().join("README");
        fs::write(&readme, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        let records = folder.path().join("records");
        let one = results(section(&[1.0], &[2.0]));
        write(&one, &records, &readme).unwrap();
        let mut other = one.clone();
        other.sections[0].name = "other".into();
        other.sections[0].comparisons.clear();
        other.sections[0].figures[0].name = "other_size".into();
        write(&other, &records, &readme).unwrap();
        let names: Vec<_> = values(&records).unwrap().into_keys().collect();
        assert!(names.contains(&"other_size_bytes".to_owned()), "{names:?}");
        assert!(
            names.contains(&"x_start_vs_plain_shell_ratio".to_owned()),
            "{names:?}"
        );
        let text = fs::read_to_string(&readme).unwrap();
        assert_eq!(text, format!("before\n{BEGIN}\n{END}\nafter\n"));
    }

    #[test]
    fn a_section_that_failed_is_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut failed = section(&[1.0], &[2.0]);
        failed.failed = Some("broken".into());
        let readme = folder.path().join("README");
        let error = write(&results(failed), folder.path(), &readme).unwrap_err();
        assert!(format!("{error}").contains("did not end well"), "{error}");
    }

    #[test]
    fn ratios_are_told_in_words() {
        assert_eq!(times(0.25), "4.0 times faster");
        assert_eq!(times(1.01), "as fast");
        assert_eq!(times(1.2), "1.20 times as long");
    }

    #[test]
    fn the_readme_shows_the_figures_of_record_and_no_others() {
        let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
        let records = read(&checkout().join("docs/benchmarks")).unwrap();
        assert_eq!(with_headlines(&readme, &records).unwrap(), readme);
    }
}
