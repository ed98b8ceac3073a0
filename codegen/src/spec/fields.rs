//! Typed reading of one JSON object, with errors that name the field. It knows JSON and nothing of models:
//! what the fields mean is [`super::layouts`]'s.
//!
//! Fields are read one by one rather than through one derived struct, because a derived struct reports a wrong
//! type by line and column only; every single value is still read by serde.

use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::SpecError;

/// One JSON object of a configuration file. `null` counts as absent, as it does for the files' writers.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    file: &'static str,
    /// What stands before a field's name in messages: empty, or `rope_scaling.`.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

/// Parses a file that must be one JSON object.
pub(super) fn parse_object(
    file: &'static str,
    text: &str,
) -> Result<Map<String, Value>, SpecError> {
    serde_json::from_str(text).map_err(|source| SpecError::Json { file, source })
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: &'static str, map: &'a Map<String, Value>) -> Self {
        Fields { file, prefix: "", map }
    }

    /// The object in field `name`, if there is one; its own fields are reported behind `prefix`.
    pub(super) fn object(
        &self,
        name: &'static str,
        prefix: &'static str,
    ) -> Result<Option<Fields<'a>>, SpecError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { file: self.file, prefix, map })),
            Some(_) => Err(self.unsupported(name, "a JSON object")),
        }
    }

    /// Whether the field is there and says `null`, where that means something else than leaving it out.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }

    /// The fields that hold something.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// Whether this file and `other` hold the same in a field.
    pub(super) fn same(&self, other: Fields<'_>, name: &str) -> bool {
        self.value(name) == other.value(name)
    }

    /// The `count` objects of a list; each one's own fields are reported with its place in the list, a name that lives as
    /// long as the process, like the spec.
    pub(super) fn objects(
        &self,
        name: &'static str,
        count: usize,
    ) -> Result<Option<Vec<Fields<'a>>>, SpecError> {
        let list = match self.value(name) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(self.unsupported(name, "a list of JSON objects")),
        };
        if list.len() != count {
            let found = format!("{} entries", list.len());
            return Err(self.refuse(name, &found, &format!("{count} entries, one for each layer")));
        }
        let object = |(place, value): (usize, &'a Value)| match value {
            Value::Object(map) => {
                let prefix = String::leak(format!("{name}[{place}]."));
                Ok(Fields { file: self.file, prefix, map })
            }
            other => {
                Err(self.refuse(&format!("{name}[{place}]"), &other.to_string(), "a JSON object"))
            }
        };
        list.iter().enumerate().map(object).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Field `name`, if present and of the wanted type; `supported` completes the message otherwise.
    pub(super) fn optional<T: Deserialize<'a>>(
        &self,
        name: &'static str,
        supported: &str,
    ) -> Result<Option<T>, SpecError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|_| self.unsupported(name, supported))
    }

    pub(super) fn required<T: Deserialize<'a>>(
        &self,
        name: &'static str,
        supported: &str,
    ) -> Result<T, SpecError> {
        self.optional(name, supported)?.ok_or_else(|| self.missing(name, supported))
    }

    /// A whole number from 1 to 2^32 - 1.
    pub(super) fn count(&self, name: &'static str) -> Result<usize, SpecError> {
        self.optional_count(name)?.ok_or_else(|| self.missing(name, COUNT))
    }

    pub(super) fn optional_count(&self, name: &'static str) -> Result<Option<usize>, SpecError> {
        Ok(self.optional::<NonZeroU32>(name, COUNT)?.map(|count| count.get() as usize))
    }

    /// A number above zero that `f32` can hold.
    pub(super) fn positive(&self, name: &'static str) -> Result<f64, SpecError> {
        self.optional_positive(name)?.ok_or_else(|| self.missing(name, POSITIVE))
    }

    pub(super) fn optional_positive(&self, name: &'static str) -> Result<Option<f64>, SpecError> {
        let Some(number) = self.optional::<f64>(name, POSITIVE)? else { return Ok(None) };
        let range = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
        if range.contains(&number) {
            Ok(Some(number))
        } else {
            Err(self.unsupported(name, POSITIVE))
        }
    }

    /// Refuses the field unless it is absent or holds exactly `wanted`.
    pub(super) fn only<T>(&self, name: &'static str, wanted: T) -> Result<(), SpecError>
    where
        T: Into<Value>,
    {
        let wanted = wanted.into();
        match self.value(name) {
            Some(found) if *found != wanted => {
                Err(self.unsupported(name, &format!("only {wanted}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn missing(&self, name: &str, supported: &str) -> SpecError {
        SpecError::Missing {
            file: self.file,
            field: format!("{}{name}", self.prefix),
            supported: supported.to_owned(),
        }
    }

    /// Refuses the value that field `name` holds.
    pub(super) fn unsupported(&self, name: &str, supported: &str) -> SpecError {
        let found = self.map.get(name).map_or_else(|| "absent".to_owned(), Value::to_string);
        self.refuse(name, &found, supported)
    }

    /// Refuses what the caller found in `field`, which may be a part of a field.
    pub(super) fn refuse(&self, field: &str, found: &str, supported: &str) -> SpecError {
        SpecError::Unsupported {
            file: self.file,
            field: format!("{}{field}", self.prefix),
            found: shorten(found),
            supported: supported.to_owned(),
        }
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }
}

const COUNT: &str = "a whole number from 1 to 4294967295";
const POSITIVE: &str = "a number above 0 that a 32-bit float can hold";

/// Keeps a hostile value from filling a terminal.
fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 120;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
