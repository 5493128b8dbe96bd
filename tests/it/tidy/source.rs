//! A minimal Rust tokenizer: words without comments and literals, and the paths that a file names. It expands no macros
//! and resolves no names.

use std::path::Path;

/// A word or mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// `::`
    Colons,
    Mark(char),
}

/// The words and marks of a source text, without comments, literals and lifetimes.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => i += until(&chars[i..], |rest| rest[0] == '\n'),
            ('/', '*') => i += block_comment(&chars[i..]),
            ('"', _) => i += text(&chars[i..]),
            ('r', '"') | ('r', '#') if is_raw_text(&chars[i + 1..]) => {
                i += 1 + raw_text(&chars[i + 1..]);
            }
            ('b' | 'c', 'r') if is_raw_text(&chars[i + 2..]) => i += 2 + raw_text(&chars[i + 2..]),
            ('\'', _) => i += character_or_lifetime(&chars[i..]),
            (':', ':') => {
                tokens.push(Token::Colons);
                i += 2;
            }
            (c, _) if is_word(c) => {
                let len = until(&chars[i..], |rest| !is_word(rest[0]));
                tokens.push(Token::Word(chars[i..i + len].iter().collect()));
                i += len;
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(Token::Mark(c));
                }
                i += 1;
            }
        }
    }
    tokens
}

fn until(rest: &[char], found: impl Fn(&[char]) -> bool) -> usize {
    (0..rest.len())
        .find(|&at| found(&rest[at..]))
        .unwrap_or(rest.len())
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match (rest[i], rest.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn text(rest: &[char]) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != '"' {
        i += if rest[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn is_raw_text(rest: &[char]) -> bool {
    rest.iter().find(|c| **c != '#') == Some(&'"')
}

/// The length of a raw string, from its `#`s or quote to the end.
fn raw_text(rest: &[char]) -> usize {
    let hashes = until(rest, |rest| rest[0] != '#');
    let body = &rest[hashes + 1..];
    let ends = |rest: &[char]| {
        rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|c| *c == '#')
    };
    hashes + 1 + until(body, ends) + 1 + hashes
}

fn character_or_lifetime(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => 3 + until(tail, |tail| tail[0] == '\'') + 1,
        ['\'', _, '\'', ..] => 3,
        _ => {
            1 + until(&rest[1..], |rest| {
                !(rest[0].is_alphanumeric() || rest[0] == '_')
            })
        }
    }
}

/// The module of a file, from its path below `src`; empty for `lib.rs`.
pub fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut module: Vec<String> = path
        .iter()
        .map(|name| name.to_str().expect("an ASCII name").to_owned())
        .collect();
    if module
        .last()
        .is_some_and(|name| name == "mod" || name == "lib")
    {
        module.pop();
    }
    module
}

/// Every path of this crate that a file names, from the root: those that start with `crate` or `super`, each branch of
/// a `use` separately.
pub fn paths(module: &[String], tokens: &[Token]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    // Modules within the file, each with the brace depth at which it ends.
    let (mut inner, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i..] {
            [Token::Word(word), Token::Word(name), Token::Mark('{'), ..] if word == "mod" => {
                depth += 1;
                inner.push((name.clone(), depth));
                i += 3;
                continue;
            }
            [Token::Mark('{'), ..] => depth += 1,
            [Token::Mark('}'), ..] => {
                inner.retain(|(_, opened)| *opened < depth);
                depth -= 1;
            }
            [Token::Word(word), Token::Colons, ..] if i == 0 || tokens[i - 1] != Token::Colons => {
                let base = match word.as_str() {
                    "crate" | "chatfiles" => Some((Vec::new(), i + 2)),
                    "super" => {
                        let own = module.iter().cloned();
                        Some((
                            own.chain(inner.iter().map(|(name, _)| name.clone()))
                                .collect(),
                            i,
                        ))
                    }
                    _ => None,
                };
                if let Some((base, start)) = base {
                    let end = tree(&tokens[start..], base, &mut paths);
                    i = start + end;
                    continue;
                }
            }
            _ => {}
        }
        i += 1;
    }
    paths
}

/// Reads `a::b`, `a::{b, c::d}`, `a::*`; returns the number of tokens.
fn tree(tokens: &[Token], mut path: Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let mut i = 0;
    loop {
        match tokens.get(i) {
            Some(Token::Word(word)) if word == "super" => {
                path.pop();
                i += 1;
            }
            Some(Token::Word(word)) => {
                path.push(word.clone());
                i += 1;
            }
            Some(Token::Mark('{')) => {
                i += 1;
                while !matches!(tokens.get(i), None | Some(Token::Mark('}'))) {
                    let taken = tree(&tokens[i..], path.clone(), paths);
                    i += taken.max(1);
                    // `as name`, and the comma.
                    while !matches!(tokens.get(i), None | Some(Token::Mark('}' | ','))) {
                        i += 1;
                    }
                    if tokens.get(i) == Some(&Token::Mark(',')) {
                        i += 1;
                    }
                }
                return i + 1;
            }
            // A glob, or the generic arguments of a path.
            _ => break,
        }
        match tokens.get(i) {
            Some(Token::Colons) => i += 1,
            _ => break,
        }
    }
    paths.push(path);
    i
}

#[test]
fn tokenizer_skips_comments_and_literals() {
    let source = r##"
        //! crate::a
        /* crate::b /* crate::c */ crate::d */
        use crate::e::{f, g::h}; // crate::i
        const T: &str = "crate::j \" crate::k"; const R: &[u8] = br#"crate::l " crate::m"#;
        fn f<'a>(x: &'a crate::n::O) -> char { '"' } fn g() -> char { '\'' } fn h() { crate::p::q() }
        fn bracket() { let r = b'}'; super::s::t(); }
        mod tests { use super::*; mod more { use super::super::u; } }
        use super::super::{v, super::w};
        fn after() { super::x() }
    "##;
    let module = ["a", "b", "c"].map(str::to_owned);
    let found: Vec<String> = paths(&module, &tokens(source))
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "e::f",
            "e::g::h",
            "n::O",
            "p::q",
            "a::b::s::t",
            "a::b::c",
            "a::b::c::u",
            "a::v",
            "w",
            "a::b::x"
        ]
    );
}
