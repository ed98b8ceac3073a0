//! Tools and `tool_choice`, as Chat Completions (nested) and Responses (flat) write them.

use std::collections::HashSet;

use ossmith_harmony::{Tool, ToolNamespace};
use serde_json::Value;

use super::call_target::FUNCTIONS;
use super::hosted_tools::{Hosted, HostedTools};
use super::tool::{Entry, FunctionTool, Namespace, entry, named, refused};
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe};
use crate::tool_servers::Catalog;

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

/// Tools that a `tool_choice` may name, each of which is looked for among all.
const MAX_ALLOWED: usize = 1024;

/// What a `tool_choice` names.
enum Named<'a> {
    Tool {
        namespace: Option<&'a str>,
        name: &'a str,
    },
    Namespace(&'a str),
    /// The tools of an MCP server, or one of them.
    Mcp {
        label: &'a str,
        name: Option<&'a str>,
    },
    /// Tools of another type.
    Other(&'a str),
}

impl ToolOptions {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(fields: &Fields<'_>, config: &Config) -> Result<ToolOptions> {
        ToolOptions::read_hosting(fields, config, &mut HostedTools::new(Catalog::default()))
    }

    /// The same, with tools that tool servers run.
    pub(crate) fn read_hosting(
        fields: &Fields<'_>,
        config: &Config,
        hosted: &mut HostedTools,
    ) -> Result<ToolOptions> {
        let parallel = fields.bool("parallel_tool_calls", true)?;
        let mut tools = ToolOptions { parallel, ..ToolOptions::default() };
        let (mut names, mut ignored) = (HashSet::new(), HashSet::new());
        for tool in &fields.objects("tools")? {
            if let Some(Hosted { functions, namespace }) = hosted.read(tool)? {
                let add = |function| tools.add(fields, function, &mut names);
                functions.into_iter().try_for_each(add)?;
                tools.namespaces.extend(namespace);
                continue;
            }
            match entry(tool)? {
                Entry::Tool(function) => tools.add(fields, function, &mut names)?,
                Entry::Namespace(namespace, functions) => {
                    let add = |function| tools.add(fields, function, &mut names);
                    functions.into_iter().try_for_each(add)?;
                    tools.namespaces.push(namespace);
                }
                Entry::Other(kind) if config.strict_tools => return Err(refused(tool, &kind)),
                Entry::Other(kind) => {
                    if ignored.insert(kind.clone()) {
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

    /// Adds a function; `names` has those of all before it.
    fn add(
        &mut self,
        fields: &Fields<'_>,
        function: FunctionTool,
        names: &mut HashSet<String>,
    ) -> Result<()> {
        let recipient = &function.target.recipient;
        if !names.insert(recipient.clone()) {
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
        let is_there = self.functions.iter().any(|function| named.is(function));
        if let (Some(kind), false) = (named.foreign_type(), is_there) {
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
        if allowed.len() > MAX_ALLOWED {
            let why = format!("names {} tools; at most {MAX_ALLOWED} can be named", allowed.len());
            return Err(fields.wrong("tool_choice", why));
        }
        for named in allowed {
            let is_ignored = named
                .foreign_type()
                .is_some_and(|kind| self.ignored.iter().any(|ignored| ignored == kind));
            if !is_ignored && !self.functions.iter().any(|function| named.is(function)) {
                let name = match named {
                    Named::Tool { name, .. } | Named::Namespace(name) | Named::Other(name) => name,
                    Named::Mcp { label, name } => name.as_ref().unwrap_or(label),
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

    /// The tools that the model knows from its training.
    pub(crate) fn built_in(&self) -> Vec<ToolNamespace> {
        let has = |namespace: &str, name: &str| {
            let is = |function: &&FunctionTool| {
                let target = &function.target;
                target.is_built_in()
                    && target.namespace.as_deref() == Some(namespace)
                    && target.name == name
            };
            self.functions.iter().any(|function| is(&function))
        };
        let mut browser = ToolNamespace::browser();
        browser.tools.retain(|tool| has("browser", &tool.name));
        let python = has("python", "python").then(ToolNamespace::python);
        Some(browser)
            .filter(|browser| !browser.tools.is_empty())
            .into_iter()
            .chain(python)
            .collect()
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
            let target = &function.target;
            !target.is_built_in() && target.namespace.as_deref().unwrap_or(FUNCTIONS) == namespace
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
            Named::Mcp { label, name } => {
                target.host.as_ref().is_some_and(|host| host.is_of_type("mcp"))
                    && target.namespace.as_deref() == Some(label)
                    && name.is_none_or(|name| target.name == name)
            }
            Named::Other(kind) => target.host.as_ref().is_some_and(|host| host.is_of_type(kind)),
        }
    }

    /// The type of what a client does not run itself.
    fn foreign_type(&self) -> Option<&str> {
        match self {
            Named::Other(kind) => Some(kind),
            Named::Mcp { .. } => Some("mcp"),
            Named::Tool { .. } | Named::Namespace(_) => None,
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
        "mcp" => Named::Mcp {
            label: fields.required_string("server_label")?,
            name: fields.string("name")?,
        },
        other => Named::Other(other),
    })
}
