//! The one error of the house.
//!
//! A [`Kind`] drives the status, the public text goes to the client, the source goes to the log. Each
//! dialect renders kinds in one function of its own (`api/*/wire.rs`); nothing here knows JSON or HTTP.

use std::{borrow::Cow, fmt, time::Duration};

/// What went wrong, as far as a client needs to tell cases apart. Closed: every dialect matches it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request is malformed or a parameter is out of its bounds.
    InvalidArgument,
    /// The message breaks a rule of HTTP itself: 400 in every dialect (RFC 9112 §3.2).
    BadMessage,
    /// No credential was sent.
    TokenMissing,
    /// The credential was good once: expired or revoked by `tokens_not_before`.
    TokenExpired,
    /// The credential is no token of ours, or another tenant's.
    TokenInvalid,
    /// A token request with a wrong password.
    GrantPassword,
    /// A token request for an account that does not exist.
    GrantUser,
    /// A token request whose client id or secret is wrong.
    GrantClient,
    /// The backend's own token, without a word on whose behalf it acts.
    UserMissing,
    /// Authenticated, but this object is not for this caller (wrong or missing secret, bad signature).
    Forbidden,
    /// The chat backend said no, with a code of its own.
    Denied(u32),
    /// An upload form whose policy does not let it in.
    Policy(PolicyFault),
    /// No such object.
    ObjectNotFound,
    /// The object outlived its retention.
    ObjectExpired,
    /// The object exists, but has no thumbnail.
    NoThumbnail,
    /// The voice cannot be had in the format asked for.
    NotConvertible,
    /// An object of this name is there already; none is ever replaced.
    AlreadyExists,
    /// No such tenant.
    TenantNotFound,
    /// No such path.
    RouteNotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// A precondition of RFC 9110 §13 is false.
    PreconditionFailed,
    /// RFC 9110 §15.5.17; carries the length of the representation in bytes.
    RangeNotSatisfiable(u64),
    /// More bytes than the limit allows.
    TooLarge,
    /// Fewer bytes than an upload must have: none, or below its policy's range.
    TooSmall,
    /// The body's media type is not one this call takes.
    UnsupportedMediaType,
    /// The client did not send its body within the time it has.
    RequestTimeout,
    /// Over the rate; the client may come again after this long.
    RateLimited(Duration),
    /// A quota of the day has less left than the call would bring; there is a new one after this long.
    QuotaReached(Duration),
    /// The free-space floor is reached or the disk is full.
    StorageFull,
    /// A dependency or a queue cannot answer now; the client may come again after this long.
    Unavailable(Duration),
    /// The client went away in the middle: nobody is left to be answered.
    Disconnected,
    /// A fault of ours. Nothing of the inside is shown to the client.
    Internal,
}

/// What is wrong with the policy of an upload form (OSS PostObject, signature V1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyFault {
    /// It is no policy: no base64, no JSON, a condition of an unknown kind.
    Document,
    /// The access key is not this tenant's.
    AccessKey,
    /// The signature is not its own.
    Signature,
    /// It has expired, or a condition of it is not met.
    Denied,
    /// Its key is no name of an object here.
    ObjectName,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error on its way to a client and to the log.
pub struct Error {
    kind: Kind,
    public: Option<Cow<'static, str>>,
    source: Option<Source>,
}

/// `Result` with the house's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`, with the dialect's own text for that kind.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            public: None,
            source: None,
        }
    }

    /// Replaces the text that the client sees. It must hold no secret and nothing of the inside.
    #[must_use]
    pub fn public(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.public = Some(text.into());
        self
    }

    /// Keeps the cause, for the log alone.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// [`Kind::InvalidArgument`] with a text that says what to do about it.
    pub fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidArgument).public(text)
    }

    /// [`Kind::Internal`] with its cause.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(Kind::Internal).source(source)
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text for the client, where one was set.
    pub fn public_text(&self) -> Option<&str> {
        self.public.as_deref()
    }

    /// The causes, outermost first, joined for a log line; empty where there is none.
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
