//! The target of a request: path and query.
//!
//! The query may contain a token, a share-secret or a signed link. `Display` and `Debug` show the path alone, so a log
//! line cannot leak the query.

use std::fmt::{self, Write};

use hyper::{Uri, http::uri::Authority};

/// The longest path that is shown.
const SHOWN_BYTES_MAX: usize = 512;

/// The target of a request. `Display` shows the path up to where a client may have meant the query to begin (`%3F`, `;`,
/// `&` or `=`, which no path of ours contains). Bytes that could end a field or a line of a log are percent-encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Uri);

impl Target {
    /// The target of a request.
    pub fn new(uri: Uri) -> Self {
        Self(uri)
    }

    /// The path as sent, for routing. Log the target itself instead.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The query as sent. Secret.
    pub fn query(&self) -> Option<&str> {
        self.0.query()
    }

    /// The authority, if the target is a URL.
    pub fn authority(&self) -> Option<&Authority> {
        self.0.authority()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().as_bytes();
        for (at, byte) in path.iter().enumerate() {
            let begins_query = match byte {
                b';' | b'&' | b'=' | b'?' => true,
                b'%' => path[at..]
                    .get(1..3)
                    .is_some_and(|digits| digits.eq_ignore_ascii_case(b"3f")),
                _ => false,
            };
            if begins_query || at == SHOWN_BYTES_MAX {
                return f.write_char('…');
            }
            match byte {
                b'"' | b'\\' => write!(f, "%{byte:02X}")?,
                b'!'..=b'~' => f.write_char(char::from(*byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::new(text.parse().unwrap())
    }

    #[test]
    fn shows_only_the_path() {
        for (text, shown) in [
            ("/a/b-c.d", "/a/b-c.d"),
            ("/a?file_sign=s3cret", "/a"),
            ("http://user:s3cret@host/a?s3cret", "/a"),
            ("/a%3Ffile_sign=s3cret", "/a…"),
            ("/a%3fs3cret", "/a…"),
            ("/a&token=s3cret", "/a…"),
            ("/a;token=s3cret", "/a…"),
            ("/token=s3cret", "/token…"),
            ("/%2e%2", "/%2e%2"),
            ("/a\"b\\c", "/a%22b%5Cc"),
            ("/é\u{85}\u{2028}", "/%C3%A9%C2%85%E2%80%A8"),
            ("*", "*"),
        ] {
            let target = target(text);
            assert_eq!(target.to_string(), shown, "{text}");
            assert_eq!(format!("{target:?}"), shown, "{text}");
        }
    }

    #[test]
    fn cuts_long_path() {
        let long = format!("/{}", "a".repeat(2000));
        assert_eq!(target(&long).to_string(), format!("{}…", &long[..512]));
        assert_eq!(target(&long[..512]).to_string(), long[..512]);
    }
}
