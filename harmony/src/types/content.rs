//! Message contents: text, and the structured contents of system and developer messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tools::{Tool, ToolNamespace};

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// Only in system messages.
    SystemContent(SystemContent),
    /// Only in developer messages.
    DeveloperContent(DeveloperContent),
}

impl Content {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<SystemContent> for Content {
    fn from(content: SystemContent) -> Self {
        Self::SystemContent(content)
    }
}

impl From<DeveloperContent> for Content {
    fn from(content: DeveloperContent) -> Self {
        Self::DeveloperContent(content)
    }
}

/// How long the model is to think.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReasoningEffort {
    /// Hardly.
    Low,
    /// As a rule.
    #[default]
    Medium,
    /// At length.
    High,
}

impl ReasoningEffort {
    /// The word in the system message.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// The channels a model may write to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelConfig {
    /// Their names.
    pub valid_channels: Vec<String>,
    /// Whether each message has to name one.
    pub channel_required: bool,
}

impl ChannelConfig {
    /// gpt-oss's three channels, required.
    pub fn gpt_oss() -> Self {
        Self {
            valid_channels: ["analysis", "commentary", "final"].map(str::to_owned).to_vec(),
            channel_required: true,
        }
    }
}

/// The frame of a conversation. `default()` has nothing set; [`SystemContent::gpt_oss`] has what the model was trained with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemContent {
    /// Who the model is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_identity: Option<String>,
    /// How long it is to think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Built-in tools, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<BTreeMap<String, ToolNamespace>>,
    /// The current date, as `2026-01-31`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_start_date: Option<String>,
    /// Until when the model knows the world, as `2024-06`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knowledge_cutoff: Option<String>,
    /// The channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_config: Option<ChannelConfig>,
}

impl SystemContent {
    /// What gpt-oss models were trained with: identity, knowledge cutoff, medium effort, three channels; no date and no tools.
    ///
    /// ```
    /// use ossmith_harmony::{ReasoningEffort, SystemContent};
    /// let content = SystemContent {
    ///     reasoning_effort: Some(ReasoningEffort::High),
    ///     conversation_start_date: Some("2025-06-28".to_owned()),
    ///     ..SystemContent::gpt_oss()
    /// };
    /// assert_eq!(content.knowledge_cutoff.as_deref(), Some("2024-06"));
    /// ```
    pub fn gpt_oss() -> Self {
        Self {
            model_identity: Some(
                "You are ChatGPT, a large language model trained by OpenAI.".to_owned(),
            ),
            reasoning_effort: Some(ReasoningEffort::Medium),
            knowledge_cutoff: Some("2024-06".to_owned()),
            channel_config: Some(ChannelConfig::gpt_oss()),
            ..Self::default()
        }
    }

    /// The same with a namespace of tools, filed under its own name.
    #[must_use]
    pub fn with_tools(mut self, namespace: ToolNamespace) -> Self {
        self.tools.get_or_insert_default().insert(namespace.name.clone(), namespace);
        self
    }
}

/// The application's instructions and tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeveloperContent {
    /// What the model is to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Namespaces of tools; functions are in the one called `functions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<BTreeMap<String, ToolNamespace>>,
}

impl DeveloperContent {
    /// Instructions without tools.
    pub fn new(instructions: impl Into<String>) -> Self {
        Self { instructions: Some(instructions.into()), tools: None }
    }

    /// The same with these function tools (nothing changes if there are none).
    #[must_use]
    pub fn with_functions(mut self, functions: impl IntoIterator<Item = Tool>) -> Self {
        let functions: Vec<Tool> = functions.into_iter().collect();
        if !functions.is_empty() {
            let namespace =
                ToolNamespace { name: "functions".to_owned(), description: None, tools: functions };
            self.tools.get_or_insert_default().insert("functions".to_owned(), namespace);
        }
        self
    }

    /// The same with a further namespace of tools, filed under its own name.
    #[must_use]
    pub fn with_namespace(mut self, namespace: ToolNamespace) -> Self {
        self.tools.get_or_insert_default().insert(namespace.name.clone(), namespace);
        self
    }
}
