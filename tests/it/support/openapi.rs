//! The OpenAPI documents of docs/openapi, and a check that they describe a response.
//!
//! Only status and content type are checked here: `scripts/schemathesis` checks headers and bodies.

use std::{cell::Cell, collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::client::Answer;

/// The methods of operations in a document.
const METHODS: [&str; 8] = [
    "get", "head", "post", "put", "patch", "delete", "options", "trace",
];

/// A document.
pub struct Document {
    pub name: &'static str,
    pub root: Value,
}

/// An operation of a document.
#[derive(Clone, Copy)]
pub struct Operation<'d> {
    /// In upper case.
    pub method: &'static str,
    /// The path with `{name}` segments.
    pub template: &'d str,
    pub item: &'d Value,
    pub value: &'d Value,
}

/// All documents.
pub static DOCUMENTS: LazyLock<[Document; 3]> = LazyLock::new(|| {
    ["easemob", "lanying", "operator"].map(|name| {
        let path = format!("{}/docs/openapi/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let root = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Document { name, root }
    })
});

impl Document {
    /// Whether it describes the public listener.
    pub fn is_public(&self) -> bool {
        self.name != "operator"
    }

    /// The path items by their templates.
    pub fn paths(&self) -> impl Iterator<Item = (&str, &Value)> {
        let paths = self.root["paths"].as_object().expect("paths");
        paths.iter().map(|(path, item)| (path.as_str(), item))
    }

    /// All operations.
    pub fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.paths().flat_map(|(template, item)| {
            METHODS.into_iter().filter_map(move |method| {
                Some(Operation {
                    method: upper(method),
                    template,
                    item,
                    value: item.get(method)?,
                })
            })
        })
    }

    /// Follows a reference, if this is one.
    pub fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
            return value;
        };
        let target = self.root.pointer(reference.trim_start_matches('#'));
        self.resolve(target.unwrap_or_else(|| panic!("{}: no {reference}", self.name)))
    }
}

impl Operation<'_> {
    /// The path with the examples of its parameters.
    pub fn example_path(&self, document: &Document) -> String {
        let parameters = self.item["parameters"].as_array();
        let examples: BTreeMap<&str, &str> = parameters
            .into_iter()
            .flatten()
            .map(|parameter| document.resolve(parameter))
            .map(|parameter| {
                let text = |name: &str| parameter[name].as_str().expect("a name and an example");
                (text("name"), text("example"))
            })
            .collect();
        let segments = self.template.split('/').map(|segment| {
            let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            name.map_or(segment, |name| examples[name])
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

fn upper(method: &str) -> &'static str {
    const UPPER: [&str; 8] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
    ];
    let found = UPPER.iter().find(|name| name.eq_ignore_ascii_case(method));
    found.expect("one of METHODS")
}

/// The segments of a path without its query. Empty ones are left out, as the server does.
fn segments(path: &str) -> Vec<&str> {
    let path = path.split('?').next().unwrap_or_default();
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .collect()
}

/// Whether a path has this template. Paths below `/file` belong to the Lanying API.
fn matches(template: &str, path: &[&str]) -> bool {
    let template = segments(template);
    template.len() == path.len()
        && (template.first() == Some(&"file")) == (path.first() == Some(&"file"))
        && template
            .iter()
            .zip(path)
            .all(|(pattern, segment)| pattern.starts_with('{') || pattern == segment)
}

thread_local! {
    static IS_CHECKED: Cell<bool> = const { Cell::new(true) };
}

/// Ends the checks of [`check`] in this test: its store fails in ways in which no real one does.
pub fn stop_checking() {
    IS_CHECKED.set(false);
}

/// Fails the test if a document has the operation of this request, but not this response to it: its status, and its
/// content type.
///
/// Responses of the public listener are recognized by `x-request-id`. A refusal by the HTTP layer, and the response of
/// another server in a test, have none.
#[track_caller]
pub fn check(method: &str, path: &str, answer: &Answer) {
    if !IS_CHECKED.get() {
        return;
    }
    let is_public = answer.header("x-request-id").is_some();
    let path_segments = segments(path);
    let plain_path = path.split('?').next().unwrap_or_default();
    // Unlike the public listener, the operator listener does not ignore empty segments.
    if !is_public && format!("/{}", path_segments.join("/")) != plain_path {
        return;
    }
    let of_listener = DOCUMENTS
        .iter()
        .filter(|document| document.is_public() == is_public);
    for document in of_listener {
        let found = document.operations().find(|operation| {
            operation.method == method && matches(operation.template, &path_segments)
        });
        if let Some(operation) = found {
            let described = describes(document, operation, answer);
            let shown = path.split('?').next().unwrap_or_default();
            assert!(
                described,
                "docs/openapi/{}.yaml: {method} {shown} has no response {} of the type {:?}: {}",
                document.name,
                answer.status,
                answer.header("content-type"),
                answer.text()
            );
        }
    }
}

fn describes(document: &Document, operation: Operation<'_>, answer: &Answer) -> bool {
    let Some(response) = operation.value["responses"].get(answer.status.to_string()) else {
        return false;
    };
    let content = document
        .resolve(response)
        .get("content")
        .and_then(Value::as_object);
    let sent = answer.header("content-type");
    match (content, sent) {
        (None, None) => true,
        (Some(content), Some(sent)) => {
            let essence = sent.split(';').next().unwrap_or_default().trim();
            content.keys().any(|range| includes(range, essence))
        }
        _ => false,
    }
}

/// Whether a media range, such as `image/*`, includes a media type.
fn includes(range: &str, essence: &str) -> bool {
    match range.strip_suffix("/*") {
        Some("*") => true,
        Some(family) => essence.split('/').next() == Some(family),
        None => range.eq_ignore_ascii_case(essence),
    }
}
