//! The OpenAPI documents agree with the server: every route is in a document, and every operation has a route.
//!
//! `Connection::request` checks in all tests that the documents describe the response. `scripts/schemathesis` checks
//! headers and bodies, and that examples match their schemas.

use std::collections::{BTreeMap, BTreeSet};

use chatfiles::routes;
use serde_json::Value;

use crate::support::{
    Answer, Connection, TestServer,
    openapi::{self, DOCUMENTS, Document, Operation},
};

const OPERATOR: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n";
/// Labels that are not a route's own: no route, and downloads of a derivative.
const NO_OPERATION: [&str; 3] = ["none", "easemob_derivative", "lanying_derivative"];

fn public() -> impl Iterator<Item = &'static Document> {
    DOCUMENTS.iter().filter(|document| document.is_public())
}

fn operator() -> &'static Document {
    let found = DOCUMENTS.iter().find(|document| !document.is_public());
    found.unwrap()
}

/// The label of the route: the `operationId`, which a HEAD shares with its GET.
fn label<'d>(operation: &Operation<'d>) -> &'d str {
    match operation.value["operationId"].as_str() {
        Some(id) => id.strip_suffix("_head").unwrap_or(id),
        None => "preflight",
    }
}

/// The methods of each path.
fn methods(document: &Document) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut methods: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in document.operations() {
        let of_path = methods.entry(operation.template).or_default();
        of_path.insert(operation.method);
    }
    methods
}

/// The methods that `Allow` names.
fn allowed(answer: &Answer) -> BTreeSet<&str> {
    assert_eq!(answer.status, 405);
    answer.header("allow").unwrap().split(", ").collect()
}

#[test]
fn documents_contain_every_route() {
    let documented: BTreeSet<&str> = public()
        .flat_map(|document| document.operations().map(|operation| label(&operation)))
        .collect();
    let routes: BTreeSet<&str> = routes::labels()
        .filter(|label| !NO_OPERATION.contains(label))
        .collect();
    assert_eq!(documented, routes);
}

/// The label that the server counts for the request says which route it took.
#[test]
fn operations_reach_their_route() {
    let server = TestServer::with(OPERATOR);
    let counted = |label: &str| -> f64 {
        let scrape = server.scrape();
        let name = format!("chatfiles_http_requests_total{{route=\"{label}\",");
        let of_route = scrape
            .samples
            .iter()
            .filter(|(series, _)| series.starts_with(&name));
        of_route.map(|(_, count)| count).sum()
    };
    for document in public() {
        for operation in document.operations() {
            let path = operation.example_path(document);
            let (method, label) = (operation.method, label(&operation));
            let before = counted(label);
            server.request(method, &path, &[], b"");
            assert_eq!(counted(label), before + 1.0, "{method} {path}: {label}");
        }
    }
}

#[test]
fn paths_list_all_methods() {
    let server = TestServer::with(OPERATOR);
    for document in public() {
        for (template, methods) in methods(document) {
            let operation = document
                .operations()
                .find(|operation| operation.template == template);
            let path = operation.unwrap().example_path(document);
            let answer = server.request("BREW", &path, &[], b"");
            let mut allowed = allowed(&answer);
            // Any path answers OPTIONS, and `Allow` names it where browsers use it.
            allowed.insert("OPTIONS");
            assert_eq!(methods, allowed, "{template}");
        }
    }
}

#[test]
fn operator_paths_answer_documented_methods() {
    let server = TestServer::with(OPERATOR);
    let document = operator();
    let methods = methods(document);
    for operation in document.operations() {
        let path = operation.example_path(document);
        let answer = server.operator(operation.method, &path);
        assert!(
            ![404, 405].contains(&answer.status),
            "{} {path}: {}",
            operation.method,
            answer.text()
        );
        let refused = server.operator("BREW", &path);
        assert_eq!(
            allowed(&refused),
            methods[operation.template],
            "{}",
            operation.template
        );
    }
}

/// The paths are literals in the source of the operator listener.
#[test]
fn operator_document_contains_every_path() {
    let source = include_str!("../../src/server/operator.rs");
    let literals = source.split('"').skip(1).step_by(2);
    let in_source: BTreeSet<&str> = literals.filter(|text| text.starts_with('/')).collect();
    assert!(in_source.len() > 4, "{in_source:?}");
    let documented: Vec<&str> = operator().paths().map(|(path, _)| path).collect();
    for path in in_source {
        assert!(
            documented.iter().any(|known| known.starts_with(path)),
            "{path}"
        );
    }
}

#[test]
fn operator_listener_serves_documents() {
    let server = TestServer::with(OPERATOR);
    for name in ["easemob", "lanying", "operator"] {
        let file = format!("{}/docs/openapi/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(file).unwrap();
        let path = format!("/openapi/{name}.yaml");
        let answer = server.operator("GET", &path);
        assert_eq!(answer.status, 200, "{name}");
        assert!(answer.body == file, "{name}");
        assert_eq!(answer.header("content-type"), Some("application/yaml"));
        let head = server.operator("HEAD", &path);
        let length = file.len().to_string();
        assert_eq!(head.header("content-length"), Some(&*length));
        assert_eq!(server.operator("PUT", &path).status, 405);
        assert_eq!(server.get(&path, &[]).status, 404, "only for the operator");
    }
    for path in ["/openapi", "/openapi/", "/openapi/../easemob.yaml"] {
        assert_eq!(server.operator("GET", path).status, 404, "{path}");
    }
}

#[test]
fn references_resolve() {
    fn visit(document: &Document, value: &Value, count: &mut usize) {
        if value.get("$ref").is_some() {
            *count += 1;
            document.resolve(value);
        }
        let children = value.as_array().into_iter().flatten();
        let members = value.as_object().into_iter().flatten();
        for child in children.chain(members.map(|(_, member)| member)) {
            visit(document, child, count);
        }
    }
    for document in DOCUMENTS.iter() {
        let mut count = 0;
        visit(document, &document.root, &mut count);
        assert!(count > 5, "{}", document.name);
    }
}

#[test]
fn operation_ids_are_unique() {
    let mut seen = BTreeSet::new();
    for document in DOCUMENTS.iter() {
        for operation in document.operations() {
            let id = operation.value["operationId"].as_str();
            assert!(
                id.map_or(operation.method == "OPTIONS", |id| seen.insert(id)),
                "{id:?}"
            );
        }
    }
}

fn answer(status: u16, content_type: &str) -> Answer {
    let headers = [
        ("x-request-id", "0123456789abcdef"),
        ("content-type", content_type),
    ];
    Answer {
        status,
        headers: headers
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        body: Vec::new(),
    }
}

#[test]
fn check_accepts_documented_response() {
    openapi::check("GET", "/healthz", &answer(200, "application/json"));
    openapi::check("GET", "//healthz/?x", &answer(200, "application/json"));
    openapi::check("GET", "/o/a/chatfiles/1?x", &answer(200, "image/png"));
    openapi::check("GET", "/nothing", &answer(418, "text/tea"));
}

#[test]
#[should_panic(expected = "easemob.yaml: GET /o/a/chatfiles/1 has no response 418")]
fn check_finds_undocumented_status() {
    openapi::check(
        "GET",
        "/o/a/chatfiles/1?x",
        &answer(418, "application/json"),
    );
}

#[test]
#[should_panic(expected = "lanying.yaml: POST /file/oss/x has no response 403 of the type")]
fn check_finds_undocumented_content_type() {
    openapi::check("POST", "/file/oss/x", &answer(403, "application/json"));
}
