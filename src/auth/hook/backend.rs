//! One exchange with a chat backend: a signed POST of JSON, and what counts as an answer.
//!
//! Blocks its thread; how many do so at once is the parent's. Follows no redirect, takes no proxy from the
//! environment, and tries twice only where a connection was closed before it answered.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use serde::Deserialize;
use ureq::http::Uri;

use crate::{
    secret::{SecretKey, hex},
    tenant::Hook,
    time::Clock,
};

/// Bytes of an answer's body.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A connection's buffers, in bytes: more than a head; ureq's own are 128 KiB each. A line of the request must
/// fit into the second, so a URL that is longer is never asked.
const INPUT_BUFFER_BYTES: usize = 16 * 1024;
const OUTPUT_BUFFER_BYTES: usize = 8 * 1024;
/// How long an unused connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(15);

const USER_AGENT: &str = concat!("chatfiles/", env!("CARGO_PKG_VERSION"));

/// What the backend said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Allow,
    /// With the backend's own code, where it gave one that may be passed on.
    Deny(Option<u32>),
}

/// The connections to all backends.
#[derive(Clone)]
pub(super) struct Backend {
    agent: ureq::Agent,
    clock: Clock,
}

impl Backend {
    /// Keeps at most `idle_max` unused connections.
    ///
    /// ureq resolves a name on a thread of its own, which a time-out leaves behind until the system's resolver
    /// gives up too (30 s, usually): with a dead resolver that is at most `in_flight_max` threads for each
    /// time-out that passes meanwhile.
    pub(super) fn new(idle_max: usize, clock: Clock) -> Self {
        let agent = ureq::Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(USER_AGENT)
            .accept("application/json")
            .max_response_header_size(HEAD_BYTES_MAX)
            .input_buffer_size(INPUT_BUFFER_BYTES)
            .output_buffer_size(OUTPUT_BUFFER_BYTES)
            .max_idle_connections(idle_max)
            .max_idle_connections_per_host(idle_max)
            .build()
            .into();
        Self { agent, clock }
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// Why there is no answer, in words for the log: without the URL, the secret and the signature.
    pub(super) fn exchange(
        &self,
        hook: &Hook,
        body: &str,
        deadline: Instant,
    ) -> Result<Answer, String> {
        let sent = self.send(hook, body, deadline, IDLE_MAX);
        let sent = match sent {
            // ureq looks whether a kept connection is still open, but the backend may close it just then. The
            // question changes nothing, so it may be asked again; and with an idle time of zero it goes over a
            // new connection, since the other kept ones are no fresher.
            Err(error) if is_closed(&error) => self.send(hook, body, deadline, Duration::ZERO),
            sent => sent,
        };
        let mut response = sent.map_err(describe)?;
        if response.status() != 200 {
            return Err(format!("status {}", response.status().as_u16()));
        }
        // ureq's limit is an error when it is reached, not when it is passed.
        let limit = BODY_BYTES_MAX + 1;
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(describe)?;
        parse(&body).ok_or_else(|| "the answer is no JSON object with a boolean \"allow\"".into())
    }

    fn send(
        &self,
        hook: &Hook,
        body: &str,
        deadline: Instant,
        idle_max: Duration,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let left = deadline.saturating_duration_since(self.clock.monotonic());
        if left.is_zero() {
            return Err(ureq::Error::Timeout(ureq::Timeout::Global));
        }
        let mut request = self
            .agent
            .post(&hook.url)
            .header("Content-Type", "application/json");
        if let Some(secret) = &hook.secret {
            let timestamp = self.clock.now().secs();
            request = request
                .header("X-Chatfiles-Timestamp", timestamp.to_string())
                .header("X-Chatfiles-Signature", sign(secret, timestamp, body));
        }
        request
            .config()
            .timeout_global(Some(left))
            .max_idle_age(idle_max)
            .build()
            .send(body)
    }
}

/// The host of a URL: what of it may be logged.
pub(super) fn host(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host);
    host.unwrap_or("an unreadable address").to_owned()
}

/// Hex HMAC-SHA256 over the timestamp, a dot and the body.
fn sign(secret: &SecretKey, timestamp: i64, body: &str) -> String {
    let timestamp = timestamp.to_string();
    hex(&secret.hmac_sha256(&[timestamp.as_bytes(), b".", body.as_bytes()]))
}

/// Whether the connection ended before the head of an answer was whole.
fn is_closed(error: &ureq::Error) -> bool {
    let ureq::Error::Io(error) = error else {
        return false;
    };
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

/// The error in words. Those that would show the URL are put otherwise.
fn describe(error: ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => {
            "its address is no http:// or https:// URL".into()
        }
        ureq::Error::BodyExceedsLimit(_) => {
            format!("the answer has more than {BODY_BYTES_MAX} bytes")
        }
        error => error.to_string(),
    }
}

fn parse(body: &[u8]) -> Option<Answer> {
    // An unknown member is ignored, a member that comes twice is an error.
    #[derive(Deserialize)]
    struct Members {
        allow: bool,
        #[serde(default)]
        code: serde_json::Value,
    }
    // The whole is checked: a text that serde skips it does not look at.
    let body = std::str::from_utf8(body).ok()?;
    // Serde reads a struct from an array too: `[true]` must not let anybody in.
    if !body.trim_ascii_start().starts_with('{') {
        return None;
    }
    let members: Members = serde_json::from_str(body).ok()?;
    if members.allow {
        return Some(Answer::Allow);
    }
    let code = members.code.as_u64().and_then(|code| code.try_into().ok());
    Some(Answer::Deny(
        code.filter(|code| (1..=99_999).contains(code) && *code != 200),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn only_an_object_with_a_boolean_allow_is_an_answer() {
        for (body, answer) in [
            (r#"{"allow":true}"#, Some(Answer::Allow)),
            (" {\"allow\" : true, \"code\": 5}\n", Some(Answer::Allow)),
            (r#"{"allow":false}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":1}"#, Some(Answer::Deny(Some(1)))),
            (
                r#"{"code":99999,"allow":false,"x":[]}"#,
                Some(Answer::Deny(Some(99_999))),
            ),
            (r#"{"allow":false,"code":200}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":0}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":-1}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":100000}"#, Some(Answer::Deny(None))),
            (
                r#"{"allow":false,"code":4294967297}"#,
                Some(Answer::Deny(None)),
            ),
            (r#"{"allow":false,"code":"x"}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":"403"}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":403.5}"#, Some(Answer::Deny(None))),
            (r#"{"allow":false,"code":null}"#, Some(Answer::Deny(None))),
            ("", None),
            ("true", None),
            ("[true]", None),
            ("[true,1]", None),
            ("{}", None),
            (r#"{"allow":"true"}"#, None),
            (r#"{"allow":1}"#, None),
            (r#"{"allow":null}"#, None),
            (r#"{"Allow":true}"#, None),
            (r#"{"allow":false,"allow":true}"#, None),
            (r#"{"allow":true}}"#, None),
            (r#"{"allow":true"#, None),
            ("allow=true", None),
            ("\u{feff}{\"allow\":true}", None),
        ] {
            assert_eq!(parse(body.as_bytes()), answer, "{body}");
        }
        assert_eq!(parse(b"{\"allow\":true,\"x\":\"\xff\"}"), None);
    }

    #[test]
    fn the_signature_is_what_openssl_makes_of_it() {
        // printf %s '1795305599.{"user":"alice"}' | openssl dgst -sha256 -hmac "hook secret of the tests"
        assert_eq!(
            sign(
                &SecretKey::new(Secret::new("hook secret of the tests")).unwrap(),
                1_795_305_599,
                r#"{"user":"alice"}"#
            ),
            "16b12bb6ab65fbb0219b4825b58f4cb1dc9ae1d4053803a65ce73508b78c38c2"
        );
    }

    #[test]
    fn of_a_url_only_the_host_is_shown() {
        for (url, shown) in [
            ("https://u:p@chat.example:8443/a/b?key=k#f", "chat.example"),
            ("http://[::1]:80/?key=k", "[::1]"),
            ("/a?key=k", "an unreadable address"),
            ("http://a b/?key=k", "an unreadable address"),
        ] {
            assert_eq!(host(url), shown);
        }
    }

    #[test]
    fn no_proxy_is_taken_from_the_environment() {
        let backend = Backend::new(1, Clock::system());
        assert!(backend.agent.config().proxy().is_none());
    }
}
