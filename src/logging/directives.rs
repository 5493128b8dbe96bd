//! What `log.level` may say: a level, or several directives with commas between them. `tracing-subscriber`'s
//! `Targets` reads them, but takes a misspelt level for the name of a target, and the log falls silent: here it
//! is an error.
//!
//! Not its `EnvFilter`, which may look at fields and spans: then a line that is not wanted costs a look into
//! tables behind a lock. With targets, each place in the program knows whether it speaks, and asks one atomic.

use serde::{Deserialize, Deserializer, de::Error};
use tracing_subscriber::filter::{LevelFilter, Targets};

/// Reads `log.level`, and checks it.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)?;
    Ok(text)
}

/// A level for all, `target=level` for some; the longest target that fits wins.
pub(super) fn parse(text: &str) -> Result<Targets, String> {
    text.split(',')
        .map(str::trim)
        .try_fold(Targets::new(), |targets, directive| {
            match directive.split_once('=') {
                None => Ok(targets.with_default(level(directive)?)),
                Some((target, level_text)) if is_target(target) => {
                    Ok(targets.with_target(target, level(level_text)?))
                }
                Some((target, _)) => Err(format!("\"{target}\" is no target")),
            }
        })
}

fn level(text: &str) -> Result<LevelFilter, String> {
    const LEVELS: [(&str, LevelFilter); 6] = [
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
        ("off", LevelFilter::OFF),
    ];
    let found = LEVELS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, level)| *level).ok_or_else(|| {
        format!("\"{text}\" is no level: error, warn, info, debug, trace, off, or target=level")
    })
}

fn is_target(text: &str) -> bool {
    let is_of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_path)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_is_for_all_and_a_target_for_its_own() {
        let filter = parse("warn, access=info,chatfiles::store=TRACE").unwrap();
        for (target, level, is_on) in [
            ("chatfiles", Level::WARN, true),
            ("chatfiles", Level::INFO, false),
            ("access", Level::INFO, true),
            ("access", Level::DEBUG, false),
            ("chatfiles::store::local", Level::TRACE, true),
        ] {
            assert_eq!(
                filter.would_enable(target, &level),
                is_on,
                "{target} {level}"
            );
        }
        assert!(!parse("off").unwrap().would_enable("a", &Level::ERROR));
    }

    #[test]
    fn what_is_no_directive_is_named() {
        for (text, what) in [
            ("", "\"\" is no level"),
            ("debgu", "\"debgu\" is no level"),
            ("info,", "\"\" is no level"),
            ("=,=", "\"\" is no target"),
            ("access=loud", "\"loud\" is no level"),
            ("access=info=info", "\"info=info\" is no level"),
            ("[span]=info", "\"[span]\" is no target"),
            ("a b=info", "\"a b\" is no target"),
            ("info\ndebug", "\"info\ndebug\" is no level"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(what), "{text}: {error}");
        }
    }
}
