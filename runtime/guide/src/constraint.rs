//! What one message's text has to match, as a client gives it. [`crate::limits`] measures it, [`crate::compile`] makes it ready.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// A constraint on a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Constraint {
    /// An answer in JSON that is valid against a schema, without runs of white space; `lenient` ignores keywords that cannot be
    /// enforced.
    Schema {
        /// The schema.
        schema: Value,
        /// Leave out what cannot be enforced, instead of refusing it.
        lenient: bool,
    },
    /// The same for a call's arguments, which models often indent: an object, with no more than what is declared. The schema
    /// is as the client wrote it; the rest is added when it is compiled.
    Arguments {
        /// The schema.
        #[serde(serialize_with = "write_schema", deserialize_with = "read_schema")]
        schema: Arc<Value>,
        /// Leave out what cannot be enforced, instead of refusing it.
        lenient: bool,
    },
    /// A regular expression for the whole text.
    Regex(String),
    /// A grammar in llguidance's form of Lark.
    Grammar(String),
    /// The arguments of a free-form tool, whose only string matches such a grammar.
    Input(String),
    /// One of these texts.
    Choice(Vec<String>),
}

fn write_schema<S: Serializer>(schema: &Arc<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    schema.as_ref().serialize(serializer)
}

fn read_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Value>, D::Error> {
    Value::deserialize(deserializer).map(Arc::new)
}

impl Constraint {
    /// Any JSON object.
    #[must_use]
    pub fn any_object() -> Constraint {
        Constraint::Schema { schema: json!({"type": "object"}), lenient: false }
    }

    /// What stands in for a constraint that cannot be enforced and need not be: any JSON object.
    #[must_use]
    pub fn any_object_instead(&self) -> Constraint {
        match self {
            Constraint::Arguments { .. } => {
                let schema = Arc::new(json!({"type": "object"}));
                Constraint::Arguments { schema, lenient: false }
            }
            _ => Constraint::any_object(),
        }
    }

    /// Bytes of its text.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Constraint::Schema { schema, .. } => schema.to_string().len(),
            Constraint::Arguments { schema, .. } => schema.to_string().len(),
            Constraint::Regex(text) | Constraint::Grammar(text) | Constraint::Input(text) => {
                text.len()
            }
            Constraint::Choice(choices) => choices.iter().map(String::len).sum(),
        }
    }
}

/// Has arguments be an object with no more than what is declared, where their schema says neither.
pub(crate) fn close_arguments(schema: &mut Map<String, Value>) {
    let closes = closes_arguments(schema);
    if is_composed(schema) {
        return;
    }
    schema.entry("type").or_insert_with(|| "object".into());
    if closes {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
}

/// Whether a schema of arguments that leaves further names open is to forbid them: it declares names, and all that are required.
pub(crate) fn closes_arguments(schema: &Map<String, Value>) -> bool {
    let declared = schema.get("properties");
    let is_declared = |name: &Value| {
        name.as_str().is_some_and(|name| declared.is_some_and(|all| all.get(name).is_some()))
    };
    let required = schema.get("required").and_then(Value::as_array);
    declared.is_some()
        && !schema.contains_key("additionalProperties")
        && !schema.contains_key("patternProperties")
        && !is_composed(schema)
        && required.is_none_or(|names| names.iter().all(is_declared))
}

/// Whether a schema leaves it to others what it is.
fn is_composed(schema: &Map<String, Value>) -> bool {
    ["$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| schema.contains_key(*key))
}
