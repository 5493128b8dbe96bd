//! `file_sign`: a link to a file, and the right to open it.
//!
//! ```text
//! base64( from | to | object | to_type | signature )
//!   from, to    ids of [A-Za-z0-9._@-]
//!   object      class.YYYY-MM-DD.uuid
//!   to_type     1 a user, 2 a group
//!   signature   32 to 34 hexadecimal digits of HMAC-SHA256 with the tenant's link key: so many that the whole
//!               is a multiple of 3 bytes, and the base64 has no padding
//! ```
//! Clients cut it out of a URL at `sign=` and encode it again, so nothing in it may need percent-encoding: in
//! ASCII without `>`, `?`, `~` and DEL, base64 has neither `+` nor `/`. Nothing is stored for a link.

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

/// Bytes of a link in base64: two ids, an object, a signature.
const LINK_BYTES_MAX: usize = 512;
/// Whom a file was sent to.
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

/// A link that is signed, or will be.
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
    /// The `file_sign`.
    pub(super) fn sign(&self, lanying: &Lanying) -> String {
        let tuple = format!(
            "{}|{}|{}|{}",
            self.from,
            self.to,
            self.key,
            self.to_type.number()
        );
        let signature = signature(lanying, &tuple);
        BASE64_STANDARD.encode(format!("{tuple}|{signature}"))
    }

    /// Reads a `file_sign` of this tenant.
    ///
    /// # Errors
    /// `Forbidden` for whatever is none, without a word on what is wrong with it.
    pub(super) fn verify(lanying: &Lanying, file_sign: &str) -> Result<Self> {
        Self::read(lanying, file_sign).ok_or_else(|| {
            Error::new(Kind::Forbidden).public("file_sign is not one that was issued here")
        })
    }

    fn read(lanying: &Lanying, file_sign: &str) -> Option<Self> {
        if file_sign.len() > LINK_BYTES_MAX {
            return None;
        }
        let tuple = BASE64_STANDARD.decode(file_sign).ok()?;
        let tuple = signed::text(tuple, |tuple| signature(lanying, tuple))?;
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

/// As many digits as make the whole a multiple of 3 bytes.
fn signature(lanying: &Lanying, tuple: &str) -> String {
    let before = tuple.len() + "|".len();
    let digits = (before + SIGNATURE_DIGITS).next_multiple_of(3) - before;
    signed::signature(&lanying.link_key, lanying, "file_sign", tuple, digits)
}
