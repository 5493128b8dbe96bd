//! The text fields of an upload form, those before its `file`. What they mean is not known here.

use super::shown;
use crate::error::{Error, Result};

/// Bytes of all names and values, repeated ones too.
pub(in crate::api::lanying) const FIELDS_BYTES_MAX: usize = 32 * 1024;

/// Names and values, in the order they came. A list: a form has at most 64 parts (`http/multipart.rs`), most
/// have six.
#[derive(Default)]
pub(in crate::api::lanying) struct Fields {
    list: Vec<(String, String)>,
    bytes: usize,
}

impl Fields {
    /// Adds a field. Names differ by more than case; one may come twice with one value, never with two: it
    /// would depend on the reader which of them the policy was held against.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(in crate::api::lanying) fn insert(&mut self, name: &str, value: String) -> Result<()> {
        let bytes = name.len().saturating_add(value.len());
        if bytes > self.bytes_left() {
            return Err(Error::invalid(format!(
                "the fields before the file may have at most {FIELDS_BYTES_MAX} bytes."
            )));
        }
        self.bytes += bytes;
        match self.get(name) {
            Some(first) if first == value => {}
            Some(_) => {
                let text = format!("the field {} is given twice.", shown(name));
                return Err(Error::invalid(text));
            }
            None => self.list.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// The value of a field, whose name is compared without case.
    pub(in crate::api::lanying) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .list
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Bytes that the fields to come may have, names and values.
    pub(in crate::api::lanying) fn bytes_left(&self) -> usize {
        FIELDS_BYTES_MAX - self.bytes
    }
}
