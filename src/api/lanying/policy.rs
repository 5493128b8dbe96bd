//! The policy of an upload form (OSS PostObject, signature V1): issued for a ticket, checked when it comes back.
//!
//! ```text
//! policy    = base64( {"expiration", "conditions": […], "owner", "recipient"} )
//! signature = base64( HMAC-SHA1( secret, policy as it is sent ) )
//! ```
//!
//! `owner` and `recipient` are our own: signed with the rest, they tell whose the stored file is, and clients
//! need not send a field they do not know. Signers elsewhere leave them out, OSS ignores them.
//!
//! Pure: the moment is passed in, nothing is read or stored. Whether `key` is a name of ours is not decided
//! here, nor is the file's length measured: [`Accepted`] carries both on.

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

/// Bytes of what a client sent that an error's text repeats.
const SHOWN_BYTES_MAX: usize = 200;

/// What a form is allowed to store.
pub(super) struct Ticket<'a> {
    /// The tenant's `app_id`.
    pub(super) bucket: &'a str,
    /// The name that the form's `key` must have.
    pub(super) object: &'a str,
    /// The file has at least one byte and at most these.
    pub(super) bytes_max: u64,
    /// From when on the form is refused; taken down to the whole second.
    pub(super) expires: Timestamp,
    /// Who uploads.
    pub(super) owner: &'a str,
    /// To whom the file goes: a user or a group.
    pub(super) recipient: Option<&'a str>,
}

/// A policy and its signature, as the form's fields carry them.
pub(super) struct Signed {
    /// The field `policy`: base64.
    pub(super) policy: String,
    /// The field `signature`: base64.
    pub(super) signature: String,
}

/// What a checked form may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The field `key`.
    pub(super) object: String,
    /// The lengths that the policy allows; all where it says nothing, so 0 too.
    pub(super) bytes: RangeInclusive<u64>,
    /// How success is answered.
    pub(super) success: Success,
    /// As issued; absent where somebody else signed.
    pub(super) owner: Option<String>,
    /// As issued.
    pub(super) recipient: Option<String>,
    /// From this moment on the policy is refused.
    pub(super) expires: Timestamp,
}

/// How a form asks for success to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Success {
    /// 200 and JSON. OSS's default is 204, which makes one of the vendor's clients hang.
    Ok200,
    /// 201 and XML.
    Created201,
    /// 204.
    NoContent204,
}

/// Makes the policy of a ticket and signs it.
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
            // Else it would let a file into another tenant whose key is the same.
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

/// Checks the fields of a form that came to `bucket` at `now`. The policy is not looked into before its
/// signature is known to be good.
///
/// # Errors
/// `InvalidArgument` where a field is missing, `Policy` for all else.
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

/// A status that no condition names is the client's idea alone, and not honoured.
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

/// The policy was good once, and its user has been revoked.
pub(super) fn revoked() -> Error {
    denied("Policy revoked.")
}

fn denied(text: &str) -> Error {
    let text = format!("Invalid according to Policy: {text}");
    Error::new(Kind::Policy(PolicyFault::Denied)).public(text)
}

/// A client's text as an error's text repeats it: without control characters, cut where it is long.
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

/// `YYYY-MM-DDTHH:MM:SS.000Z`. OSS's samples all have the fraction.
fn iso_8601(moment: Timestamp) -> String {
    let second = moment.ms().rem_euclid(MS_PER_DAY) / MS_PER_SECOND;
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}T{hours:02}:{minutes:02}:{seconds:02}.000Z", moment.day())
}

#[cfg(test)]
mod tests;
