//! The three grants by which a client obtains a token of ours. Knows no JSON: a dialect parses the request
//! and renders [`Granted`].
//!
//! Wrong passwords and client secrets are counted (`attempts.rs`). No registry of users is kept: `inherit` is how a
//! chat backend obtains a token for any user of its own.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{
    Identity, KeyRing, Subject,
    attempts::{Account, Attempts},
    is_user_name,
    password::Passwords,
    token,
};
use crate::{
    error::{Error, Kind, Result},
    metrics::{Login, Logins},
    secret::Secret,
    tenant::Tenant,
    time::{Clock, Timestamp},
};

/// The life of a token for which none was asked: 60 days, the vendor's default.
pub const TTL_DEFAULT_SECS: u64 = 60 * 86_400;
/// The longest life of a token that has an end: ten years. A longer one is shortened to it; `expires_in`
/// tells the client so (RFC 6749 §5.1).
pub const TTL_MAX_SECS: u64 = 3650 * 86_400;

/// A token that was issued.
pub struct Granted {
    /// The token. Held as a secret, or `Debug` would show it.
    pub token: Secret,
    /// Its life in seconds; 0 = without end, as in the request.
    pub expires_in_secs: u64,
    /// Whose it is.
    pub subject: Subject,
}

/// Issues tokens.
pub struct Grants {
    ring: Arc<KeyRing>,
    passwords: Passwords,
    attempts: Arc<Attempts>,
    logins: Arc<Logins>,
    clock: Clock,
}

impl Grants {
    /// Grants signed by `ring`. `exempt` are networks of the backend's own servers, which may log in many users.
    pub fn new(ring: Arc<KeyRing>, exempt: Vec<IpNet>, clock: Clock) -> Self {
        Self {
            ring,
            passwords: Passwords::default(),
            attempts: Arc::new(Attempts::new(exempt)),
            logins: Arc::default(),
            clock,
        }
    }

    /// What came of the logins so far.
    pub fn counts(&self) -> Arc<Logins> {
        self.logins.clone()
    }

    /// Counts what came of one.
    fn count<T>(&self, result: Result<T>) -> Result<T> {
        let outcome = match result.as_ref().map_err(Error::kind) {
            Ok(_) => Some(Login::Granted),
            Err(Kind::GrantClient | Kind::GrantUser | Kind::GrantPassword) => Some(Login::Wrong),
            Err(Kind::RateLimited(_)) => Some(Login::Slowed),
            Err(Kind::Unavailable(_)) => Some(Login::Busy),
            Err(_) => None,
        };
        if let Some(outcome) = outcome {
            self.logins.count(outcome);
        }
        result
    }

    /// `client_credentials`: a token of the backend for its id and secret. `ttl_secs`, here and below:
    /// `None` = 60 days, 0 = without end.
    ///
    /// # Errors
    /// [`Kind::GrantClient`] when either is wrong; which of them is not told. [`Kind::RateLimited`] after too many wrong
    /// ones.
    pub fn client_credentials(
        &self,
        tenant: &Tenant,
        client: IpAddr,
        client_id: &str,
        client_secret: &Secret,
        ttl_secs: Option<u64>,
        now: Timestamp,
    ) -> Result<Granted> {
        self.count(self.check_client(tenant, client, client_id, client_secret))?;
        self.grant(tenant, Subject::App, ttl_secs, now)
    }

    fn check_client(
        &self,
        tenant: &Tenant,
        client: IpAddr,
        client_id: &str,
        client_secret: &Secret,
    ) -> Result<()> {
        let caller = self.attempts.caller(tenant.index, client);
        // Attempts at the same moment may pass together: at most one for each thread of the server.
        let now_counted = self.clock.monotonic();
        self.attempts.check(Account::Backend, caller, now_counted)?;
        // Both are compared whatever the first says.
        let id = crate::secret::constant_time_eq(tenant.client_id.as_bytes(), client_id.as_bytes());
        let secret = tenant.client_secret.equals(client_secret.expose());
        self.attempts
            .record(Account::Backend, caller, id & secret, now_counted);
        if !(id & secret) {
            return Err(Kind::GrantClient.into());
        }
        Ok(())
    }

    /// `inherit`: a token of any user, for the tenant's own backend.
    ///
    /// # Errors
    /// [`Kind::TokenInvalid`] when `caller` is a user or another tenant's backend, as the vendor answers;
    /// [`Kind::InvalidArgument`] for an impossible user name.
    pub fn inherit(
        &self,
        tenant: &Tenant,
        caller: &Identity,
        user: &str,
        ttl_secs: Option<u64>,
        now: Timestamp,
    ) -> Result<Granted> {
        if !caller.is_app() || caller.tenant != tenant.index {
            return Err(Kind::TokenInvalid.into());
        }
        check_user_name(user)?;
        self.grant(tenant, Subject::User(user.into()), ttl_secs, now)
    }

    /// `password`: a token of an account of the configuration.
    ///
    /// # Cancel safety
    /// Nothing is kept of a request that goes away; see [`Passwords::verify`].
    ///
    /// # Errors
    /// [`Kind::GrantUser`] for an unknown account, [`Kind::GrantPassword`] for a wrong password,
    /// [`Kind::InvalidArgument`] for an impossible user name, [`Kind::Unavailable`] when too many passwords
    /// wait to be checked, [`Kind::RateLimited`] after too many wrong ones.
    pub async fn password(
        &self,
        tenant: &Tenant,
        client: IpAddr,
        user: &str,
        password: &Secret,
        ttl_secs: Option<u64>,
        now: Timestamp,
    ) -> Result<Granted> {
        check_user_name(user)?;
        self.count(self.check_password(tenant, client, user, password).await)?;
        self.grant(tenant, Subject::User(user.into()), ttl_secs, now)
    }

    async fn check_password(
        &self,
        tenant: &Tenant,
        client: IpAddr,
        user: &str,
        password: &Secret,
    ) -> Result<()> {
        let caller = self.attempts.caller(tenant.index, client);
        let found = tenant.accounts.get(user);
        let account = found.map_or(Account::Unknown, |_| Account::User(user));
        let now_counted = self.clock.monotonic();
        self.attempts.check(account, caller, now_counted)?;
        let Some(found) = found else {
            self.attempts.record(account, caller, false, now_counted);
            return Err(Kind::GrantUser.into());
        };
        let hash = &found.password_hash;
        let permit = self.passwords.admit(caller.claimant, hash).await?;
        // Again: guesses that were sent together have waited for each other. Only those that are being hashed at this
        // moment are not counted yet, one at most beside this one.
        self.attempts
            .check(account, caller, self.clock.monotonic())?;
        let (attempts, clock, name) = (self.attempts.clone(), self.clock.clone(), user.to_owned());
        let record = move |is_right| {
            attempts.record(Account::User(&name), caller, is_right, clock.monotonic());
        };
        if !self
            .passwords
            .verify(permit, password, hash, record)
            .await?
        {
            return Err(Kind::GrantPassword.into());
        }
        Ok(())
    }

    fn grant(
        &self,
        tenant: &Tenant,
        subject: Subject,
        ttl_secs: Option<u64>,
        now: Timestamp,
    ) -> Result<Granted> {
        let secs = ttl_secs.unwrap_or(TTL_DEFAULT_SECS).min(TTL_MAX_SECS);
        let ttl = (secs > 0).then(|| Duration::from_secs(secs));
        let token = token::issue(&self.ring, tenant, &subject, ttl, now)?;
        Ok(Granted {
            token: Secret::new(token),
            expires_in_secs: secs,
            subject,
        })
    }
}

fn check_user_name(user: &str) -> Result<()> {
    if is_user_name(user) {
        return Ok(());
    }
    Err(Error::invalid(
        "a user name has 1 to 128 bytes, none of them a slash, white space or a control character",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::password, auth::testing, tenant::Account};

    const NOW: Timestamp = Timestamp::from_secs(1_795_305_599);
    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn grants(ring: Arc<KeyRing>) -> Grants {
        Grants::new(ring, Vec::new(), Clock::system())
    }

    #[test]
    fn client_credentials_need_both_id_and_secret() {
        let (_dir, ring) = testing::ring(NOW);
        let (grants, tenant) = (grants(ring), testing::tenant("org", "app"));
        for (id, secret, good) in [
            ("id-app", "client-secret-of-app", true),
            ("id-app", "client-secret-of-apq", false),
            ("id-apq", "client-secret-of-app", false),
            ("", "", false),
        ] {
            let granted =
                grants.client_credentials(&tenant, HOME, id, &Secret::new(secret), None, NOW);
            match granted {
                Ok(granted) => assert!(good && granted.subject == Subject::App, "{id} {secret}"),
                Err(error) => assert!(!good && error.kind() == Kind::GrantClient, "{id} {secret}"),
            }
        }
    }

    #[test]
    fn only_the_tenants_own_backend_inherits() {
        let (_dir, ring) = testing::ring(NOW);
        let (grants, tenant) = (grants(ring), testing::tenant("org", "app"));
        let app = |tenant| Identity {
            tenant,
            subject: Subject::App,
        };
        let user = Identity {
            tenant: 0,
            subject: Subject::User("eve".into()),
        };
        let granted = grants
            .inherit(&tenant, &app(0), "alice", None, NOW)
            .unwrap();
        assert_eq!(granted.subject.user(), Some("alice"));
        for (caller, name, kind) in [
            (user, "alice", Kind::TokenInvalid),
            (app(1), "alice", Kind::TokenInvalid),
            (app(0), "a/b", Kind::InvalidArgument),
            (app(0), "", Kind::InvalidArgument),
        ] {
            let error = grants
                .inherit(&tenant, &caller, name, None, NOW)
                .err()
                .unwrap();
            assert_eq!(error.kind(), kind, "{name}");
        }
    }

    #[test]
    fn a_life_is_60_days_unless_asked_otherwise_and_ten_years_at_most() {
        let (_dir, ring) = testing::ring(NOW);
        let grants = grants(Arc::clone(&ring));
        let (verifier, tenant) = (
            crate::auth::Verifier::new(ring),
            testing::tenant("org", "app"),
        );
        for (asked, given) in [
            (None, 5_184_000),
            (Some(0), 0),
            (Some(7), 7),
            (Some(u64::MAX), 315_360_000),
        ] {
            let caller = Identity {
                tenant: 0,
                subject: Subject::App,
            };
            let granted = grants
                .inherit(&tenant, &caller, "alice", asked, NOW)
                .unwrap();
            assert_eq!(granted.expires_in_secs, given);
            let at = |secs| {
                let now = NOW.plus(Duration::from_secs(secs));
                verifier.verify(&tenant, granted.token.expose(), now)
            };
            if given == 0 {
                assert!(at(TTL_MAX_SECS * 10).is_ok());
            } else {
                assert!(at(given - 1).is_ok());
                assert_eq!(at(given).unwrap_err().kind(), Kind::TokenExpired);
            }
        }
    }

    #[tokio::test]
    async fn a_password_grant_tells_an_unknown_user_from_a_wrong_password() {
        let (_dir, ring) = testing::ring(NOW);
        let (grants, mut tenant) = (grants(ring), testing::tenant("org", "app"));
        let account = Account {
            name: "alice".into(),
            password_hash: Secret::new(password::hash("wonder").unwrap()),
        };
        tenant.accounts.insert("alice".into(), account);
        for (user, word, kind) in [
            ("alice", "wonder", None),
            ("alice", "blunder", Some(Kind::GrantPassword)),
            ("bob", "wonder", Some(Kind::GrantUser)),
            ("b b", "wonder", Some(Kind::InvalidArgument)),
        ] {
            let granted = grants
                .password(&tenant, HOME, user, &Secret::new(word), None, NOW)
                .await;
            assert_eq!(
                granted.err().map(|error| error.kind()),
                kind,
                "{user} {word}"
            );
        }
    }
}
