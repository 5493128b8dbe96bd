//! The dashboard and the alarms of `deploy/` use only metrics that the server has.
//!
//! This is not an evaluator: it reads the names of series, labels and label values from an expression.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use chatfiles::routes;
use serde_json::Value;

use super::{showing_everything, use_everything};
use crate::support::Exposition;

/// Series of Prometheus itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];
/// Labels added by the scrape.
const OF_THE_SCRAPE: [&str; 2] = ["instance", "job"];
/// Functions and aggregations in use.
const FUNCTIONS: [&str; 8] = [
    "sum",
    "topk",
    "min",
    "rate",
    "histogram_quantile",
    "predict_linear",
    "time",
    "vector",
];
const OPERATORS: [&str; 3] = ["and", "or", "unless"];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The values of each label by series.
type Shown = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn shown(scrape: &Exposition) -> Shown {
    let mut shown = Shown::new();
    for series in scrape.samples.keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let of_series = shown.entry(name.to_owned()).or_default();
        let labels = labels.trim_end_matches('}').trim_end_matches('"');
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            let values = of_series.entry(name.to_owned()).or_default();
            values.insert(value.to_owned());
        }
    }
    for labels in shown.values_mut() {
        if let Some(routes) = labels.get_mut("route") {
            // These routes are shown from their first request on.
            routes.extend(routes::labels().map(str::to_owned));
        }
    }
    shown
}

#[derive(Debug, Clone, PartialEq)]
enum Word {
    Name(String),
    Text(String),
    Mark(char),
}

/// Names, quoted texts, and single characters; without durations in brackets.
fn words(expression: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = match first {
            '"' => {
                let len = rest[1..].find('"').expect("quotes are closed");
                words.push(Word::Text(rest[1..=len].to_owned()));
                len + 2
            }
            '[' => rest.find(']').expect("brackets are closed") + 1,
            c if c.is_ascii_digit() => rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len()),
            c if of_name(c) => {
                let len = rest.find(|c| !of_name(c)).unwrap_or(rest.len());
                words.push(Word::Name(rest[..len].to_owned()));
                len
            }
            c => {
                if !c.is_whitespace() {
                    words.push(Word::Mark(c));
                }
                c.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    words
}

/// The parts of an expression that no server shows.
fn unknown(expression: &str, shown: &Shown) -> Vec<String> {
    let words = words(expression);
    let end_of = |from: usize, mark: char| {
        let rest = words[from..].iter();
        from + rest.take_while(|word| **word != Word::Mark(mark)).count()
    };
    let (mut found, mut grouped, mut asked) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut at = 0;
    while at < words.len() {
        let Word::Name(name) = &words[at] else {
            at += 1;
            continue;
        };
        let follows = |mark| words.get(at + 1) == Some(&Word::Mark(mark));
        if name == "by" {
            // A list of labels follows.
            let end = end_of(at, ')');
            grouped.extend(words[at + 1..end].iter().filter_map(|word| match word {
                Word::Name(label) => Some(label.clone()),
                _ => None,
            }));
            at = end;
        } else if OPERATORS.contains(&&**name) || OF_PROMETHEUS.contains(&&**name) {
            at = if follows('{') {
                end_of(at, '}')
            } else {
                at + 1
            };
        } else if follows('(') || words.get(at + 1) == Some(&Word::Name("by".into())) {
            if !FUNCTIONS.contains(&&**name) {
                found.push(format!("the function {name}"));
            }
            at += 1;
        } else if let Some(labels) = shown.get(name) {
            asked.extend(labels.keys().cloned());
            if follows('{') {
                let end = end_of(at, '}');
                found.extend(unmatched(name, &words[at + 2..end], labels));
                at = end;
            }
            at += 1;
        } else {
            found.push(format!("the series {name}"));
            at += 1;
        }
    }
    grouped.retain(|label| !asked.contains(label) && !OF_THE_SCRAPE.contains(&&**label));
    found.extend(grouped.iter().map(|label| format!("the label {label}")));
    found
}

/// Checks the matchers between braces: labels of the series and their possible values.
fn unmatched(
    series: &str,
    matchers: &[Word],
    labels: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut found = Vec::new();
    for matcher in matchers.split(|word| *word == Word::Mark(',')) {
        let (Some(Word::Name(label)), Some(Word::Text(value))) = (matcher.first(), matcher.last())
        else {
            found.push(format!("{series}: {matcher:?}"));
            continue;
        };
        if OF_THE_SCRAPE.contains(&&**label) {
            continue;
        }
        let Some(values) = labels.get(label) else {
            found.push(format!("{series}: the label {label}"));
            continue;
        };
        // The set of statuses depends on the requests.
        let is_status = |value: &str| label == "status" && value.len() == 3;
        for value in value.split('|') {
            if !values.contains(value) && !is_status(value) {
                found.push(format!("{series}: {label} = {value}"));
            }
        }
    }
    found
}

/// Every `expr` of the dashboard, at any depth.
fn expressions_in(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str().filter(|_| name == "expr") {
                    Some(expression) => found.push(expression.to_owned()),
                    None => expressions_in(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions_in(value, found)),
        _ => {}
    }
}

fn dashboard() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&document("deploy/grafana/chatfiles.json")).unwrap();
    let mut found = Vec::new();
    expressions_in(&dashboard, &mut found);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"]["query"].as_str();
        if let Some(series) = query.and_then(|query| query.strip_prefix("label_values(")) {
            found.push(series.split(',').next().unwrap().to_owned());
        }
    }
    found
}

/// The values of `key` in the alarms.
fn in_alarms(key: &str) -> Vec<String> {
    let text = document("deploy/prometheus/alerts.yml");
    let lines = text.lines().map(str::trim);
    let found = lines.filter_map(|line| line.strip_prefix(key));
    found.map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alarms_use_known_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let server = showing_everything(directory.path());
    use_everything(&server);
    let scrape = server.scrape();
    let shown = shown(&scrape);
    let (panels, alarms) = (dashboard(), in_alarms("expr: "));
    assert!(panels.len() > 30, "the dashboard is read");
    assert_eq!(alarms.len(), in_alarms("- alert: ").len());
    assert!(alarms.len() > 8, "the alarms are read");
    let mut names = BTreeSet::new();
    for expression in panels.iter().chain(&alarms) {
        let unknown = unknown(expression, &shown);
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
    for word in panels.iter().flat_map(|expression| words(expression)) {
        if let Word::Name(name) = word {
            names.insert(name);
        }
    }
    let is_in_use = |family: &&String| {
        let suffixes = ["", "_bucket", "_sum", "_count"];
        suffixes
            .iter()
            .any(|suffix| names.contains(&format!("{family}{suffix}")))
    };
    let missing: Vec<_> = scrape
        .families
        .keys()
        .filter(|family| !is_in_use(family))
        .collect();
    assert!(missing.is_empty(), "on no panel: {missing:?}");
}

#[test]
fn check_finds_unknown_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let server = showing_everything(directory.path());
    use_everything(&server);
    let shown = shown(&server.scrape());
    for (expression, expected) in [
        (
            "sum by (route) (rate(chatfiles_http_requests_total[5m])) > 0.5",
            None,
        ),
        (
            "up{job=\"chatfiles\"} == 0 and chatfiles_open_objects",
            None,
        ),
        (
            "chatfiles_http_requests",
            Some("the series chatfiles_http_requests"),
        ),
        (
            "rate(chatfiles_http_request_duration_seconds[5m])",
            Some("the series chatfiles_http_request_duration_seconds"),
        ),
        (
            "sum by (pool) (rate(chatfiles_http_requests_total[5m]))",
            Some("the label pool"),
        ),
        (
            "chatfiles_open_objects{pool=\"picture\"}",
            Some("chatfiles_open_objects: the label pool"),
        ),
        (
            "chatfiles_decode_places{instance=~\"$instance\",pool=\"pictures\"}",
            Some("chatfiles_decode_places: pool = pictures"),
        ),
        (
            "chatfiles_limiter_refusals_total{route=~\"lanying_form|form\"}",
            Some("chatfiles_limiter_refusals_total: route = form"),
        ),
        ("summ(chatfiles_open_objects)", Some("the function summ")),
    ] {
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(unknown(expression, &shown), expected, "{expression}");
    }
}

#[test]
fn panels_are_distinct() {
    let dashboard: Value =
        serde_json::from_str(&document("deploy/grafana/chatfiles.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let place =
        |panel: &Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
    for (at, one) in panels.iter().enumerate() {
        for other in &panels[at + 1..] {
            let names = format!("{} and {}", one["title"], other["title"]);
            assert_ne!(one["id"], other["id"], "{names}");
            let ([x, y, w, h], [x2, y2, w2, h2]) = (place(one), place(other));
            let is_beside = x + w <= x2 || x2 + w2 <= x || y + h <= y2 || y2 + h2 <= y;
            assert!(is_beside, "{names} overlap");
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            expressions_in(one, &mut ours);
            expressions_in(other, &mut theirs);
            assert!(ours.is_empty() || ours != theirs, "{names} show the same");
        }
    }
}

#[test]
fn document_explains_every_alarm() {
    let document = document("docs/operations.md");
    for name in in_alarms("- alert: ") {
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}
