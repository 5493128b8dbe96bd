//! Documents: their links lead somewhere, and the indexes are complete.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{assert_none, document, root};

/// Folders without documents of this project.
const SKIPPED: [&str; 4] = ["target", ".git", "node_modules", "chatfiles-data"];

/// All Markdown files of the project, relative to its root.
fn documents() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if entry.file_type().unwrap().is_dir() {
                if !SKIPPED.contains(&&*name) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of a document outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence
    })
}

/// The anchors of the headings, by the rule of the usual Markdown hosts: lower case, hyphens for spaces, no punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let title: String = title.trim().to_lowercase().chars().filter(kept).collect();
        let anchor = title.replace(' ', "-");
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let mut free = [anchor.clone()].into_iter().chain(numbered);
        found.insert(free.find(|anchor| !found.contains(anchor)).unwrap());
    }
    found
}

/// The targets of inline links and images, without code spans.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<&str> = prose(text).collect();
    let text = prose.join("\n");
    // A code span is between two backticks, and may contain something like a link.
    let text: String = text.split('`').step_by(2).collect();
    let targets = text.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split(')').next())
        .map(str::to_owned)
        .collect()
}

/// Why a relative link leads nowhere.
fn broken(from: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => root().join(from),
        path => root().join(from).parent().unwrap().join(path),
    };
    if !target.exists() {
        return Some(format!("{}: {link}: no such file", from.display()));
    }
    if anchor.is_empty() || target.extension().is_none_or(|kind| kind != "md") {
        return None;
    }
    let has_anchor = anchors(&fs::read_to_string(&target).unwrap()).contains(anchor);
    (!has_anchor).then(|| format!("{}: {link}: no such heading", from.display()))
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    assert!(documents.len() > 20, "{documents:?}");
    let (mut found, mut count) = (Vec::new(), 0);
    for path in documents {
        for link in links(&document(path.to_str().unwrap())) {
            count += 1;
            found.extend(broken(&path, &link));
        }
    }
    assert!(count > 100, "{count}");
    assert_none("links between documents", found);
}

#[test]
fn link_check_finds_broken_links() {
    let text = "# A `b`: c_d, 2×3\n[x](y.md#z) `[n](o)` ![i](i.svg)\n```\n# no\n[n](o)\n```\n## Twice\n## Twice\n## 安装\n";
    assert_eq!(links(text), ["y.md#z", "i.svg"]);
    let expected = ["a-b-c_d-23", "twice", "twice-1", "安装"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
    let from = Path::new("docs/README.md");
    for (link, is_broken) in [
        ("operations.md#sizing", false),
        ("../README.md", false),
        ("https://example.com/x#y", false),
        ("operations.md#nowhere", true),
        ("nowhere.md", true),
    ] {
        assert_eq!(broken(from, link).is_some(), is_broken, "{link}");
    }
}

#[test]
fn every_docs_folder_has_an_index() {
    let mut found = Vec::new();
    for path in documents() {
        let folder = path.parent().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !folder.starts_with("docs") || name == "README.md" {
            continue;
        }
        let index = folder.join("README.md");
        // A folder without an index of its own is listed in the one above.
        let (index, name) = match root().join(&index).exists() {
            true => (index, name.to_owned()),
            false => {
                let inner = folder.file_name().unwrap().to_str().unwrap();
                let above = folder.parent().unwrap().join("README.md");
                (above, format!("{inner}/{name}"))
            }
        };
        let listed = links(&document(index.to_str().unwrap()));
        if !listed
            .iter()
            .any(|link| link.split('#').next() == Some(&name))
        {
            found.push(format!(
                "{} does not list {}",
                index.display(),
                path.display()
            ));
        }
    }
    assert_none("indexes of documents", found);
}
