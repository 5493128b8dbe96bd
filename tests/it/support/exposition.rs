//! A strict parser of Prometheus's text format (0.0.4): errors that a lenient parser ignores fail here. Also requests
//! to the operator listener.

use std::collections::BTreeMap;

use super::{Answer, Connection, TestServer};

/// A parsed scrape.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// Kind of each family: `counter`, `gauge` or `histogram`.
    pub families: BTreeMap<String, String>,
    /// Samples by name and labels in their order: `a_total{b="c"}`.
    pub samples: BTreeMap<String, f64>,
}

impl TestServer {
    /// Sends a request to the operator listener over a new connection.
    pub fn operator(&self, method: &str, path: &str) -> Answer {
        let address = self.operator.expect("the test configures operator.listen");
        Connection::open(address).request(method, path, &[], b"")
    }

    /// Scrapes `/metrics`; fails the test if it is not well-formed.
    #[track_caller]
    pub fn scrape(&self) -> Exposition {
        let answer = self.operator("GET", "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = String::from_utf8(answer.body).expect("UTF-8");
        Exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

impl Exposition {
    /// Parses a complete exposition.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let text = text.strip_suffix('\n').ok_or("no line end at the end")?;
        let mut lines = text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let at = |what: &str| format!("{what}: {line}");
            let (name, help) = line
                .strip_prefix("# HELP ")
                .and_then(|rest| rest.split_once(' '))
                .ok_or_else(|| at("a family begins with its help"))?;
            if !is_name(name) || help.is_empty() || help != help.trim() {
                return Err(at("no name, or no help"));
            }
            let kind = lines
                .next()
                .and_then(|line| line.strip_prefix("# TYPE "))
                .and_then(|rest| rest.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| at("the type of the same family follows"))?;
            if found.families.insert(name.into(), kind.into()).is_some() {
                return Err(at("a family comes twice"));
            }
            let mut samples = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                samples.push(Sample::parse(line).ok_or_else(|| format!("no sample: {line}"))?);
            }
            check_family(name, kind, &samples)?;
            for sample in samples {
                let series = series(&sample.name, &sample.labels);
                if found.samples.insert(series.clone(), sample.value).is_some() {
                    return Err(format!("a series comes twice: {series}"));
                }
            }
        }
        Ok(found)
    }

    /// The value of a series; 0 if it is absent. Labels are in their order.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let value = self.samples.get(&series(name, &labels));
        let value = value.copied().unwrap_or_default();
        assert_eq!(value.fract(), 0.0, "{name} is a whole number");
        value as u64
    }

    /// The counters and histogram counts that grew since `before`, with the difference.
    pub fn growth(&self, before: &Self) -> BTreeMap<String, u64> {
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            name.ends_with("_total") || name.ends_with("_seconds_count")
        };
        self.samples
            .iter()
            .filter(|(series, _)| counts(series))
            .map(|(series, value)| {
                let old = before.samples.get(series).copied().unwrap_or_default();
                assert!(*value >= old, "{series} went down from {old} to {value}");
                (series.clone(), (*value - old) as u64)
            })
            .filter(|(_, more)| *more > 0)
            .collect()
    }
}

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let name_end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(name_end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"")?;
                let value_end = end_of_value(after)?;
                labels.push((label.to_owned(), after[..value_end].to_owned()));
                rest = after[value_end..].strip_prefix('"')?;
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        let number = rest.strip_prefix(' ')?;
        let is_number = number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte));
        let names = labels.iter().map(|(label, _)| label.as_str()).chain([name]);
        let are_names = names.into_iter().all(is_name);
        let value = number.parse().ok()?;
        (is_number && are_names).then(|| Self {
            name: name.to_owned(),
            labels,
            value,
        })
    }
}

/// The position of the quote that ends a label value; within it, quotes and backslashes are escaped.
fn end_of_value(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at),
            b'\\' => {
                let (_, escaped) = bytes.next()?;
                b"\\\"n".contains(&escaped).then_some(())?;
            }
            _ => {}
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn series(name: &str, labels: &[(String, String)]) -> String {
    let labels: Vec<_> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    match labels.is_empty() {
        true => name.to_owned(),
        false => format!("{name}{{{}}}", labels.join(",")),
    }
}

fn check_family(name: &str, kind: &str, samples: &[Sample]) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{name}, a {kind}: {what}"));
    if name.ends_with("_total") != (kind == "counter") {
        return wrong("counters, and they alone, end with _total");
    }
    if samples.iter().any(|sample| sample.value < 0.0) {
        return wrong("nothing here is negative");
    }
    match kind {
        "counter" | "gauge" if samples.iter().any(|sample| sample.name != name) => {
            wrong("a sample of another name")
        }
        "counter" | "gauge" => Ok(()),
        "histogram" => check_histogram(name, samples),
        _ => wrong("an unknown type"),
    }
}

/// Checks buckets, `_sum` and `_count` for each set of labels.
fn check_histogram(name: &str, samples: &[Sample]) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{name}, a histogram: {what}"));
    let mut rest = samples;
    while let Some(first) = rest.first() {
        let is_bucket = |sample: &Sample| sample.name == format!("{name}_bucket");
        let len = rest.iter().take_while(|sample| is_bucket(sample)).count();
        let buckets = &rest[..len];
        let Some((bound, labels)) = first.labels.split_last().filter(|_| len > 0) else {
            return wrong("it begins with buckets");
        };
        // The next set of labels may follow at once.
        let len = buckets
            .iter()
            .take_while(|bucket| bucket.labels[..bucket.labels.len() - 1] == *labels)
            .count();
        let (buckets, after) = (&rest[..len], &rest[len..]);
        let bounds: Option<Vec<f64>> = buckets
            .iter()
            .map(|bucket| bucket.labels.last()?.1.parse().ok())
            .collect();
        if bound.0 != "le" || bounds.is_none_or(|bounds| !bounds.is_sorted_by(|a, b| a < b)) {
            return wrong("bounds grow");
        }
        if !buckets.is_sorted_by(|a, b| a.value <= b.value) {
            return wrong("buckets are accumulated");
        }
        let last = &buckets[len - 1];
        if last.labels.last().is_none_or(|(_, bound)| bound != "+Inf") {
            return wrong("the last bucket has no bound");
        }
        let [sum, count, next @ ..] = after else {
            return wrong("sum and count follow");
        };
        let are_named = sum.name == format!("{name}_sum") && count.name == format!("{name}_count");
        if !are_named || sum.labels != labels || count.labels != labels {
            return wrong("sum and count have the labels of their buckets");
        }
        if count.value != last.value || (sum.value > 0.0) != (count.value > 0.0) {
            return wrong("the numbers agree");
        }
        rest = next;
    }
    Ok(())
}

#[test]
fn parser_rejects_bad_expositions() {
    let good = "# HELP a_total Some help.\n# TYPE a_total counter\na_total{b=\"c\\\"{,\",d=\"\"} 1\na_total{b=\"d\"} 2\n\
                # HELP g Now.\n# TYPE g gauge\ng 1.5\n# HELP h_seconds H.\n# TYPE h_seconds histogram\n\
                h_seconds_bucket{r=\"x\",le=\"0.1\"} 1\nh_seconds_bucket{r=\"x\",le=\"+Inf\"} 3\n\
                h_seconds_sum{r=\"x\"} 4.5e-1\nh_seconds_count{r=\"x\"} 3\n# HELP e None.\n# TYPE e gauge\n";
    let read = Exposition::parse(good).unwrap();
    assert_eq!(read.families.len(), 4);
    assert_eq!(read.get("a_total", &[("b", "d")]), 2);
    assert_eq!(read.samples["a_total{b=\"c\\\"{,\",d=\"\"}"], 1.0);
    assert_eq!(read.get("h_seconds_count", &[("r", "x")]), 3);
    for (from, to) in [
        ("a_total{b=\"d\"} 2\n", "a_total{b=\"d\"} 2"),
        ("a_total{b=\"d\"} 2\n", "a_total{b=\"d\"} 2\n\n"),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\"} 2 "),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\"}  2"),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\"} two"),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\"} -2"),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\",} 2"),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\" 2"),
        ("a_total{b=\"d\"} 2", "a_total{b=d} 2"),
        ("a_total{b=\"d\"} 2", "a_total{b=\"d\\x\"} 2"),
        ("a_total{b=\"d\"} 2", "a_total{B=\"d\"} 2"),
        ("a_total{b=\"d\"} 2", "other_total{b=\"d\"} 2"),
        (
            "a_total{b=\"d\"} 2",
            "a_total{b=\"d\"} 2\na_total{b=\"d\"} 2",
        ),
        ("# TYPE a_total counter", "# TYPE a_total gauge"),
        ("# TYPE a_total counter\n", ""),
        ("# TYPE g gauge", "# TYPE g thing"),
        ("# HELP g Now.\n", ""),
        ("# HELP g Now.", "# HELP h_seconds Now."),
        ("le=\"0.1\"} 1", "le=\"0.1\"} 4"),
        ("le=\"0.1\"", "le=\"x\""),
        ("le=\"+Inf\"", "le=\"9\""),
        ("h_seconds_bucket{r=\"x\",le=\"+Inf\"} 3\n", ""),
        ("h_seconds_sum{r=\"x\"} 4.5e-1\n", ""),
        ("h_seconds_count{r=\"x\"} 3", "h_seconds_count{r=\"x\"} 4"),
        ("h_seconds_count{r=\"x\"} 3", "h_seconds_count{r=\"y\"} 3"),
    ] {
        assert!(good.contains(from), "{from}");
        let bad = good.replacen(from, to, 1);
        assert!(Exposition::parse(&bad).is_err(), "{from} → {to}");
    }
}
