//! How much a model is to reason before its answer.

use ossmith_harmony::ReasoningEffort;

use crate::error::Result;
use crate::fields::Fields;

/// The requested reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReasoningOptions {
    /// None leaves it to the prompt's default, medium.
    pub(crate) effort: Option<ReasoningEffort>,
    /// The model is not to reason at all.
    pub(crate) off: bool,
}

impl ReasoningOptions {
    /// Reads an effort from a field.
    pub(crate) fn read(fields: &Fields<'_>, field: &str) -> Result<Option<ReasoningOptions>> {
        let Some(word) = fields.string(field)? else { return Ok(None) };
        let (effort, off) = match word {
            "none" | "minimal" => (ReasoningEffort::Low, true),
            "low" => (ReasoningEffort::Low, false),
            "medium" => (ReasoningEffort::Medium, false),
            "high" | "xhigh" | "max" => (ReasoningEffort::High, false),
            other => {
                let why =
                    format!("is `{other}`; use none, minimal, low, medium, high, xhigh or max");
                return Err(fields.wrong(field, why));
            }
        };
        Ok(Some(ReasoningOptions { effort: Some(effort), off }))
    }
}
