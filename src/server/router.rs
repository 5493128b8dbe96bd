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
//!
//! GET    /file/upload/avatar/user
//! GET    /file/upload/avatar/group
//! GET    /file/upload/chat
//! GET    /file/upload/forward
//! GET    /file/download/avatar                                also HEAD
//! GET    /file/download/chat                                  also HEAD
//! POST   /file/oss/{app_id}                                   the form of an upload ticket
//!
//! OPTIONS of any path                                         a browser's preflight
//! ```
//! `file` is no organisation's name: the configuration reserves it.
//! A doubled or trailing slash changes nothing. Segments are compared as sent: no name or id of ours needs
//! percent-encoding, so none is decoded.

use hyper::Method;

use crate::{
    api::{
        easemob::{Action, Route as EasemobRoute},
        lanying,
    },
    error::{Error, Kind, Result},
    limit::Interface,
    metrics,
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
    /// Lanying's API.
    Lanying(lanying::Action<'a>),
}

impl Route<'_> {
    /// Under what name it is counted. Of a download, the interface says whether the file itself is asked for.
    pub fn label(&self, interface: Interface) -> metrics::Route {
        use lanying::Action as Lanying;
        use metrics::Route as Label;
        let is_derivative = interface == Interface::Thumbnail;
        match self {
            Self::Preflight => Label::Preflight,
            Self::Health => Label::Health,
            Self::Easemob(route) => match route.action {
                Action::Upload => Label::EasemobUpload,
                Action::Download(_) if is_derivative => Label::EasemobDerivative,
                Action::Download(_) => Label::EasemobDownload,
                Action::Token => Label::EasemobToken,
                Action::PartsBegin => Label::EasemobPartsBegin,
                Action::PartsPut(_) => Label::EasemobPartsPut,
                Action::PartsList(_) => Label::EasemobPartsList,
                Action::PartsComplete(_) => Label::EasemobPartsComplete,
                Action::PartsAbort(_) => Label::EasemobPartsAbort,
            },
            Self::Lanying(action) => match action {
                Lanying::UploadUserAvatar => Label::LanyingUploadUserAvatar,
                Lanying::UploadGroupAvatar => Label::LanyingUploadGroupAvatar,
                Lanying::UploadChat => Label::LanyingUploadChat,
                Lanying::Forward => Label::LanyingForward,
                Lanying::DownloadAvatar | Lanying::DownloadChat if is_derivative => {
                    Label::LanyingDerivative
                }
                Lanying::DownloadAvatar => Label::LanyingDownloadAvatar,
                Lanying::DownloadChat => Label::LanyingDownloadChat,
                Lanying::Form(_) => Label::LanyingForm,
            },
        }
    }
}

/// In what form a path's errors are told, whether or not there is such a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Easemob's JSON; also of paths that belong to nobody.
    Easemob,
    /// Lanying's envelope.
    Lanying,
    /// OSS's XML.
    Form,
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
    for segment in segments_of(path) {
        *segments.get_mut(count).ok_or(Kind::RouteNotFound)? = segment;
        count += 1;
    }
    match &segments[..count] {
        ["healthz"] => match *method {
            Method::GET | Method::HEAD => Ok(Route::Health),
            _ => Err(Kind::MethodNotAllowed("GET, HEAD").into()),
        },
        ["file", rest @ ..] => lanying(method, rest).map(Route::Lanying),
        [org, app, rest @ ..] => {
            let action = easemob(method, rest)?;
            Ok(Route::Easemob(EasemobRoute { org, app, action }))
        }
        _ => Err(Kind::RouteNotFound.into()),
    }
}

/// Who answers for a path.
pub fn voice(path: &str) -> Voice {
    let mut segments = segments_of(path);
    match (segments.next(), segments.next()) {
        (Some("file"), Some("oss")) => Voice::Form,
        (Some("file"), _) => Voice::Lanying,
        _ => Voice::Easemob,
    }
}

fn segments_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn lanying<'a>(method: &Method, rest: &[&'a str]) -> Result<lanying::Action<'a>> {
    use lanying::Action;
    let (allow, has_method, action) = match rest {
        ["upload", "avatar", "user"] => (
            "GET, OPTIONS",
            method == Method::GET,
            Action::UploadUserAvatar,
        ),
        ["upload", "avatar", "group"] => (
            "GET, OPTIONS",
            method == Method::GET,
            Action::UploadGroupAvatar,
        ),
        ["upload", "chat"] => ("GET, OPTIONS", method == Method::GET, Action::UploadChat),
        ["upload", "forward"] => ("GET, OPTIONS", method == Method::GET, Action::Forward),
        ["download", what @ ("avatar" | "chat")] => (
            "GET, HEAD, OPTIONS",
            method == Method::GET || method == Method::HEAD,
            if *what == "chat" {
                Action::DownloadChat
            } else {
                Action::DownloadAvatar
            },
        ),
        ["oss", app_id] => (
            "POST, OPTIONS",
            method == Method::POST,
            Action::Form(app_id),
        ),
        _ => return Err(Kind::RouteNotFound.into()),
    };
    if has_method {
        Ok(action)
    } else {
        Err(Kind::MethodNotAllowed(allow).into())
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
    fn every_call_of_the_other_dialect_is_found_and_speaks_for_itself() {
        use lanying::Action::*;
        for (method, path, action, voice_of) in [
            (
                "GET",
                "/file/upload/avatar/user",
                UploadUserAvatar,
                Voice::Lanying,
            ),
            (
                "GET",
                "/file/upload/avatar/group",
                UploadGroupAvatar,
                Voice::Lanying,
            ),
            ("GET", "/file/upload/chat", UploadChat, Voice::Lanying),
            ("GET", "/file/upload/forward", Forward, Voice::Lanying),
            (
                "GET",
                "/file/download/avatar",
                DownloadAvatar,
                Voice::Lanying,
            ),
            (
                "HEAD",
                "/file/download/avatar",
                DownloadAvatar,
                Voice::Lanying,
            ),
            ("GET", "/file/download/chat", DownloadChat, Voice::Lanying),
            ("HEAD", "/file/download/chat", DownloadChat, Voice::Lanying),
            ("POST", "/file/oss/acme", Form("acme"), Voice::Form),
        ] {
            for path in [path.to_owned(), format!("{path}/"), path.replace('/', "//")] {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                assert_eq!(
                    route(&method, &path).ok(),
                    Some(Route::Lanying(action)),
                    "{path}"
                );
                assert_eq!(voice(&path), voice_of, "{path}");
                let other = route(&Method::DELETE, &path).map_err(|error| error.kind());
                assert!(matches!(other, Err(Kind::MethodNotAllowed(_))), "{path}");
            }
        }
        for path in [
            "/file",
            "/file/upload",
            "/file/upload/avatar",
            "/file/oss",
            "/file/x/chatfiles",
        ] {
            let found = route(&Method::GET, path).map_err(|error| error.kind());
            assert_eq!(found, Err(Kind::RouteNotFound), "{path}");
        }
        assert_eq!(voice("/files/oss"), Voice::Easemob);
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
