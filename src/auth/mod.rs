//! Authentication: tokens, signing keys, passwords, and the hook that authorizes users.
//!
//! Reading order: [`keyring`] has the signing keys; [`token`] is our signed token and `dynamic` the one that an
//! Easemob backend signs; `jwt` is the token that a backend signs with its own keys, which [`backend_keys`] holds and
//! `jwks` parses; [`verifier`] turns a token into an [`Identity`], and [`introspection`] asks about tokens that only the
//! backend knows; `claims` is common to both. [`password`] checks passwords, `attempts` slows down guessing, [`grant`]
//! issues tokens; [`operator_token`] protects the operator listener; [`hook`] asks the chat backend what a user may do,
//! over `exchange`. Access to objects (`files/`), JSON (`api/`) and rate limits (`limit/`) are elsewhere.

mod attempts;
pub mod backend_keys;
mod claims;
mod dynamic;
mod exchange;
pub mod grant;
pub mod hook;
pub mod introspection;
mod jwks;
mod jwt;
pub mod keyring;
pub mod operator_token;
pub mod password;
#[cfg(test)]
mod testing;
pub mod token;
pub mod verifier;

use std::sync::Arc;

pub use backend_keys::BackendKeys;
pub use grant::{Granted, Grants};
pub use introspection::Introspections;
pub use keyring::KeyRing;
pub use operator_token::OperatorToken;
pub use verifier::{Verdict, Verifier};

/// Maximum size of a token of any form, in bytes. Longer tokens are refused before they are parsed.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Maximum size of a user name in bytes.
const USER_BYTES_MAX: usize = 128;

/// A caller whose credential was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The tenant's index (`Tenant::index`).
    pub tenant: u32,
    /// The user or the backend of that tenant.
    pub subject: Subject,
}

/// The kind of caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user, by name.
    User(Arc<str>),
    /// The tenant's own backend.
    App,
}

impl Identity {
    /// The user's name; `None` for the backend.
    pub fn user(&self) -> Option<&str> {
        self.subject.user()
    }

    /// Whether this is the tenant's own backend.
    fn is_app(&self) -> bool {
        self.subject == Subject::App
    }
}

impl Subject {
    /// The user's name; `None` for the backend.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::User(name) => Some(name),
            Self::App => None,
        }
    }
}

/// Whether `name` is a valid user name: 1–128 bytes without `/`, white space or control characters. The vendor's own
/// rule (64 letters, digits and `_-.`) is stricter, but its older accounts do not follow it.
pub fn is_user_name(name: &str) -> bool {
    (1..=USER_BYTES_MAX).contains(&name.len())
        && !name
            .chars()
            .any(|c| c == '/' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_user_names() {
        let longest = "a".repeat(128);
        for name in [
            "a",
            "alice",
            "bob@example.com",
            "Ünïcode_7",
            "张三",
            "a.b-c_d",
            &longest,
        ] {
            assert!(is_user_name(name), "{name}");
        }
        let too_long = "a".repeat(129);
        for name in [
            "", "a/b", "a b", "a\n", "a\u{0}", "\u{7f}", "a\u{a0}b", "\u{85}", &too_long,
        ] {
            assert!(!is_user_name(name), "{name:?}");
        }
    }
}
