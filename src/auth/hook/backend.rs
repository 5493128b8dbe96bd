//! Exchanges one question with a chat backend: a signed POST of JSON, and the parsing of the answer.
//!
//! `exchange.rs` limits concurrent questions, and sends them. Redirects are not followed.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::{Request, header};
use serde::Deserialize;

use crate::{
    auth::exchange::{self, USER_AGENT},
    http_client::{self, HttpClient, RequestBody},
    secret::{SecretKey, hex},
    tenant::Hook,
    time::Clock,
    trace_parent::{self, TraceParent},
};

/// Maximum size of an answer's body.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The backend's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Allow,
    /// With the backend's own code, if it may be passed on to the client.
    Deny(Option<u32>),
}

/// The connections to all backends.
#[derive(Clone)]
pub(super) struct Backend {
    client: HttpClient,
    clock: Clock,
}

impl Backend {
    /// Creates a client without connections.
    pub(super) fn new(connect_timeout: Duration, clock: Clock) -> Self {
        let client = HttpClient::new(connect_timeout);
        Self { client, clock }
    }

    /// Sends a question and reads the answer.
    ///
    /// # Errors
    /// A text for the log that says why there is no answer. It contains neither the URL nor the secret or the
    /// signature.
    pub(super) async fn exchange(
        &self,
        hook: &Hook,
        body: &str,
        trace: Option<TraceParent>,
        deadline: Instant,
    ) -> Result<Answer, String> {
        let request = || self.request(hook, body, trace);
        let sent = exchange::send(&self.client, request, BODY_BYTES_MAX);
        let answered = tokio::time::timeout_at(deadline.into(), sent).await;
        let body = answered.map_err(|_| "no answer in time")??;
        parse(&body).ok_or_else(|| "the answer is no JSON object with a boolean \"allow\"".into())
    }

    fn request(
        &self,
        hook: &Hook,
        body: &str,
        trace: Option<TraceParent>,
    ) -> Result<Request<RequestBody>, http_client::Error> {
        let mut request = Request::post(&hook.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(secret) = &hook.secret {
            let timestamp = self.clock.now().secs();
            request = request
                .header("X-Chatfiles-Timestamp", timestamp)
                .header("X-Chatfiles-Signature", sign(secret, timestamp, body));
        }
        if let Some(trace) = trace {
            request = request.header(trace_parent::HEADER, trace.to_string());
        }
        let body = Full::from(body.to_owned()).map_err(|never| match never {});
        // Only the URL may be malformed.
        request
            .body(body.boxed_unsync())
            .map_err(|_| http_client::Error::Url)
    }
}

/// Hex HMAC-SHA256 over the timestamp, a dot and the body.
fn sign(secret: &SecretKey, timestamp: i64, body: &str) -> String {
    let timestamp = timestamp.to_string();
    hex(&secret.hmac_sha256(&[timestamp.as_bytes(), b".", body.as_bytes()]))
}

fn parse(body: &[u8]) -> Option<Answer> {
    // Unknown members are ignored. A duplicate member is an error.
    #[derive(Deserialize)]
    struct Members {
        allow: bool,
        #[serde(default)]
        code: serde_json::Value,
    }
    // The whole body must be UTF-8: serde does not check the texts that it skips.
    let body = std::str::from_utf8(body).ok()?;
    // Serde also reads a struct from an array: `[true]` must not allow anything.
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
    fn parses_only_clear_answers() {
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
    fn signature_matches_openssl() {
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
}
