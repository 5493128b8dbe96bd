//! The token of the operator listener: its file, its comparison, and a limit on guesses.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;

use super::{
    attempts::{Account, Attempts},
    keyring,
};
use crate::{
    error::{Error, Kind, Result},
    secret::SecretKey,
};

/// The attempts of this table are not those of a tenant.
const NO_TENANT: u32 = u32::MAX;

/// Checks the token of the operator. Wrong ones are slowed down by client address, as client secrets are.
pub struct OperatorToken {
    directory: PathBuf,
    name: String,
    token: ArcSwap<SecretKey>,
    attempts: Attempts,
}

impl OperatorToken {
    /// Reads the token file, or creates it with 32 random bytes and mode 0600. Blocking.
    ///
    /// # Errors
    /// `Internal`, with the file: it cannot be read or created, others can read it, or the token is too short.
    pub fn load_or_create(file: &Path) -> Result<Self> {
        let name = file.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(directory)) = (name, file.parent()) else {
            let file = file.display();
            return Err(Error::internal(format!("{file}: not the path of a file")));
        };
        Ok(Self {
            token: ArcSwap::from_pointee(keyring::load_or_create_secret(directory, name)?),
            directory: directory.to_owned(),
            name: name.to_owned(),
            attempts: Attempts::new(Vec::new()),
        })
    }

    /// Reads the token file again. Returns whether the token has changed. Blocking.
    ///
    /// # Errors
    /// `Internal`, with the file; the old token stays valid.
    pub fn reload(&self) -> Result<bool> {
        let token = keyring::load_secret(&self.directory, &self.name)?;
        if self.token.load().equals(token.expose()) {
            return Ok(false);
        }
        self.token.store(Arc::new(token));
        Ok(true)
    }

    /// Checks a token that a client has sent.
    ///
    /// # Errors
    /// `TokenInvalid`; `RateLimited` after too many wrong ones from this address, also for the right one.
    pub fn check(&self, sent: &str, client: IpAddr, now: Instant) -> Result<()> {
        let caller = self.attempts.caller(NO_TENANT, client);
        self.attempts.check(Account::Backend, caller, now)?;
        let is_right = self.token.load().equals(sent);
        self.attempts
            .record(Account::Backend, caller, is_right, now);
        match is_right {
            true => Ok(()),
            false => Err(Kind::TokenInvalid.into()),
        }
    }
}
