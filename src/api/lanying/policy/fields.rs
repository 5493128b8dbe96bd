//! The text fields of an upload form before its `file`. Does not interpret them.

use super::shown;
use crate::error::{Error, Result};

/// The most bytes of all names and values, including repeated ones.
pub(in crate::api::lanying) const FIELDS_BYTES_MAX: usize = 32 * 1024;

/// Names and values in the order of the form. A list, because a form has at most 64 parts (`http/multipart.rs`) and usually
/// six.
#[derive(Default)]
pub(in crate::api::lanying) struct Fields {
    list: Vec<(String, String)>,
    bytes: usize,
}

impl Fields {
    /// Adds a field. Names are compared without case. A field may be repeated with the same value, but not with another:
    /// readers could disagree on which value the policy was checked against.
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

    /// The value of a field. The name is compared without case.
    pub(in crate::api::lanying) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .list
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Bytes that the names and values of further fields may have.
    pub(in crate::api::lanying) fn bytes_left(&self) -> usize {
        FIELDS_BYTES_MAX - self.bytes
    }
}
