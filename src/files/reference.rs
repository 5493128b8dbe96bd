//! Finds the id of a file in a text that a person has copied: an id, a key, or a link of either API.
//!
//! Signatures are not checked, and secrets in the link are not looked at: whoever may ask here may ask for any file.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;

use crate::store::{Class, Key, ObjectId};

/// The longest text that is searched.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Bytes of an id.
const ID_BYTES: usize = 36;
/// The shortest base64 that can contain an id.
const BASE64_BYTES_MIN: usize = ID_BYTES * 4 / 3;
/// Bytes of `.YYYY-MM-DD.`, which stands between class and id in a key.
const DAY_BYTES: usize = 12;

/// The file that a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The id of the file.
    pub id: ObjectId,
    /// The key, if the text names it.
    key: Option<Key>,
}

impl From<ObjectId> for Reference {
    fn from(id: ObjectId) -> Self {
        Self { id, key: None }
    }
}

impl From<Key> for Reference {
    fn from(key: Key) -> Self {
        Self {
            id: key.id,
            key: Some(key),
        }
    }
}

impl Reference {
    /// The first file that the text names, directly or in the base64 of a signed link; `None` if it names none, or has
    /// more than 8 KiB.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let text = percent_decode_str(text).decode_utf8_lossy();
        Self::find(&text).or_else(|| Self::find_encoded(&text))
    }

    /// The keys under which the file may be stored: the one that the text names, then those of the day of the id.
    pub fn keys(self) -> impl Iterator<Item = Key> {
        let first = Class::ALL
            .into_iter()
            .map(move |class| Key::of(class, self.id));
        let first = first.filter(move |key| Some(*key) != self.key);
        self.key.into_iter().chain(first)
    }

    fn find(text: &str) -> Option<Self> {
        let found = (0..text.len()).find_map(|at| {
            let id = ObjectId::parse(text.get(at..at + ID_BYTES)?)?;
            Some((at, id))
        });
        let (at, id) = found?;
        let key = |class: Class| {
            let start = at.checked_sub(DAY_BYTES + class.name().len())?;
            Key::parse(text.get(start..at + ID_BYTES)?)
        };
        // The longest name that fits: `shared-image` also ends like `image`.
        let keys = Class::ALL.into_iter().filter_map(key);
        let key = keys.max_by_key(|key| key.class.name().len());
        Some(Self { id, key })
    }

    fn find_encoded(text: &str) -> Option<Self> {
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_');
        let runs = text.split(|c| !is_base64(c));
        let mut runs = runs.filter(|run| run.len() >= BASE64_BYTES_MIN);
        runs.find_map(|run| {
            let config = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let alphabets = [alphabet::STANDARD, alphabet::URL_SAFE];
            let mut decoded = alphabets
                .iter()
                .filter_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(run).ok());
            decoded.find_map(|bytes| Self::find(&String::from_utf8_lossy(&bytes)))
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    const ID: &str = "01a22a77-f25c-793f-9e3e-aaf850cbdcf2";

    fn id() -> ObjectId {
        ObjectId::parse(ID).unwrap()
    }

    fn key(class: Class) -> Key {
        Key::of(class, id())
    }

    #[test]
    fn finds_ids_in_links() {
        let shared = key(Class::SharedImage);
        let image = key(Class::Image);
        let signed = format!("alice|bob|{image}|1|0123456789abcdef");
        for (text, expected) in [
            (ID.to_owned(), None),
            (format!("  {}\n", ID.to_uppercase()), None),
            (
                format!("https://a.test/org/app/chatfiles/{ID}?share-secret=x"),
                None,
            ),
            (shared.to_string(), Some(shared)),
            (format!("x{image}"), Some(image)),
            (
                format!("https://a.test/file/download/avatar?object_name={shared}"),
                Some(shared),
            ),
            (
                format!(
                    "/file/download/chat?file_sign={}",
                    BASE64_STANDARD.encode(&signed)
                ),
                Some(image),
            ),
            (
                format!("?x=1&sign={}%3D", BASE64_STANDARD.encode(&signed)),
                Some(image),
            ),
            (
                BASE64_URL_SAFE_NO_PAD.encode(format!("?>{image}|alice|sig")),
                Some(image),
            ),
        ] {
            let found = Reference::parse(&text);
            assert_eq!(
                found,
                Some(Reference {
                    id: id(),
                    key: expected
                }),
                "{text}"
            );
        }
    }

    #[test]
    fn finds_nothing_elsewhere() {
        for text in [
            "",
            "alice",
            "0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae",
            "日本語日本語日本語日本語日本語日本語",
            &"A".repeat(400),
            &format!("{}{ID}", " ".repeat(TEXT_BYTES_MAX)),
        ] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
    }

    #[test]
    fn named_key_is_tried_first() {
        let named = Reference::parse(&key(Class::Video).to_string()).unwrap();
        let keys: Vec<_> = named.keys().collect();
        assert_eq!(keys[0], key(Class::Video));
        assert_eq!(keys.len(), Class::ALL.len());
        assert_eq!(Reference::from(id()).keys().count(), Class::ALL.len());
    }
}
