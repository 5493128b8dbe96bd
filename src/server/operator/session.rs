//! Sessions of the console: what a browser has after it has sent the operator's token once.
//!
//! They are in memory and end with the process.

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    secret::{Secret, constant_time_eq, hex},
};

/// How long a session is valid.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once. A further login ends the oldest one: only who has the token can do that.
const SESSIONS_MAX: usize = 32;
/// Random bytes of a session's secret.
const SECRET_BYTES: usize = 32;

/// The sessions of one server, the oldest first.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Vec<Session>>);

struct Session {
    /// SHA-256 of the secret in the cookie.
    hash: [u8; 32],
    ends: Instant,
}

/// A name of a session for the audit log, from which its secret cannot be found.
pub(super) type SessionName = String;

impl Sessions {
    /// Begins a session, and returns the secret for its cookie.
    ///
    /// # Errors
    /// `Internal` if the system has no random bytes.
    pub(super) fn begin(&self, now: Instant) -> Result<Secret> {
        let mut random = [0; SECRET_BYTES];
        getrandom::fill(&mut random).map_err(Error::internal)?;
        let secret = Secret::new(BASE64_URL_SAFE_NO_PAD.encode(random));
        let mut sessions = self.0.lock();
        sessions.retain(|session| session.ends > now);
        if sessions.len() >= SESSIONS_MAX {
            sessions.remove(0);
        }
        sessions.push(Session {
            hash: hash(secret.expose()),
            ends: now + LIFETIME,
        });
        Ok(secret)
    }

    /// The name of the session with this secret, if it is valid.
    pub(super) fn find(&self, secret: &str, now: Instant) -> Option<SessionName> {
        let hash = hash(secret);
        let sessions = self.0.lock();
        let mut valid = sessions.iter().filter(|session| session.ends > now);
        let found = valid.find(|session| constant_time_eq(&session.hash, &hash))?;
        Some(hex(&found.hash[..4]))
    }

    /// Ends the session with this secret.
    pub(super) fn end(&self, secret: &str) {
        let hash = hash(secret);
        let is_other = |session: &Session| !constant_time_eq(&session.hash, &hash);
        self.0.lock().retain(is_other);
    }

    /// Ends all sessions.
    pub(super) fn end_all(&self) {
        self.0.lock().clear();
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    #[test]
    fn sessions_expire() {
        let (sessions, now) = (Sessions::default(), Clock::system().monotonic());
        let secret = sessions.begin(now).unwrap();
        let is_valid = |at| sessions.find(secret.expose(), at).is_some();
        assert!(is_valid(now) && is_valid(now + LIFETIME - Duration::from_nanos(1)));
        assert!(!is_valid(now + LIFETIME));
        assert_eq!(sessions.find("", now), None);
    }

    #[test]
    fn further_login_ends_oldest_session() {
        let (sessions, now) = (Sessions::default(), Clock::system().monotonic());
        let begin = |_| sessions.begin(now).unwrap();
        let secrets: Vec<Secret> = (0..=SESSIONS_MAX).map(begin).collect();
        let is_valid = |secret: &Secret| sessions.find(secret.expose(), now).is_some();
        assert!(!is_valid(&secrets[0]));
        assert!(secrets[1..].iter().all(is_valid));
        // Sessions that are over make room first.
        sessions.begin(now + LIFETIME).unwrap();
        assert_eq!(sessions.0.lock().len(), 1);
    }

    #[test]
    fn logout_ends_one_session() {
        let (sessions, now) = (Sessions::default(), Clock::system().monotonic());
        let (one, other) = (sessions.begin(now).unwrap(), sessions.begin(now).unwrap());
        sessions.end(one.expose());
        assert_eq!(sessions.find(one.expose(), now), None);
        assert!(sessions.find(other.expose(), now).is_some());
        sessions.end_all();
        assert_eq!(sessions.find(other.expose(), now), None);
    }
}
