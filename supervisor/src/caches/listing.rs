//! The units of a store as a table for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::caches::Found;

const HEAD: [&str; 6] = ["TOOL", "FILES", "SIZE", "PACKED", "PUBLISHED", "USED"];

/// A line for each unit, below a head, and what they are together.
pub(crate) fn table(found: &[Found], now: SystemTime) -> Vec<String> {
    let rows: Vec<[String; 6]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(found.iter().map(|one| row(one, now)))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let mut lines: Vec<String> = rows
        .iter()
        .map(|[tool, rest @ ..]| {
            let mut line = format!("{tool:<width$}", width = widths[0]);
            for (cell, width) in rest.iter().zip(&widths[1..]) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            line
        })
        .collect();
    let packed = found.iter().map(|one| one.size).sum();
    lines.push(format!("{} units, {} packed", found.len(), size(packed)));
    lines
}

/// A unit that plain rsync brought has only its name: the rest would cost a look at each file.
fn row(one: &Found, now: SystemTime) -> [String; 6] {
    let unknown = || "-".to_owned();
    let ago = |seconds: u64| age(now, UNIX_EPOCH + Duration::from_secs(seconds));
    let known = |number: u64, text: String| if number == 0 { unknown() } else { text };
    [
        one.unit.clone(),
        one.files.map_or_else(unknown, |files| files.to_string()),
        one.bytes.map_or_else(unknown, size),
        known(one.size, size(one.size)),
        one.published.map_or_else(unknown, ago),
        known(one.last_used, ago(one.last_used)),
    ]
}

/// A number of bytes, as `--max-size` takes it.
fn size(bytes: u64) -> String {
    let (mut whole, mut rest, mut unit) = (bytes, 0, 0);
    while whole >= 1024 {
        (whole, rest) = (whole >> 10, whole & 1023);
        unit += 1;
    }
    let letter = ["", "K", "M", "G", "T", "P", "E"][unit];
    if unit > 0 && whole < 10 {
        return format!("{whole}.{}{letter}", rest * 10 / 1024);
    }
    format!("{whole}{letter}")
}

/// How long ago, as `--unused` counts it when it is days.
fn age(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_in_columns_with_what_is_not_known_left_open() {
        let now = UNIX_EPOCH + Duration::from_secs(100 * 86400);
        let packed = Found {
            unit: "node/22.1.0/x64".to_owned(),
            path: "/store/units/node".into(),
            size: 52 << 20,
            last_used: 100 * 86400 - 60,
            published: Some(86400),
            by: None,
            files: Some(4711),
            bytes: Some(3 << 29),
        };
        let plain = Found {
            unit: "go/1/x64".to_owned(),
            size: 0,
            last_used: 0,
            published: None,
            files: None,
            bytes: None,
            ..packed.clone()
        };
        assert_eq!(
            table(&[packed, plain], now),
            [
                "TOOL             FILES  SIZE  PACKED  PUBLISHED   USED",
                "node/22.1.0/x64   4711  1.5G     52M       99 d  1 min",
                "go/1/x64             -     -       -          -      -",
                "2 units, 52M packed",
            ]
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0"), (1023, "1023"), (1024, "1.0K"), (10 << 20, "10M")] {
            assert_eq!(size(bytes), text);
        }
    }
}
