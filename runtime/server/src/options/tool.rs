//! One entry of `tools`: a function, a tool that takes a free-form text, a namespace of both, or something that this server does
//! not run. Which of them may be called in a turn is in [`super::tools`].

use std::sync::Arc;

use ossmith_guide::Constraint;
use serde_json::{Value, json};

use super::call_target::{CallForm, CallTarget, INPUT};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::guide::compiler::GrammarRequest;

/// A tool that the model may call. A free-form one is a function with one string here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FunctionTool {
    pub(crate) target: Arc<CallTarget>,
    pub(crate) description: Option<String>,
    pub(crate) parameters: Option<Arc<Value>>,
    pub(crate) strict: bool,
    /// The Lark grammar of its input, where it is free-form and has one.
    input_grammar: Option<String>,
    /// The name of the request's field with its parameters.
    pub(crate) param: String,
}

/// Tools under one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
}

impl Namespace {
    /// A namespace of this name, which the field holds.
    pub(super) fn new(
        fields: &Fields<'_>,
        field: &str,
        name: &str,
        description: Option<String>,
    ) -> Result<Namespace> {
        Ok(Namespace { name: checked(fields, field, name)?.to_owned(), description })
    }
}

/// What an entry of `tools` is.
pub(super) enum Entry {
    Tool(FunctionTool),
    Namespace(Namespace, Vec<FunctionTool>),
    /// Something of this type, which this server does not run.
    Other(String),
}

const MAX_NAME_LENGTH: usize = 128;

/// Reads an entry.
pub(super) fn entry(fields: &Fields<'_>) -> Result<Entry> {
    match fields.required_string("type")? {
        "namespace" => {
            let name = checked_name(fields, fields.required_string("name")?)?;
            let description = fields.string("description")?.map(str::to_owned);
            let inner = |fields: &Fields<'_>| match fields.required_string("type")? {
                kind @ ("function" | "custom") => tool(fields, kind, Some(name)),
                other => {
                    let why = format!("is `{other}`; a namespace has function and custom tools");
                    Err(fields.wrong("type", why))
                }
            };
            let tools = fields.objects("tools")?.iter().map(inner).collect::<Result<_>>()?;
            Ok(Entry::Namespace(Namespace { name: name.to_owned(), description }, tools))
        }
        kind @ ("function" | "custom") => Ok(Entry::Tool(tool(fields, kind, None)?)),
        other => Ok(Entry::Other(other.to_owned())),
    }
}

fn tool(fields: &Fields<'_>, kind: &str, namespace: Option<&str>) -> Result<FunctionTool> {
    // Chat Completions nests what Responses writes flat.
    let nested = fields.object(kind)?;
    let of = nested.as_ref().unwrap_or(fields);
    let name = checked_name(of, named(fields, kind)?)?;
    let description = of.string("description")?.map(str::to_owned);
    if kind == "custom" {
        return custom(of, CallTarget::new(namespace, name, CallForm::Custom), description);
    }
    let parameters = match of.get("parameters") {
        None => None,
        Some(value) if value.is_object() => Some(Arc::new(value.clone())),
        Some(_) => return Err(of.wrong("parameters", "is not a JSON schema object")),
    };
    Ok(FunctionTool {
        target: Arc::new(CallTarget::new(namespace, name, CallForm::Function)),
        description,
        parameters,
        strict: of.bool("strict", false)?,
        input_grammar: None,
        param: of.name("parameters"),
    })
}

/// A tool that takes a free-form text, as a function with one string.
fn custom(
    fields: &Fields<'_>,
    target: CallTarget,
    description: Option<String>,
) -> Result<FunctionTool> {
    let mut description = description.unwrap_or_default();
    let (mut input, mut input_grammar) = (json!({"type": "string"}), None);
    if let Some(format) = fields.object("format")? {
        match format.required_string("type")? {
            "text" => {}
            "grammar" => {
                let nested = format.object("grammar")?;
                let grammar = nested.as_ref().unwrap_or(&format);
                let definition = grammar.required_string("definition")?;
                let title = match grammar.required_string("syntax")? {
                    "regex" => {
                        input["pattern"] = format!("^(?:{definition})$").into();
                        "regular expression"
                    }
                    "lark" => {
                        input_grammar = Some(definition.to_owned());
                        "Lark grammar"
                    }
                    other => {
                        let why = format!("is `{other}`; use lark or regex");
                        return Err(grammar.wrong("syntax", why));
                    }
                };
                let gap = if description.is_empty() { "" } else { "\n\n" };
                description += &format!("{gap}`{INPUT}` matches this {title}:\n{definition}");
            }
            other => {
                return Err(format.wrong("type", format!("is `{other}`; use text or grammar")));
            }
        }
    }
    let parameters = json!({
        "type": "object", "properties": {INPUT: input}, "required": [INPUT], "additionalProperties": false,
    });
    Ok(FunctionTool {
        target: Arc::new(target),
        description: Some(description),
        parameters: Some(Arc::new(parameters)),
        strict: true,
        input_grammar,
        param: fields.name("format"),
    })
}

fn checked_name<'a>(fields: &Fields<'_>, name: &'a str) -> Result<&'a str> {
    checked(fields, "name", name)
}

fn checked<'a>(fields: &Fields<'_>, field: &str, name: &'a str) -> Result<&'a str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.chars().all(fine) {
        let why = format!(
            "is `{name}`; names have 1 to {MAX_NAME_LENGTH} letters, digits, `_`, `-` or `.`"
        );
        return Err(fields.wrong(field, why));
    }
    Ok(name)
}

/// The name in `{function: {name}}` or `{name}`; both may be there if they are equal.
pub(super) fn named<'a>(fields: &Fields<'a>, kind: &str) -> Result<&'a str> {
    let Some(nested) = fields.object(kind)? else { return fields.required_string("name") };
    let name = nested.required_string("name")?;
    match fields.string("name")? {
        Some(other) if other != name => {
            Err(fields.wrong("name", format!("is `{other}`, but `{kind}.name` is `{name}`")))
        }
        _ => Ok(name),
    }
}

/// The refusal of a tool that this server does not run.
pub(super) fn refused(fields: &Fields<'_>, kind: &str) -> ApiError {
    ApiError::unsupported(
        fields.name("type"),
        format!(
            "tools of the type `{kind}` are not supported by this server; function, custom and namespace are"
        ),
    )
}

impl FunctionTool {
    /// A tool that a server runs.
    pub(super) fn hosted(
        target: CallTarget,
        description: String,
        parameters: Option<Arc<Value>>,
    ) -> FunctionTool {
        FunctionTool {
            target: Arc::new(target),
            description: Some(description),
            parameters,
            strict: false,
            input_grammar: None,
            param: "tools".to_owned(),
        }
    }

    /// The grammar of its arguments. Where it need not be enforced, keywords that cannot be are ignored; if the schema as a
    /// whole cannot be enforced, arguments are any object.
    pub(crate) fn arguments(&self, enforce: bool) -> Result<GrammarRequest> {
        if let Some(grammar) = &self.input_grammar {
            let subject = format!("the grammar of `{}`", self.target.name);
            return GrammarRequest::new(Constraint::Input(grammar.clone()), &self.param, subject);
        }
        let lenient = !(enforce || self.strict);
        let constraint = Constraint::Arguments { schema: self.schema(), lenient };
        let subject = format!("the schema of the parameters of `{}`", self.target.name);
        match lenient {
            true => GrammarRequest::or_any_object(constraint, &self.param, subject),
            false => GrammarRequest::new(constraint, &self.param, subject),
        }
    }

    /// The schema of its arguments, which [`Constraint::Arguments`] closes.
    fn schema(&self) -> Arc<Value> {
        self.parameters.clone().unwrap_or_else(|| Arc::new(json!({"properties": {}})))
    }
}
