//! The route table: one row for each call of both APIs, and the search for a request's row.
//!
//! `server/service.rs` runs the actions. A browser's preflight (`OPTIONS`) may name any path: a browser whose preflight
//! is refused never shows the error of the call itself.
//!
//! Empty path segments are ignored, so doubled and trailing slashes change nothing. Segments are compared as sent: no
//! name or id here needs percent-encoding, so none is decoded.

use hyper::Method;

use crate::{
    error::{Kind, Result},
    limit::RateClass,
    metrics::RouteLabel,
};
use Action::*;

/// One row of the table.
#[derive(Debug)]
struct Route {
    /// The methods of this row. A path may have several rows.
    methods: &'static [Method],
    /// The path: `{name}` stands for any segment.
    pattern: Pattern,
    /// The action to run.
    action: Action,
    /// The rate limit that the call counts against; `None`: exempt.
    rate_class: Option<RateClass>,
    /// The `route` label of metrics and access log.
    label: &'static str,
    /// The label of a download that asks for a derivative. Such a request counts as [`RateClass::Thumbnail`].
    derivative_label: Option<RouteLabel>,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the rows of the table describe them")]
pub enum Action {
    Preflight,
    LandingPage,
    Health,
    EasemobUpload,
    EasemobDownload,
    EasemobToken,
    EasemobBeginParts,
    EasemobPutPart,
    EasemobListParts,
    EasemobCompleteParts,
    EasemobAbortParts,
    LanyingUserAvatarTicket,
    LanyingGroupAvatarTicket,
    LanyingChatTicket,
    LanyingForward,
    LanyingDownloadAvatar,
    LanyingDownloadChat,
    LanyingPostForm,
}

/// The format of error responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorFormat {
    /// The JSON of the Easemob API; also for paths that belong to no API.
    Easemob,
    /// The envelope of the Lanying API.
    Lanying,
    /// The XML of OSS's PostObject.
    Oss,
}

const GET: &[Method] = &[Method::GET];
const READ: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const PUT: &[Method] = &[Method::PUT];
const DELETE: &[Method] = &[Method::DELETE];
const OPTIONS: &[Method] = &[Method::OPTIONS];

const DOWNLOAD: Option<RateClass> = Some(RateClass::Download);
const UPLOAD: Option<RateClass> = Some(RateClass::Upload);
const OTHER: Option<RateClass> = Some(RateClass::Other);
const EXEMPT: Option<RateClass> = None;

/// All routes: methods, path, action, rate class, label. The search is linear, so the calls that come most often are
/// first in their group.
#[rustfmt::skip]
static ROUTES: [Route; 18] = [
    on(OPTIONS, ANY_PATH,   Preflight,   EXEMPT, "preflight"),
    on(READ,    ROOT,       LandingPage, OTHER,  "landing_page"),
    on(READ,    "/healthz", Health,      EXEMPT, "health"),

    on(READ,   "/{org}/{app}/chatfiles/{id}",                 EasemobDownload,      DOWNLOAD, "easemob_download")
        .or_derivative(EASEMOB_DERIVATIVE),
    on(POST,   "/{org}/{app}/chatfiles",                      EasemobUpload,        UPLOAD,   "easemob_upload"),
    on(POST,   "/{org}/{app}/token",                          EasemobToken,         OTHER,    "easemob_token"),
    on(POST,   "/{org}/{app}/sdk/chatfiles/part-upload",      EasemobBeginParts,    UPLOAD,   "easemob_parts_begin"),
    on(PUT,    "/{org}/{app}/sdk/chatfiles/part-upload/{id}", EasemobPutPart,       UPLOAD,   "easemob_parts_put"),
    on(POST,   "/{org}/{app}/sdk/chatfiles/part-upload/{id}", EasemobCompleteParts, UPLOAD,   "easemob_parts_complete"),
    on(DELETE, "/{org}/{app}/sdk/chatfiles/part-upload/{id}", EasemobAbortParts,    OTHER,    "easemob_parts_abort"),
    on(GET,    "/{org}/{app}/sdk/chatfiles/part-upload/{id}/parts", EasemobListParts, OTHER, "easemob_parts_list"),

    on(READ,   "/file/download/chat",       LanyingDownloadChat,      DOWNLOAD, "lanying_download_chat")
        .or_derivative(LANYING_DERIVATIVE),
    on(READ,   "/file/download/avatar",     LanyingDownloadAvatar,    DOWNLOAD, "lanying_download_avatar")
        .or_derivative(LANYING_DERIVATIVE),
    on(GET,    "/file/upload/avatar/user",  LanyingUserAvatarTicket,  OTHER,    "lanying_upload_user_avatar"),
    on(GET,    "/file/upload/avatar/group", LanyingGroupAvatarTicket, OTHER,    "lanying_upload_group_avatar"),
    on(GET,    "/file/upload/chat",         LanyingChatTicket,        OTHER,    "lanying_upload_chat"),
    on(GET,    "/file/upload/forward",      LanyingForward,           OTHER,    "lanying_forward"),
    // The form that an upload ticket leads to.
    on(POST,   "/file/oss/{app_id}",        LanyingPostForm,          UPLOAD,   "lanying_form"),
];

/// The path of the preflight row, which stands for any path. [`find`] does not compare it.
const ANY_PATH: &str = "*";
/// The row with [`ANY_PATH`].
const PREFLIGHT_ROW: usize = 0;
/// The path of the landing page. It has no segments, so [`find`] compares it as a whole: `//` is no page, and the other
/// methods of `/` stay unknown, as if there were no page.
const ROOT: &str = "/";
/// The row with [`ROOT`].
const LANDING_ROW: usize = 1;

/// The label of requests without a route: an unknown path or method, or an invalid HTTP message.
pub const NO_ROUTE: RouteLabel = RouteLabel {
    index: 0,
    name: "none",
};
const EASEMOB_DERIVATIVE: RouteLabel = RouteLabel {
    index: 1,
    name: "easemob_derivative",
};
const LANYING_DERIVATIVE: RouteLabel = RouteLabel {
    index: 2,
    name: "lanying_derivative",
};
/// Labels that are not a row's own. The labels of the rows follow.
const OTHER_LABELS: [RouteLabel; 3] = [NO_ROUTE, EASEMOB_DERIVATIVE, LANYING_DERIVATIVE];

/// All labels, in the order of their indices.
pub fn labels() -> impl Iterator<Item = &'static str> {
    let others = OTHER_LABELS.iter().map(|label| label.name);
    others.chain(ROUTES.iter().map(|route| route.label))
}

/// The first path segment of the Lanying API. The configuration refuses it as the name of an organization.
const RESERVED_ORG: &[u8] = b"file";
/// Segments of the longest pattern, and one more: a path of this many segments matches no pattern but `*`.
const SEGMENTS_MAX: usize = 8;

/// The route of a request.
#[derive(Debug, Clone, Copy)]
pub struct Match<'p> {
    /// The action to run.
    pub action: Action,
    /// The values of the `{name}` segments.
    pub params: Params<'p>,
    /// The rate limit that the request counts against; `None`: exempt.
    pub rate_class: Option<RateClass>,
    /// The label that the request is counted under.
    pub label: RouteLabel,
    derivative_label: Option<RouteLabel>,
}

/// Path parameters; empty if the pattern has none of that name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Params<'p> {
    /// `{org}`: the organization of an Easemob tenant.
    pub org: &'p str,
    /// `{app}`: its application.
    pub app: &'p str,
    /// `{id}`: an object, or an upload in parts.
    pub id: &'p str,
    /// `{app_id}`: a Lanying tenant.
    pub app_id: &'p str,
}

/// Finds the route of a request.
///
/// # Errors
/// `RouteNotFound`; `MethodNotAllowed` if the path has other methods, which [`allow`] names.
pub fn find<'p>(method: &Method, path: &'p str) -> Result<Match<'p>> {
    if method == Method::OPTIONS {
        return Ok(Match::of_row(PREFLIGHT_ROW, Params::default()));
    }
    if path == ROOT && ROUTES[LANDING_ROW].methods.contains(method) {
        return Ok(Match::of_row(LANDING_ROW, Params::default()));
    }
    let path = Path::split(path);
    let mut no_route = Kind::RouteNotFound;
    for (row, route) in ROUTES.iter().enumerate() {
        if route.pattern.matches(&path) {
            if route.methods.contains(method) {
                return Ok(Match::of_row(row, route.pattern.params(&path)));
            }
            no_route = Kind::MethodNotAllowed;
        }
    }
    Err(no_route.into())
}

/// The value of `Allow` for a path (RFC 9110 §10.2.1): the methods of its rows, and `OPTIONS` for the calls of the APIs,
/// which browsers make.
pub fn allow(path: &str) -> String {
    let path = Path::split(path);
    let rows = || ROUTES.iter().filter(|route| route.pattern.matches(&path));
    let mut names: Vec<_> = rows()
        .flat_map(|route| route.methods.iter().map(Method::as_str))
        .collect();
    if rows().any(|route| route.rate_class.is_some()) {
        names.push("OPTIONS");
    }
    names.join(", ")
}

/// The format of errors on a path, whether or not it has a route.
pub fn error_format(path: &str) -> ErrorFormat {
    let path = Path::split(path);
    match path.segments[1] {
        _ if !path.is_reserved => ErrorFormat::Easemob,
        "oss" => ErrorFormat::Oss,
        _ => ErrorFormat::Lanying,
    }
}

impl<'p> Match<'p> {
    fn of_row(row: usize, params: Params<'p>) -> Self {
        let route = &ROUTES[row];
        Self {
            action: route.action,
            params,
            rate_class: route.rate_class,
            label: RouteLabel {
                index: OTHER_LABELS.len() + row,
                name: route.label,
            },
            derivative_label: route.derivative_label,
        }
    }

    /// The same download, limited and counted as one of a derivative.
    #[must_use]
    pub fn of_derivative(self) -> Self {
        match self.derivative_label {
            Some(label) => Self {
                label,
                rate_class: Some(RateClass::Thumbnail),
                ..self
            },
            None => self,
        }
    }
}

const fn on(
    methods: &'static [Method],
    path: &'static str,
    action: Action,
    rate_class: Option<RateClass>,
    label: &'static str,
) -> Route {
    Route {
        methods,
        pattern: Pattern::parse(path),
        action,
        rate_class,
        label,
        derivative_label: None,
    }
}

impl Route {
    const fn or_derivative(mut self, label: RouteLabel) -> Self {
        self.derivative_label = Some(label);
        self
    }
}

/// A path pattern, parsed when the program is compiled.
#[derive(Debug)]
struct Pattern {
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
    /// The first segment is [`RESERVED_ORG`].
    is_reserved: bool,
}

#[derive(Debug, Clone, Copy)]
enum Segment {
    Literal(&'static str),
    Org,
    App,
    Id,
    AppId,
}

impl Pattern {
    const fn parse(path: &'static str) -> Self {
        let mut pattern = Self {
            segments: [Segment::Literal(""); SEGMENTS_MAX],
            count: 0,
            is_reserved: false,
        };
        let (mut start, mut end) = (1, 1);
        while end <= path.len() {
            if end == path.len() || path.as_bytes()[end] == b'/' {
                let segment = path.split_at(end).0.split_at(start).1;
                pattern.segments[pattern.count] = match segment.as_bytes() {
                    b"{org}" => Segment::Org,
                    b"{app}" => Segment::App,
                    b"{id}" => Segment::Id,
                    b"{app_id}" => Segment::AppId,
                    _ => Segment::Literal(segment),
                };
                pattern.is_reserved |=
                    pattern.count == 0 && matches!(segment.as_bytes(), RESERVED_ORG);
                pattern.count += 1;
                start = end + 1;
            }
            end += 1;
        }
        pattern
    }

    /// Whether a path has this pattern.
    #[inline]
    fn matches(&self, path: &Path<'_>) -> bool {
        self.count == path.count
            && self.is_reserved == path.is_reserved
            && self
                .pairs(path)
                .all(|(pattern, segment)| pattern.matches(segment))
    }

    /// The values of the `{name}` segments of a path that has this pattern.
    fn params<'p>(&self, path: &Path<'p>) -> Params<'p> {
        let mut params = Params::default();
        for (pattern, segment) in self.pairs(path) {
            match pattern {
                Segment::Literal(_) => {}
                Segment::Org => params.org = segment,
                Segment::App => params.app = segment,
                Segment::Id => params.id = segment,
                Segment::AppId => params.app_id = segment,
            }
        }
        params
    }

    fn pairs<'p>(&self, path: &Path<'p>) -> impl Iterator<Item = (&Segment, &'p str)> {
        let segments = path.segments.iter().copied().take(path.count);
        self.segments.iter().take(self.count).zip(segments)
    }
}

impl Segment {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Literal(text) => *text == segment,
            Self::Org | Self::App | Self::Id | Self::AppId => true,
        }
    }
}

/// The path of a request, split into segments. Empty segments are left out.
struct Path<'p> {
    /// The first segments.
    segments: [&'p str; SEGMENTS_MAX],
    count: usize,
    /// The first segment is [`RESERVED_ORG`].
    is_reserved: bool,
}

impl<'p> Path<'p> {
    /// Splits byte by byte, which takes two thirds of the instructions of `str::split`: the segments are short.
    fn split(path: &'p str) -> Self {
        let mut split = Self {
            segments: [""; SEGMENTS_MAX],
            count: 0,
            is_reserved: false,
        };
        let mut start = 0;
        for (at, byte) in path.bytes().enumerate() {
            if byte == b'/' {
                split.push(&path[start..at]);
                start = at + 1;
            }
        }
        split.push(&path[start..]);
        split.is_reserved = split.segments[0].as_bytes() == RESERVED_ORG;
        split
    }

    fn push(&mut self, segment: &'p str) {
        if !segment.is_empty() && self.count < SEGMENTS_MAX {
            self.segments[self.count] = segment;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'p>(method: &str, path: &'p str) -> Result<(Action, Params<'p>), Kind> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let found = find(&method, path).map_err(|error| error.kind());
        found.map(|found| (found.action, found.params))
    }

    #[test]
    fn finds_every_row() {
        let (org, app, id, app_id) = ("o", "a", "1", "acme");
        let easemob = |id| Params {
            org,
            app,
            id,
            ..Params::default()
        };
        let none = Params::default();
        let form = Params { app_id, ..none };
        for method in ["GET", "HEAD"] {
            assert_eq!(found(method, "/"), Ok((LandingPage, none)));
        }
        for (method, path, action, params) in [
            ("GET", "/healthz", Health, none),
            ("HEAD", "/healthz", Health, none),
            ("POST", "/o/a/chatfiles", EasemobUpload, easemob("")),
            ("GET", "/o/a/chatfiles/1", EasemobDownload, easemob(id)),
            ("HEAD", "/o/a/chatfiles/1", EasemobDownload, easemob(id)),
            ("POST", "/o/a/token", EasemobToken, easemob("")),
            (
                "POST",
                "/o/a/sdk/chatfiles/part-upload",
                EasemobBeginParts,
                easemob(""),
            ),
            (
                "PUT",
                "/o/a/sdk/chatfiles/part-upload/1",
                EasemobPutPart,
                easemob(id),
            ),
            (
                "POST",
                "/o/a/sdk/chatfiles/part-upload/1",
                EasemobCompleteParts,
                easemob(id),
            ),
            (
                "DELETE",
                "/o/a/sdk/chatfiles/part-upload/1",
                EasemobAbortParts,
                easemob(id),
            ),
            (
                "GET",
                "/o/a/sdk/chatfiles/part-upload/1/parts",
                EasemobListParts,
                easemob(id),
            ),
            (
                "GET",
                "/file/upload/avatar/user",
                LanyingUserAvatarTicket,
                none,
            ),
            (
                "GET",
                "/file/upload/avatar/group",
                LanyingGroupAvatarTicket,
                none,
            ),
            ("GET", "/file/upload/chat", LanyingChatTicket, none),
            ("GET", "/file/upload/forward", LanyingForward, none),
            ("GET", "/file/download/avatar", LanyingDownloadAvatar, none),
            ("HEAD", "/file/download/avatar", LanyingDownloadAvatar, none),
            ("GET", "/file/download/chat", LanyingDownloadChat, none),
            ("HEAD", "/file/download/chat", LanyingDownloadChat, none),
            ("POST", "/file/oss/acme", LanyingPostForm, form),
        ] {
            for path in [path.to_owned(), format!("{path}/"), path.replace('/', "//")] {
                assert_eq!(
                    found(method, &path),
                    Ok((action, params)),
                    "{method} {path}"
                );
                assert_eq!(found("BREW", &path), Err(Kind::MethodNotAllowed), "{path}");
            }
        }
    }

    #[test]
    fn unknown_paths_are_not_found() {
        for method in ["GET", "POST", "BREW"] {
            for path in [
                "//",
                "///",
                "",
                "*",
                "/o",
                "/o/a",
                "/o/a/chat",
                "/o/a/chatfiles/1/2",
                "/o/a/sdk/chatfiles/part-upload/1/parts/2/3",
                "/a/b/c/d/e/f/g/h/i/j",
                "/file",
                "/file/upload",
                "/file/upload/avatar",
                "/file/oss",
                "/file/x/chatfiles",
            ] {
                assert_eq!(found(method, path), Err(Kind::RouteNotFound), "{path}");
            }
        }
        for method in ["POST", "DELETE", "BREW"] {
            assert_eq!(found(method, "/"), Err(Kind::RouteNotFound), "{method}");
        }
    }

    #[test]
    fn any_path_has_preflight() {
        for path in ["/", "*", "/o/a/chatfiles", "/o/a/chatfiles/1/2", "/healthz"] {
            let preflight = (Preflight, Params::default());
            assert_eq!(found("OPTIONS", path), Ok(preflight), "{path}");
        }
    }

    #[test]
    fn allow_names_all_methods() {
        for (path, expected) in [
            ("/healthz", "GET, HEAD"),
            ("/o/a/chatfiles", "POST, OPTIONS"),
            ("/o/a/chatfiles/1", "GET, HEAD, OPTIONS"),
            (
                "/o/a/sdk/chatfiles/part-upload/1",
                "PUT, POST, DELETE, OPTIONS",
            ),
            ("/file/upload/chat", "GET, OPTIONS"),
            ("/file/oss/acme", "POST, OPTIONS"),
        ] {
            assert_eq!(allow(path), expected, "{path}");
        }
    }

    #[test]
    fn error_format_follows_the_longest_prefix() {
        for (path, expected) in [
            ("/", ErrorFormat::Easemob),
            ("/healthz", ErrorFormat::Easemob),
            ("/o/a/chatfiles/1", ErrorFormat::Easemob),
            ("/files/oss", ErrorFormat::Easemob),
            ("/file", ErrorFormat::Lanying),
            ("//file//x/chatfiles", ErrorFormat::Lanying),
            ("/file/download/chat", ErrorFormat::Lanying),
            ("/file/oss", ErrorFormat::Oss),
            ("/file/oss/acme", ErrorFormat::Oss),
            ("/file/oss/1/2/3/4/5/6/7/8", ErrorFormat::Oss),
        ] {
            assert_eq!(error_format(path), expected, "{path}");
        }
    }

    #[test]
    fn labels_are_unique_and_indexed() {
        let labels: Vec<_> = labels().collect();
        let unique: std::collections::HashSet<_> = labels.iter().collect();
        assert_eq!(unique.len(), labels.len());
        let download = find(&Method::GET, "/o/a/chatfiles/1").unwrap();
        assert_eq!(download.label.name, "easemob_download");
        let derivative = download.of_derivative();
        assert_eq!(derivative.label.name, "easemob_derivative");
        assert_eq!(derivative.rate_class, Some(RateClass::Thumbnail));
        let preflight = find(&Method::OPTIONS, "/").unwrap();
        for label in [NO_ROUTE, download.label, derivative.label, preflight.label] {
            assert_eq!(labels[label.index], label.name);
        }
    }
}
