//! Hashes and verifies passwords with argon2id, a few at a time.
//!
//! There is no dummy verification to hide that a user is unknown: the API says `user not found` openly. The accounts
//! are part of the configuration.

use std::time::Duration;

use crate::{
    error::{Error, Kind, Result},
    fair_queue::{self, Claimant, FairQueue, Permit, Refused},
    secret::Secret,
};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};

/// Maximum size of a password in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Shorter passwords can be guessed even at the rate that `attempts.rs` allows (NIST SP 800-63B §3.1.1.2).
pub const PASSWORD_BYTES_ADVISED: usize = 8;
/// Memory of a new hash in KiB: OWASP's 19 MiB with two passes and one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Maximum memory of a configured hash in KiB, and maximum number of passes.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
/// Concurrent verifications. With our own parameters they use 38 MiB and two cores.
const RUNNING_MAX: usize = 2;
/// Waiting verifications, about 30 ms each.
const WAITING_MAX: usize = 64;
/// The longest time that a verification waits.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// `Retry-After` if the queue is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Hashes a password with a random salt. Returns a PHC string `$argon2id$…`. Blocks for tens of milliseconds and uses
/// 19 MiB.
///
/// # Errors
/// [`Kind::InvalidArgument`] if the password is blank or has more than 1,024 bytes.
pub fn hash(password: &str) -> Result<String> {
    if is_impossible(password) {
        return Err(Error::invalid(
            "a password must have 1–1024 bytes and must not be blank",
        ));
    }
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(Error::internal)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2
        .hash_password(password.as_bytes())
        .map_err(Error::internal)?;
    Ok(hash.to_string())
}

/// Checks that a hash can be verified here: argon2id with at most 64 MiB and 16 passes. The configuration calls it, so
/// that a wrong hash is reported at startup and not at a user's login.
///
/// # Errors
/// [`Kind::InvalidArgument`]; the text does not contain the hash.
pub fn check_hash(hash: &Secret) -> Result<()> {
    parse(hash.expose()).map(drop)
}

/// Explains why a password of this hash can be guessed by an attacker who has the hash. Returns `None` if a guess costs
/// at least what OWASP recommends (19 MiB and 2 passes, or less memory and more passes).
pub fn weakness(hash: &Secret) -> Option<&'static str> {
    /// KiB × passes: the cheapest of OWASP's five choices is 7 MiB and 5 passes.
    const COST_ADVISED: u32 = 7 * 1024 * 5;
    let hash = parse(hash.expose()).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let cost = params.m_cost().saturating_mul(params.t_cost());
    (cost < COST_ADVISED)
        .then_some("it uses too little memory or too few passes to slow down guessing")
}

/// Whether it cannot be a password. A blank one is refused even if another tool has hashed it.
fn is_impossible(password: &str) -> bool {
    password.trim().is_empty() || password.len() > PASSWORD_BYTES_MAX
}

fn parse(hash: &str) -> Result<PasswordHash> {
    let wrong = || {
        Error::invalid("a password hash must be a PHC string, $argon2id$v=19$m=…,t=…,p=…$salt$hash")
    };
    let hash = PasswordHash::new(hash).map_err(|_| wrong())?;
    let params = Params::try_from(&hash).map_err(|_| wrong())?;
    if hash.algorithm.as_str() != "argon2id" || hash.salt.is_none() || hash.hash.is_none() {
        return Err(wrong());
    }
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX {
        return Err(Error::invalid(
            "a password hash may use at most 64 MiB and 16 passes",
        ));
    }
    Ok(hash)
}

/// Verifies passwords on the blocking pool, two at a time, fair by tenant and client.
#[derive(Debug)]
pub(super) struct Passwords {
    queue: FairQueue,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            queue: FairQueue::new(fair_queue::Config {
                jobs_max: RUNNING_MAX,
                memory_bytes_max: RUNNING_MAX as u64 * u64::from(MEMORY_KIB_MAX) * 1024,
                waiting_max: WAITING_MAX,
                wait_max: WAIT_MAX,
                ..fair_queue::Config::default()
            }),
        }
    }
}

impl Passwords {
    /// Waits for permission to verify a password against `hash`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if the queue is full or the wait is too long; [`Kind::Internal`] if the hash is malformed.
    pub(super) async fn admit(&self, claimant: Claimant, hash: &Secret) -> Result<Permit> {
        let parsed = parse(hash.expose()).map_err(Error::internal)?;
        let params = Params::try_from(&parsed).map_err(Error::internal)?;
        let memory_bytes = u64::from(params.m_cost()) * 1024;
        let permit = self.queue.acquire(claimant, memory_bytes).await;
        permit.map_err(|refused| match refused {
            Refused::QueueFull | Refused::TimedOut => Kind::Unavailable(RETRY_AFTER).into(),
            Refused::TooLarge => Error::internal("a password hash that needs more than 64 MiB"),
        })
    }

    /// Whether `password` belongs to `hash`; `false` for a blank one and for more than 1,024 bytes. Calls `record` with
    /// the result before it drops the permit.
    ///
    /// # Cancel safety
    /// If the future is dropped, a running verification goes on, keeps its permit and is recorded. So a caller that
    /// gives up can neither start more of them nor guess without being counted.
    ///
    /// # Errors
    /// [`Kind::Internal`] if the hash is malformed.
    pub(super) async fn verify(
        &self,
        permit: Permit,
        password: &Secret,
        hash: &Secret,
        record: impl FnOnce(bool) + Send + 'static,
    ) -> Result<bool> {
        let (password, hash) = (password.clone(), hash.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let verified = verify(password.expose(), hash.expose());
            if let Ok(is_right) = &verified {
                record(*is_right);
            }
            verified
        });
        verified.await.map_err(Error::internal)?
    }
}

fn verify(password: &str, hash: &str) -> Result<bool> {
    if is_impossible(password) {
        return Ok(false);
    }
    let hash = parse(hash).map_err(Error::internal)?;
    // The parameters come from the hash.
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(Error::internal(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepts_only_the_right_password() {
        let made = hash("correct horse").unwrap();
        assert!(
            made.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{made}"
        );
        assert_ne!(made, hash("correct horse").unwrap());
        let (made, passwords) = (Secret::new(made), Passwords::default());
        let longest = "x".repeat(PASSWORD_BYTES_MAX + 1);
        for (password, good) in [
            ("correct horse", true),
            ("correct horsf", false),
            ("", false),
            (longest.as_str(), false),
        ] {
            let (told, record) = std::sync::mpsc::channel();
            let permit = passwords.admit(client(0, 1), &made).await.unwrap();
            let verified = passwords
                .verify(permit, &Secret::new(password), &made, move |is_right| {
                    told.send(is_right).unwrap();
                })
                .await
                .unwrap();
            assert_eq!(verified, good, "{password}");
            assert_eq!(record.recv(), Ok(good), "{password}");
        }
    }

    #[test]
    fn rejects_unusable_hashes() {
        check_hash(&Secret::new(hash("x").unwrap())).unwrap();
        for wrong in [
            "",
            "hunter2",
            "$2b$12$abcdefghijklmnopqrstuu",
            "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA",
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI",
        ] {
            assert!(check_hash(&Secret::new(wrong)).is_err(), "{wrong}");
        }
        for wrong in ["", &"x".repeat(PASSWORD_BYTES_MAX + 1)] {
            assert_eq!(hash(wrong).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    fn client(tenant: u32, number: u8) -> Claimant {
        Claimant::new(tenant, [127, 0, 0, number].into())
    }

    #[tokio::test]
    async fn full_queue_is_shared_by_tenants() {
        let passwords = Passwords::default();
        let hash = Secret::new(hash("x").unwrap());
        let held = [(), ()].map(|()| poll(&mut Box::pin(passwords.admit(client(0, 1), &hash))));
        assert!(held.iter().all(|permit| matches!(permit, Some(Ok(_)))));
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|number| Box::pin(passwords.admit(client(0, number as u8), &hash)))
            .collect();
        for future in &mut waiting {
            assert!(poll(future).is_none());
        }
        // Another one of the same tenant is refused, one of another tenant is not.
        let refused = passwords.admit(client(0, 200), &hash).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable(RETRY_AFTER));
        let mut other = Box::pin(passwords.admit(client(1, 1), &hash));
        assert!(poll(&mut other).is_none());
        assert_eq!(passwords.queue.levels().waiting, WAITING_MAX);
        drop(held);
        assert!(matches!(poll(&mut other), Some(Ok(_))));
        drop((waiting, other));
        assert_eq!(
            (
                passwords.queue.levels().waiting,
                passwords.queue.levels().running
            ),
            (0, 0)
        );
        let fault = passwords
            .admit(client(0, 1), &Secret::new("malformed"))
            .await;
        assert_eq!(fault.unwrap_err().kind(), Kind::Internal);
    }

    /// Polls a future once.
    fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
