//! Reading a request body field by field. `null` counts as absent, unknown fields are ignored, and whatever is wrong is an error
//! that names the field.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

/// An object of a request, and its position in the request.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// What comes before a field's name in errors: `""` or `reasoning.`.
    prefix: String,
}

/// Parses a body that has to be a JSON object.
pub(crate) fn parse_object(body: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ApiError::bad("", "the request body is not a JSON object")),
        Err(why) => Err(ApiError::bad("", format!("the request body is not valid JSON: {why}"))),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { map, prefix: String::new() }
    }

    /// The full name of a field.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// The field's value; none if it is absent or null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// An error that names the field and says what is wrong with it.
    #[track_caller]
    pub(crate) fn wrong(&self, field: &str, message: impl AsRef<str>) -> ApiError {
        let name = self.name(field);
        ApiError::bad(name.clone(), format!("`{name}` {}", message.as_ref()))
    }

    /// The field read as this type.
    pub(crate) fn read<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|why| self.wrong(field, format!("cannot be read: {why}"))),
        }
    }

    pub(crate) fn string(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, format!("is {}, not a string", describe(other)))),
        }
    }

    pub(crate) fn bool(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => {
                Err(self.wrong(field, format!("is {}, not true or false", describe(other))))
            }
        }
    }

    /// A finite number in a range.
    pub(crate) fn number(&self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value
            .as_f64()
            .filter(|_| value.is_number())
            .ok_or_else(|| self.wrong(field, format!("is {}, not a number", describe(value))))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (low, high) = (range.start(), range.end());
        let span = match (low.is_finite(), high.is_finite()) {
            (true, true) => format!("from {low} to {high}"),
            (true, false) => format!("at least {low}"),
            _ => format!("at most {high}"),
        };
        // As the client wrote it: 1e300 has 301 digits otherwise.
        Err(self.wrong(field, format!("is {value}; it must be {span}")))
    }

    /// A whole number in a range. `5.0` counts as one, and a number that is too large for 64 bits becomes the largest that fits.
    pub(crate) fn integer(&self, field: &str, range: RangeInclusive<i64>) -> Result<Option<i64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let whole = |float: f64| (float.fract() == 0.0).then_some(float as i64);
        let big = |value: &Value| value.as_u64().map(|_| i64::MAX);
        let number = value
            .as_i64()
            .or_else(|| big(value))
            .or_else(|| value.as_f64().and_then(whole))
            .ok_or_else(|| {
                let is =
                    if value.is_number() { value.to_string() } else { describe(value).to_owned() };
                self.wrong(field, format!("is {is}, not a whole number"))
            })?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (low, high) = (range.start(), range.end());
        let span = if *high == i64::MAX {
            format!("at least {low}")
        } else {
            format!("from {low} to {high}")
        };
        Err(self.wrong(field, format!("is {number}; it must be {span}")))
    }

    /// A whole number of which only the 64 bits matter.
    pub(crate) fn bits(&self, field: &str) -> Result<Option<u64>> {
        match self.get(field).and_then(Value::as_u64) {
            Some(bits) => Ok(Some(bits)),
            None => Ok(self.integer(field, i64::MIN..=i64::MAX)?.map(|number| number as u64)),
        }
    }

    /// A count of at least `low`.
    pub(crate) fn count(&self, field: &str, low: i64) -> Result<Option<usize>> {
        Ok(self.integer(field, low..=i64::MAX)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    /// A nested object.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { map, prefix: format!("{}.", self.name(field)) }))
            }
            Some(other) => Err(self.wrong(field, format!("is {}, not an object", describe(other)))),
        }
    }

    /// The objects of a list.
    pub(crate) fn objects(&self, field: &str) -> Result<Vec<Fields<'a>>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let list = value
            .as_array()
            .ok_or_else(|| self.wrong(field, format!("is {}, not a list", describe(value))))?;
        let object = |(index, value): (usize, &'a Value)| {
            let at = format!("{field}[{index}]");
            let map = value.as_object();
            let map = map
                .ok_or_else(|| self.wrong(&at, format!("is {}, not an object", describe(value))))?;
            Ok(Fields { map, prefix: format!("{}.", self.name(&at)) })
        };
        list.iter().enumerate().map(object).collect()
    }

    pub(crate) fn required_string(&self, field: &str) -> Result<&'a str> {
        self.string(field)?.ok_or_else(|| self.wrong(field, "is missing"))
    }

    /// Token ids below the vocabulary's size.
    pub(crate) fn token_ids(&self, field: &str, vocab: usize) -> Result<Option<Vec<u32>>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => token_ids(value, &self.name(field), vocab).map(Some),
        }
    }

    /// Refuses fields that mean something this server cannot do.
    pub(crate) fn refuse(&self, fields: &[(&str, &str)]) -> Result<()> {
        for (field, instead) in fields {
            let empty = |value: &Value| match value {
                Value::Bool(value) => !value,
                Value::Array(list) => list.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            if self.get(field).is_some_and(|value| !empty(value)) {
                let name = self.name(field);
                return Err(ApiError::unsupported(
                    name.clone(),
                    format!("`{name}` is not supported{instead}"),
                ));
            }
        }
        Ok(())
    }
}

/// A JSON list of token ids, each in the vocabulary.
pub(crate) fn token_ids(value: &Value, name: &str, vocab: usize) -> Result<Vec<u32>> {
    let list = value
        .as_array()
        .ok_or_else(|| ApiError::bad(name, format!("`{name}` is not a list of token ids")))?;
    let id = |(index, value): (usize, &Value)| match value.as_u64() {
        Some(id) if (id as usize) < vocab => Ok(id as u32),
        _ => Err(ApiError::bad(
            name,
            format!("`{name}[{index}]` is {value}; token ids are 0 to {}", vocab - 1),
        )),
    };
    list.iter().enumerate().map(id).collect()
}

/// What type of value this is, for error messages.
pub(crate) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
