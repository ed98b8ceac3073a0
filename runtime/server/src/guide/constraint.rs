//! What one message's text has to match, as a client gives it. [`super::limits`] measures it, [`super::grammar`] compiles it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A constraint on a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Constraint {
    /// An answer in JSON that is valid against a schema, without runs of white space; `lenient` ignores keywords that cannot be
    /// enforced.
    Schema { schema: Value, lenient: bool },
    /// The same for a call's arguments, which models often indent.
    Arguments { schema: Value, lenient: bool },
    /// A regular expression for the whole text.
    Regex(String),
    /// A grammar in llguidance's form of Lark.
    Grammar(String),
    /// The arguments of a free-form tool, whose only string matches such a grammar.
    Input(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl Constraint {
    /// Any JSON object.
    pub(crate) fn any_object() -> Constraint {
        Constraint::Schema { schema: json!({"type": "object"}), lenient: false }
    }

    /// What stands in for a constraint that cannot be enforced and need not be: any JSON object.
    pub(super) fn any_object_instead(&self) -> Constraint {
        match self {
            Constraint::Arguments { .. } => {
                Constraint::Arguments { schema: json!({"type": "object"}), lenient: false }
            }
            _ => Constraint::any_object(),
        }
    }

    /// Bytes of its text.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Constraint::Schema { schema, .. } | Constraint::Arguments { schema, .. } => {
                schema.to_string().len()
            }
            Constraint::Regex(text) | Constraint::Grammar(text) | Constraint::Input(text) => {
                text.len()
            }
            Constraint::Choice(choices) => choices.iter().map(String::len).sum(),
        }
    }
}
