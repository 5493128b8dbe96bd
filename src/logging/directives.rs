//! Parses `log.level`: a level, or several directives separated by commas.
//!
//! The parser of `tracing_subscriber::filter::Targets` takes a misspelled level for the name of a target, which silences
//! the log. Here it is an error. `EnvFilter` is not used: it filters by fields and spans, so that a disabled line costs a
//! look-up behind a lock. With targets, a disabled line costs one atomic load.

use serde::{Deserialize, Deserializer};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::audit;
use crate::settings::expected;

/// Reads `log.level`, and checks it.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(expected(
            "error, warn, info, debug, trace or off, or directives such as warn,access=info",
            format_args!("{text:?}: {error}"),
        )),
    }
}

/// Parses directives: `level` for all targets, `target=level` for some. The longest matching target wins. Audit lines are
/// on unless the text names their target: whoever wants fewer lines must not lose them by accident.
pub(super) fn parse(text: &str) -> Result<Targets, String> {
    let audited = Targets::new().with_target(audit::TARGET, LevelFilter::INFO);
    text.split(',')
        .map(str::trim)
        .try_fold(audited, |targets, directive| {
            match directive.split_once('=') {
                None => Ok(targets.with_default(level(directive)?)),
                Some((target, level_text)) if is_target(target) => {
                    Ok(targets.with_target(target, level(level_text)?))
                }
                Some((target, _)) => Err(format!("\"{target}\" is not a target")),
            }
        })
}

fn level(text: &str) -> Result<LevelFilter, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        "off" => LevelFilter::OFF,
        _ => {
            return Err(format!(
                "\"{text}\" is not a level: expected error, warn, info, debug, trace, off, or target=level"
            ));
        }
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
    fn target_overrides_level() {
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
    fn audit_lines_need_their_own_switch() {
        for (text, is_on) in [
            ("info", true),
            ("error", true),
            ("off", true),
            ("warn,audit=off", false),
            ("audit=error,info", false),
        ] {
            let filter = parse(text).unwrap();
            assert_eq!(filter.would_enable("audit", &Level::INFO), is_on, "{text}");
        }
    }

    #[test]
    fn refuses_invalid_directives() {
        for (text, what) in [
            ("", "\"\" is not a level"),
            ("debgu", "\"debgu\" is not a level"),
            ("info,", "\"\" is not a level"),
            ("=,=", "\"\" is not a target"),
            ("access=loud", "\"loud\" is not a level"),
            ("access=info=info", "\"info=info\" is not a level"),
            ("[span]=info", "\"[span]\" is not a target"),
            ("a b=info", "\"a b\" is not a target"),
            ("info\ndebug", "\"info\ndebug\" is not a level"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(what), "{text}: {error}");
        }
    }
}
