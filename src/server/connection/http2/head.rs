//! Computes the memory of a request's head, and detaches the head from larger buffers.

use hyper::{
    Request, Uri,
    http::uri::{Authority, PathAndQuery},
};

/// Memory of a decoded header field besides its name and value.
const FIELD_BYTES: usize = 128;

/// Memory of a request's head.
pub(super) fn bytes<B>(request: &Request<B>) -> u64 {
    let uri = request.uri();
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| FIELD_BYTES + name.as_str().len() + value.len());
    (target + fields.sum::<usize>()) as u64
}

/// Copies the target of a request. h2 slices it out of the buffer that it was read into, so it would keep the whole buffer,
/// up to a frame of 16 KiB, while the request is handled. Other fields are copies already.
pub(super) fn detach<B>(request: &mut Request<B>) {
    if let Some(copy) = copy_of(request.uri()) {
        *request.uri_mut() = copy;
    }
}

fn copy_of(uri: &Uri) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    if let Some(authority) = &mut parts.authority {
        *authority = Authority::try_from(authority.as_str()).ok()?;
    }
    if let Some(path) = &mut parts.path_and_query {
        *path = PathAndQuery::try_from(path.as_str()).ok()?;
    }
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_any_target() {
        for text in [
            "http://files.test/a/b?c=%20d",
            "https://files.test:8443/",
            "/a?b",
            "*",
            "files.test:443",
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(copy_of(&uri), Some(uri), "{text}");
        }
    }

    #[test]
    fn counts_fields_and_target() {
        let request = Request::get("http://files.test/abc?de")
            .header("x-a", "12345")
            .header("x-a", "1")
            .body(())
            .unwrap();
        assert_eq!(bytes(&request), 6 + 2 * (128 + 3) + 6);
    }
}
