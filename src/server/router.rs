//! Method and path to a route. Pure; the table of contents of the service.
//!
//! ```text
//! GET    /healthz
//! POST   /{org}/{app}/chatfiles
//! GET    /{org}/{app}/chatfiles/{uuid}                        also HEAD
//! POST   /{org}/{app}/token
//! POST   /{org}/{app}/sdk/chatfiles/part-upload
//! PUT    /{org}/{app}/sdk/chatfiles/part-upload/{uuid}        a part
//! POST   /{org}/{app}/sdk/chatfiles/part-upload/{uuid}        completes
//! DELETE /{org}/{app}/sdk/chatfiles/part-upload/{uuid}        aborts
//! GET    /{org}/{app}/sdk/chatfiles/part-upload/{uuid}/parts
//! OPTIONS of any path                                         a browser's preflight
//! ```
//! A doubled or trailing slash changes nothing. Segments are compared as sent: no name or id of ours needs
//! percent-encoding, so none is decoded.

use hyper::Method;

use crate::{
    api::easemob::{Action, Route as EasemobRoute},
    error::{Error, Kind, Result},
};

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// A browser's question whether it may call. Any path has it: a browser that is refused its preflight
    /// never shows the error that the call itself would get.
    Preflight,
    /// The health check.
    Health,
    /// Easemob's API.
    Easemob(EasemobRoute<'a>),
}

/// Segments of the longest path that exists, and one more.
const SEGMENTS_MAX: usize = 8;

/// Finds the route of a request.
///
/// # Errors
/// `RouteNotFound`; `MethodNotAllowed` with the methods that the path has.
pub fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>> {
    if method == Method::OPTIONS {
        return Ok(Route::Preflight);
    }
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        *segments.get_mut(count).ok_or(Kind::RouteNotFound)? = segment;
        count += 1;
    }
    match &segments[..count] {
        ["healthz"] => match *method {
            Method::GET | Method::HEAD => Ok(Route::Health),
            _ => Err(Kind::MethodNotAllowed("GET, HEAD").into()),
        },
        [org, app, rest @ ..] => {
            let action = easemob(method, rest)?;
            Ok(Route::Easemob(EasemobRoute { org, app, action }))
        }
        _ => Err(Kind::RouteNotFound.into()),
    }
}

fn easemob<'a>(method: &Method, rest: &[&'a str]) -> Result<Action<'a>> {
    let (allow, action): (&'static str, Option<Action<'a>>) = match rest {
        ["chatfiles"] => (
            "POST, OPTIONS",
            (method == Method::POST).then_some(Action::Upload),
        ),
        ["chatfiles", id] => (
            "GET, HEAD, OPTIONS",
            (method == Method::GET || method == Method::HEAD).then_some(Action::Download(id)),
        ),
        ["token"] => (
            "POST, OPTIONS",
            (method == Method::POST).then_some(Action::Token),
        ),
        ["sdk", "chatfiles", "part-upload"] => (
            "POST, OPTIONS",
            (method == Method::POST).then_some(Action::PartsBegin),
        ),
        ["sdk", "chatfiles", "part-upload", id] => (
            "PUT, POST, DELETE, OPTIONS",
            match *method {
                Method::PUT => Some(Action::PartsPut(id)),
                Method::POST => Some(Action::PartsComplete(id)),
                Method::DELETE => Some(Action::PartsAbort(id)),
                _ => None,
            },
        ),
        ["sdk", "chatfiles", "part-upload", id, "parts"] => (
            "GET, OPTIONS",
            (method == Method::GET).then_some(Action::PartsList(id)),
        ),
        _ => return Err(Kind::RouteNotFound.into()),
    };
    action.ok_or_else(|| Error::new(Kind::MethodNotAllowed(allow)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, expected: Result<Action<'_>, Kind>) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let found = route(&method, path).map_err(|error| error.kind());
        let expected = expected.map(|action| {
            Route::Easemob(EasemobRoute {
                org: "o",
                app: "a",
                action,
            })
        });
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn every_call_of_the_table_is_found_with_doubled_and_trailing_slashes_too() {
        use Action::*;
        for (method, path, action) in [
            ("POST", "/o/a/chatfiles", Upload),
            ("GET", "/o/a/chatfiles/1", Download("1")),
            ("HEAD", "/o/a/chatfiles/1", Download("1")),
            ("POST", "/o/a/token", Token),
            ("POST", "/o/a/sdk/chatfiles/part-upload", PartsBegin),
            ("PUT", "/o/a/sdk/chatfiles/part-upload/1", PartsPut("1")),
            (
                "POST",
                "/o/a/sdk/chatfiles/part-upload/1",
                PartsComplete("1"),
            ),
            (
                "DELETE",
                "/o/a/sdk/chatfiles/part-upload/1",
                PartsAbort("1"),
            ),
            (
                "GET",
                "/o/a/sdk/chatfiles/part-upload/1/parts",
                PartsList("1"),
            ),
        ] {
            for path in [path.to_owned(), format!("{path}/"), path.replace('/', "//")] {
                check(method, &path, Ok(action));
            }
        }
    }

    #[test]
    fn a_path_that_is_not_there_is_not_found_by_any_method() {
        for method in ["GET", "POST", "BREW"] {
            for path in [
                "/",
                "",
                "*",
                "/o",
                "/o/a",
                "/o/a/chat",
                "/o/a/chatfiles/1/2",
                "/a/b/c/d/e/f/g/h/i/j",
            ] {
                check(method, path, Err(Kind::RouteNotFound));
            }
        }
    }

    #[test]
    fn any_path_has_a_preflight() {
        for path in ["/", "*", "/o/a/chatfiles", "/o/a/chatfiles/1/2", "/healthz"] {
            assert_eq!(
                route(&Method::OPTIONS, path).ok(),
                Some(Route::Preflight),
                "{path}"
            );
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        check(
            "DELETE",
            "/o/a/chatfiles",
            Err(Kind::MethodNotAllowed("POST, OPTIONS")),
        );
        check(
            "POST",
            "/o/a/chatfiles/1",
            Err(Kind::MethodNotAllowed("GET, HEAD, OPTIONS")),
        );
        check(
            "PATCH",
            "/o/a/sdk/chatfiles/part-upload/1",
            Err(Kind::MethodNotAllowed("PUT, POST, DELETE, OPTIONS")),
        );
    }
}
