//! Rules of the source tree: imports between modules, clocks, unsafe code, and documents that name existing files.

mod documents;
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use self::source::{Token, module_of, paths, tokens};
use crate::support::files_below;

/// The files that may contain unsafe code; ARCHITECTURE.md gives the reasons.
const UNSAFE: [&str; 2] = ["src/server/send_queue.rs", "src/store/mapped.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A parsed file of `src`.
struct Source {
    /// The name in messages: `src/…`.
    name: String,
    /// `["store", "local"]`
    module: Vec<String>,
    text: String,
    tokens: Vec<Token>,
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(src.join(&path)).unwrap();
        Source {
            name: format!("src/{}", path.display()),
            module: module_of(&path),
            tokens: tokens(&text),
            text,
        }
    };
    let sources: Vec<_> = files_below(&src)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .map(read)
        .collect();
    assert!(sources.len() > 50, "the tree is read");
    sources
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Fails with all violations, not only the first one.
#[track_caller]
fn assert_none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// The layers, top first: the modules of `src/lib.rs`. A blank line separates layers.
fn layers(lib: &str) -> Vec<Vec<String>> {
    let mut layers = vec![Vec::new()];
    for line in lib.lines() {
        let declared = line
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ");
        let module = declared
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'));
        match module {
            Some(module) => layers.last_mut().unwrap().push(module.to_owned()),
            None if line.is_empty() => layers.push(Vec::new()),
            None => {}
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

/// The imports of a file of `module` that violate the order of the layers. Modules of one layer do not import each
/// other, except the leaves in the last layer.
fn upward(layers: &[Vec<String>], module: &[String], paths: &[Vec<String>]) -> BTreeSet<String> {
    let layer_of = |name: &str| {
        layers
            .iter()
            .position(|layer| layer.iter().any(|has| has == name))
    };
    // The binary is above all layers.
    let own = module.first().map(String::as_str).unwrap_or_default();
    let own_layer = layer_of(own);
    let is_allowed = |path: &&Vec<String>| {
        let Some(top) = path.first() else { return true };
        match (own_layer, layer_of(top)) {
            _ if top == own => true,
            (Some(own), Some(other)) => other > own || (other == own && own + 1 == layers.len()),
            (None, Some(_)) => own == "main" || own.is_empty(),
            (_, None) => false,
        }
    };
    paths
        .iter()
        .filter(|path| !is_allowed(path))
        .map(|path| path.join("::"))
        .collect()
}

#[test]
fn imports_go_down_only() {
    let layers = layers(&document("src/lib.rs"));
    assert_eq!(layers.first().unwrap(), &["cli"]);
    assert!(layers.last().unwrap().contains(&"error".to_owned()));
    let mut found = Vec::new();
    for source in sources() {
        for path in upward(
            &layers,
            &source.module,
            &paths(&source.module, &source.tokens),
        ) {
            found.push(format!("{} imports {path}", source.name));
        }
    }
    assert_none("a module imports only those below it in src/lib.rs", found);
}

#[test]
fn layers_follow_design() {
    let layers = layers(&document("src/lib.rs"));
    let place = |name: &str| {
        let found = layers
            .iter()
            .position(|layer| layer.iter().any(|has| has == name));
        found.unwrap_or_else(|| panic!("src/lib.rs declares {name}"))
    };
    let order = [
        "cli",
        "server",
        "api",
        "files",
        "retention",
        "tenant",
        "store",
        "error",
    ];
    assert!(order.map(place).is_sorted_by(|a, b| a < b), "{layers:?}");
    for siblings in [
        &["auth", "limit", "media", "http"][..],
        &["error", "logging", "time"][..],
    ] {
        let places: BTreeSet<_> = siblings.iter().map(|name| place(name)).collect();
        assert_eq!(places.len(), 1, "{siblings:?}: {layers:?}");
    }
}

#[test]
fn layer_check_finds_violations() {
    let layers =
        layers("pub mod top;\n\npub mod a;\npub mod b;\n\npub mod leaf;\npub mod fruit;\n");
    for (module, path, allowed) in [
        ("top", "a::x", true),
        ("a", "a::y", true),
        ("a", "leaf::x", true),
        ("leaf", "fruit::x", true),
        ("main", "top::main", true),
        ("a", "b::x", false),
        ("a", "top::x", false),
        ("leaf", "a::x", false),
        ("a", "Error", false),
        ("stranger", "leaf::x", false),
    ] {
        let path: Vec<_> = path.split("::").map(str::to_owned).collect();
        let found = upward(&layers, &[module.to_owned()], &[path]);
        assert_eq!(found.is_empty(), allowed, "{module} {found:?}");
    }
}

#[test]
fn apis_never_import_each_other() {
    let dialects: Vec<String> = fs::read_dir(root().join("src/api"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(dialects.contains(&"easemob".to_owned()), "{dialects:?}");
    let mut found = Vec::new();
    for source in sources() {
        // Code shared by the APIs stands below them. `api/mod.rs` imports none of them either.
        let [api, rest @ ..] = &source.module[..] else {
            continue;
        };
        if api != "api" {
            continue;
        }
        for path in paths(&source.module, &source.tokens) {
            let [first, second, ..] = &path[..] else {
                continue;
            };
            let is_other = dialects.contains(second) && rest.first() != Some(second);
            if first == "api" && is_other {
                found.push(format!("{} imports {}", source.name, path.join("::")));
            }
        }
    }
    assert_none("a dialect is imported by itself and by server/ only", found);
}

/// Whether the words follow each other, with `::` or nothing between them.
fn names(tokens: &[Token], words: &[&str]) -> bool {
    let code: Vec<_> = tokens
        .iter()
        .filter(|token| **token != Token::Colons)
        .collect();
    code.windows(words.len()).any(|window| {
        window.iter().zip(words).all(|(token, word)| match token {
            Token::Word(found) => found == word,
            Token::Mark(mark) => word.chars().eq([*mark]),
            Token::Colons => false,
        })
    })
}

#[test]
fn only_time_rs_reads_a_clock() {
    let found = sources()
        .into_iter()
        .filter(|source| source.name != "src/time.rs")
        .filter(|source| {
            let clocks = ["Instant", "SystemTime", "Timestamp", "Zoned", "Utc"];
            clocks
                .iter()
                .any(|clock| names(&source.tokens, &[clock, "now"]))
        })
        .map(|source| source.name)
        .collect();
    assert_none("only src/time.rs reads a clock", found);
    let time = tokens(&document("src/time.rs"));
    assert!(
        names(&time, &["SystemTime", "now"]),
        "the check finds it there"
    );
}

#[test]
fn only_wire_rs_renders_json() {
    let found = sources()
        .into_iter()
        .filter(|source| {
            source.name.starts_with("src/api/") && names(&source.tokens, &["json", "!"])
        })
        .map(|source| source.name)
        .filter(|name| !name.ends_with("/wire.rs") && name != "src/api/ops.rs")
        .collect();
    assert_none("answers are rendered in wire.rs", found);
    let wire = tokens(&document("src/api/easemob/wire.rs"));
    assert!(names(&wire, &["json", "!"]), "the check finds it there");
}

#[test]
fn unsafe_code_is_where_documented() {
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|source| names(&source.tokens, &["unsafe"]))
        .map(|source| source.name)
        .collect();
    assert_eq!(
        found, UNSAFE,
        "the files with unsafe code, and the list of this test"
    );
    let architecture = document("ARCHITECTURE.md");
    let missing = UNSAFE
        .into_iter()
        .filter(|name| !architecture.contains(name))
        .map(str::to_owned)
        .collect();
    assert_none("ARCHITECTURE.md names every file with unsafe code", missing);
}

#[test]
fn every_file_opens_with_its_purpose() {
    let found = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.name)
        .collect();
    assert_none("a file opens with //!", found);
}

#[test]
fn every_dependency_is_documented() {
    let manifest: toml::Table = document("Cargo.toml").parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    assert!(dependencies.len() > 10);
    let document = document("docs/dependencies.md");
    let has_line = |name: &str| {
        let marks = [format!("`{name}`"), format!("[{name}]")];
        document.lines().any(|line| {
            line.starts_with(['|', '-', '*', '#']) && marks.iter().any(|mark| line.contains(mark))
        })
    };
    let missing = dependencies
        .keys()
        .filter(|name| !has_line(name))
        .cloned()
        .collect();
    assert_none(
        "docs/dependencies.md says of each dependency why it is there",
        missing,
    );
}

/// The version of a package in a lock file.
fn locked(lock: &str, name: &str) -> String {
    let lock: toml::Table = document(lock).parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let found = packages
        .iter()
        .find(|package| package["name"].as_str() == Some(name));
    found.unwrap_or_else(|| panic!("{name}"))["version"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn fuzzed_versions_match_server() {
    for name in ["memchr", "ppp"] {
        assert_eq!(
            locked("fuzz/Cargo.lock", name),
            locked("Cargo.lock", name),
            "{name}"
        );
    }
}

/// All paths `src/…` in a text.
fn paths_in(text: &str) -> BTreeSet<&str> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.match_indices("src/")
        .filter(|(at, _)| !text[..*at].ends_with(is_of_path))
        .map(|(at, _)| {
            text[at..]
                .split(|c| !is_of_path(c))
                .next()
                .unwrap_or_default()
        })
        .map(|path| path.trim_end_matches(['.', '/']))
        .collect()
}

#[test]
fn architecture_names_existing_files() {
    let text = "`src/a.rs`, src/b/. (src/c/mod.rs) https://x/src/d.rs src/e.rs.";
    let expected = ["src/a.rs", "src/b", "src/c/mod.rs", "src/e.rs"];
    assert_eq!(Vec::from_iter(paths_in(text)), expected);
    let architecture = document("ARCHITECTURE.md");
    let named = paths_in(&architecture);
    assert!(!named.is_empty(), "it contains the code map");
    let missing = named
        .into_iter()
        .filter(|path| !root().join(path).exists())
        .map(str::to_owned)
        .collect();
    assert_none("what ARCHITECTURE.md names exists", missing);
}
