//! An upload in parts that is being completed: its directory has a name that says by whom, and into what.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{PartsReader, StoredPart, absent_or_internal, list};
use crate::{
    error::{Error, Result},
    store::{
        Class, Key, ObjectId,
        local::{blocking, instance::Instance},
    },
};

/// An upload that is being completed, which nobody else can find.
pub struct ClaimedParts {
    id: ObjectId,
    object: ObjectId,
    path: PathBuf,
    /// Whoever claimed them lives as long as this does; none where they were found.
    _instance: Option<Arc<Instance>>,
}

impl ClaimedParts {
    pub(super) fn new(
        folder: &Path,
        id: ObjectId,
        object: ObjectId,
        instance: Arc<Instance>,
    ) -> Self {
        Self {
            id,
            object,
            path: folder.join(format!("{id}.{object}.{}", instance.name())),
            _instance: Some(instance),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The upload.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The object that it is joined into.
    pub fn key(&self) -> Key {
        Key::of(Class::Chatfile, self.object)
    }

    /// With the name of the server that claimed it.
    pub(super) fn parse<'n>(path: &Path, name: &'n str) -> Option<(Self, &'n str)> {
        let mut fields = name.split('.');
        let claimed = Self {
            id: ObjectId::parse(fields.next()?)?,
            object: ObjectId::parse(fields.next()?)?,
            path: path.to_owned(),
            _instance: None,
        };
        let instance = fields
            .next()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        fields.next().is_none().then_some((claimed, instance))
    }

    /// The parts that are there, by number, without a gap from 1 on.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no part, or one is missing in between.
    pub async fn list(&self) -> Result<Vec<StoredPart>> {
        let path = self.path.clone();
        let parts = blocking(move || list(&path).map_err(absent_or_internal)).await?;
        for (part, expected) in parts.iter().zip(1..) {
            if part.number != expected {
                return Err(Error::invalid(format!("part {expected} is missing.")));
            }
        }
        if parts.is_empty() {
            return Err(Error::invalid("no part has been uploaded."));
        }
        Ok(parts)
    }

    /// Reads parts of it, one after another.
    pub fn read(&self, parts: Vec<StoredPart>) -> PartsReader {
        PartsReader::new(self.path.clone(), parts)
    }
}
