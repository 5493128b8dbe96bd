//! The error type of the whole program.
//!
//! [`Kind`] determines the response's status, the public text goes to the client, and the source goes to the log. Each
//! API renders kinds in one function (`api/*/wire.rs`). This file knows neither JSON nor HTTP.

use std::{borrow::Cow, fmt, time::Duration};

/// The kind of an error, as far as clients must tell errors apart. Every API matches it exhaustively.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request is malformed, or a parameter is out of range.
    InvalidArgument,
    /// The message violates HTTP itself: status 400 in every API (RFC 9112 §3.2).
    BadMessage,
    /// No credential was sent.
    TokenMissing,
    /// The credential was valid once, but has expired or was revoked by `tokens_not_before`.
    TokenExpired,
    /// The credential is not a token of this server, or belongs to another tenant.
    TokenInvalid,
    /// A token request with a wrong password.
    GrantPassword,
    /// A token request for an account that does not exist.
    GrantUser,
    /// A token request whose client id or secret is wrong.
    GrantClient,
    /// The backend's own token was sent without naming the user that it acts for.
    UserMissing,
    /// The caller is authenticated, but may not access this object (wrong or missing secret, invalid signature).
    Forbidden,
    /// The chat backend denied the request with this code.
    Denied(u32),
    /// The policy of an upload form does not permit the upload.
    Policy(PolicyFault),
    /// The object does not exist.
    ObjectNotFound,
    /// The object is past its retention period.
    ObjectExpired,
    /// The object has no thumbnail.
    NoThumbnail,
    /// The voice message cannot be converted to the requested format.
    NotConvertible,
    /// An object with this name exists; objects are never replaced.
    AlreadyExists,
    /// The tenant does not exist.
    TenantNotFound,
    /// The path does not exist.
    RouteNotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// A precondition of RFC 9110 §13 is false.
    PreconditionFailed,
    /// No requested range can be served (RFC 9110 §15.5.17); carries the length of the representation in bytes.
    RangeNotSatisfiable(u64),
    /// More bytes than the limit allows.
    TooLarge,
    /// Fewer bytes than an upload must have: none, or less than its policy requires.
    TooSmall,
    /// This call does not accept the body's media type.
    UnsupportedMediaType,
    /// The client did not send its body in time.
    RequestTimeout,
    /// The rate limit is exceeded; the client may retry after this time.
    RateLimited(Duration),
    /// The daily quota has less left than the request needs; it is renewed after this time.
    QuotaReached(Duration),
    /// The free-space floor is reached or the disk is full.
    StorageFull,
    /// A dependency or a queue cannot answer now; the client may retry after this time.
    Unavailable(Duration),
    /// The client closed the connection before the response.
    Disconnected,
    /// An internal error. The client sees no details.
    Internal,
}

/// What is wrong with the policy of an upload form (OSS PostObject, signature V1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyFault {
    /// Not a policy: invalid base64 or JSON, or a condition of an unknown kind.
    Document,
    /// The access key is not this tenant's.
    AccessKey,
    /// The signature does not match.
    Signature,
    /// The policy has expired, or one of its conditions is not met.
    Denied,
    /// Its key is not a valid object name.
    ObjectName,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error with a kind, a text for the client, and a cause for the log.
pub struct Error {
    kind: Kind,
    public: Option<Cow<'static, str>>,
    source: Option<Source>,
}

/// `Result` with this [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind, with the API's own text for the kind.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            public: None,
            source: None,
        }
    }

    /// Sets the text that the client sees. It must contain no secret and no internal detail.
    #[must_use]
    pub fn public(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.public = Some(text.into());
        self
    }

    /// Adds the cause, which is logged and never sent to the client.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// [`Kind::InvalidArgument`] with a text that tells the client what to do.
    pub fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidArgument).public(text)
    }

    /// [`Kind::Internal`] with its cause.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(Kind::Internal).source(source)
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text for the client, if one was set.
    pub fn public_text(&self) -> Option<&str> {
        self.public.as_deref()
    }

    /// The chain of causes for a log line, outermost first, joined by colons; empty without a cause.
    pub fn causes(&self) -> String {
        let mut text = String::new();
        let mut next = self
            .source
            .as_deref()
            .map(|source| source as &dyn std::error::Error);
        while let Some(error) = next {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if let Some(text) = &self.public {
            write!(f, ": {text}")?;
        }
        let causes = self.causes();
        if !causes.is_empty() {
            write!(f, " ({causes})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
