//! The JSON of a policy, parsed into what the check asks for. By the vendor's pages: at least one condition;
//! one in the form of an object has exactly one member; the lists are `eq`, `starts-with`, `in`, `not-in` and
//! `content-length-range`; there is no other kind. No form and no clock is looked at.

use std::{fmt, ops::RangeInclusive};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::shown;
use crate::{
    error::{Error, Kind, PolicyFault, Result},
    time::{Day, MS_PER_SECOND, Timestamp},
};

/// Bytes of a policy as it is sent, in base64.
pub(super) const POLICY_BYTES_MAX: usize = 16 * 1024;
/// Conditions of a policy.
pub(super) const CONDITIONS_MAX: usize = 100;

/// A policy that was read.
pub(super) struct Document {
    /// From this moment on it is good for nothing.
    pub(super) expiration: Timestamp,
    /// The intersection of its `content-length-range`s; never empty.
    pub(super) bytes: RangeInclusive<u64>,
    /// The others.
    pub(super) conditions: Vec<Condition>,
    /// Ours.
    pub(super) owner: Option<String>,
    /// Ours.
    pub(super) recipient: Option<String>,
}

/// What one field must be.
pub(super) struct Condition {
    /// The field's name as the policy writes it, without the `$`.
    pub(super) field: String,
    test: Test,
}

/// What a value must be.
enum Test {
    Equals(String),
    StartsWith(String),
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// As it is written; a member given twice is refused, one that is not known is ignored.
#[derive(Deserialize)]
struct Json {
    expiration: String,
    conditions: Vec<JsonCondition>,
    owner: Option<String>,
    recipient: Option<String>,
}

enum JsonCondition {
    Length(RangeInclusive<u64>),
    Field(Condition),
}

impl Document {
    /// Reads a policy as it was sent.
    ///
    /// # Errors
    /// `Policy(Document)`, whose text says what is wrong with it.
    pub(super) fn parse(policy: &str) -> Result<Self> {
        if policy.len() > POLICY_BYTES_MAX {
            return Err(fault(&format!(
                "it has more than {POLICY_BYTES_MAX} bytes."
            )));
        }
        let json = STANDARD
            .decode(policy)
            .map_err(|_| fault("it is not base64."))?;
        // serde would take an array's elements for the members, in order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(fault("it is not a JSON object."));
        }
        let json: Json = serde_json::from_slice(&json)
            .map_err(|error| fault(&format!("{}.", shown(&error.to_string()))))?;
        if json.conditions.is_empty() || json.conditions.len() > CONDITIONS_MAX {
            return Err(fault(&format!("it has 1 to {CONDITIONS_MAX} conditions.")));
        }
        let expiration = moment(&json.expiration)
            .ok_or_else(|| fault("its expiration is not like 2099-12-31T23:59:59.000Z."))?;
        let (mut bytes, mut conditions) = (0..=u64::MAX, Vec::new());
        for condition in json.conditions {
            match condition {
                JsonCondition::Length(range) => {
                    bytes = *bytes.start().max(range.start())..=*bytes.end().min(range.end());
                }
                JsonCondition::Field(condition) => conditions.push(condition),
            }
        }
        if bytes.is_empty() {
            return Err(fault("no length is in all of its content-length-ranges."));
        }
        Ok(Self {
            expiration,
            bytes,
            conditions,
            owner: json.owner,
            recipient: json.recipient,
        })
    }
}

impl Condition {
    /// Whether a form whose field has this value, or none, meets it.
    ///
    /// What is not sent meets `not-in` alone. The vendor does not say what an empty prefix makes of it; here
    /// as in S3, any value will do, but there must be one: a condition that asks for nothing at all is
    /// nobody's wish.
    pub(super) fn is_met_by(&self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return matches!(self.test, Test::NotIn(_));
        };
        match &self.test {
            Test::Equals(wanted) => value == wanted,
            Test::StartsWith(prefix) => value.starts_with(prefix.as_str()),
            Test::In(list) => list.iter().any(|item| item == value),
            Test::NotIn(list) => list.iter().all(|item| item != value),
        }
    }
}

/// In the form of a list, whichever it was written in: so does the vendor's error.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, value) = match &self.test {
            Test::Equals(value) => ("eq", serde_json::to_string(value)),
            Test::StartsWith(prefix) => ("starts-with", serde_json::to_string(prefix)),
            Test::In(list) => ("in", serde_json::to_string(list)),
            Test::NotIn(list) => ("not-in", serde_json::to_string(list)),
        };
        let value = value.map_err(|_| fmt::Error)?;
        write!(f, "[\"{kind}\", \"${}\", {value}]", self.field)
    }
}

impl<'de> Deserialize<'de> for JsonCondition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ConditionVisitor)
    }
}

struct ConditionVisitor;

impl<'de> Visitor<'de> for ConditionVisitor {
    type Value = JsonCondition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a condition, an object or an array")
    }

    /// `{"key": "value"}`
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let wrong = || A::Error::custom("a condition in braces has exactly one member");
        let (field, value): (String, String) = map.next_entry()?.ok_or_else(wrong)?;
        match map.next_key::<IgnoredAny>()? {
            Some(_) => Err(wrong()),
            None => Ok(JsonCondition::Field(Condition {
                field,
                test: Test::Equals(value),
            })),
        }
    }

    /// `["eq", "$key", "value"]`
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let kind: String = next(&mut list)?;
        let condition = if kind == "content-length-range" {
            let (min, max) = (next(&mut list)?, next(&mut list)?);
            if min > max {
                return Err(A::Error::custom(
                    "a content-length-range ends before it begins",
                ));
            }
            JsonCondition::Length(min..=max)
        } else {
            let field: String = next(&mut list)?;
            let field = field.strip_prefix('$').filter(|field| !field.is_empty());
            let field = field.ok_or_else(|| A::Error::custom("a field's name begins with $"))?;
            let test = match kind.as_str() {
                "eq" => Test::Equals(next(&mut list)?),
                "starts-with" => Test::StartsWith(next(&mut list)?),
                "in" => Test::In(next(&mut list)?),
                "not-in" => Test::NotIn(next(&mut list)?),
                _ => return Err(A::Error::custom("a condition of a kind that is not known")),
            };
            JsonCondition::Field(Condition {
                field: field.to_owned(),
                test,
            })
        };
        match list.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom("a condition with too many elements")),
            None => Ok(condition),
        }
    }
}

fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(list: &mut A) -> Result<T, A::Error> {
    list.next_element()?
        .ok_or_else(|| A::Error::custom("a condition with too few elements"))
}

fn fault(text: &str) -> Error {
    Error::new(Kind::Policy(PolicyFault::Document)).public(format!("Invalid Policy: {text}"))
}

/// Exactly `YYYY-MM-DDTHH:MM:SSZ`, where a fraction may stand before the `Z`; what it has beyond
/// milliseconds is cut. `jiff::Timestamp` would take offsets and spaces, and not the last days of 9999.
fn moment(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = match time.split_once('.') {
        Some((time, fraction)) => (time, milliseconds(fraction)?),
        None => (time, 0),
    };
    let mut parts = time.split(':');
    let mut part = |end: i64| {
        let digits = parts.next().filter(|part| part.len() == 2)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = digits.parse().ok()?;
        (is_number && number < end).then_some(number)
    };
    let seconds = part(24)? * 3600 + part(60)? * 60 + part(60)?;
    if parts.next().is_some() {
        return None;
    }
    let day = Day::parse(date)?.start().ms();
    Some(Timestamp::from_ms(day + seconds * MS_PER_SECOND + fraction))
}

fn milliseconds(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<3}")[..3].parse().ok()
}
