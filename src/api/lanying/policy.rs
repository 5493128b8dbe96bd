//! The policy of an upload form (OSS PostObject, signature V1): issued with a ticket, checked with the form.
//!
//! ```text
//! policy    = base64( {"expiration", "conditions": […], "owner", "recipient"} )
//! signature = base64( HMAC-SHA1( secret, policy as sent ) )
//! ```
//!
//! `owner` and `recipient` are our own extension. They are signed with the rest and name the owner of the file, so clients
//! need not send fields that they do not know. Other signers leave them out, and OSS ignores them.
//!
//! Pure: the time is passed in, nothing is stored. The caller checks that `key` is valid and that the file has an allowed
//! length; [`Accepted`] contains both.

mod document;
mod fields;

use std::ops::RangeInclusive;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use self::document::Document;
pub(super) use self::fields::Fields;
use crate::{
    error::{Error, Kind, PolicyFault, Result},
    secret::{SecretKey, constant_time_eq},
    time::{MS_PER_DAY, MS_PER_SECOND, Timestamp},
};

/// The longest text of a client that an error message repeats.
const SHOWN_BYTES_MAX: usize = 200;

/// What a form may store.
pub(super) struct Ticket<'a> {
    /// The tenant's `app_id`.
    pub(super) bucket: &'a str,
    /// The required value of the form field `key`.
    pub(super) object: &'a str,
    /// The file must have 1 to this many bytes.
    pub(super) bytes_max: u64,
    /// When the policy expires, rounded down to seconds.
    pub(super) expires: Timestamp,
    /// The user who uploads.
    pub(super) owner: &'a str,
    /// The user or group to whom the file is sent.
    pub(super) recipient: Option<&'a str>,
}

/// A policy and its signature, as values of the form fields.
pub(super) struct Signed {
    /// The field `policy`: base64.
    pub(super) policy: String,
    /// The field `signature`: base64.
    pub(super) signature: String,
}

/// The contents of a valid policy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The field `key`.
    pub(super) object: String,
    /// The allowed lengths. A policy without a range allows all, including 0.
    pub(super) bytes: RangeInclusive<u64>,
    /// How to respond to a success.
    pub(super) success: Success,
    /// As issued; `None` in a policy signed elsewhere.
    pub(super) owner: Option<String>,
    /// As issued.
    pub(super) recipient: Option<String>,
    /// When the policy expires.
    pub(super) expires: Timestamp,
}

/// The requested response to a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Success {
    /// 200 and JSON. OSS's default is 204, which makes one of the vendor's clients hang.
    Ok200,
    /// 201 and XML.
    Created201,
    /// 204.
    NoContent204,
}

/// Issues a policy and signs it.
pub(super) fn issue(ticket: &Ticket<'_>, secret: &SecretKey) -> Signed {
    /// Tuples, which JSON writes as arrays.
    type Equals<'a> = (&'static str, &'static str, &'a str);
    #[derive(Serialize)]
    struct Policy<'a> {
        expiration: String,
        conditions: (Equals<'a>, Equals<'a>, (&'static str, u64, u64)),
        owner: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        recipient: Option<&'a str>,
    }
    let policy = Policy {
        expiration: iso_8601(ticket.expires),
        conditions: (
            // Otherwise it would be valid for another tenant with the same upload key.
            ("eq", "$bucket", ticket.bucket),
            ("eq", "$key", ticket.object),
            ("content-length-range", 1, ticket.bytes_max),
        ),
        owner: ticket.owner,
        recipient: ticket.recipient,
    };
    let json = serde_json::to_vec(&policy).expect("texts and numbers are JSON");
    let policy = STANDARD.encode(json);
    let signature = sign(&policy, secret);
    Signed { policy, signature }
}

/// Checks the fields of a form that was posted to `bucket`. The policy is parsed only after its signature is verified.
///
/// # Errors
/// `InvalidArgument` if a field is missing, otherwise `Policy`.
pub(super) fn check(
    fields: &Fields,
    bucket: &str,
    access_key_id: &str,
    secret: &SecretKey,
    now: Timestamp,
) -> Result<Accepted> {
    if required(fields, "OSSAccessKeyId")? != access_key_id {
        return Err(Kind::Policy(PolicyFault::AccessKey).into());
    }
    let policy = required(fields, "policy")?;
    let signature = required(fields, "signature")?;
    let object = required(fields, "key")?;
    if !constant_time_eq(sign(policy, secret).as_bytes(), signature.as_bytes()) {
        return Err(Kind::Policy(PolicyFault::Signature).into());
    }
    let document = Document::parse(policy)?;
    if now >= document.expiration {
        return Err(denied("Policy expired."));
    }
    for condition in &document.conditions {
        let value = match &condition.field {
            field if field.eq_ignore_ascii_case("bucket") => Some(bucket),
            field => fields.get(field),
        };
        if !condition.is_met_by(value) {
            let text = format!("Policy Condition failed: {}", shown(&condition.to_string()));
            return Err(denied(&text));
        }
    }
    Ok(Accepted {
        object: object.to_owned(),
        success: success(fields, &document),
        bytes: document.bytes,
        owner: document.owner,
        recipient: document.recipient,
        expires: document.expiration,
    })
}

fn sign(policy: &str, key: &SecretKey) -> String {
    STANDARD.encode(key.hmac_sha1(policy.as_bytes()))
}

fn required<'f>(fields: &'f Fields, name: &str) -> Result<&'f str> {
    fields
        .get(name)
        .ok_or_else(|| Error::invalid(format!("the field {name} is missing.")))
}

/// The requested status counts only if a condition names it: otherwise the signer did not approve it.
fn success(fields: &Fields, document: &Document) -> Success {
    const FIELD: &str = "success_action_status";
    let is_named = document
        .conditions
        .iter()
        .any(|condition| condition.field.eq_ignore_ascii_case(FIELD));
    match fields.get(FIELD) {
        Some("201") if is_named => Success::Created201,
        Some("204") if is_named => Success::NoContent204,
        _ => Success::Ok200,
    }
}

/// The error for a valid policy whose user was revoked.
pub(super) fn revoked() -> Error {
    denied("Policy revoked.")
}

fn denied(text: &str) -> Error {
    let text = format!("Invalid according to Policy: {text}");
    Error::new(Kind::Policy(PolicyFault::Denied)).public(text)
}

/// A text of a client for an error message: shortened and without control characters.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if shown.len() + c.len_utf8() > SHOWN_BYTES_MAX {
            shown.push('…');
            break;
        }
        shown.push(c);
    }
    shown
}

/// Formats as `YYYY-MM-DDTHH:MM:SS.000Z`. The fraction is in all samples of OSS.
fn iso_8601(moment: Timestamp) -> String {
    let second = moment.ms().rem_euclid(MS_PER_DAY) / MS_PER_SECOND;
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}T{hours:02}:{minutes:02}:{seconds:02}.000Z", moment.day())
}

#[cfg(test)]
mod tests;
