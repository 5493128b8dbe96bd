//! Draws the plots of the page as SVG.

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

/// Size of each plot in pixels; the page scales it.
const SIZE: (u32, u32) = (960, 320);
/// Colours of lines in drawing order, distinguishable with colour blindness.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(100, 100, 100),
    RGBColor(150, 110, 40),
    RGBColor(0, 0, 0),
    RGBColor(120, 40, 140),
];

/// A plot without its legend.
pub(super) struct Plot {
    /// A complete SVG document.
    pub(super) svg: String,
    /// The legend: CSS colour and name of each line.
    pub(super) legend: Vec<(String, String)>,
}

/// Name and points of a line.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

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
        &|x| format!("{x:.1} s"),
        &|y| time(*y),
    )
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
    draw(&lines, seconds(report), y, &|x| format!("{x:.1} s"), &|y| {
        format!("{y:.0}")
    })
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
    draw(&lines, seconds(report), y, &|x| format!("{x:.1} s"), &|y| {
        bytes(*y)
    })
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

fn draw<X, Y>(
    lines: &[Line<'_>],
    x: X,
    y: Y,
    x_label: &dyn Fn(&f64) -> String,
    y_label: &dyn Fn(&f64) -> String,
) -> Result<Plot, Error>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw_on(&area, lines, x, y, x_label, y_label)
        .map_err(|error| format!("cannot draw a plot: {error}"))?;
    drop(area);
    let name = |((name, _), RGBColor(r, g, b)): (&Line<'_>, RGBColor)| {
        (format!("#{r:02x}{g:02x}{b:02x}"), (*name).to_owned())
    };
    let legend = lines.iter().zip(colours()).map(name).collect();
    Ok(Plot { svg, legend })
}

fn colours() -> impl Iterator<Item = RGBColor> {
    COLOURS.into_iter().cycle()
}

fn draw_on<'a, X, Y>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    lines: &[Line<'_>],
    x: X,
    y: Y,
    x_label: &dyn Fn(&f64) -> String,
    y_label: &dyn Fn(&f64) -> String,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(40)
        .x_label_area_size(28)
        .y_label_area_size(76)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(120, 120, 120))
        .x_label_formatter(x_label)
        .y_label_formatter(y_label)
        .label_style(("sans-serif", 13))
        .draw()?;
    for ((_, points), colour) in lines.iter().zip(colours()) {
        let style = colour.stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
    }
    area.present()
}
