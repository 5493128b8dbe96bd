//! Names of objects: ids, classes and keys. The server makes them all; no text from a client becomes part of a path.

use std::fmt;

use uuid::Uuid;

use crate::time::{Day, Timestamp};

/// The id of an object: a version-7 UUID, 48 bits of time and 74 bits from the operating system.
///
/// The id of an unrestricted file is enough to open it, so an id must not be guessable from another one. `Uuid::now_v7`
/// counts within a millisecond, therefore each id is built from fresh random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(Uuid);

impl ObjectId {
    /// Makes an id from the time `now` and 10 random bytes of the operating system.
    pub fn new(now: Timestamp, random: &[u8; 10]) -> Self {
        let ms = u64::try_from(now.ms()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(ms, random).into_uuid())
    }

    /// Parses the hyphenated form, in upper or lower case. Returns `None` for anything else, also for other UUID
    /// versions.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        let uuid = Uuid::try_parse(text).ok()?;
        (uuid.get_version_num() == 7 && uuid.get_variant() == uuid::Variant::RFC4122)
            .then_some(Self(uuid))
    }

    /// When the upload of the object began.
    pub fn created(self) -> Timestamp {
        let bytes = self.0.as_bytes();
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&bytes[..6]);
        Timestamp::from_ms(i64::from_be_bytes(ms))
    }

    /// The last byte, which is random. It spreads the objects of a day over 256 directories.
    pub fn spread(self) -> u8 {
        self.0.as_bytes()[15]
    }

    /// The 16 bytes of the UUID.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The retention class of an object. Each class has its own directory, so that a whole day of it can be removed at
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A file sent in a chat, and every file of the Easemob API.
    Chatfile,
    /// A voice message sent in a chat.
    Voice,
    /// A picture sent in a chat.
    Image,
    /// A video sent in a chat.
    Video,
    /// A file shared outside of a chat.
    Shared,
    /// A voice message shared outside of a chat.
    SharedVoice,
    /// A picture shared outside of a chat.
    SharedImage,
    /// A video shared outside of a chat.
    SharedVideo,
    /// The picture of a user or a group.
    Avatar,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 9] = [
        Self::Chatfile,
        Self::Voice,
        Self::Image,
        Self::Video,
        Self::Shared,
        Self::SharedVoice,
        Self::SharedImage,
        Self::SharedVideo,
        Self::Avatar,
    ];

    /// The name of the class in paths and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chatfile => "chatfile",
            Self::Voice => "voice",
            Self::Image => "image",
            Self::Video => "video",
            Self::Shared => "shared",
            Self::SharedVoice => "shared-voice",
            Self::SharedImage => "shared-image",
            Self::SharedVideo => "shared-video",
            Self::Avatar => "avatar",
        }
    }

    /// Parses [`Class::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// The key of an object: everything that its path is made of. Displayed as `class.YYYY-MM-DD.uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The retention class.
    pub class: Class,
    /// The day that its retention is counted from: the day of its id, or a later day on which it was forwarded.
    pub day: Day,
    /// The id of the object.
    pub id: ObjectId,
}

impl Key {
    /// The key of an object under the day of its id.
    pub fn of(class: Class, id: ObjectId) -> Self {
        Self {
            class,
            day: id.created().day(),
            id,
        }
    }

    /// Parses exactly what [`fmt::Display`] writes. Returns `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, '.');
        let key = Self {
            class: Class::parse(fields.next()?)?,
            day: Day::parse(fields.next()?)?,
            id: ObjectId::parse(fields.next()?)?,
        };
        (key.to_string() == text).then_some(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.name(), self.day, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_contains_its_creation_time() {
        let now = Timestamp::from_ms(1_795_000_123_456);
        let id = ObjectId::new(now, &[0xab; 10]);
        assert_eq!(id.created(), now);
        assert_eq!(ObjectId::parse(&id.to_string()), Some(id));
        assert_eq!(ObjectId::parse(&id.to_string().to_uppercase()), Some(id));
    }

    #[test]
    fn parses_only_displayed_keys() {
        let id = ObjectId::new(Timestamp::from_ms(1_795_000_123_456), &[0xab; 10]);
        for class in Class::ALL {
            let key = Key::of(class, id);
            let text = key.to_string();
            assert_eq!(Key::parse(&text), Some(key), "{text}");
            assert!(text.len() <= 64, "{text}");
            for other in [
                text.to_uppercase(),
                format!("{text} "),
                format!("x{text}"),
                text.replace('.', "/"),
                text.replace(&key.day.to_string(), "2026-13-01"),
                text[..text.len() - 1].to_owned(),
            ] {
                assert_eq!(Key::parse(&other), None, "{other}");
            }
        }
    }

    #[test]
    fn refuses_other_ids() {
        for text in [
            "",
            "0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae", // version 1, the vendor's
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "019aa000-0000-7000-c000-000000000000", // another variant
            "019aa0000000700080000000000000000000",
            "../../../../../../../../../etc/passwd",
            "{019aa000-0000-7000-8000-00000000000}",
        ] {
            assert_eq!(ObjectId::parse(text), None, "{text}");
        }
    }
}
