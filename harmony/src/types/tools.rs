//! Tools and their namespaces, with the two that gpt-oss models know from training.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name within the namespace.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The JSON schema of its arguments; the order of its keys is kept. Copies of the tool share it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared")]
    pub parameters: Option<Arc<Value>>,
}

/// A shared schema is read and written as the schema itself.
mod shared {
    use super::{Arc, Deserialize, Serialize, Value};

    pub(super) fn serialize<S: serde::Serializer>(
        schema: &Option<Arc<Value>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        schema.as_deref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<Value>>, D::Error> {
        Ok(Option::<Value>::deserialize(deserializer)?.map(Arc::new))
    }
}

impl Tool {
    /// A tool with these parameters; [`Value::Null`] means none.
    ///
    /// ```
    /// use ossmith_harmony::Tool;
    /// let tool = Tool::new("get_weather", "The weather in a city.", serde_json::json!({
    ///     "type": "object",
    ///     "properties": { "city": { "type": "string" } },
    ///     "required": ["city"],
    /// }));
    /// assert_eq!(tool.name, "get_weather");
    /// ```
    pub fn new(name: impl Into<String>, description: impl Into<String>, parameters: Value) -> Self {
        let parameters = (!parameters.is_null()).then(|| Arc::new(parameters));
        Self { name: name.into(), description: description.into(), parameters }
    }
}

/// Tools under one name: the model calls `name.tool`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolNamespace {
    /// The namespace's name as the model sees it.
    pub name: String,
    /// What its tools have in common; a namespace without tools is a description alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The tools.
    pub tools: Vec<Tool>,
}

impl ToolNamespace {
    /// The browser that gpt-oss models were trained with: `search`, `open`, `find`. The words are the training's, so they are kept.
    ///
    /// ```
    /// use ossmith_harmony::{SystemContent, ToolNamespace};
    /// let content = SystemContent::gpt_oss().with_tools(ToolNamespace::browser()).with_tools(ToolNamespace::python());
    /// assert_eq!(content.tools.map(|tools| tools.len()), Some(2));
    /// ```
    pub fn browser() -> Self {
        Self {
            name: "browser".to_owned(),
            description: Some(BROWSER.to_owned()),
            tools: vec![
                Tool::new(
                    "search",
                    BROWSER_SEARCH,
                    json!({"type": "object", "properties": {"query": {"type": "string"}, "topn": {"type": "number", "default": 10}, "source": {"type": "string"}}, "required": ["query"]}),
                ),
                Tool::new(
                    "open",
                    BROWSER_OPEN,
                    json!({"type": "object", "properties": {"id": {"type": ["number", "string"], "default": -1}, "cursor": {"type": "number", "default": -1}, "loc": {"type": "number", "default": -1}, "num_lines": {"type": "number", "default": -1}, "view_source": {"type": "boolean", "default": false}, "source": {"type": "string"}}}),
                ),
                Tool::new(
                    "find",
                    BROWSER_FIND,
                    json!({"type": "object", "properties": {"pattern": {"type": "string"}, "cursor": {"type": "number", "default": -1}}, "required": ["pattern"]}),
                ),
            ],
        }
    }

    /// The Python tool that gpt-oss models were trained with: they send code to `python`, which has no functions.
    pub fn python() -> Self {
        Self { name: "python".to_owned(), description: Some(PYTHON.to_owned()), tools: Vec::new() }
    }
}

const BROWSER: &str = "\
Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)";
const BROWSER_SEARCH: &str = "\
Searches for information related to `query` and displays `topn` results.";
const BROWSER_OPEN: &str = "\
Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, showing `num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or centered on the most relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page.";
const BROWSER_FIND: &str = "\
Finds exact matches of `pattern` in the current page, or the page given by `cursor`.";
const PYTHON: &str = "\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful Jupyter notebook environment. python will respond with the output of the execution or time out after 120.0 seconds. The drive at '/mnt/data' can be used to save and persist user files. Internet access for this session is UNKNOWN. Depends on the cluster.";
