//! The landing page: what a person sees who opens the server's address in a browser.
//!
//! One document without other files, so that no further path exists. Its style and its script are inline; the
//! Content-Security-Policy names their hashes and allows nothing else. The page shows no name of a tenant and no setting
//! but the public URL. Which clients get it is decided in `server/service.rs`.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{
    HeaderMap, Response,
    header::{self, HeaderName, HeaderValue},
};
use sha2::{Digest, Sha256};

use super::{Api, Call, answer};
use crate::delivery::Body;

const PAGE: &str = include_str!("landing/page.html");
const STYLE: &str = include_str!("landing/style.css");
const SCRIPT: &str = include_str!("landing/script.js");

/// The mark in the page for the URLs of the APIs, which depend on the request.
const BASE: &str = "{{base}}";

/// The landing page, without what depends on the request.
pub struct LandingPage {
    /// The document with [`BASE`].
    document: String,
    headers: HeaderMap,
}

impl LandingPage {
    /// Puts the parts of the page together.
    #[expect(clippy::new_without_default, reason = "it is no default of anything")]
    pub fn new() -> Self {
        let document = PAGE
            .replace("{{style}}", STYLE)
            .replace("{{script}}", SCRIPT)
            .replace("{{version}}", &escaped(env!("CARGO_PKG_VERSION")))
            .replace(
                "{{documentation}}",
                &documentation(env!("CARGO_PKG_REPOSITORY")),
            );
        Self {
            document,
            headers: headers(),
        }
    }

    /// The page with the URLs as this client sees them.
    pub(crate) fn answer(&self, api: &Api, call: &Call<'_>) -> Response<Body> {
        let base = escaped(&call.public_url(api));
        let page = self.document.replace(BASE, &base);
        let mut response = answer::text(200, "text/html; charset=utf-8", page);
        response.headers_mut().extend(self.headers.clone());
        response
    }
}

/// The headers of the page beside those of every text: nothing is loaded from elsewhere, and no other page may frame it.
fn headers() -> HeaderMap {
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        source(STYLE),
        source(SCRIPT)
    );
    let policy = HeaderValue::try_from(policy).expect("hashes are valid in a header");
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    for (name, value) in [
        // The path has another response for other clients.
        (header::VARY, "Accept"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// The source expression of an inline style or script (CSP Level 3 §2.3.1).
fn source(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// Where the documentation is: in the repository that the program was built from, if Cargo.toml names one.
fn documentation(repository: &str) -> String {
    let path = "docs/README.md";
    match repository.is_empty() {
        true => format!("Documentation: <code>{path}</code> in the source tree"),
        false => {
            let url = escaped(repository.trim_end_matches('/'));
            format!("<a href=\"{url}/blob/main/{path}\">Documentation</a>")
        }
    }
}

/// Text for an element or a quoted attribute of HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_every_mark() {
        let page = LandingPage::new().document;
        assert_eq!(page.replace(BASE, "").find("{{"), None);
        assert!(page.contains(STYLE) && page.contains(SCRIPT) && page.contains(BASE));
    }

    #[test]
    fn escapes_markup() {
        let text = "https://a'b\"c<d>&e.example";
        let expected = "https://a&#39;b&#34;c&#60;d&#62;&#38;e.example";
        assert_eq!(escaped(text), expected);
    }

    #[test]
    fn links_to_repository() {
        assert!(documentation("").contains("docs/README.md"));
        let link = documentation("https://git.example/a\"b/");
        let expected = "href=\"https://git.example/a&#34;b/blob/main/docs/README.md\"";
        assert!(link.contains(expected), "{link}");
    }

    #[test]
    fn policy_names_hashes() {
        // printf %s "alert(1)" | openssl dgst -sha256 -binary | base64
        let expected = "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='";
        assert_eq!(source("alert(1)"), expected);
    }
}
