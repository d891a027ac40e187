//! Draws a plot as SVG: 340 units wide, so that its text is as large on a phone as beside others on
//! a desktop. Its colours are the light ones; [`style`] replaces them where it is dark.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axis::Axis;
use crate::plot::{Drawn, Group, LIMIT, Lines, Plot, Series};
use crate::results::Unit;
use crate::stats::Summary;

const WIDTH: u32 = 340;
const CHART_HEIGHT: u32 = 240;
const LEGEND_LINE: u32 = 18;
const TEXT: u32 = 12;
/// Room for the value at the end of a bar.
const VALUE_WIDTH: i32 = 66;
const HEADING_HEIGHT: i32 = 26;
const BAR_HEIGHT: i32 = 34;

/// A colour where it is light and where it is dark.
type Pair = (RGBColor, &'static str);

const TEXT_COLOUR: Pair = (RGBColor(31, 35, 40), "#f0f6fc");
const QUIET: Pair = (RGBColor(89, 99, 110), "#9198a1");
const GRID: Pair = (RGBColor(209, 217, 224), "#3d444d");
const OURS: Pair = (RGBColor(9, 105, 218), "#4493f8");
const PEERS: [Pair; 6] = [
    (RGBColor(188, 76, 0), "#f0883e"),
    (RGBColor(26, 127, 55), "#3fb950"),
    (RGBColor(130, 80, 223), "#ab7df8"),
    (RGBColor(154, 103, 0), "#d29922"),
    (RGBColor(191, 57, 137), "#f778ba"),
    (RGBColor(20, 120, 130), "#56d4dd"),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The rules that recolour plots in a dark scheme.
pub(crate) fn style() -> String {
    let pairs = [TEXT_COLOUR, QUIET, GRID, OURS].into_iter().chain(PEERS);
    let rules: String = pairs
        .map(|(RGBColor(r, g, b), dark)| {
            let light = format!("#{r:02X}{g:02X}{b:02X}");
            format!(
                ".plot [fill=\"{light}\"]{{fill:{dark}}}.plot [stroke=\"{light}\"]{{stroke:{dark}}}"
            )
        })
        .collect();
    format!("@media (prefers-color-scheme:dark){{{rules}}}")
}

/// An SVG file that stands alone.
pub(crate) fn file(plot: &Plot) -> Result<String> {
    let svg = element(plot)?;
    let (open, rest) = svg.split_once('>').unwrap_or((&svg, ""));
    Ok(format!("{open}><style>{}</style>{rest}", style()))
}

/// An `<svg>` for a page that has [`style`].
pub(crate) fn element(plot: &Plot) -> Result<String> {
    let mut text = String::new();
    let size = (WIDTH, height(plot));
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        match &plot.drawn {
            Drawn::Bars(groups) => bars(&root, plot.unit, groups),
            Drawn::Lines(lines) => chart(&root, plot.unit, lines),
        }
        .map_err(|error| anyhow!("draw {}: {error}", plot.name))?;
        root.present()
            .map_err(|error| anyhow!("draw {}: {error}", plot.name))?;
    }
    let fixed = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
    let named = format!(
        "class=\"plot\" role=\"img\" aria-label=\"{}\"",
        escape(&plot.title)
    );
    Ok(text.replacen(&fixed, &named, 1))
}

/// Text as it stands in HTML, SVG and their attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn height(plot: &Plot) -> u32 {
    match &plot.drawn {
        Drawn::Bars(groups) => {
            let rows = |group: &Group| HEADING_HEIGHT + BAR_HEIGHT * bar_count(group);
            u32::try_from(groups.iter().map(rows).sum::<i32>()).unwrap_or(WIDTH)
        }
        Drawn::Lines(lines) => {
            let series = u32::try_from(lines.series.len()).unwrap_or(0);
            CHART_HEIGHT + LEGEND_LINE * series + LEGEND_LINE / 2
        }
    }
}

fn bar_count(group: &Group) -> i32 {
    i32::try_from(group.bars.len()).unwrap_or(0)
}

fn colour(name: &str, peers: &[&str]) -> RGBColor {
    match name {
        "ours" => OURS.0,
        LIMIT => QUIET.0,
        _ => {
            let place = peers.iter().position(|peer| *peer == name).unwrap_or(0);
            PEERS[place % PEERS.len()].0
        }
    }
}

/// The peers' names in the order of their first appearance: one has the same colour throughout.
fn peers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut peers = Vec::new();
    for name in names.filter(|name| *name != "ours" && *name != LIMIT) {
        if !peers.contains(&name) {
            peers.push(name);
        }
    }
    peers
}

fn font(colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&colour)
}

fn bars(root: &Area<'_>, unit: Unit, groups: &[Group]) -> Result<(), Box<dyn std::error::Error>> {
    let all = || groups.iter().flat_map(|group| &group.bars);
    let peers = peers(all().map(|bar| bar.name.as_str()));
    let most = all().map(|bar| bar.summary.high).fold(0.0, f64::max);
    let room = f64::from(i32::try_from(WIDTH)? - VALUE_WIDTH);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a share of the plot's width"
    )]
    let place = |value: f64| (value / most * room).round() as i32;
    let mut top = 0;
    for group in groups {
        let heading = ("sans-serif", TEXT + 1, FontStyle::Bold).into_font();
        let heading = heading.color(&TEXT_COLOUR.0);
        root.draw(&Text::new(group.heading.as_str(), (0, top + 6), heading))?;
        top += HEADING_HEIGHT;
        for bar in &group.bars {
            let label = font(QUIET.0);
            root.draw(&Text::new(bar.label.as_str(), (0, top), label))?;
            let (begin, end) = (top + 16, top + 28);
            let Summary { low, median, high } = bar.summary;
            let fill = colour(&bar.name, &peers).filled();
            let reach = place(median).max(1);
            root.draw(&Rectangle::new([(0, begin), (reach, end)], fill))?;
            let (left, right, middle) = (place(low), place(high), (begin + end) / 2);
            if left < right {
                whisker(root, (left, right, middle))?;
            }
            let value = font(TEXT_COLOUR.0).pos(Pos::new(HPos::Left, VPos::Center));
            let at = (right.max(reach) + 6, middle);
            root.draw(&Text::new(unit.text(median), at, value))?;
            top += BAR_HEIGHT;
        }
    }
    Ok(())
}

/// The quartiles, over the end of a bar.
fn whisker(
    root: &Area<'_>,
    (left, right, middle): (i32, i32, i32),
) -> Result<(), Box<dyn std::error::Error>> {
    let ends = [
        [(left, middle), (right, middle)],
        [(left, middle - 3), (left, middle + 3)],
        [(right, middle - 3), (right, middle + 3)],
    ];
    for end in ends {
        root.draw(&PathElement::new(end, TEXT_COLOUR.0.stroke_width(1)))?;
    }
    Ok(())
}

fn chart(root: &Area<'_>, unit: Unit, lines: &Lines) -> Result<(), Box<dyn std::error::Error>> {
    let (upper, legend) = root.split_vertically(CHART_HEIGHT);
    let points = || lines.series.iter().flat_map(|series| &series.points);
    let xs: Vec<f64> = points().map(|(x, _)| *x).collect();
    let ys: Vec<f64> = points().flat_map(|(_, y)| [y.low, y.high]).collect();
    let x_axis = Axis::of_measured(lines.x, &xs);
    let y_axis = Axis::of_costs(lines.y, unit, &ys);
    let mut chart = ChartBuilder::on(&upper)
        .margin(6)
        .margin_right(18)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(x_axis, y_axis)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.0)
        .axis_style(QUIET.0)
        .label_style(font(QUIET.0))
        .x_desc(lines.x_label.as_str())
        .axis_desc_style(font(QUIET.0))
        .draw()?;
    let peers = peers(lines.series.iter().map(|series| series.name.as_str()));
    for (row, series) in lines.series.iter().enumerate() {
        let colour = colour(&series.name, &peers);
        let path = |pick: fn(&Summary) -> f64| {
            let at = |(x, y): &(f64, Summary)| (*x, pick(y));
            series.points.iter().map(at).collect::<Vec<_>>()
        };
        let medians = path(|y| y.median);
        if series.name == LIMIT {
            chart.draw_series(DashedLineSeries::new(medians, 5, 4, colour.stroke_width(2)))?;
        } else {
            let width = if series.name == "ours" { 3 } else { 2 };
            chart.draw_series(LineSeries::new(medians.clone(), colour.stroke_width(width)))?;
            let dots = medians
                .into_iter()
                .map(|at| Circle::new(at, 3, colour.filled()));
            chart.draw_series(dots)?;
            let spreads = path(|y| y.low).into_iter().zip(path(|y| y.high));
            let spread = spreads.map(|(a, b)| PathElement::new([a, b], colour.stroke_width(1)));
            chart.draw_series(spread)?;
        }
        legend_line(&legend, (row, series), colour)?;
    }
    Ok(())
}

fn legend_line(
    legend: &Area<'_>,
    (row, series): (usize, &Series),
    colour: RGBColor,
) -> Result<(), Box<dyn std::error::Error>> {
    let top = i32::try_from(LEGEND_LINE)? * i32::try_from(row)? + 4;
    let middle = top + 6;
    legend.draw(&PathElement::new(
        [(8, middle), (28, middle)],
        colour.stroke_width(3),
    ))?;
    let text = font(TEXT_COLOUR.0);
    legend.draw(&Text::new(series.label.as_str(), (36, top), text))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::Scale;
    use crate::results::tests::section;

    fn example() -> Plot {
        let compared = section(&[1.0, 2.0, 3.0], &[40.0, 50.0, 60.0])
            .comparisons
            .remove(0);
        Plot::bars(
            ("x_p", "a <title>", "it means"),
            [("at once & more", &compared)],
        )
    }

    #[test]
    fn a_plot_says_what_it_shows_and_scales_with_its_page() {
        let svg = element(&example()).unwrap();
        assert!(
            svg.contains("50.0 ms") && svg.contains("at once &amp; more"),
            "{svg}"
        );
        assert!(svg.contains("aria-label=\"a &lt;title&gt;\""), "{svg}");
        assert!(!svg.contains("width=\"340\" height"), "{svg}");
    }

    #[test]
    fn every_colour_of_a_plot_has_one_for_the_dark() {
        let compared = section(&[1.0], &[2.0]).comparisons.remove(0);
        let axes = ("files", Scale::Log, Scale::Log);
        let lines = Plot::lines(
            ("x_l", "t", "m"),
            axes,
            [(10.0, &compared), (99.0, &compared)],
        );
        let lines = lines.limit("limit", &[(10.0, 0.5), (99.0, 0.6)]);
        let style = style();
        for plot in [example(), lines] {
            let svg = element(&plot).unwrap();
            let colours = svg.split(['"']).filter(|word| word.starts_with('#'));
            for colour in colours {
                assert!(style.contains(colour), "{colour} in {}", plot.name);
            }
        }
    }
}
