//! Draws the plots of the page as SVG, each for a wide and for a narrow screen.
//!
//! Colours are CSS variables, which the page defines for light and dark ([`variables`]).

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::*,
};

use super::{Report, bytes, time};
use crate::Error;

/// How a plot is drawn. The page scales it to its width.
struct Format {
    size_px: (u32, u32),
    font_px: u32,
    y_label_px: u32,
    /// About the most labels of an axis.
    labels_max: usize,
}

const WIDE: Format = Format {
    size_px: (960, 320),
    font_px: 13,
    y_label_px: 76,
    labels_max: 11,
};
/// For a phone: with the text of the wide plot, labels would be 5 pixels high.
const NARROW: Format = Format {
    size_px: (360, 260),
    font_px: 12,
    y_label_px: 62,
    labels_max: 5,
};

/// The colours of lines on a light and on a dark page: distinguishable with colour blindness, and with a contrast of at
/// least 3 to 1.
const LINES: [(&str, &str); 10] = [
    ("#0072b2", "#4fb3f0"),
    ("#d55e00", "#ff8a3d"),
    ("#008f68", "#2cc79a"),
    ("#c2659a", "#e39bc4"),
    ("#b97f00", "#f5b83d"),
    ("#2e97d6", "#9bd6fa"),
    ("#646464", "#b0b0b0"),
    ("#966e28", "#c79a4b"),
    ("#000000", "#ffffff"),
    ("#78288c", "#c77be0"),
];
/// The other colours: name, light, dark.
const OTHERS: [(&str, &str, &str); 3] = [
    ("label", "#222222", "#dddddd"),
    ("grid", "#e1e1e1", "#33363b"),
    ("axis", "#787878", "#8b8f96"),
];

/// A plot without its legend.
pub(super) struct Plot {
    /// Complete SVG documents for a wide and for a narrow screen.
    pub(super) wide: String,
    pub(super) narrow: String,
    /// The legend: CSS colour and name of each line.
    pub(super) legend: Vec<(String, String)>,
}

/// Name and points of a line.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// How lines are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    /// The last line is the upper edge of a shaded area: a line that coincides with it stays visible.
    LastIsArea,
}

/// The definitions of the CSS variables that the plots use.
pub(super) fn variables(is_dark: bool) -> String {
    let choose = |light, dark| if is_dark { dark } else { light };
    let lines = LINES.iter().enumerate();
    let lines =
        lines.map(|(index, (light, dark))| format!("--line-{index}: {};", choose(light, dark)));
    let others = OTHERS.iter();
    let others = others.map(|(name, light, dark)| format!("--{name}: {};", choose(light, dark)));
    lines.chain(others).collect::<Vec<_>>().join(" ")
}

/// The colour that stands for a variable while a plot is drawn: the drawing library knows no variables.
fn placeholder(index: usize) -> RGBColor {
    // Unused by other colours, and never more than a byte: there are 13 variables.
    RGBColor(1, 2, index as u8)
}

/// Replaces the placeholders in a drawn plot by the variables.
fn with_variables(svg: &str) -> String {
    let names = (0..LINES.len()).map(|index| format!("line-{index}"));
    let names = names.chain(OTHERS.map(|(name, ..)| name.to_owned()));
    names
        .enumerate()
        .fold(svg.to_owned(), |svg, (index, name)| {
            let RGBColor(r, g, b) = placeholder(index);
            ["stroke", "fill"].into_iter().fold(svg, |svg, property| {
                svg.replace(
                    &format!("{property}=\"#{r:02X}{g:02X}{b:02X}\""),
                    &format!("style=\"{property}: var(--{name})\""),
                )
            })
        })
}

fn line_colour(line: usize) -> RGBColor {
    placeholder(line % LINES.len())
}

/// The colour of the label, the grid or the axis.
fn other_colour(name: &str) -> RGBColor {
    let found = OTHERS.iter().position(|(other, ..)| *other == name);
    placeholder(LINES.len() + found.unwrap_or_default())
}

/// Latency over time: p50, p99, maximum.
pub(super) fn latency_over_time(report: &Report) -> Result<Plot, Error> {
    let line = |of: fn(&super::Piece) -> f64| -> Vec<(f64, f64)> {
        // An interval without requests has no latency and is skipped.
        let pieces = report.timeline.iter().filter(|piece| piece.max_us > 0.0);
        pieces.map(|piece| (piece.at_s, of(piece))).collect()
    };
    let lines = [
        ("p50", line(|piece| piece.p50_us)),
        ("p99", line(|piece| piece.p99_us)),
        ("max", line(|piece| piece.max_us)),
    ];
    let y = log_range(&lines);
    draw(
        &lines,
        seconds(report),
        y.log_scale(),
        Shape::LastIsArea,
        &seconds_label,
        &|y| time(*y),
    )
}

fn seconds_label(x: &f64) -> String {
    format!("{x:.1} s")
}

/// A figure of each interval over time.
fn over_time(report: &Report, of: fn(&super::Piece) -> f64) -> Vec<(f64, f64)> {
    let pieces = report.timeline.iter();
    pieces.map(|piece| (piece.at_s, of(piece))).collect()
}

/// Correct and wrong responses over time.
pub(super) fn answers_over_time(report: &Report) -> Result<Plot, Error> {
    let line = |of| over_time(report, of);
    let lines = [
        ("successful responses/s", line(|piece| piece.per_second)),
        ("errors/s", line(|piece| piece.errors_per_second)),
    ];
    let y = linear_range(&lines);
    let (x, label) = (seconds(report), &|y: &f64| format!("{y:.0}"));
    draw(&lines, x, y, Shape::Lines, &seconds_label, label)
}

/// Sent and received bytes over time.
pub(super) fn bytes_over_time(report: &Report) -> Result<Plot, Error> {
    let line = |of| over_time(report, of);
    let lines = [
        (
            "received per second",
            line(|piece| piece.bytes_down_per_second),
        ),
        ("sent per second", line(|piece| piece.bytes_up_per_second)),
    ];
    let y = linear_range(&lines);
    let (x, label) = (seconds(report), &|y: &f64| bytes(*y));
    draw(&lines, x, y, Shape::Lines, &seconds_label, label)
}

/// Latency by percentile for each kind; each nine takes the same width.
pub(super) fn latency_by_percentile(report: &Report) -> Result<Plot, Error> {
    let points = |distribution: &[(f64, f64)]| -> Vec<(f64, f64)> {
        distribution
            .iter()
            .map(|(share, us)| (1.0 / (1.0 - share), us.max(1.0)))
            .collect()
    };
    let mut lines = vec![("all", points(&report.distribution))];
    lines.extend(
        report
            .kinds
            .iter()
            .map(|kind| (&*kind.name, points(&kind.distribution))),
    );
    let x_max = lines
        .iter()
        .flat_map(|(_, points)| points)
        .map(|(x, _)| *x)
        .fold(10.0, f64::max);
    let y = log_range(&lines);
    draw(
        &lines,
        (1.0..x_max).log_scale(),
        y.log_scale(),
        Shape::Lines,
        &percentile,
        &|y| time(*y),
    )
}

/// 10 is 90 %, 100 is 99 %.
fn percentile(x: &f64) -> String {
    let percent = format!("{:.6}", (1.0 - 1.0 / x) * 100.0);
    format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
}

fn seconds(report: &Report) -> Range<f64> {
    0.0..report.measured_s.max(0.001)
}

fn linear_range(lines: &[Line<'_>]) -> Range<f64> {
    let max = lines
        .iter()
        .flat_map(|(_, points)| points)
        .map(|(_, y)| *y)
        .fold(1.0, f64::max);
    0.0..max * 1.05
}

/// Powers of ten that enclose all points.
fn log_range(lines: &[Line<'_>]) -> Range<f64> {
    let values = || {
        lines
            .iter()
            .flat_map(|(_, points)| points)
            .map(|(_, y)| y.max(1.0))
    };
    let (min, max) = (
        values().fold(f64::MAX, f64::min),
        values().fold(10.0, f64::max),
    );
    let power = |value: f64| 10f64.powf(value);
    power(min.min(max / 10.0).log10().floor())..power(max.log10().ceil())
}

/// Draws a plot for both formats. The first line is on top.
fn draw<X, Y>(
    lines: &[Line<'_>],
    x: X,
    y: Y,
    shape: Shape,
    x_label: &dyn Fn(&f64) -> String,
    y_label: &dyn Fn(&f64) -> String,
) -> Result<Plot, Error>
where
    X: AsRangedCoord<Value = f64> + Clone,
    Y: AsRangedCoord<Value = f64> + Clone,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let draw = |format: &Format| -> Result<String, Error> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, format.size_px).into_drawing_area();
        let chart = Chart {
            format,
            shape,
            x_label,
            y_label,
        };
        chart
            .draw(&area, lines, x.clone(), y.clone())
            .map_err(|error| format!("cannot draw a plot: {error}"))?;
        drop(area);
        Ok(with_variables(&svg))
    };
    let name = |(index, (name, _)): (usize, &Line<'_>)| {
        (
            format!("var(--line-{})", index % LINES.len()),
            (*name).to_owned(),
        )
    };
    Ok(Plot {
        wide: draw(&WIDE)?,
        narrow: draw(&NARROW)?,
        legend: lines.iter().enumerate().map(name).collect(),
    })
}

/// Everything about a plot but its lines and axes.
struct Chart<'a> {
    format: &'a Format,
    shape: Shape,
    x_label: &'a dyn Fn(&f64) -> String,
    y_label: &'a dyn Fn(&f64) -> String,
}

impl Chart<'_> {
    fn draw<'a, X, Y>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
        lines: &[Line<'_>],
        x: X,
        y: Y,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let Format {
            font_px,
            y_label_px,
            labels_max,
            ..
        } = *self.format;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(40)
            .x_label_area_size(28)
            .y_label_area_size(y_label_px)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(other_colour("grid"))
            .axis_style(other_colour("axis"))
            .x_labels(labels_max)
            .y_labels(labels_max)
            .x_label_formatter(self.x_label)
            .y_label_formatter(self.y_label)
            .label_style(("sans-serif", font_px).with_color(other_colour("label")))
            .draw()?;
        let bottom = chart.y_range().start;
        for (index, (_, points)) in lines.iter().enumerate().rev() {
            let (points, colour) = (points.iter().copied(), line_colour(index));
            if self.shape == Shape::LastIsArea && index + 1 == lines.len() {
                let area = AreaSeries::new(points, bottom, colour.mix(0.2));
                chart.draw_series(area.border_style(colour.stroke_width(1)))?;
            } else {
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            }
        }
        area.present()
    }
}
