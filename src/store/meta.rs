//! Metadata of an object, and its encoding.
//!
//! The encoding is a sequence of tagged fields. A later version can add a field, and an earlier version skips it:
//!
//! ```text
//! field   := tag u8 | length u16 LE | value
//! integer := little-endian, as wide as its type
//! text    := UTF-8
//! ```
//! A reader that does not know a tag of 0x80 or more must refuse the object.

use crate::{derivative::BoundingBox, error::Error, time::Timestamp};

/// The largest size of the metadata: a file name of 255 bytes, two types of 255 bytes each, and the names of tenant,
/// owner and recipient.
pub const META_BYTES_MAX: usize = 8192;
/// Bytes of a hashed share-secret (SHA-256).
pub const SECRET_HASH_BYTES: usize = 32;

/// The API that an object was stored through. Each API opens only its own objects. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Easemob's chatfiles.
    Easemob = 1,
    /// Lanying's `/file`.
    Lanying = 2,
}

/// The metadata in an object's trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Number of bytes of the payload.
    pub len: u64,
    /// CRC-32 (IEEE) of the payload.
    pub crc: u32,
    /// When the upload began.
    pub created: Timestamp,
    /// The tenant's `org/app`.
    pub tenant: String,
    /// The API that it was stored through.
    pub dialect: Dialect,
    /// The user who stored the object; empty for the application itself.
    pub owner: String,
    /// The media type of downloads.
    pub content_type: String,
    /// The media type that was recognised by the first bytes.
    pub sniffed_type: Option<String>,
    /// Whether the recognised type is one that a browser may show in place.
    pub inline: bool,
    /// The original name, at most 255 bytes.
    pub file_name: Option<String>,
    /// SHA-256 of the share-secret of a restricted file.
    pub secret_hash: Option<[u8; SECRET_HASH_BYTES]>,
    /// The thumbnail size requested by the upload.
    pub thumbnail: BoundingBox,
    /// The recipient, if the API knows one.
    pub recipient: Option<String>,
}

const TAG_CREATED: u8 = 1;
const TAG_TENANT: u8 = 2;
const TAG_DIALECT: u8 = 3;
const TAG_OWNER: u8 = 4;
const TAG_CONTENT_TYPE: u8 = 5;
const TAG_SNIFFED_TYPE: u8 = 6;
const TAG_INLINE: u8 = 7;
const TAG_FILE_NAME: u8 = 8;
const TAG_THUMBNAIL: u8 = 9;
const TAG_RECIPIENT: u8 = 10;
/// A reader must know tags from here on.
const TAG_MANDATORY: u8 = 0x80;
/// Mandatory, because a reader that skipped it would open a restricted file to everybody.
const TAG_SECRET_HASH: u8 = 0x80;

impl Meta {
    /// Encodes the tagged fields. The `len` and `crc` of the payload are not among them.
    ///
    /// # Errors
    /// `InvalidArgument` if the fields together exceed [`META_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(256);
        put(&mut out, TAG_CREATED, &self.created.ms().to_le_bytes())?;
        put(&mut out, TAG_TENANT, self.tenant.as_bytes())?;
        put(&mut out, TAG_DIALECT, &[self.dialect as u8])?;
        put(&mut out, TAG_OWNER, self.owner.as_bytes())?;
        put(&mut out, TAG_CONTENT_TYPE, self.content_type.as_bytes())?;
        put(&mut out, TAG_INLINE, &[u8::from(self.inline)])?;
        let mut thumbnail = self.thumbnail.width().to_le_bytes().to_vec();
        thumbnail.extend(self.thumbnail.height().to_le_bytes());
        put(&mut out, TAG_THUMBNAIL, &thumbnail)?;
        let texts = [
            (TAG_SNIFFED_TYPE, &self.sniffed_type),
            (TAG_FILE_NAME, &self.file_name),
            (TAG_RECIPIENT, &self.recipient),
        ];
        for (tag, text) in texts {
            if let Some(text) = text {
                put(&mut out, tag, text.as_bytes())?;
            }
        }
        if let Some(hash) = &self.secret_hash {
            put(&mut out, TAG_SECRET_HASH, hash)?;
        }
        if out.len() > META_BYTES_MAX {
            return Err(Error::invalid("the metadata of the file is too long"));
        }
        Ok(out)
    }

    /// Decodes what [`Meta::encode`] wrote. The error says what is wrong.
    pub(super) fn decode(encoded: &[u8], len: u64, crc: u32) -> Result<Self, String> {
        let fields = Fields::parse(encoded)?;
        let created = needed(TAG_CREATED, fields.fixed(TAG_CREATED)?)?;
        let dialect = match needed(TAG_DIALECT, fields.fixed(TAG_DIALECT)?)? {
            [1] => Dialect::Easemob,
            [2] => Dialect::Lanying,
            [code] => return Err(format!("dialect {code} is unknown")),
        };
        let thumbnail = fields.fixed(TAG_THUMBNAIL)?.map(|[w0, w1, h0, h1]| {
            BoundingBox::new(u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]))
        });
        Ok(Self {
            len,
            crc,
            created: Timestamp::from_ms(i64::from_le_bytes(created)),
            tenant: needed(TAG_TENANT, fields.text(TAG_TENANT)?)?,
            dialect,
            owner: needed(TAG_OWNER, fields.text(TAG_OWNER)?)?,
            content_type: needed(TAG_CONTENT_TYPE, fields.text(TAG_CONTENT_TYPE)?)?,
            sniffed_type: fields.text(TAG_SNIFFED_TYPE)?,
            inline: fields.fixed(TAG_INLINE)? == Some([1]),
            file_name: fields.text(TAG_FILE_NAME)?,
            secret_hash: fields.fixed(TAG_SECRET_HASH)?,
            thumbnail: thumbnail.unwrap_or(BoundingBox::DEFAULT),
            recipient: fields.text(TAG_RECIPIENT)?,
        })
    }
}

fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) -> Result<(), Error> {
    let length = u16::try_from(value.len())
        .map_err(|_| Error::invalid("a field of the metadata is too long"))?;
    out.push(tag);
    out.extend(length.to_le_bytes());
    out.extend(value);
    Ok(())
}

/// The tags and values of encoded metadata.
struct Fields<'a>(Vec<(u8, &'a [u8])>);

impl<'a> Fields<'a> {
    fn parse(mut rest: &'a [u8]) -> Result<Self, String> {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (&[tag, l0, l1], after) = rest.split_first_chunk().ok_or("a field is cut short")?;
            let value = after.split_at_checked(u16::from_le_bytes([l0, l1]).into());
            let (value, after) = value.ok_or_else(|| format!("field {tag} is cut short"))?;
            if tag >= TAG_MANDATORY && tag != TAG_SECRET_HASH {
                let what = format!("this version does not know the mandatory field {tag:#x}");
                return Err(what);
            }
            fields.push((tag, value));
            rest = after;
        }
        Ok(Self(fields))
    }

    /// The value of a field. The last one counts.
    fn get(&self, tag: u8) -> Option<&'a [u8]> {
        let mut newest_first = self.0.iter().rev();
        newest_first
            .find(|field| field.0 == tag)
            .map(|field| field.1)
    }

    fn fixed<const N: usize>(&self, tag: u8) -> Result<Option<[u8; N]>, String> {
        let fixed = |value: &[u8]| {
            let what = || format!("field {tag} has {} bytes instead of {N}", value.len());
            value.try_into().map_err(|_| what())
        };
        self.get(tag).map(fixed).transpose()
    }

    fn text(&self, tag: u8) -> Result<Option<String>, String> {
        let text = |value: &[u8]| String::from_utf8(value.to_vec());
        let text = self.get(tag).map(text).transpose();
        text.map_err(|_| format!("field {tag} is no UTF-8"))
    }
}

fn needed<T>(tag: u8, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("field {tag} is missing"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) fn sample() -> Meta {
        Meta {
            len: 5,
            crc: 6,
            created: Timestamp::from_ms(1_795_000_123_456),
            tenant: "easemob-demo/chatdemoui".into(),
            dialect: Dialect::Easemob,
            owner: "alice".into(),
            content_type: "image/jpeg".into(),
            sniffed_type: Some("image/jpeg".into()),
            inline: true,
            file_name: Some("日落.jpg".into()),
            secret_hash: Some([7; 32]),
            thumbnail: BoundingBox::new(170, 90),
            recipient: None,
        }
    }

    #[test]
    fn decodes_encoded_metadata() {
        let meta = sample();
        assert_eq!(Meta::decode(&meta.encode().unwrap(), 5, 6).unwrap(), meta);
    }

    #[test]
    fn skips_unknown_optional_fields_only() {
        let mut fields = sample().encode().unwrap();
        fields.extend([0x7f, 1, 0, 9]);
        assert_eq!(Meta::decode(&fields, 5, 6).unwrap(), sample());
        fields.extend([0x81, 1, 0, 9]);
        assert!(Meta::decode(&fields, 5, 6).unwrap_err().contains("0x81"));
    }

    #[test]
    fn truncation_loses_only_optional_fields() {
        let fields = sample().encode().unwrap();
        for end in 0..fields.len() {
            if let Ok(meta) = Meta::decode(&fields[..end], 5, 6) {
                assert_eq!(
                    (meta.tenant, meta.owner),
                    (sample().tenant, sample().owner),
                    "cut at {end}"
                );
            }
        }
    }

    #[test]
    fn refuses_metadata_over_its_bound() {
        let meta = Meta {
            file_name: Some("n".repeat(META_BYTES_MAX)),
            ..sample()
        };
        assert!(meta.encode().is_err());
    }
}
