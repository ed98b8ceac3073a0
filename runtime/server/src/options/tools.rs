//! FunctionTool tools and `tool_choice`, as Chat Completions (nested) and Responses (flat) write them.

use ossmith_harmony::Tool;
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe};
use crate::guide::compiler::GrammarRequest;
use crate::guide::constraint::Constraint;

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FunctionTool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) parameters: Option<Value>,
    pub(crate) strict: bool,
    /// The name of the request's field with its parameters.
    pub(crate) param: String,
}

/// Whether functions may or must be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    None,
    #[default]
    Auto,
    Required,
}

/// The functions that may be called in this turn, and whether one must.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ToolOptions {
    pub(crate) functions: Vec<FunctionTool>,
    pub(crate) choice: ToolChoice,
    /// Whether one turn may have several calls.
    pub(crate) parallel: bool,
}

const MAX_NAME_LENGTH: usize = 128;

impl ToolOptions {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<ToolOptions> {
        let functions: Vec<FunctionTool> =
            fields.objects("tools")?.iter().map(function).collect::<Result<_>>()?;
        for (index, function) in functions.iter().enumerate() {
            if functions[..index].iter().any(|other| other.name == function.name) {
                return Err(
                    fields.wrong("tools", format!("has two tools named `{}`", function.name))
                );
            }
        }
        let parallel = fields.bool("parallel_tool_calls", true)?;
        let mut tools = ToolOptions { functions, choice: ToolChoice::Auto, parallel };
        tools.choose(fields)?;
        // A client that forbids calls does not want the prompt to mention them.
        if tools.choice == ToolChoice::None {
            tools.functions.clear();
        }
        Ok(tools)
    }

    fn choose(&mut self, fields: &Fields<'_>) -> Result<()> {
        let word = |fields: &Fields<'_>, field: &str, word: &str| match word {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" => Ok(ToolChoice::Required),
            other => Err(fields
                .wrong(field, format!("is `{other}`; use none, auto, required or a function"))),
        };
        match fields.get("tool_choice") {
            None => {}
            Some(Value::String(text)) => self.choice = word(fields, "tool_choice", text)?,
            Some(Value::Object(_)) => {
                let Some(choice) = fields.object("tool_choice")? else { return Ok(()) };
                match choice.required_string("type")? {
                    "function" => {
                        let name = named(&choice)?;
                        self.keep(fields, &[name])?;
                        self.choice = ToolChoice::Required;
                        // A client that names a function wants one call of it.
                        self.parallel = false;
                    }
                    "allowed_tools" => {
                        let nested = choice.object("allowed_tools")?;
                        let list = nested.as_ref().unwrap_or(&choice);
                        let mode = list.string("mode")?.unwrap_or("auto");
                        self.choice = word(list, "mode", mode)?;
                        let names: Vec<&str> =
                            list.objects("tools")?.iter().map(named).collect::<Result<_>>()?;
                        self.keep(fields, &names)?;
                    }
                    other => {
                        let why = format!(
                            "has the type `{other}`, which is not supported; use function or allowed_tools"
                        );
                        return Err(ApiError::unsupported(
                            "tool_choice",
                            format!("`tool_choice` {why}"),
                        ));
                    }
                }
            }
            Some(other) => {
                let why = format!("is {}, not a word or an object", describe(other));
                return Err(fields.wrong("tool_choice", why));
            }
        }
        if self.choice == ToolChoice::Required && self.functions.is_empty() {
            return Err(fields.wrong("tool_choice", "requires a call, but there are no `tools`"));
        }
        Ok(())
    }

    /// Keeps only these functions.
    fn keep(&mut self, fields: &Fields<'_>, names: &[&str]) -> Result<()> {
        if let Some(unknown) =
            names.iter().find(|name| !self.functions.iter().any(|f| f.name == **name))
        {
            let why = format!("names `{unknown}`, which is not one of `tools`");
            return Err(fields.wrong("tool_choice", why));
        }
        self.functions.retain(|function| names.contains(&function.name.as_str()));
        Ok(())
    }

    /// The functions as harmony shows them to the model.
    pub(crate) fn declarations(&self) -> Vec<Tool> {
        let tool = |function: &FunctionTool| Tool {
            name: function.name.clone(),
            description: function.description.clone().unwrap_or_default(),
            parameters: function.parameters.clone().filter(|parameters| {
                parameters.get("properties").is_some() || parameters.get("type").is_some()
            }),
        };
        self.functions.iter().map(tool).collect()
    }
}

fn function(fields: &Fields<'_>) -> Result<FunctionTool> {
    let kind = fields.required_string("type")?;
    if kind != "function" {
        let name = fields.name("type");
        return Err(ApiError::unsupported(
            name,
            format!(
                "tools of the type `{kind}` are not supported by this server; only `function` is"
            ),
        ));
    }
    // Chat Completions nests what Responses writes flat.
    let nested = fields.object("function")?;
    let of = nested.as_ref().unwrap_or(fields);
    let name = named(fields)?;
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.chars().all(fine) {
        let why = format!(
            "is `{name}`; names have 1 to {MAX_NAME_LENGTH} letters, digits, `_`, `-` or `.`"
        );
        return Err(of.wrong("name", why));
    }
    let parameters = match of.get("parameters") {
        None => None,
        Some(value) if value.is_object() => Some(value.clone()),
        Some(_) => return Err(of.wrong("parameters", "is not a JSON schema object")),
    };
    Ok(FunctionTool {
        name: name.to_owned(),
        description: of.string("description")?.map(str::to_owned),
        parameters,
        strict: of.bool("strict", false)?,
        param: of.name("parameters"),
    })
}

/// The name in `{function: {name}}` or `{name}`; both may be there if they are equal.
fn named<'a>(fields: &Fields<'a>) -> Result<&'a str> {
    let Some(nested) = fields.object("function")? else { return fields.required_string("name") };
    let name = nested.required_string("name")?;
    match fields.string("name")? {
        Some(other) if other != name => {
            Err(fields.wrong("name", format!("is `{other}`, but `function.name` is `{name}`")))
        }
        _ => Ok(name),
    }
}

impl FunctionTool {
    /// The grammar of its arguments. Where it need not be enforced, keywords that cannot be are ignored; if the schema as a
    /// whole cannot be enforced, arguments are any object.
    pub(crate) fn arguments(&self, enforce: bool) -> Result<GrammarRequest> {
        let lenient = !(enforce || self.strict);
        let constraint = Constraint::Arguments { schema: self.schema(), lenient };
        let subject = format!("the schema of the parameters of `{}`", self.name);
        match lenient {
            true => GrammarRequest::or_any_object(constraint, &self.param, subject),
            false => GrammarRequest::new(constraint, &self.param, subject),
        }
    }

    /// Arguments are an object, with no more than what is declared.
    fn schema(&self) -> Value {
        let Some(Value::Object(map)) = &self.parameters else {
            return json!({"type": "object", "properties": {}, "additionalProperties": false});
        };
        let mut schema = map.clone();
        let composed = ["$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| map.contains_key(*key));
        if !composed {
            schema.entry("type").or_insert_with(|| json!("object"));
            let listed = |name: &Value| {
                name.as_str().is_some_and(|name| map["properties"].get(name).is_some())
            };
            let required = map.get("required").and_then(Value::as_array);
            if map.contains_key("properties")
                && !map.contains_key("patternProperties")
                && required.is_none_or(|names| names.iter().all(listed))
            {
                schema.entry("additionalProperties").or_insert_with(|| json!(false));
            }
        }
        Value::Object(schema)
    }
}
