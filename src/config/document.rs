//! Reads the `Config` structs of the modules from the sections of TOML texts.
//!
//! Several modules may read one section, each the keys of its own struct. This file knows no key and no bound. It
//! records which keys the modules ask for, and reports all others as unknown.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::Path,
    slice,
};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use crate::error::{Error, Result};

/// The largest configuration file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A TOML text with settings.
#[derive(Debug)]
pub struct Source {
    /// The path of the file, for error messages; empty if the text is not from a file.
    file: String,
    text: String,
}

impl Source {
    /// Settings that do not come from a file.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            file: String::new(),
            text: text.into(),
        }
    }

    /// Reads a file. Blocking.
    ///
    /// # Errors
    /// `InvalidArgument`: the file does not exist, is not text, or is larger than 4 MiB. `Internal`: the system refuses
    /// to read it, for example because a permission is missing.
    pub fn file(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let invalid = |error: io::Error| {
            let text = format!("{file}: {error}");
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Error::invalid(text),
                ErrorKind::IsADirectory | ErrorKind::InvalidData => Error::invalid(text),
                _ => Error::internal(text),
            }
        };
        let bytes = fs::metadata(path).map_err(invalid)?.len();
        if bytes > FILE_BYTES_MAX {
            let message = format!("{file}: expected at most 4 MiB, found {bytes} bytes");
            return Err(Error::invalid(message));
        }
        let text = fs::read_to_string(path).map_err(invalid)?;
        Ok(Self { file, text })
    }

    /// An error at an offset of the text. Does not quote the text, which may hold a secret.
    fn error(&self, offset: usize, message: &str) -> Error {
        let message = message.lines().collect::<Vec<_>>().join(" ");
        if self.file.is_empty() {
            return Error::invalid(message);
        }
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::invalid(format!("{}: line {line}: {message}", self.file))
    }
}

type Value<'t> = Spanned<DeValue<'t>>;

/// The sources of a configuration. If several have a key, the first one wins.
pub(super) struct Document<'t> {
    sources: Vec<(&'t Source, DeTable<'t>)>,
    /// The keys that were asked for, as `section.key`.
    known: RefCell<BTreeSet<String>>,
}

impl<'t> Document<'t> {
    pub(super) fn parse(sources: &'t [Source]) -> Result<Self> {
        let parse = |source: &'t Source| {
            let table = DeTable::parse(&source.text).map_err(|error| {
                let offset = error.span().map_or(0, |span| span.start);
                source.error(offset, error.message())
            })?;
            Ok((source, table.into_inner()))
        };
        Ok(Self {
            sources: sources.iter().map(parse).collect::<Result<_>>()?,
            known: RefCell::default(),
        })
    }

    /// The section `[name]`; empty if no source has it.
    pub(super) fn section<'d>(&'d self, name: &'static str) -> Result<Section<'d, 't>> {
        let table = |(source, root): &'d (&'t Source, DeTable<'t>)| {
            let value = root.get(name)?;
            let table = value.get_ref().as_table().map(|table| (*source, table));
            let message = format!("{name}: expected a section, [{name}]");
            Some(table.ok_or_else(|| source.error(value.span().start, &message)))
        };
        let tables = self.sources.iter().filter_map(table);
        Ok(Section {
            document: self,
            name,
            prefix: format!("{name}."),
            tables: tables.collect::<Result<_>>()?,
        })
    }

    /// The sections `[[name]]` of the first source that has any.
    pub(super) fn sections<'d>(&'d self, name: &'static str) -> Result<Vec<Section<'d, 't>>> {
        let value =
            |(source, root): &'d (&'t Source, DeTable<'t>)| Some((*source, root.get(name)?));
        let Some((source, value)) = self.sources.iter().find_map(value) else {
            return Ok(Vec::new());
        };
        let section = |item: &'d Value<'t>| {
            Some(Section {
                document: self,
                name,
                prefix: format!("{name}."),
                tables: vec![(source, item.get_ref().as_table()?)],
            })
        };
        let items = value.get_ref().as_array();
        let sections = items.and_then(|items| items.iter().map(section).collect());
        let message = format!("{name}: expected sections, [[{name}]]");
        sections.ok_or_else(|| source.error(value.span().start, &message))
    }

    /// Checks that no source has a key that no module asked for.
    pub(super) fn check_known(&self) -> Result<()> {
        let known = self.known.borrow();
        for (source, root) in &self.sources {
            for (section, value) in root {
                let name = section.get_ref();
                let prefix = format!("{name}.");
                let keys = known.iter().filter_map(|key| key.strip_prefix(&prefix));
                let keys: Vec<&str> = keys.collect();
                if keys.is_empty() {
                    let message = format!("{name}: unknown section");
                    return Err(source.error(section.span().start, &message));
                }
                let tables = match value.get_ref() {
                    DeValue::Array(items) => items.iter().collect(),
                    _ => vec![value],
                };
                let tables = tables
                    .into_iter()
                    .filter_map(|table| table.get_ref().as_table());
                for key in tables.flat_map(DeTable::keys) {
                    if !keys.iter().any(|known| **known == **key.get_ref()) {
                        let (key_name, expected) = (key.get_ref(), keys.join(", "));
                        let message =
                            format!("{prefix}{key_name}: unknown key, expected one of {expected}");
                        return Err(source.error(key.span().start, &message));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A section of the configuration, possibly from several sources.
pub(super) struct Section<'d, 't> {
    document: &'d Document<'t>,
    name: &'static str,
    /// What precedes the key in error messages, for example `limits.`.
    prefix: String,
    /// If several have a key, the first one wins.
    tables: Vec<(&'t Source, &'d DeTable<'t>)>,
}

impl<'d, 't> Section<'d, 't> {
    /// Names the section in error messages from now on.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.prefix = format!("{name}: ");
        self
    }

    /// This section, with keys that it does not have taken from `defaults`.
    pub(super) fn over(&self, defaults: &Self) -> Self {
        Self {
            tables: [&self.tables[..], &defaults.tables].concat(),
            prefix: self.prefix.clone(),
            ..*self
        }
    }

    /// Reads a struct. Keys that are not its fields are left to other structs.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let mut error = None;
        let fields = Fields {
            section: self,
            names: [].iter(),
            value: None,
            error: &mut error,
        };
        let read = T::deserialize(fields);
        read.map_err(|other| error.unwrap_or_else(|| Error::invalid(other.message().to_owned())))
    }

    /// Reads the value of one key.
    pub(super) fn get<T: Deserialize<'t>>(&self, key: &str) -> Result<Option<T>> {
        self.get_with(key, T::deserialize)
    }

    /// Reads the value of one key, which has a default.
    pub(super) fn get_or_default<T: Deserialize<'t> + Default>(&self, key: &str) -> Result<T> {
        self.get(key).map(Option::unwrap_or_default)
    }

    /// Reads the value of one key with a function as in serde's `deserialize_with`.
    pub(super) fn get_with<T>(
        &self,
        key: &str,
        read: impl FnOnce(ValueDeserializer<'t>) -> Result<T, toml::de::Error>,
    ) -> Result<Option<T>> {
        let Some((source, value)) = self.find(key) else {
            return Ok(None);
        };
        read(ValueDeserializer::from(value.clone()))
            .map(Some)
            .map_err(|error| self.error(source, key, value, &error))
    }

    fn find(&self, key: &str) -> Option<(&'t Source, &'d Value<'t>)> {
        let mut known = self.document.known.borrow_mut();
        known.insert(format!("{}.{key}", self.name));
        let mut tables = self.tables.iter();
        tables.find_map(|(source, table)| Some((*source, table.get(key)?)))
    }

    fn error(
        &self,
        source: &Source,
        key: &str,
        value: &Value<'_>,
        error: &toml::de::Error,
    ) -> Error {
        let offset = error.span().unwrap_or_else(|| value.span()).start;
        source.error(
            offset,
            &format!("{}{key}: {}", self.prefix, error.message()),
        )
    }
}

/// Hands the fields of one struct to serde, those that the section has.
struct Fields<'s, 'd, 't> {
    section: &'s Section<'d, 't>,
    names: slice::Iter<'static, &'static str>,
    /// The field whose name was handed out last.
    value: Option<(&'static str, &'t Source, &'d Value<'t>)>,
    /// Set if a value is not allowed: serde's error cannot hold ours.
    error: &'s mut Option<Error>,
}

impl<'de> Deserializer<'de> for Fields<'_, '_, 'de> {
    type Error = toml::de::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.names = fields.iter();
        visitor.visit_map(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'t> MapAccess<'t> for Fields<'_, '_, 't> {
    type Error = toml::de::Error;

    fn next_key_seed<K: DeserializeSeed<'t>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        let section = self.section;
        let found = |name: &'static str| {
            section
                .find(name)
                .map(|(source, value)| (name, source, value))
        };
        self.value = self.names.by_ref().copied().find_map(found);
        let name = self.value.map(|(name, _, _)| name.into_deserializer());
        name.map(|name: StrDeserializer<'_, _>| seed.deserialize(name))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        let (name, source, value) = self.value.expect("serde asks for a value after its key");
        seed.deserialize(ValueDeserializer::from(value.clone()))
            .inspect_err(|error| *self.error = Some(self.section.error(source, name, value, error)))
    }
}
