//! Renders the report as a self-contained HTML page with styles and plots.

use std::fmt::Write as _;

use super::{Report, plot, table};
use crate::Error;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222;
       background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .2em .7em; text-align: right; white-space: nowrap }
th { border-bottom: 1px solid #888 } tr:last-child td { border-top: 1px solid #ccc }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left }
.wide { overflow-x: auto } dt { float: left; clear: left; color: #666 } dd { margin-left: 8em }
.warning { background: #fff3d6; padding: .5em 1em } .error { background: #fde4e1; padding: .5em 1em }
svg { width: 100%; height: auto }";

pub(crate) fn render(report: &Report) -> Result<String, Error> {
    let mut out = String::new();
    let setup = &report.setup;
    let title = format!("{} on {}", setup.scenario, setup.target);
    // Writing to a `String` cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n<dl>\n<dt>started</dt><dd>{}</dd>\n",
        escape(&setup.started),
        title = escape(&title),
    );
    for (name, value) in table::facts(report) {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
    }
    out.push_str("</dl>\n");
    for warning in &report.warnings {
        let _ = writeln!(out, "<p class=\"warning\">{}</p>", escape(warning));
    }
    for note in &setup.notes {
        let _ = writeln!(out, "<p>{}</p>", escape(note));
    }
    for kind in &report.kinds {
        for fault in &kind.faults {
            let example = match &*fault.example {
                "" => String::new(),
                example => format!(", such as <code>{}</code>", escape(example)),
            };
            let (name, what) = (escape(&kind.name), escape(&fault.what));
            let _ = writeln!(
                out,
                "<p class=\"error\">{name}: {} × {what}{example}</p>",
                fault.count
            );
        }
    }
    out.push_str("<div class=\"wide\">\n<table>\n<tr>");
    table::COLUMNS
        .iter()
        .for_each(|name| cell(&mut out, "th", name));
    out.push_str("</tr>\n");
    for row in table::rows(report) {
        out.push_str("<tr>");
        row.iter().for_each(|value| cell(&mut out, "td", value));
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</table>\n</div>\n<p>A latency counts from the moment at which a request was meant to start: in an open \
         loop, waiting for a free connection is part of it. It is counted for right answers, and for requests that \
         got none, with the time until that was clear.</p>\n",
    );
    for (name, plot) in [
        (
            "Latency by start of the request",
            plot::latency_over_time(report)?,
        ),
        ("Responses over time", plot::answers_over_time(report)?),
        ("Bytes over time", plot::bytes_over_time(report)?),
        (
            "Latency by percentile",
            plot::latency_by_percentile(report)?,
        ),
    ] {
        let _ = write!(out, "<h2>{name}</h2>\n<p>");
        for (colour, name) in &plot.legend {
            let _ = write!(
                out,
                "<span style=\"color: {colour}\">━━</span> {} ",
                escape(name)
            );
        }
        let _ = writeln!(out, "</p>\n{}", inline(&plot.svg));
    }
    out.push_str("</html>\n");
    Ok(out)
}

fn cell(out: &mut String, tag: &str, text: &str) {
    let _ = write!(out, "<{tag}>{}</{tag}>", escape(text));
}

/// SVG for embedding in HTML: there it needs no namespace, which looks like a link.
fn inline(svg: &str) -> String {
    svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
