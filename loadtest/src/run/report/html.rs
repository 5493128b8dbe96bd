//! Renders the report as a self-contained HTML page with styles and plots.

use std::fmt::Write as _;

use super::{Report, plot, table};
use crate::Error;

/// The page follows the light or dark mode of the system. `{light}` and `{dark}` are the colours of the plots.
const STYLE: &str = "
:root { color-scheme: light dark; --text: #222; --page: #fff; --faint: #666; --rule: #999; --soft-rule: #ccc;
        --warning: #fff3d6; --error: #fde4e1; {light} }
@media (prefers-color-scheme: dark) {
  :root { --text: #dedede; --page: #16181c; --faint: #a0a4ab; --rule: #777; --soft-rule: #44474d;
          --warning: #43370f; --error: #4d2320; {dark} }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: var(--text);
       background: var(--page); overflow-wrap: anywhere }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 1.6em }
table { border-collapse: collapse } td, th { padding: .2em .7em; text-align: right; white-space: nowrap }
th { border-bottom: 1px solid var(--rule) } tr:last-child td { border-top: 1px solid var(--soft-rule) }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); padding-left: 0 }
.wide { overflow-x: auto } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1.5em }
dt { color: var(--faint) } dd { margin: 0 } .note { color: var(--faint) }
.warning { background: var(--warning); padding: .5em 1em } .error { background: var(--error); padding: .5em 1em }
.legend span { white-space: nowrap; margin-right: 1em } svg { display: block; width: 100%; height: auto }
svg.narrow { display: none }
@media (max-width: 600px) {
  body { font-size: 14px; margin: 1em auto; padding: 0 .75em } td, th { padding: .2em .5em }
  dl { display: block } dd { margin-bottom: .4em }
  svg.wide-screen { display: none } svg.narrow { display: block }
}";

pub(crate) fn render(report: &Report) -> Result<String, Error> {
    let mut out = String::new();
    let setup = &report.setup;
    let title = format!("{} on {}", setup.scenario, setup.target);
    let style = STYLE
        .replace("{light}", &plot::variables(false))
        .replace("{dark}", &plot::variables(true));
    // Writing to a `String` cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{style}</style>\n<h1>{title}</h1>\n<dl>\n<dt>started</dt><dd>{}</dd>\n",
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
    plots(&mut out, report)?;
    out.push_str("</html>\n");
    Ok(out)
}

fn plots(out: &mut String, report: &Report) -> Result<(), Error> {
    let interval = match &report.timeline[..] {
        [first, second, ..] => second.at_s - first.at_s,
        _ => report.measured_s,
    };
    let p99_note = format!(
        "Each point is an interval of {interval:.2} s. In an interval of fewer than 100 requests, p99 is the maximum."
    );
    for (name, plot, note) in [
        (
            "Latency by start of the request",
            plot::latency_over_time(report)?,
            &*p99_note,
        ),
        ("Responses over time", plot::answers_over_time(report)?, ""),
        ("Bytes over time", plot::bytes_over_time(report)?, ""),
        (
            "Latency by percentile",
            plot::latency_by_percentile(report)?,
            "",
        ),
    ] {
        let _ = write!(out, "<h2>{name}</h2>\n<p class=\"legend\">");
        for (colour, name) in &plot.legend {
            let name = escape(name);
            let _ = write!(
                out,
                "<span><b style=\"color: {colour}\">━━</b> {name}</span> "
            );
        }
        let (wide, narrow) = (
            inline(&plot.wide, "wide-screen", name),
            inline(&plot.narrow, "narrow", name),
        );
        let _ = writeln!(out, "</p>\n{wide}\n{narrow}");
        if !note.is_empty() {
            let _ = writeln!(out, "<p class=\"note\">{note}</p>");
        }
    }
    Ok(())
}

fn cell(out: &mut String, tag: &str, text: &str) {
    let _ = write!(out, "<{tag}>{}</{tag}>", escape(text));
}

/// SVG for embedding in HTML: there it needs no namespace, which looks like a link.
fn inline(svg: &str, class: &str, name: &str) -> String {
    let attributes = format!(" class=\"{class}\" role=\"img\" aria-label=\"{name}\"");
    svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", &attributes, 1)
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
