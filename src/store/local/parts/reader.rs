//! The bytes of parts, one after another, with their checksums checked.

use std::{
    fs::{self, File},
    io::Read,
    path::PathBuf,
    vec,
};

use bytes::{Bytes, BytesMut};

use super::{StoredPart, absent_or_internal};
use crate::{
    error::{Error, Result},
    store::local::blocking,
};

/// Bytes read at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// Reads parts to their end.
pub struct PartsReader(Option<Reader>);

/// Taken by the thread that reads.
struct Reader {
    directory: PathBuf,
    parts: vec::IntoIter<StoredPart>,
    open: Option<OpenPart>,
}

struct OpenPart {
    part: StoredPart,
    file: File,
    crc: crc32fast::Hasher,
}

impl PartsReader {
    pub(super) fn new(directory: PathBuf, parts: Vec<StoredPart>) -> Self {
        Self(Some(Reader {
            directory,
            parts: parts.into_iter(),
            open: None,
        }))
    }

    /// The next bytes; `None` after the last part.
    ///
    /// # Errors
    /// `InvalidArgument` where a part is damaged. It is removed: sent again, the completion can be tried again.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped call the reader can only be dropped.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let reader = self.0.take();
        let mut reader = reader
            .ok_or_else(|| Error::internal("parts were read on after their reader had failed"))?;
        let (reader, chunk) = blocking(move || {
            let chunk = reader.next()?;
            Ok((reader, chunk))
        })
        .await?;
        self.0 = Some(reader);
        Ok(chunk)
    }
}

impl Reader {
    fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(part) = self.parts.next() else {
                    return Ok(None);
                };
                let file = File::open(self.directory.join(part.file_name()));
                self.open = Some(OpenPart {
                    part,
                    file: file.map_err(absent_or_internal)?,
                    crc: crc32fast::Hasher::new(),
                });
                continue;
            };
            let chunk = open.read().map_err(Error::internal)?;
            if !chunk.is_empty() {
                open.crc.update(&chunk);
                return Ok(Some(chunk));
            }
            let OpenPart { part, crc, .. } = open;
            if std::mem::take(crc).finalize() != part.crc {
                let damaged = self.directory.join(part.file_name());
                fs::remove_file(damaged).map_err(absent_or_internal)?;
                let text = format!("part {} is damaged: send it again.", part.number);
                return Err(Error::invalid(text));
            }
            self.open = None;
        }
    }
}

impl OpenPart {
    /// Empty at the end.
    fn read(&mut self) -> std::io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(CHUNK_BYTES);
        loop {
            match self.file.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => {
                    buffer.truncate(read?);
                    return Ok(buffer.freeze());
                }
            }
        }
    }
}
