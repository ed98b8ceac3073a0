//! A tool that a tool server runs, as calls of it name it. Which entries of a request become such tools is in
//! [`super::hosted_tools`].

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::tool_servers::{Listing, ToolInfo, ToolServer};

/// What a tool is to the model and to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostedKind {
    /// `browser.search`, `browser.open` or `browser.find`; a `web_search_call`.
    Browser,
    /// `python`, which takes code; a `code_interpreter_call`.
    Python,
    /// A tool of an MCP server; an `mcp_call`.
    Mcp,
}

/// A tool that a server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostedTool {
    pub(crate) kind: HostedKind,
    pub(crate) server: ToolServer,
    /// What the server calls it.
    pub(crate) tool: String,
    /// The names of its arguments, in the server's order; none if it does not say.
    names: Vec<String>,
}

impl HostedTool {
    pub(super) fn new(kind: HostedKind, listing: &Listing, tool: &ToolInfo) -> Arc<HostedTool> {
        let properties = tool.schema["properties"].as_object();
        Arc::new(HostedTool {
            kind,
            server: listing.server.clone(),
            tool: tool.name.clone(),
            names: properties.map(|map| map.keys().cloned().collect()).unwrap_or_default(),
        })
    }

    /// What the server is called with, where the model wrote this.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(crate) fn arguments(&self, text: &str) -> std::result::Result<Map<String, Value>, String> {
        if self.kind == HostedKind::Python {
            let name = self.names.iter().find(|name| *name == "code").or(self.names.first());
            let name = name.map_or("code", String::as_str);
            return Ok(Map::from_iter([(name.to_owned(), text.into())]));
        }
        if text.trim().is_empty() {
            return Ok(Map::new());
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(mut map)) => {
                // The model was trained with arguments that not every browser has.
                if self.kind == HostedKind::Browser && !self.names.is_empty() {
                    map.retain(|name, _| self.names.contains(name));
                }
                Ok(map)
            }
            _ => Err("the arguments are not a JSON object".to_owned()),
        }
    }

    /// Whether entries of this type, or a `tool_choice` of it, name the tool.
    pub(crate) fn is_of_type(&self, kind: &str) -> bool {
        match self.kind {
            HostedKind::Browser => is_search(kind),
            HostedKind::Python => kind == "code_interpreter",
            HostedKind::Mcp => kind == "mcp",
        }
    }
}

/// Whether a type asks for a browser.
pub(super) fn is_search(kind: &str) -> bool {
    kind.starts_with("web_search") || kind == "browser_search"
}

/// What a search, a visit or a search within a page is to clients.
pub(crate) fn web_action(tool: &str, arguments: &Map<String, Value>) -> Value {
    let text = |name: &str| match arguments.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    match tool {
        "open" => json!({"type": "open_page", "url": text("id")}),
        "find" => {
            json!({"type": "find_in_page", "pattern": text("pattern"), "url": text("cursor")})
        }
        _ => json!({"type": "search", "query": text("query"), "queries": [text("query")]}),
    }
}
