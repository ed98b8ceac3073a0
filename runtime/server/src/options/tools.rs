//! Tools and `tool_choice`, as Chat Completions (nested) and Responses (flat) write them.

use ossmith_harmony::{Tool, ToolNamespace};
use serde_json::Value;

use super::call_target::FUNCTIONS;
use super::tool::{Entry, FunctionTool, Namespace, entry, named, refused};
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe};

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
    /// The namespaces that the request declares.
    namespaces: Vec<Namespace>,
    pub(crate) choice: ToolChoice,
    /// Whether one turn may have several calls.
    pub(crate) parallel: bool,
    /// Types of tools that the request has and this server does not run.
    pub(crate) ignored: Vec<String>,
}

/// What a `tool_choice` names.
enum Named<'a> {
    Tool {
        namespace: Option<&'a str>,
        name: &'a str,
    },
    Namespace(&'a str),
    /// A tool that this server does not run.
    Other(&'a str),
}

impl ToolOptions {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(fields: &Fields<'_>, config: &Config) -> Result<ToolOptions> {
        let parallel = fields.bool("parallel_tool_calls", true)?;
        let mut tools = ToolOptions { parallel, ..ToolOptions::default() };
        for tool in &fields.objects("tools")? {
            match entry(tool)? {
                Entry::Tool(function) => tools.add(fields, function)?,
                Entry::Namespace(namespace, functions) => {
                    functions.into_iter().try_for_each(|function| tools.add(fields, function))?;
                    tools.namespaces.push(namespace);
                }
                Entry::Other(kind) if config.strict_tools => return Err(refused(tool, &kind)),
                Entry::Other(kind) => {
                    if !tools.ignored.contains(&kind) {
                        tools.ignored.push(kind);
                    }
                }
            }
        }
        tools.choose(fields)?;
        // A client that forbids calls does not want the prompt to mention them.
        if tools.choice == ToolChoice::None {
            tools.functions.clear();
        }
        Ok(tools)
    }

    fn add(&mut self, fields: &Fields<'_>, function: FunctionTool) -> Result<()> {
        let recipient = &function.target.recipient;
        if self.functions.iter().any(|other| other.target.recipient == *recipient) {
            let name = recipient.strip_prefix("functions.").unwrap_or(recipient);
            return Err(fields.wrong("tools", format!("has two tools named `{name}`")));
        }
        self.functions.push(function);
        Ok(())
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
                if choice.required_string("type")? == "allowed_tools" {
                    let nested = choice.object("allowed_tools")?;
                    let list = nested.as_ref().unwrap_or(&choice);
                    let mode = list.string("mode")?.unwrap_or("auto");
                    self.choice = word(list, "mode", mode)?;
                    let allowed: Vec<Named<'_>> =
                        list.objects("tools")?.iter().map(chosen).collect::<Result<_>>()?;
                    self.keep(fields, &allowed)?;
                } else {
                    self.force(fields, chosen(&choice)?)?;
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

    /// The turn has to call this.
    fn force(&mut self, fields: &Fields<'_>, named: Named<'_>) -> Result<()> {
        if let Named::Other(kind) = named {
            let why = format!(
                "`tool_choice` has the type `{kind}`, which is not supported; use function, custom or allowed_tools"
            );
            return Err(ApiError::unsupported("tool_choice", why));
        }
        self.keep(fields, &[named])?;
        self.choice = ToolChoice::Required;
        // A client that names a function wants one call of it.
        self.parallel = false;
        Ok(())
    }

    /// Keeps only these functions.
    fn keep(&mut self, fields: &Fields<'_>, allowed: &[Named<'_>]) -> Result<()> {
        for named in allowed {
            let known = match named {
                Named::Other(kind) => self.ignored.iter().any(|ignored| ignored == kind),
                named => self.functions.iter().any(|function| named.is(function)),
            };
            if !known {
                let name = match named {
                    Named::Tool { name, .. } | Named::Namespace(name) | Named::Other(name) => name,
                };
                let why = format!("names `{name}`, which is not one of `tools`");
                return Err(fields.wrong("tool_choice", why));
            }
        }
        self.functions.retain(|function| allowed.iter().any(|named| named.is(function)));
        Ok(())
    }

    /// The functions of no namespace as harmony shows them to the model.
    pub(crate) fn declarations(&self) -> Vec<Tool> {
        self.declarations_of(FUNCTIONS)
    }

    /// Those of other namespaces.
    pub(crate) fn namespaces(&self) -> Vec<ToolNamespace> {
        let shown = |namespace: &Namespace| ToolNamespace {
            name: namespace.name.clone(),
            description: namespace.description.clone(),
            tools: self.declarations_of(&namespace.name),
        };
        let others = self.namespaces.iter().filter(|namespace| namespace.name != FUNCTIONS);
        others.map(shown).filter(|namespace| !namespace.tools.is_empty()).collect()
    }

    fn declarations_of(&self, namespace: &str) -> Vec<Tool> {
        let tool = |function: &FunctionTool| Tool {
            name: function.target.name.clone(),
            description: function.description.clone().unwrap_or_default(),
            parameters: function.parameters.clone().filter(|parameters| {
                parameters.get("properties").is_some() || parameters.get("type").is_some()
            }),
        };
        let within = |function: &&FunctionTool| {
            function.target.namespace.as_deref().unwrap_or(FUNCTIONS) == namespace
        };
        self.functions.iter().filter(within).map(tool).collect()
    }
}

impl Named<'_> {
    fn is(&self, function: &FunctionTool) -> bool {
        let target = &function.target;
        match *self {
            Named::Tool { namespace: None, name } => target.name == name,
            Named::Tool { namespace, name } => {
                target.namespace.as_deref() == namespace && target.name == name
            }
            Named::Namespace(name) => target.namespace.as_deref() == Some(name),
            Named::Other(_) => false,
        }
    }
}

/// What an object of `tool_choice` names.
fn chosen<'a>(fields: &Fields<'a>) -> Result<Named<'a>> {
    Ok(match fields.required_string("type")? {
        kind @ ("function" | "custom") => {
            Named::Tool { namespace: fields.string("namespace")?, name: named(fields, kind)? }
        }
        "namespace" => Named::Namespace(fields.required_string("name")?),
        other => Named::Other(other),
    })
}
