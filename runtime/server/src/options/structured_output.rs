//! Structured output: the constraint on the final answer, as `response_format`, `text.format` and vLLM's `structured_outputs`
//! state it.

use ossmith_guide::Constraint;
use ossmith_harmony::ResponseFormat;
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::guide::compiler::GrammarRequest;

/// The constraint on the final answer, and what the prompt says about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StructuredOutput {
    constraint: Option<Constraint>,
    /// The format that the prompt shows.
    pub(crate) shown: Option<ResponseFormat>,
    /// The field that states it.
    param: String,
    /// Where it cannot be enforced, any JSON object will do.
    or_any_object: bool,
}

impl StructuredOutput {
    /// From a Chat Completions request.
    pub(crate) fn read_chat(fields: &Fields<'_>) -> Result<StructuredOutput> {
        fields.refuse(&[
            ("guided_json", "; use `structured_outputs`"),
            ("guided_regex", "; use `structured_outputs`"),
            ("guided_choice", "; use `structured_outputs`"),
            ("guided_grammar", "; use `structured_outputs`"),
        ])?;
        let format = match fields.object("response_format")? {
            None => StructuredOutput::default(),
            Some(format) => match format.required_string("type")? {
                "json_schema" => {
                    let Some(nested) = format.object("json_schema")? else {
                        return Err(format.wrong("json_schema", "is missing"));
                    };
                    StructuredOutput::schema(&nested)?
                }
                word => StructuredOutput::word(&format, word)?,
            },
        };
        format.or_structured(fields)
    }

    /// From a Responses request.
    pub(crate) fn read_responses(fields: &Fields<'_>) -> Result<StructuredOutput> {
        let text = fields.object("text")?;
        let format = match text.as_ref().map(|text| text.object("format")).transpose()?.flatten() {
            None => StructuredOutput::default(),
            Some(format) => match format.required_string("type")? {
                "json_schema" => StructuredOutput::schema(&format)?,
                word => StructuredOutput::word(&format, word)?,
            },
        };
        format.or_structured(fields)
    }

    fn word(fields: &Fields<'_>, word: &str) -> Result<StructuredOutput> {
        let constraint = match word {
            "text" => None,
            "json_object" => Some(Constraint::any_object()),
            other => {
                let name = fields.name("type");
                let why = format!(
                    "`{name}` is `{other}`, which is not supported; use text, json_object or json_schema"
                );
                return Err(ApiError::unsupported(name, why));
            }
        };
        let param = fields.name("type");
        Ok(StructuredOutput { constraint, shown: None, param, or_any_object: false })
    }

    fn schema(fields: &Fields<'_>) -> Result<StructuredOutput> {
        let schema = match fields.get("schema") {
            Some(schema @ Value::Object(_)) => schema.clone(),
            Some(_) => return Err(fields.wrong("schema", "is not a JSON schema object")),
            None => return Err(fields.wrong("schema", "is missing")),
        };
        let shown = ResponseFormat {
            name: fields.string("name")?.unwrap_or("answer").to_owned(),
            description: fields.string("description")?.map(str::to_owned),
            schema: schema.clone(),
        };
        let lenient = !fields.bool("strict", false)?;
        Ok(StructuredOutput {
            constraint: Some(Constraint::Schema { schema, lenient }),
            shown: Some(shown),
            param: fields.name("schema"),
            or_any_object: lenient,
        })
    }

    fn or_structured(self, fields: &Fields<'_>) -> Result<StructuredOutput> {
        match structured(fields)? {
            None => Ok(self),
            Some(_) if self.constraint.is_some() => Err(fields.wrong(
                "structured_outputs",
                "and a response format cannot both be given; choose one",
            )),
            Some(constraint) => Ok(StructuredOutput {
                constraint: Some(constraint),
                shown: None,
                param: "structured_outputs".to_owned(),
                or_any_object: false,
            }),
        }
    }

    /// The grammar that enforces the constraint. One over the limits is an error.
    pub(crate) fn grammar(&self) -> Result<Option<GrammarRequest>> {
        let Some(constraint) = &self.constraint else { return Ok(None) };
        let (constraint, subject) = (constraint.clone(), format!("`{}`", self.param));
        let request = match self.or_any_object {
            true => GrammarRequest::or_any_object(constraint, &self.param, subject),
            false => GrammarRequest::new(constraint, &self.param, subject),
        };
        request.map(Some)
    }
}

/// vLLM's `structured_outputs: {json | json_object | regex | choice | grammar}`.
pub(crate) fn structured(fields: &Fields<'_>) -> Result<Option<Constraint>> {
    let Some(outputs) = fields.object("structured_outputs")? else { return Ok(None) };
    outputs.refuse(&[("structural_tag", "; use `json`, `regex`, `choice` or `grammar`")])?;
    let mut all = Vec::new();
    all.extend(outputs.bool("json_object", false)?.then(Constraint::any_object));
    match outputs.get("json") {
        None => {}
        // vLLM takes a schema as text, too.
        Some(Value::String(text)) => {
            let schema = serde_json::from_str(text)
                .map_err(|why| outputs.wrong("json", format!("is not a JSON schema: {why}")))?;
            all.push(Constraint::Schema { schema, lenient: false });
        }
        Some(schema) => all.push(Constraint::Schema { schema: schema.clone(), lenient: false }),
    }
    all.extend(outputs.string("regex")?.map(|regex| Constraint::Regex(regex.to_owned())));
    all.extend(outputs.string("grammar")?.map(|text| Constraint::Grammar(text.to_owned())));
    let choices: Option<Vec<String>> = outputs.read("choice")?;
    if choices.as_ref().is_some_and(Vec::is_empty) {
        return Err(outputs.wrong("choice", "is empty"));
    }
    all.extend(choices.map(Constraint::Choice));
    if all.len() > 1 {
        return Err(fields.wrong("structured_outputs", "has several constraints; choose one"));
    }
    Ok(all.pop())
}
