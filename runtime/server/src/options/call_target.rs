//! What a call is addressed to: a function or a free-form tool, in the namespace of functions or in one of its own, which the client
//! runs or a tool server.

use std::sync::Arc;

use super::hosted_tool::{HostedKind, HostedTool};

/// How a tool takes its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallForm {
    /// Arguments in JSON.
    Function,
    /// A free-form text. The model writes it as the only argument of a function; clients see the text alone.
    Custom,
}

/// A tool as calls name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallTarget {
    /// As the model writes it: `functions.get_weather`.
    pub(crate) recipient: String,
    /// The namespace that the client declared it in.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) form: CallForm,
    /// Where a tool server runs it.
    pub(crate) host: Option<Arc<HostedTool>>,
}

/// The only argument of a free-form tool.
pub(crate) const INPUT: &str = "input";

/// The namespace of functions that are in no other.
pub(crate) const FUNCTIONS: &str = "functions";

impl CallTarget {
    pub(crate) fn new(namespace: Option<&str>, name: &str, form: CallForm) -> CallTarget {
        CallTarget {
            recipient: format!("{}.{name}", namespace.unwrap_or(FUNCTIONS)),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            form,
            host: None,
        }
    }

    /// Whether gpt-oss knows the tool from its training: it is declared in the system message, and called in the reasoning.
    pub(crate) fn is_built_in(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.kind != HostedKind::Mcp)
    }

    /// Whether calls of it are code.
    pub(crate) fn is_code(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.kind == HostedKind::Python)
    }
}
