//! Who may cache a delivered file, and for how long.

use hyper::{
    HeaderMap,
    header::{self, HeaderValue},
};

use crate::time::Timestamp;

/// One year: the customary upper bound of `max-age` (RFC 2616 §14.21 set it for `Expires`).
const MAX_AGE_SECS_MAX: i64 = 365 * 86_400;

/// Who may cache a response.
#[derive(Debug)]
pub enum CachePolicy {
    /// The client alone: the request carried a credential.
    Private {
        /// When the file expires; `None` if it never does.
        expires: Option<Timestamp>,
        /// The request headers that authorize the request or choose the content.
        vary: HeaderValue,
    },
    /// Every cache: the URL alone authorizes the request and chooses the content.
    Public {
        /// When the URL or the file expires, whichever is first.
        expires: Timestamp,
    },
}

impl CachePolicy {
    /// The policy of a URL that expires, for a file that may expire.
    pub fn public(url_expires: Timestamp, file_expires: Option<Timestamp>) -> Self {
        let expires = file_expires.map_or(url_expires, |file| file.min(url_expires));
        Self::Public { expires }
    }

    /// Adds the headers. `immutable`, because the body behind a URL never changes.
    pub(super) fn apply(self, headers: &mut HeaderMap, now: Timestamp) {
        let cache_control = match self {
            Self::Private { expires, vary } => {
                headers.insert(header::VARY, vary);
                match expires {
                    None => HeaderValue::from_static("private, max-age=31536000, immutable"),
                    Some(expires) => cache_control("private", expires, now),
                }
            }
            Self::Public { expires } => {
                // A page on any origin may read it, so the response is the same for all origins and caches need one
                // copy. A redirect from another origin (`Origin: null`) works too.
                let any = HeaderValue::from_static("*");
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
                cache_control("public", expires, now)
            }
        };
        headers.insert(header::CACHE_CONTROL, cache_control);
    }
}

fn cache_control(scope: &str, expires: Timestamp, now: Timestamp) -> HeaderValue {
    let seconds = (expires.secs() - now.secs()).clamp(0, MAX_AGE_SECS_MAX);
    HeaderValue::try_from(format!("{scope}, max-age={seconds}, immutable"))
        .expect("digits and letters are a valid header value")
}
