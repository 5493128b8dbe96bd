//! Parses the JSON of a policy and tests conditions. Reads neither the form nor a clock.
//!
//! The vendor's rules: at least one condition. A condition written as an object has exactly one member. A condition
//! written as a list is `eq`, `starts-with`, `in`, `not-in` or `content-length-range`. There are no other kinds.

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

/// The longest policy in base64.
pub(super) const POLICY_BYTES_MAX: usize = 16 * 1024;
/// The most conditions of a policy.
pub(super) const CONDITIONS_MAX: usize = 100;

/// A parsed policy.
pub(super) struct Document {
    /// When it expires.
    pub(super) expiration: Timestamp,
    /// The intersection of all `content-length-range` conditions. Never empty.
    pub(super) bytes: RangeInclusive<u64>,
    /// All other conditions.
    pub(super) conditions: Vec<Condition>,
    /// Our extension: the user who uploads.
    pub(super) owner: Option<String>,
    /// Our extension: the user or group to whom the file is sent.
    pub(super) recipient: Option<String>,
}

/// A condition for one form field.
pub(super) struct Condition {
    /// The name of the field as in the policy, without the `$`.
    pub(super) field: String,
    test: Test,
}

/// The required value of a field.
enum Test {
    Equals(String),
    StartsWith(String),
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// The JSON. A repeated member is an error, an unknown one is ignored.
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
    /// Parses a policy as sent.
    ///
    /// # Errors
    /// `Policy(Document)` with a text for the client.
    pub(super) fn parse(policy: &str) -> Result<Self> {
        if policy.len() > POLICY_BYTES_MAX {
            let text = format!("it has more than {POLICY_BYTES_MAX} bytes.");
            return Err(fault(&text));
        }
        let json = STANDARD.decode(policy);
        let json = json.map_err(|_| fault("it is not base64."))?;
        // serde would accept an array of the members' values.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(fault("it is not a JSON object."));
        }
        let json: Json = serde_json::from_slice(&json)
            .map_err(|error| fault(&format!("{}.", shown(&error.to_string()))))?;
        if !(1..=CONDITIONS_MAX).contains(&json.conditions.len()) {
            let text = format!("expected 1 to {CONDITIONS_MAX} conditions.");
            return Err(fault(&text));
        }
        let expiration = expiration(&json.expiration)
            .ok_or_else(|| fault("the expiration must be a time like 2099-12-31T23:59:59.000Z."))?;
        let mut document = Self {
            expiration,
            bytes: 0..=u64::MAX,
            conditions: Vec::new(),
            owner: json.owner,
            recipient: json.recipient,
        };
        for condition in json.conditions {
            document.add(condition);
        }
        match document.bytes.is_empty() {
            true => Err(fault("no length is in all of its content-length-ranges.")),
            false => Ok(document),
        }
    }

    fn add(&mut self, condition: JsonCondition) {
        match condition {
            JsonCondition::Length(range) => {
                let (start, end) = self.bytes.clone().into_inner();
                self.bytes = start.max(*range.start())..=end.min(*range.end());
            }
            JsonCondition::Field(condition) => self.conditions.push(condition),
        }
    }
}

impl Condition {
    /// Whether this value of the field meets the condition; `None` if the form does not have the field.
    ///
    /// A missing field meets only `not-in`. The vendor does not define an empty prefix for a missing field. As in S3,
    /// an empty prefix accepts any value but requires the field, since a condition that everything meets makes no
    /// sense.
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

/// Shows the condition as a list, as the vendor's error message does.
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

/// Parses exactly `YYYY-MM-DDTHH:MM:SSZ` with an optional fraction before the `Z`, which is cut to milliseconds.
/// `jiff::Timestamp` would accept offsets and spaces, and reject the last days of 9999.
fn expiration(text: &str) -> Option<Timestamp> {
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
