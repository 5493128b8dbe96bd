//! The `Accept` header (RFC 9110 §12.5.1), read leniently: what is no valid weight counts as 1.

use hyper::{HeaderMap, header};

/// One media range of `Accept` with its parameters, such as `text/html;q=0.9`.
#[derive(Debug, Clone, Copy)]
pub struct MediaRange<'h>(&'h [u8]);

/// The media ranges of all `Accept` lines, in their order.
pub fn media_ranges(headers: &HeaderMap) -> impl Iterator<Item = MediaRange<'_>> {
    let lines = headers.get_all(header::ACCEPT).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(MediaRange)
}

impl<'h> MediaRange<'h> {
    /// Whether the range is this one, for example `text/html` or `*/*`, whatever its parameters.
    pub fn is(self, name: &str) -> bool {
        let essence = self.fields().next().unwrap_or_default();
        essence.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The weight, from 0 (not acceptable) to 1 (RFC 9110 §12.4.2).
    pub fn weight(self) -> f32 {
        let weight = self.fields().skip(1).find_map(|field| {
            let (name, value) = field.split_at_checked(2)?;
            let is_number = |value: &&[u8]| value.iter().all(|b| matches!(b, b'0'..=b'9' | b'.'));
            let value = Some(value).filter(|_| name.eq_ignore_ascii_case(b"q="));
            std::str::from_utf8(value.filter(is_number)?)
                .ok()?
                .parse::<f32>()
                .ok()
        });
        weight.unwrap_or(1.0).clamp(0.0, 1.0)
    }

    fn fields(self) -> impl Iterator<Item = &'h [u8]> {
        let fields = self.0.split(|byte| *byte == b';');
        fields.map(<[u8]>::trim_ascii)
    }
}

/// Whether a client prefers an HTML page to JSON, as browsers do when a person opens an address.
///
/// The client must name `text/html`. Clients that accept anything (`*/*`: curl, SDKs) prefer no page, nor do those that
/// name JSON with the same weight.
pub fn prefers_html(headers: &HeaderMap) -> bool {
    let weight_of = |name| {
        let ranges = media_ranges(headers).filter(|range| range.is(name));
        ranges.map(MediaRange::weight).reduce(f32::max)
    };
    let html = weight_of("text/html").unwrap_or(0.0);
    let others = || weight_of("application/*").or_else(|| weight_of("*/*"));
    html > 0.0
        && match weight_of("application/json") {
            Some(json) => html > json,
            None => html >= others().unwrap_or(0.0),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn accept(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn reads_weights() {
        for (range, expected) in [
            ("a/b", 1.0),
            ("a/b;q=1", 1.0),
            ("a/b ; x=y ; q=0.25", 0.25),
            ("a/b;Q=0.5", 0.5),
            ("a/b;q=0", 0.0),
            ("a/b;q=0.000", 0.0),
            ("a/b;q=7", 1.0),
            ("a/b;q=", 1.0),
            ("a/b;q=x", 1.0),
            ("a/b;q=-1", 1.0),
            ("a/b;q=nan", 1.0),
            ("a/b;q=inf", 1.0),
            ("a/b;q=1e9", 1.0),
            ("a/b;q", 1.0),
            ("a/b;\u{e9}", 1.0),
        ] {
            let headers = accept(&[range]);
            let found: Vec<f32> = media_ranges(&headers).map(MediaRange::weight).collect();
            assert_eq!(found, [expected], "{range}");
        }
        let zeros = format!("a/b;q=0.{}1", "0".repeat(10_000));
        assert_eq!(
            media_ranges(&accept(&[&zeros])).next().unwrap().weight(),
            0.0
        );
    }

    #[test]
    fn browsers_prefer_html() {
        for lines in [
            // Chromium, Firefox, Safari.
            &[
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            ][..],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["text/html, application/xhtml+xml, */*"],
            &["text/html"],
            &["TEXT/HTML;level=1"],
            &["image/png", "text/html"],
            &["application/json;q=0.5, text/html;q=0.6"],
            &["text/html, application/json;q=0"],
        ] {
            assert!(prefers_html(&accept(lines)), "{lines:?}");
        }
    }

    #[test]
    fn json_clients_do_not() {
        for lines in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/json"],
            &["application/json, text/plain, */*"],
            &["application/json, text/html"],
            &["text/html;q=0.9", "application/json"],
            &["text/html;q=0.5, application/json;q=0.5"],
            &["text/html;q=0.1, */*"],
            &["text/html;q=0.1, application/*;q=0.2, */*;q=0"],
            &["text/html;q=0"],
            &["text/html;q=0.0, */*;q=0"],
            &["text/*"],
            &["text/html5"],
            &["xtext/html"],
            &["image/avif,image/webp,*/*;q=0.8"],
            &["text/plain;x=text/html"],
        ] {
            assert!(!prefers_html(&accept(lines)), "{lines:?}");
        }
    }
}
