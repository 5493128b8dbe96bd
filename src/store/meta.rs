//! What is known of an object beside its bytes, and how that is written.
//!
//! A sequence of tagged fields, so that a later version can add one and an earlier one skips it:
//!
//! ```text
//! field   := tag u8 | length u16 LE | value
//! integer := little-endian, as wide as its type
//! text    := UTF-8
//! ```
//! A tag of 0x80 or more must be understood: a reader that does not know it refuses the object.

use crate::{derivative::BoundingBox, error::Error, time::Timestamp};

use super::trailer::META_BYTES_MAX;

/// Bytes of a hashed share-secret (SHA-256).
pub const SECRET_HASH_BYTES: usize = 32;

/// The API an object was stored through. Each opens only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Easemob's chatfiles.
    Easemob,
    /// Lanying's `/file`.
    Lanying,
}

/// The metadata in an object's trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of the payload.
    pub len: u64,
    /// CRC-32 (IEEE) of the payload.
    pub crc: u32,
    /// When the upload began.
    pub created: Timestamp,
    /// The tenant's `org/app`.
    pub tenant: String,
    /// The API it came through.
    pub dialect: Dialect,
    /// The user who stored it; empty for the application itself.
    pub owner: String,
    /// The media type that downloads announce.
    pub content_type: String,
    /// The media type that the first bytes show, if they show one.
    pub sniffed_type: Option<String>,
    /// The sniffed type is on the list of those that a browser may show in place.
    pub inline: bool,
    /// The original name, at most 255 bytes.
    pub file_name: Option<String>,
    /// SHA-256 of the share-secret, where the file is restricted.
    pub secret_hash: Option<[u8; SECRET_HASH_BYTES]>,
    /// The thumbnail size asked for at upload.
    pub thumbnail: BoundingBox,
    /// Whom it was sent to, where the dialect knows.
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
/// From here on, a field must be understood.
const TAG_MANDATORY: u8 = 0x80;
/// Skipping this one would open a restricted file to everybody: it must be understood.
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
        put(&mut out, TAG_DIALECT, &[dialect_code(self.dialect)])?;
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

    /// Reads what [`Meta::encode`] wrote; the error says what is wrong with it.
    pub(super) fn decode(mut fields: &[u8], len: u64, crc: u32) -> Result<Self, String> {
        let mut meta = Self {
            len,
            crc,
            created: Timestamp::from_ms(0),
            tenant: String::new(),
            dialect: Dialect::Easemob,
            owner: String::new(),
            content_type: String::new(),
            sniffed_type: None,
            inline: false,
            file_name: None,
            secret_hash: None,
            thumbnail: BoundingBox::DEFAULT,
            recipient: None,
        };
        let mut seen = 0u64;
        while !fields.is_empty() {
            let (tag, value, rest) = take(fields)?;
            fields = rest;
            match tag {
                TAG_CREATED => {
                    meta.created = Timestamp::from_ms(i64::from_le_bytes(fixed(tag, value)?))
                }
                TAG_TENANT => meta.tenant = text(tag, value)?,
                TAG_DIALECT => meta.dialect = dialect(fixed::<1>(tag, value)?[0])?,
                TAG_OWNER => meta.owner = text(tag, value)?,
                TAG_CONTENT_TYPE => meta.content_type = text(tag, value)?,
                TAG_SNIFFED_TYPE => meta.sniffed_type = Some(text(tag, value)?),
                TAG_INLINE => meta.inline = fixed::<1>(tag, value)?[0] == 1,
                TAG_FILE_NAME => meta.file_name = Some(text(tag, value)?),
                TAG_THUMBNAIL => {
                    let [w0, w1, h0, h1] = fixed(tag, value)?;
                    let (width, height) = ([w0, w1], [h0, h1]);
                    meta.thumbnail =
                        BoundingBox::new(u16::from_le_bytes(width), u16::from_le_bytes(height));
                }
                TAG_RECIPIENT => meta.recipient = Some(text(tag, value)?),
                TAG_SECRET_HASH => meta.secret_hash = Some(fixed(tag, value)?),
                tag if tag >= TAG_MANDATORY => {
                    return Err(format!(
                        "a field {tag:#x} that this version does not know and must"
                    ));
                }
                _ => {}
            }
            seen |= 1u64.checked_shl(u32::from(tag)).unwrap_or(0);
        }
        let needed = [
            TAG_CREATED,
            TAG_TENANT,
            TAG_DIALECT,
            TAG_OWNER,
            TAG_CONTENT_TYPE,
        ];
        match needed.into_iter().find(|tag| seen & (1 << tag) == 0) {
            Some(tag) => Err(format!("field {tag} is missing")),
            None => Ok(meta),
        }
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

fn take(fields: &[u8]) -> Result<(u8, &[u8], &[u8]), String> {
    let (&[tag, l0, l1], rest) = fields.split_first_chunk().ok_or("a field is cut short")?;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    if rest.len() < length {
        return Err(format!("field {tag} is cut short"));
    }
    let (value, rest) = rest.split_at(length);
    Ok((tag, value, rest))
}

fn fixed<const N: usize>(tag: u8, value: &[u8]) -> Result<[u8; N], String> {
    value
        .try_into()
        .map_err(|_| format!("field {tag} has {} bytes instead of {N}", value.len()))
}

fn text(tag: u8, value: &[u8]) -> Result<String, String> {
    std::str::from_utf8(value)
        .map(str::to_owned)
        .map_err(|_| format!("field {tag} is no UTF-8"))
}

fn dialect_code(dialect: Dialect) -> u8 {
    match dialect {
        Dialect::Easemob => 1,
        Dialect::Lanying => 2,
    }
}

fn dialect(code: u8) -> Result<Dialect, String> {
    match code {
        1 => Ok(Dialect::Easemob),
        2 => Ok(Dialect::Lanying),
        _ => Err(format!("dialect {code} is unknown")),
    }
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
    fn metadata_is_read_as_it_was_written() {
        let meta = sample();
        assert_eq!(Meta::decode(&meta.encode().unwrap(), 5, 6).unwrap(), meta);
    }

    #[test]
    fn an_unknown_optional_field_is_skipped_and_a_mandatory_one_refused() {
        let mut fields = sample().encode().unwrap();
        fields.extend([0x7f, 1, 0, 9]);
        assert_eq!(Meta::decode(&fields, 5, 6).unwrap(), sample());
        fields.extend([0x81, 1, 0, 9]);
        assert!(Meta::decode(&fields, 5, 6).unwrap_err().contains("0x81"));
    }

    #[test]
    fn metadata_cut_anywhere_is_refused_or_lacks_only_optional_fields() {
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
    fn metadata_beyond_its_bound_is_refused() {
        let meta = Meta {
            file_name: Some("n".repeat(META_BYTES_MAX)),
            ..sample()
        };
        assert!(meta.encode().is_err());
    }
}
