//! Entries of `tools` that a tool server of the operator's runs for the model: a browser and an interpreter as gpt-oss was trained
//! with them, and the tools of an MCP server. A request chooses among the servers that the operator allows, by label or by URL; no
//! address of a client's is ever called.

use std::sync::Arc;

use ossmith_harmony::ToolNamespace;
use serde_json::Value;

use super::call_target::{CallForm, CallTarget};
use super::hosted_tool::{HostedKind, HostedTool, is_search};
use super::tool::{FunctionTool, Namespace};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::tool_servers::{Catalog, Listing, ToolInfo, ToolServerAddress};

/// A server whose tools a request lists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListedTools {
    pub(crate) label: String,
    /// Its tools, as `mcp_list_tools` shows them.
    pub(crate) tools: Vec<Value>,
}

/// What there is for the entries of one request, and what it has used.
pub(crate) struct HostedTools {
    catalog: Catalog,
    /// The MCP servers that the request names.
    pub(crate) listed: Vec<ListedTools>,
}

/// What an entry of `tools` became.
pub(super) struct Hosted {
    pub(super) functions: Vec<FunctionTool>,
    pub(super) namespace: Option<Namespace>,
}

impl HostedTools {
    pub(crate) fn new(catalog: Catalog) -> HostedTools {
        HostedTools { catalog, listed: Vec::new() }
    }

    /// What an entry becomes; none if no server runs what it asks for.
    pub(super) fn read(&mut self, tool: &Fields<'_>) -> Result<Option<Hosted>> {
        if self.catalog.is_empty() {
            return Ok(None);
        }
        match tool.required_string("type")? {
            kind if is_search(kind) => self.browser(),
            "code_interpreter" => self.python(),
            "mcp" => self.mcp(tool).map(Some),
            _ => Ok(None),
        }
    }

    /// The first server of which this finds something. It is an error if there is none, and a server does not answer.
    fn find<T>(&self, found: impl Fn(&Listing, &[ToolInfo]) -> Option<T>) -> Result<Option<T>> {
        let all = self.catalog.iter();
        let answered = all.filter_map(|listing| Some((listing, listing.tools.as_deref().ok()?)));
        if let Some(found) = answered.into_iter().find_map(|(listing, tools)| found(listing, tools))
        {
            return Ok(Some(found));
        }
        let silent =
            self.catalog.iter().find_map(|listing| Some((listing, listing.tools.as_ref().err()?)));
        match silent {
            Some((listing, why)) => Err(ApiError::tool_server(&listing.server.label, why)),
            None => Ok(None),
        }
    }

    fn browser(&self) -> Result<Option<Hosted>> {
        let functions = self.find(|listing, tools| {
            let known = ToolNamespace::browser().tools;
            let functions: Vec<FunctionTool> = known
                .into_iter()
                .filter_map(|known| {
                    let names = [
                        known.name.clone(),
                        format!("browser_{}", known.name),
                        format!("browser.{}", known.name),
                    ];
                    let tool = tools.iter().find(|tool| names.contains(&tool.name))?;
                    let host = HostedTool::new(HostedKind::Browser, listing, tool);
                    let target = target("browser", &known.name, host);
                    Some(FunctionTool::hosted(target, known.description, known.parameters))
                })
                .collect();
            let searches = functions.iter().any(|function| function.target.name == "search");
            searches.then_some(functions)
        })?;
        Ok(functions.map(|functions| Hosted { functions, namespace: None }))
    }

    fn python(&self) -> Result<Option<Hosted>> {
        let function = self.find(|listing, tools| {
            let tool = tools.iter().find(|tool| tool.name == "python")?;
            let host = HostedTool::new(HostedKind::Python, listing, tool);
            let mut target = target("python", "python", host);
            target.recipient = "python".to_owned();
            Some(FunctionTool::hosted(target, tool.description.clone(), None))
        })?;
        Ok(function.map(|function| Hosted { functions: vec![function], namespace: None }))
    }

    fn mcp(&mut self, fields: &Fields<'_>) -> Result<Hosted> {
        let label = fields.required_string("server_label")?;
        fields.refuse(&[
            ("connector_id", "; name a tool server by `server_label` or `server_url`"),
            ("headers", "; the operator's tool servers take none of a client's"),
            ("authorization", "; the operator's tool servers take none of a client's"),
        ])?;
        if fields.get("require_approval") != Some(&"never".into()) {
            let why = "has to be `never`: this server has nobody who approves calls";
            return Err(fields.wrong("require_approval", why));
        }
        let listing = self.allowed(fields, label)?;
        let tools = match &listing.tools {
            Ok(tools) => tools,
            Err(why) => return Err(ApiError::tool_server(&listing.server.label, why)),
        };
        let allowed = allowed_tools(fields)?;
        let is_allowed =
            |tool: &&ToolInfo| allowed.as_ref().is_none_or(|names| names.contains(&tool.name));
        let kept: Vec<&ToolInfo> = tools.iter().filter(is_allowed).collect();
        let function = |tool: &&ToolInfo| {
            let host = HostedTool::new(HostedKind::Mcp, listing, tool);
            let description = tool.description.clone();
            let schema = Some(Arc::new(tool.schema.clone()));
            FunctionTool::hosted(target(label, &tool.name, host), description, schema)
        };
        let functions = kept.iter().map(function).collect();
        let description = fields.string("server_description")?.map(str::to_owned);
        let namespace = Namespace::new(fields, "server_label", label, description)?;
        let tools = kept.iter().map(|tool| tool.json()).collect();
        self.listed.push(ListedTools { label: label.to_owned(), tools });
        Ok(Hosted { functions, namespace: Some(namespace) })
    }

    /// The server that an entry names, if the operator allows it.
    fn allowed(&self, fields: &Fields<'_>, label: &str) -> Result<&Listing> {
        let url = fields.string("server_url")?;
        let same = |listing: &&Listing| match (url, &listing.server.address) {
            (None, _) => listing.server.label == label,
            (Some(url), ToolServerAddress::Http(own)) => {
                url.trim_end_matches('/') == own.trim_end_matches('/')
            }
            (Some(_), ToolServerAddress::Command(_)) => false,
        };
        self.catalog.iter().find(same).ok_or_else(|| {
            let labels: Vec<&str> =
                self.catalog.iter().map(|listing| listing.server.label.as_str()).collect();
            let name = fields.name(if url.is_some() { "server_url" } else { "server_label" });
            let why = format!(
                "`{name}` is no tool server that the operator of this server allows; by `server_label` alone there are: {}",
                labels.join(", ")
            );
            ApiError::unsupported(name, why)
        })
    }
}

/// A list of names, or an object with one.
fn allowed_tools(fields: &Fields<'_>) -> Result<Option<Vec<String>>> {
    match fields.get("allowed_tools") {
        Some(Value::Object(_)) => match fields.object("allowed_tools")? {
            Some(filter) => filter.read("tool_names"),
            None => Ok(None),
        },
        _ => fields.read("allowed_tools"),
    }
}

fn target(namespace: &str, name: &str, host: Arc<HostedTool>) -> CallTarget {
    CallTarget { host: Some(host), ..CallTarget::new(Some(namespace), name, CallForm::Function) }
}
