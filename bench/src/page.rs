//! The page: self-contained, light and dark, for a phone as well.

use crate::plot::Plot;
use crate::results::{Compared, Outcome, Results, SectionResults, State, ratio_text};
use crate::svg::{self, escape};

use anyhow::Result;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(crate) fn html(results: &Results) -> Result<String> {
    let mut sections = String::new();
    for section in &results.sections {
        sections.push_str(&self::section(section, &results.machine)?);
    }
    let contents: String = results
        .sections
        .iter()
        .map(|one| format!("<a href=\"#{}\">{}</a>", one.name, escape(&one.title)))
        .collect();
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Benchmarks</title>\n<style>{STYLE}{}</style></head><body><main>\n\
         <h1>Benchmarks</h1>\n\
         <p>What this project costs, beside what one would use instead: the same work, in one run, \
         in alternating rounds. A figure is the median, its spread the quartiles. Every figure is a \
         cost, and a ratio is ours divided by the peer&#39;s: less is better, and below 1 ours is \
         ahead.</p>\n\
         <p class=\"quiet\">{}; {}</p>\n<nav>{contents}</nav>\n{sections}</main></body></html>\n",
        svg::style(),
        escape(&results.machine),
        escape(&results.date),
    ))
}

fn section(section: &SectionResults, machine: &str) -> Result<String> {
    let mut text = format!(
        "<section id=\"{}\"><h2>{}</h2>\n",
        section.name,
        escape(&section.title)
    );
    if let Some(error) = &section.failed {
        text.push_str(&format!(
            "<p class=\"bad\">Ended early: {}</p>\n",
            escape(error)
        ));
    }
    text.push_str("<div class=\"plots\">");
    for plot in &section.plots {
        text.push_str(&figure(plot, machine)?);
    }
    text.push_str("</div>\n");
    text.push_str(&single_figures(section));
    let tables: String = section.comparisons.iter().map(comparison).collect();
    if !tables.is_empty() {
        text.push_str(&format!(
            "<details><summary>All figures</summary>{tables}</details>\n"
        ));
    }
    text.push_str(&not_run(section));
    text.push_str("</section>\n");
    Ok(text)
}

fn figure(plot: &Plot, machine: &str) -> Result<String> {
    Ok(format!(
        "<figure><h3>{}</h3>{}<figcaption>{} <span class=\"quiet\">Measured on {}.</span>\
         </figcaption></figure>\n",
        escape(&plot.title),
        svg::element(plot)?,
        escape(&plot.meaning),
        escape(machine),
    ))
}

fn single_figures(section: &SectionResults) -> String {
    let rows: String = section
        .figures
        .iter()
        .map(|figure| {
            let promised = figure
                .promised
                .map(|most| verdict(figure.value <= most, &figure.unit.text(most)));
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&figure.what),
                figure.unit.text(figure.value),
                promised.unwrap_or_default(),
            )
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"wide\"><table><tr><th></th><th>measured</th><th>promised</th></tr>{rows}\
         </table></div>\n"
    )
}

fn comparison(compared: &Compared) -> String {
    let rows: String = std::iter::once(&compared.ours)
        .chain(&compared.peers)
        .map(|outcome| outcome_row(compared, outcome))
        .collect();
    format!(
        "<h4>{}</h4>\
         <div class=\"wide\"><table><tr><th></th><th>median</th><th>quartiles</th><th>rounds</th>\
         <th>ours ÷ this</th><th>promised</th></tr>{rows}</table></div>\n",
        escape(&compared.what),
    )
}

fn outcome_row(compared: &Compared, outcome: &Outcome) -> String {
    let Some(summary) = outcome.summary() else {
        return format!(
            "<tr><td>{}</td><td colspan=\"5\">not run</td></tr>",
            escape(&outcome.label)
        );
    };
    let unit = compared.unit;
    let ratio = compared
        .ratio(outcome)
        .filter(|_| outcome.name != compared.ours.name);
    let promised = outcome
        .promised
        .zip(ratio)
        .map(|(most, ratio)| verdict(ratio.median <= most, &ratio_text(most)));
    format!(
        "<tr><td>{}</td><td>{}</td><td>{} – {}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        escape(&outcome.label),
        unit.text(summary.median),
        unit.text(summary.low),
        unit.text(summary.high),
        outcome.samples().map_or(0, <[f64]>::len),
        ratio.map(|one| ratio_text(one.median)).unwrap_or_default(),
        promised.unwrap_or_default(),
    )
}

fn verdict(holds: bool, most: &str) -> String {
    let (class, word) = if holds {
        ("good", "holds")
    } else {
        ("bad", "broken")
    };
    format!("at most {most}: <b class=\"{class}\">{word}</b>")
}

fn not_run(section: &SectionResults) -> String {
    let mut items = Vec::new();
    for outcome in section.comparisons.iter().flat_map(|one| &one.peers) {
        if let State::NotRun(reason) = &outcome.state {
            let item = format!("<li>{}: {}</li>", escape(&outcome.label), escape(reason));
            if !items.contains(&item) {
                items.push(item);
            }
        }
    }
    if items.is_empty() {
        return String::new();
    }
    format!("<h3>Not run</h3><ul>{}</ul>\n", items.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{results, section};

    #[test]
    fn the_page_is_self_contained_and_lists_who_did_not_run_and_why() {
        let page = html(&results(section(&[1.0], &[2.0]))).unwrap();
        assert!(page.contains("absent: no such package"), "{page}");
        assert!(page.contains("prefers-color-scheme"), "{page}");
        for outside in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_plot_says_on_what_machine_it_was_measured() {
        let mut section = section(&[1.0], &[2.0]);
        let plot = Plot::bars(
            ("x_p", "title", "It means."),
            [("work", &section.comparisons[0])],
        );
        section.plots.push(plot);
        let page = html(&results(section)).unwrap();
        assert!(
            page.contains("It means. <span class=\"quiet\">Measured on a machine."),
            "{page}"
        );
    }

    #[test]
    fn the_page_says_how_many_rounds_a_comparison_had() {
        let page = html(&results(section(&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]))).unwrap();
        assert!(
            page.contains("<td>2.00 ms – 2.00 ms</td><td>3</td>"),
            "{page}"
        );
    }

    #[test]
    fn a_broken_promise_is_shown_as_broken() {
        let mut section = section(&[3.0], &[2.0]);
        section.comparisons[0].peers[0].promised = Some(1.15);
        let page = html(&results(section)).unwrap();
        assert!(
            page.contains("at most 1.150: <b class=\"bad\">broken"),
            "{page}"
        );
    }
}
