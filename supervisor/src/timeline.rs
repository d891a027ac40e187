//! `supervisor timeline LOG`: the phases of a run as a picture, drawn from its log.
//!
//! Reads our JSON lines and passes over everything else, so that a container's whole log will do.
//! Names and details come from the log of a job that may be hostile: all text is escaped.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use init::exit_code;
use jiff::Timestamp;
use serde::Deserialize;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 96.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
/// A log's line is not longer; a job's may be.
const LONGEST_DETAIL: usize = 80;

#[derive(Deserialize)]
struct Line {
    timestamp: Timestamp,
    message: String,
    phase: Option<String>,
    elapsed_ms: Option<u64>,
    detail: Option<String>,
    runner: Option<String>,
    job: Option<String>,
    result: Option<String>,
    repository: Option<String>,
    exit_code: Option<u8>,
}

/// One bar; times in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bar {
    phase: String,
    begin: i64,
    end: i64,
    detail: String,
    interrupted: bool,
}

/// The last run of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Run {
    bars: Vec<Bar>,
    title: String,
    subtitle: String,
}

/// Draws the run of a log, `-` for standard input, to standard output.
pub(crate) fn run(log: &Path) -> anyhow::Result<u8> {
    let run = if log == Path::new("-") {
        read(io::stdin().lock())
    } else {
        let file = File::open(log).with_context(|| format!("cannot open {}", log.display()))?;
        read(BufReader::new(file))
    };
    let run = run.with_context(|| format!("cannot read {}", log.display()))?;
    ensure!(
        !run.bars.is_empty(),
        "{} tells of no phase; it must be the log of a supervisor with LOG_FORMAT=json",
        log.display()
    );
    io::stdout().lock().write_all(draw(&run).as_bytes())?;
    Ok(exit_code::DONE)
}

fn read(log: impl BufRead) -> io::Result<Run> {
    let mut run = Run::default();
    for line in log.split(b'\n') {
        // Job output stands between our lines, and a log driver may put something before each.
        let line = line?;
        let Some(begin) = line.iter().position(|byte| *byte == b'{') else {
            continue;
        };
        if let Ok(line) = serde_json::from_slice(&line[begin..]) {
            note(&mut run, line);
        }
    }
    run.bars.sort_by_key(|bar| (bar.begin, bar.end));
    Ok(run)
}

fn note(run: &mut Run, line: Line) {
    let end = line.timestamp.as_millisecond();
    match (line.message.as_str(), line.phase, line.elapsed_ms) {
        (message @ ("phase done" | "phase interrupted"), Some(phase), Some(elapsed)) => {
            if phase == "directories" {
                // The first phase of another run.
                *run = Run::default();
            }
            run.bars.push(Bar {
                phase,
                begin: end.saturating_sub_unsigned(elapsed),
                end,
                detail: line.detail.unwrap_or_default(),
                interrupted: message == "phase interrupted",
            });
        }
        ("summary", ..) => {
            run.title = line.runner.unwrap_or_else(|| "no runner".to_owned());
            let job = match (line.job, line.result) {
                (Some(job), Some(result)) => format!("{job}: {result}"),
                (Some(job), None) => format!("{job}: no result"),
                (None, _) => "no job".to_owned(),
            };
            let code = line.exit_code.map(|code| format!("exit code {code}"));
            let parts = [line.repository, Some(job), code];
            run.subtitle = parts
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("  ·  ");
        }
        _ => {}
    }
}

fn draw(run: &Run) -> String {
    let begin = run.bars.iter().map(|bar| bar.begin).min().unwrap_or(0);
    let end = run.bars.iter().map(|bar| bar.end).max().unwrap_or(0);
    let whole = millis(end - begin).max(1.0);
    let scale = (WIDTH - LEFT - RIGHT) / whole;
    #[expect(clippy::cast_precision_loss, reason = "a run has some twenty phases")]
    let height = TOP + ROW * run.bars.len() as f64 + 34.0;
    let mut svg = String::new();
    let mut put = |words: std::fmt::Arguments<'_>| {
        // Writing into a String cannot fail.
        writeln!(svg, "{words}").ok();
    };
    put(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">"#
    ));
    put(format_args!(
        r##"<rect width="100%" height="100%" rx="8" fill="#ffffff"/>"##
    ));
    put(format_args!(
        r#"<text x="24" y="36" font-size="18" font-weight="600">{}</text>"#,
        escaped(&run.title)
    ));
    let all = format!("{}  ·  {}", run.subtitle, duration(whole));
    put(format_args!(
        r#"<text x="24" y="58" fill="{PALE_INK}">{}</text>"#,
        escaped(&all)
    ));
    let foot = height - 28.0;
    for at in ticks(whole) {
        let x = LEFT + at * scale;
        put(format_args!(
            r##"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{foot:.1}" stroke="#e3e7ec"/><text x="{x:.1}" y="{:.1}" text-anchor="middle" fill="{PALE_INK}" font-size="11">{}</text>"##,
            TOP - 8.0,
            TOP - 14.0,
            duration(at)
        ));
    }
    let mut y = TOP;
    for bar in &run.bars {
        let x = LEFT + millis(bar.begin - begin) * scale;
        let width = (millis(bar.end - bar.begin) * scale).max(2.0);
        let middle = y + BAR - 4.0;
        let (colour, edge) = colours(bar);
        put(format_args!(
            r#"<g><title>{}</title><text x="{:.1}" y="{middle:.1}" text-anchor="end">{}</text><rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="3" fill="{colour}"{edge}/><text x="{:.1}" y="{middle:.1}" fill="{PALE_INK}" font-size="11">{}</text></g>"#,
            escaped(&format!("{}: {}", bar.phase, bar.detail)),
            LEFT - 12.0,
            escaped(&bar.phase),
            x + width + 6.0,
            duration(millis(bar.end - bar.begin)),
        ));
        y += ROW;
    }
    put(format_args!("</svg>"));
    svg
}

const INK: &str = "#1f2933";
const PALE_INK: &str = "#66727f";

/// Fill and edge: before the job, the job, after it; hollow when it was cut off.
fn colours(bar: &Bar) -> (&'static str, &'static str) {
    if bar.interrupted {
        return ("#fdecea", r##" stroke="#c8372d" stroke-dasharray="3 2""##);
    }
    let colour = match bar.phase.as_str() {
        "job" => "#2e9e5b",
        "listener-start" | "idle" => "#9fb3c8",
        "runner-stop" | "cache-publish" | "deregister" => "#e08a1e",
        _ => "#3b7dd8",
    };
    (colour, "")
}

/// Some five round moments.
fn ticks(whole: f64) -> Vec<f64> {
    let steps = [
        10.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6,
        1.44e7, 4.32e7,
    ];
    let step = steps
        .into_iter()
        .find(|step| whole / step <= 8.0)
        .unwrap_or(8.64e7);
    let mut ticks = vec![0.0];
    while let Some(last) = ticks.last()
        && last + step <= whole
        && ticks.len() < 32
    {
        ticks.push(last + step);
    }
    ticks
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a run is shorter than 2^52 milliseconds"
)]
fn millis(count: i64) -> f64 {
    count as f64
}

fn duration(millis: f64) -> String {
    let seconds = millis / 1000.0;
    if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else if seconds < 60.0 {
        let text = format!("{seconds:.1}");
        format!("{} s", text.trim_end_matches(".0"))
    } else if seconds < 3600.0 {
        format!(
            "{:.0} min {:02.0} s",
            (seconds / 60.0).floor(),
            (seconds % 60.0).floor()
        )
    } else {
        format!(
            "{:.0} h {:02.0} min",
            (seconds / 3600.0).floor(),
            (seconds % 3600.0 / 60.0).floor()
        )
    }
}

/// Text for an element's content, of a bounded length.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for (count, letter) in text.chars().enumerate() {
        if count == LONGEST_DETAIL * 2 {
            out.push('…');
            break;
        }
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            other if other.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
2026-11-21 09:00:00Z: Running job: build
{"timestamp":"2026-11-21T09:00:00.100Z","level":"INFO","message":"phase done","phase":"directories","elapsed_ms":5,"detail":"old"}
{"timestamp":"2026-11-21T09:00:10.100Z","level":"INFO","message":"phase done","phase":"directories","elapsed_ms":100,"detail":"user runner"}
prefix {"timestamp":"2026-11-21T09:00:12.000Z","level":"INFO","message":"phase done","phase":"job","elapsed_ms":1500,"detail":"<b>: Failed"}
{"not":"ours"}
{"timestamp":"2026-11-21T09:00:11.000Z","level":"INFO","message":"phase interrupted","phase":"idle","elapsed_ms":500}
{"timestamp":"2026-11-21T09:00:12.500Z","level":"INFO","message":"summary","exit_code":0,"runner":"ci-1","job":"</svg><script>","result":"Failed","repository":"acme/widgets"}
"#;

    #[test]
    fn the_last_run_of_a_log_is_read_in_the_order_of_time() {
        let run = read(LOG.as_bytes()).unwrap();
        let bars: Vec<_> = run
            .bars
            .iter()
            .map(|bar| (bar.phase.as_str(), bar.end - bar.begin, bar.interrupted))
            .collect();
        assert_eq!(
            bars,
            [
                ("directories", 100, false),
                ("idle", 500, true),
                ("job", 1500, false)
            ]
        );
        assert_eq!(run.title, "ci-1");
    }

    #[test]
    fn hostile_text_is_only_text_in_the_picture() {
        let svg = draw(&read(LOG.as_bytes()).unwrap());
        assert!(!svg.contains("<script>") && !svg.contains("<b>"), "{svg}");
        assert_eq!(svg.matches("</svg>").count(), 1);
        assert!(
            svg.contains("&lt;script&gt;") && svg.contains("1.5 s"),
            "{svg}"
        );
    }

    #[test]
    fn durations_are_told_in_their_unit() {
        for (millis, text) in [
            (0.0, "0 ms"),
            (999.0, "999 ms"),
            (2000.0, "2 s"),
            (61_000.0, "1 min 01 s"),
            (3_660_000.0, "1 h 01 min"),
        ] {
            assert_eq!(duration(millis), text);
        }
        assert_eq!(ticks(1000.0), [0.0, 250.0, 500.0, 750.0, 1000.0]);
    }
}
