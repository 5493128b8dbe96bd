//! Who is calling: tokens, the keys that sign them, and the grants that issue them.
//!
//! Reading order: [`keyring`] holds the signing keys, [`token`] is the signed token, [`dynamic`] the one
//! that an Easemob backend signs itself, [`verifier`] turns any of them into an [`Identity`], [`password`]
//! checks passwords, `attempts` slows guessing down, [`grant`] issues tokens, [`hook`] asks the chat backend what a user may do. Nothing here
//! decides what an identity may do to an object (`files/`), knows a dialect's JSON (`api/`) or counts calls
//! (`limit/`).

mod attempts;
pub mod dynamic;
pub mod grant;
pub mod hook;
pub mod keyring;
pub mod password;
#[cfg(test)]
mod testing;
pub mod token;
pub mod verifier;

use std::sync::Arc;

pub use grant::{Granted, Grants};
pub use keyring::KeyRing;
pub use verifier::Verifier;

/// The most bytes of a token, of whatever form; longer ones are refused unread.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// The most bytes of a user name.
pub const USER_BYTES_MAX: usize = 128;

/// A caller whose credential was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The tenant's index, `Tenant::index`.
    pub tenant: u32,
    /// Who of that tenant.
    pub subject: Subject,
}

/// Who calls.
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
    pub fn is_app(&self) -> bool {
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

/// Whether `name` may be a user's: 1 to 128 bytes without `/`, white space and control characters. The
/// vendor's own rule (64 of letters, digits and `_-.`) is narrower; its older accounts are not.
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
    fn user_names_are_taken_liberally_but_not_any_text() {
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
