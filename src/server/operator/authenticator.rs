//! Who may use the operator listener: whoever has the operator's token, or everybody.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use hyper::{
    HeaderMap,
    header::{self, HeaderValue},
};
use serde::Deserialize;

use super::session::{LIFETIME, SessionName, Sessions};
use crate::{
    auth::OperatorToken,
    error::{Error, Kind, Result},
    secret::Secret,
    time::Clock,
};

/// The cookie of a session.
const COOKIE: &str = "chatfiles_console";

/// `operator.authentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// The token in `operator.token_file`, or a session that was begun with it.
    Token,
    /// Everybody who reaches the listener may do everything.
    None,
}

/// Checks the callers of the operator listener.
pub struct Authenticator {
    /// `None`: there is no authentication.
    token: Option<OperatorToken>,
    sessions: Sessions,
    clock: Clock,
}

/// A caller that may use the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// There is no authentication.
    Anyone,
    /// It has sent the token.
    Token,
    /// It has sent the cookie of this session.
    Session(SessionName),
}

impl Authentication {
    /// The default: the token, unless only programs on this machine reach the listener.
    pub(super) fn default_at(listen: SocketAddr) -> Self {
        match listen.ip().to_canonical().is_loopback() {
            true => Self::None,
            false => Self::Token,
        }
    }
}

impl Authenticator {
    /// Reads the token file, or creates it, if there is authentication. Blocking.
    ///
    /// # Errors
    /// `Internal`, with the file.
    pub fn new(authentication: Authentication, token_file: &Path, clock: Clock) -> Result<Self> {
        let token = match authentication {
            Authentication::Token => Some(OperatorToken::load_or_create(token_file)?),
            Authentication::None => None,
        };
        Ok(Self {
            token,
            sessions: Sessions::default(),
            clock,
        })
    }

    /// Whether callers need the token.
    pub(super) const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Reads the token file again. A new token ends all sessions. Blocking.
    ///
    /// # Errors
    /// `Internal`, with the file; the old token stays valid.
    pub fn reload(&self) -> Result<()> {
        if let Some(token) = &self.token
            && token.reload()?
        {
            self.sessions.end_all();
            tracing::info!("the operator's token has changed");
        }
        Ok(())
    }

    /// Checks the token, or else the cookie, in the headers of a request.
    ///
    /// # Errors
    /// `TokenMissing`, `TokenInvalid`; `RateLimited` after too many wrong tokens from this address.
    pub(super) fn check(&self, headers: &HeaderMap, client: IpAddr) -> Result<Caller> {
        let Some(token) = &self.token else {
            return Ok(Caller::Anyone);
        };
        let now = self.clock.monotonic();
        if let Some(authorization) = headers.get(header::AUTHORIZATION) {
            let sent = bearer(authorization).ok_or(Kind::TokenInvalid)?;
            return token.check(sent, client, now).map(|()| Caller::Token);
        }
        let sent = cookie(headers).ok_or(Kind::TokenMissing)?;
        let session = self.sessions.find(sent, now).ok_or(Kind::TokenMissing)?;
        Ok(Caller::Session(session))
    }

    /// Begins a session for a client that has sent the token, and returns its `Set-Cookie`. `is_secure`: the browser
    /// reached the page over TLS.
    ///
    /// # Errors
    /// As [`Authenticator::check`].
    pub(super) fn log_in(
        &self,
        sent: &Secret,
        client: IpAddr,
        is_secure: bool,
    ) -> Result<HeaderValue> {
        let Some(token) = &self.token else {
            return Err(Error::invalid("operator.authentication is \"none\""));
        };
        let now = self.clock.monotonic();
        token.check(sent.expose(), client, now)?;
        let session = self.sessions.begin(now)?;
        set_cookie(session.expose(), LIFETIME.as_secs(), is_secure)
    }

    /// Ends the session of a request, and returns the `Set-Cookie` that removes its cookie.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> Result<HeaderValue> {
        if let Some(sent) = cookie(headers) {
            self.sessions.end(sent);
        }
        set_cookie("", 0, false)
    }
}

/// The token file that is used if `operator.token_file` is not set.
pub(super) fn default_token_file(keys: &Path) -> PathBuf {
    keys.join("operator-token")
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1).
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// The value of the session's cookie; the first one, if there are several.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// `Strict`: the browser does not send the cookie with a request that another site has caused, not even a link.
fn set_cookie(value: &str, max_age_secs: u64, is_secure: bool) -> Result<HeaderValue> {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!(
        "{COOKIE}={value}; Path=/; Max-Age={max_age_secs}; HttpOnly; SameSite=Strict{secure}"
    );
    let mut cookie = HeaderValue::try_from(cookie).map_err(Error::internal)?;
    cookie.set_sensitive(true);
    Ok(cookie)
}
