//! Issues tokens by the three grants. The APIs parse the requests and render [`Granted`].
//!
//! `attempts.rs` counts wrong passwords and client secrets. There is no registry of users: a chat backend gets a token
//! for any of its users by `inherit`.

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

/// Default life of a token: 60 days, as the vendor's.
pub const TTL_DEFAULT_SECS: u64 = 60 * 86_400;
/// Maximum life of a token that expires: ten years. A longer one is shortened, and `expires_in` says so (RFC 6749
/// §5.1).
const TTL_MAX_SECS: u64 = 3650 * 86_400;

/// Life of a token that the operator uses at once.
const TTL_OPERATOR_SECS: u64 = 60;

/// An issued token.
pub struct Granted {
    /// The token; a `Secret`, so that `Debug` does not show it.
    pub token: Secret,
    /// Its life in seconds; 0 = it does not expire, as in the request.
    pub expires_in_secs: u64,
    /// The user or the backend that it identifies.
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
    /// Creates the grants, with tokens signed by `ring`. `exempt` are networks of the backend's own servers, which may
    /// log in many users.
    pub fn new(ring: Arc<KeyRing>, exempt: Vec<IpNet>, clock: Clock) -> Self {
        Self {
            ring,
            passwords: Passwords::default(),
            attempts: Arc::new(Attempts::new(exempt)),
            logins: Arc::default(),
            clock,
        }
    }

    /// The outcomes of the logins so far.
    pub fn counts(&self) -> Arc<Logins> {
        self.logins.clone()
    }

    /// Counts the outcome of a login.
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

    /// `client_credentials`: issues a token of the backend for its id and secret. `ttl_secs`, here and below: `None` =
    /// 60 days, 0 = the token does not expire.
    ///
    /// # Errors
    /// [`Kind::GrantClient`] if the id or the secret is wrong. [`Kind::RateLimited`] after too many wrong attempts.
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
        // Concurrent attempts are all checked: at most one for each thread of the server.
        let now_counted = self.clock.monotonic();
        self.attempts.check(Account::Backend, caller, now_counted)?;
        // Both are always compared, so that the time does not reveal which one is wrong.
        let id = crate::secret::constant_time_eq(tenant.client_id.as_bytes(), client_id.as_bytes());
        let secret = tenant.client_secret.equals(client_secret.expose());
        self.attempts
            .record(Account::Backend, caller, id & secret, now_counted);
        if !(id & secret) {
            return Err(Kind::GrantClient.into());
        }
        Ok(())
    }

    /// `inherit`: issues a token of any user to the tenant's own backend.
    ///
    /// # Errors
    /// [`Kind::TokenInvalid`] if `caller` is a user or another tenant's backend, as the vendor does;
    /// [`Kind::InvalidArgument`] for an invalid user name.
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

    /// `password`: issues a token of a configured account.
    ///
    /// # Cancel safety
    /// Dropping the future issues no token; see `Passwords::verify` for a running verification.
    ///
    /// # Errors
    /// [`Kind::GrantUser`] for an unknown account, [`Kind::GrantPassword`] for a wrong password,
    /// [`Kind::InvalidArgument`] for an invalid user name, [`Kind::Unavailable`] if too many passwords wait for
    /// verification, [`Kind::RateLimited`] after too many wrong attempts.
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
        // Again, since concurrent guesses have waited for each other. Only those that are being verified now are not
        // counted yet: at most one besides this one.
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

    /// Issues a token of a user for one request that the operator makes as this user.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for an invalid user name.
    pub fn operator(&self, tenant: &Tenant, user: &str, now: Timestamp) -> Result<Secret> {
        check_user_name(user)?;
        let subject = Subject::User(user.into());
        let granted = self.grant(tenant, subject, Some(TTL_OPERATOR_SECS), now)?;
        Ok(granted.token)
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
        let token = token::issue(&self.ring, tenant.name(), &subject, ttl, now)?;
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
        "a user name must have 1–128 bytes, without slashes, white space and control characters",
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
    fn client_credentials_need_id_and_secret() {
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
    fn only_own_backend_inherits() {
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
    fn token_life_is_bounded() {
        let (_dir, ring) = testing::ring(NOW);
        let grants = grants(Arc::clone(&ring));
        let (verifier, tenant) = (
            crate::auth::Verifier::new(ring, Arc::default()),
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
    async fn distinguishes_unknown_user_and_password() {
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
