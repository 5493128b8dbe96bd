//! Draws bar charts: the figures of each server, grouped by size.

use plotters::prelude::*;

use super::{
    aims::Figure,
    report::{Measurement, Report, Row},
    rounds::Spread,
};
use crate::Error;

const SIZE: (u32, u32) = (960, 380);
/// Colours that people with colour blindness can tell apart.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(150, 110, 40),
    RGBColor(100, 100, 100),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
];

/// Groups of bars: the label of each group, and its bars with their colour numbers.
struct Bars {
    title: String,
    y: &'static str,
    names: Vec<String>,
    groups: Vec<(String, Vec<(usize, Spread)>)>,
    /// Height of a horizontal line.
    line: Option<f64>,
}

/// All plots that the report has figures for, by file name.
pub(crate) fn all(report: &Report, is_veth: bool) -> Result<Vec<(String, String)>, Error> {
    let network = if is_veth { "veth pair" } else { "loopback" };
    let suffix = if is_veth { "-veth" } else { "" };
    let mut plots = Vec::new();
    for (part, title) in [("download", "Downloads"), ("upload", "Uploads")] {
        for (name, y, of) in [
            (
                "cpu",
                "CPU of the server, relative to the highest per size",
                cpu as fn(&Measurement) -> Spread,
            ),
            ("rate", "requests/s, relative to the fastest per size", rate),
        ] {
            let bars = relative(report, part, of);
            if bars.groups.is_empty() {
                continue;
            }
            let bars = Bars {
                title: format!("{title} over {network}, one core"),
                y,
                ..bars
            };
            plots.push((format!("{part}-{name}{suffix}.svg"), draw(&bars)?));
        }
    }
    let bars = ratios(report, network);
    if !bars.groups.is_empty() {
        plots.push((format!("download-ratios{suffix}.svg"), draw(&bars)?));
    }
    Ok(plots)
}

fn cpu(measured: &Measurement) -> Spread {
    measured.cpu_us
}

fn rate(measured: &Measurement) -> Spread {
    measured.per_second
}

/// The measurements of a part, relative to the largest of each size: 4 KB and 9 MB do not fit on one scale.
fn relative(report: &Report, part: &str, of: fn(&Measurement) -> Spread) -> Bars {
    let of_part: Vec<_> = report
        .measurements
        .iter()
        .filter(|has| has.part == part)
        .collect();
    let mut names: Vec<String> = Vec::new();
    let mut groups: Vec<(String, Vec<(usize, Spread)>)> = Vec::new();
    for measured in &of_part {
        let name = names.iter().position(|name| *name == measured.server);
        let name = name.unwrap_or_else(|| {
            names.push(measured.server.clone());
            names.len() - 1
        });
        let same = of_part.iter().filter(|other| other.what == measured.what);
        let largest = same.map(|other| of(other).median).fold(0.0, f64::max);
        let value = of(measured);
        let bar = (
            name,
            Spread {
                median: value.median / largest,
                low: value.low / largest,
                high: value.high / largest,
            },
        );
        match groups.iter_mut().find(|group| group.0 == measured.what) {
            Some(group) => group.1.push(bar),
            None => groups.push((measured.what.clone(), vec![bar])),
        }
    }
    Bars {
        title: String::new(),
        y: "",
        names,
        groups,
        line: None,
    }
}

/// Downloads compared with the best nginx and the floor.
fn ratios(report: &Report, network: &str) -> Bars {
    let figures = [
        (Figure::DownloadCpuToNginx, "CPU ÷ nginx's best"),
        (Figure::DownloadCpuToFloor, "CPU ÷ floor"),
        (Figure::DownloadRateToNginx, "requests/s ÷ nginx's best"),
    ];
    let place = |row: &Row| figures.iter().position(|(figure, _)| *figure == row.figure);
    let mut groups: Vec<(String, Vec<(usize, Spread)>)> = Vec::new();
    for row in &report.rows {
        let Some(place) = place(row) else { continue };
        match groups.iter_mut().find(|group| group.0 == row.what) {
            Some(group) => group.1.push((place, row.value)),
            None => groups.push((row.what.clone(), vec![(place, row.value)])),
        }
    }
    Bars {
        title: format!("chatfiles, downloads over {network}, one core"),
        y: "relation",
        names: figures.map(|(_, name)| name.to_owned()).to_vec(),
        groups,
        line: Some(1.0),
    }
}

fn draw(bars: &Bars) -> Result<String, Error> {
    let mut svg = String::new();
    let error = |error: DrawingAreaErrorKind<_>| -> Error { format!("plot: {error}").into() };
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(error)?;
        let highest = bars.groups.iter().flat_map(|group| &group.1);
        let highest = highest.map(|bar| bar.1.high).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(&bars.title, ("sans-serif", 20))
            .margin(10)
            .margin_right(200)
            .x_label_area_size(30)
            .y_label_area_size(55)
            .build_cartesian_2d(0.0..bars.groups.len() as f64, 0.0..highest * 1.08)
            .map_err(error)?;
        let label = |x: &f64| {
            // A group is one unit wide, with its label in the middle.
            let group = bars.groups.get((x - 0.5).round().max(0.0) as usize);
            group.map(|group| group.0.clone()).unwrap_or_default()
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_desc(bars.y)
            .x_label_formatter(&label)
            .draw()
            .map_err(error)?;
        for (number, (what, group)) in bars.groups.iter().enumerate() {
            let width = 0.8 / bars.names.len() as f64;
            let left = number as f64 + 0.1;
            for (name, value) in group {
                let from = left + width * *name as f64;
                let to = from + width * 0.92;
                let middle = f64::midpoint(from, to);
                let colour = COLOURS[*name % COLOURS.len()];
                let bar = Rectangle::new([(from, 0.0), (to, value.median)], colour.filled());
                let ends = PathElement::new([(middle, value.low), (middle, value.high)], BLACK);
                chart.draw_series([bar]).map_err(error)?;
                chart.draw_series([ends]).map_err(error)?;
            }
            let (x, y) = chart.backend_coord(&(number as f64 + 0.5, 0.0));
            let style = ("sans-serif", 14).into_text_style(&area);
            let style = style.pos(text_centred());
            area.draw_text(what, &style, (x, y + 8)).map_err(error)?;
        }
        if let Some(line) = bars.line {
            let ends = [(0.0, line), (bars.groups.len() as f64, line)];
            chart
                .draw_series([PathElement::new(ends, BLACK)])
                .map_err(error)?;
        }
        for (number, name) in bars.names.iter().enumerate() {
            let y = 50 + 20 * number as i32;
            let x = SIZE.0 as i32 - 190;
            let colour = COLOURS[number % COLOURS.len()];
            area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled()))
                .map_err(error)?;
            area.draw_text(
                name,
                &("sans-serif", 13).into_text_style(&area),
                (x + 18, y),
            )
            .map_err(error)?;
        }
        area.present().map_err(error)?;
    }
    Ok(svg)
}

fn text_centred() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Center, VPos::Top)
}
