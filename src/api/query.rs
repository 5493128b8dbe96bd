//! Query strings.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The decoded value of the first parameter of this name. A `+` is not decoded, because clients send base64.
pub fn first<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| percent_decode_str(value).decode_utf8_lossy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_of_several_counts() {
        for (query, expected) in [
            ("", None),
            ("a=1", Some("1")),
            ("b=2&a=1&a=3", Some("1")),
            ("a", Some("")),
            ("a=", Some("")),
            ("aa=1&a=%E6%97%A5%2f", Some("日/")),
            ("a=x+y=", Some("x+y=")),
            ("a=%zz", Some("%zz")),
        ] {
            assert_eq!(first(query, "a").as_deref(), expected, "{query}");
        }
    }
}
