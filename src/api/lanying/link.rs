//! `file_sign`: a signed link that opens a file.
//!
//! ```text
//! base64( from | to | object | to_type | signature )
//!   from, to    ids of [A-Za-z0-9._@-]
//!   object      class.YYYY-MM-DD.uuid
//!   to_type     1 a user, 2 a group
//!   signature   32 to 34 hexadecimal digits of HMAC-SHA256 with the tenant's link key: as many as make the length
//!               a multiple of 3 bytes, so that the base64 has no padding
//! ```
//! Clients cut it out of a URL at `sign=` and encode it again, so it must not need percent-encoding. The base64 of
//! ASCII without `>`, `?`, `~` and DEL contains neither `+` nor `/`. Nothing is stored for a link.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    checked_id,
    signed::{self, SIGNATURE_DIGITS},
};
use crate::{
    error::{Error, Kind, Result},
    store::Key,
    tenant::Lanying,
};

/// The kind of recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToType {
    User,
    Group,
}

impl ToType {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "1" => Some(Self::User),
            "2" => Some(Self::Group),
            _ => None,
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Group => 2,
        }
    }
}

/// The content of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The user who sent or forwarded it.
    pub(super) from: String,
    /// The user or group it was sent to.
    pub(super) to: String,
    pub(super) to_type: ToType,
    pub(super) key: Key,
}

impl Link {
    /// Renders the `file_sign`.
    pub(super) fn sign(&self, lanying: &Lanying) -> String {
        let Self { from, to, key, .. } = self;
        let tuple = format!("{from}|{to}|{key}|{}", self.to_type.number());
        let signature = signature(lanying, &tuple);
        BASE64_STANDARD.encode(format!("{tuple}|{signature}"))
    }

    /// Parses a `file_sign` of this tenant.
    ///
    /// # Errors
    /// `Forbidden`, which does not tell what is wrong.
    pub(super) fn verify(lanying: &Lanying, file_sign: &str) -> Result<Self> {
        Self::parse(lanying, file_sign).ok_or_else(|| {
            Error::new(Kind::Forbidden).public("file_sign was not issued by this server")
        })
    }

    fn parse(lanying: &Lanying, file_sign: &str) -> Option<Self> {
        let signature = |tuple: &str| signature(lanying, tuple);
        let tuple = signed::verified_text(file_sign, &BASE64_STANDARD, signature)?;
        let fields: Vec<&str> = tuple.split('|').collect();
        let &[from, to, object, to_type] = &fields[..] else {
            return None;
        };
        Some(Self {
            from: checked_id("from", from).ok()?.to_owned(),
            to: checked_id("to", to).ok()?.to_owned(),
            to_type: ToType::parse(to_type)?,
            key: Key::parse(object)?,
        })
    }
}

/// The signature, with as many digits as make the length of the link a multiple of 3 bytes.
fn signature(lanying: &Lanying, tuple: &str) -> String {
    let before = tuple.len() + "|".len();
    let digits = (before + SIGNATURE_DIGITS).next_multiple_of(3) - before;
    signed::signature(&lanying.link_key, lanying, "file_sign", tuple, digits)
}
