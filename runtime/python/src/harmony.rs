//! Harmony for Python. Conversations and messages pass as JSON in the official form; tokens pass as lists.

use ossmith_harmony as harmony;
use ossmith_harmony::{
    ChatMessage, Conversation, DropAnalysis, Message, PromptOptions, ReasoningEffort,
    RenderOptions, Role, SpecialSet, Stop, Strictness, Tool, ToolNamespace, special,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};

use crate::errors::{of_class, of_harmony};

/// Names of special tokens; `None` is all of them.
type Names = Option<Vec<String>>;

fn set(names: Names) -> SpecialSet {
    names.map_or(SpecialSet::All, SpecialSet::Named)
}

fn from_json<T: serde::de::DeserializeOwned>(py: Python<'_>, text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|why| of_harmony(py, why))
}

fn role(py: Python<'_>, name: Option<&str>) -> PyResult<Option<Role>> {
    let known = |name| {
        Role::by_name(name).ok_or_else(|| of_harmony(py, format!("there is no role {name:?}")))
    };
    name.map(known).transpose()
}

fn options(drop_analysis: bool) -> RenderOptions {
    let drop_analysis =
        if drop_analysis { DropAnalysis::BeforeFirstFinal } else { DropAnalysis::Never };
    RenderOptions { drop_analysis, ..RenderOptions::default() }
}

fn strictness(strict: bool) -> Strictness {
    if strict { Strictness::Strict } else { Strictness::KeepUnfinishedHeaders }
}

#[pyfunction]
pub(crate) fn encode(
    py: Python<'_>,
    text: &str,
    allowed: Names,
    disallowed: Names,
) -> PyResult<Vec<u32>> {
    let (allowed, disallowed) = (set(allowed), set(disallowed));
    py.detach(|| harmony::encode_with_special(text, &allowed, &disallowed))
        .map_err(|why| of_harmony(py, why))
}

#[pyfunction]
pub(crate) fn decode(py: Python<'_>, tokens: Vec<u32>) -> PyResult<String> {
    harmony::decode(&tokens).map_err(|why| of_harmony(py, why))
}

#[pyfunction]
pub(crate) fn decode_bytes(py: Python<'_>, tokens: Vec<u32>) -> PyResult<Bound<'_, PyBytes>> {
    let bytes = harmony::decode_bytes(&tokens).map_err(|why| of_harmony(py, why))?;
    Ok(PyBytes::new(py, &bytes))
}

#[pyfunction]
pub(crate) fn is_special_token(token: u32) -> bool {
    special::is_special(token)
}

#[pyfunction]
pub(crate) fn special_tokens() -> Vec<String> {
    let all = special::START_OF_TEXT..special::VOCABULARY_SIZE;
    all.filter_map(special::name).map(|name| name.into_owned()).collect()
}

/// The tokens of a conversation; with `next_role` they end with the start of its message.
#[pyfunction]
pub(crate) fn render(
    py: Python<'_>,
    conversation: &str,
    next_role: Option<&str>,
    training: bool,
    drop_analysis: bool,
) -> PyResult<Vec<u32>> {
    let conversation: Conversation = from_json(py, conversation)?;
    let options = options(drop_analysis);
    let tokens = match role(py, next_role)? {
        Some(role) => harmony::render_for_completion_with(&conversation, role, &options),
        None if training => harmony::render_for_training(&conversation, &options),
        None => harmony::render(&conversation, &options),
    };
    tokens.map_err(|why| of_harmony(py, why))
}

#[pyfunction]
pub(crate) fn render_message(
    py: Python<'_>,
    message: &str,
    has_function_tools: bool,
) -> PyResult<Vec<u32>> {
    let message: Message = from_json(py, message)?;
    let tokens =
        harmony::render_message_with(&message, has_function_tools, &RenderOptions::default());
    tokens.map_err(|why| of_harmony(py, why))
}

/// Messages as JSON, as the reference library reads them.
#[pyfunction]
pub(crate) fn parse(
    py: Python<'_>,
    tokens: Vec<u32>,
    author: Option<&str>,
    strict: bool,
) -> PyResult<String> {
    let messages = harmony::parse(&tokens, role(py, author)?, strictness(strict));
    messages.map(|messages| json!(messages).to_string()).map_err(|why| of_harmony(py, why))
}

/// Messages, repairs and the way in which the last message ended, as JSON; it takes any tokens.
#[pyfunction]
pub(crate) fn parse_lenient(
    py: Python<'_>,
    tokens: Vec<u32>,
    author: Option<&str>,
) -> PyResult<String> {
    let parsed = harmony::parse_lenient(&tokens, role(py, author)?);
    let stop = parsed.stop.map(|stop| match stop {
        Stop::End => "end",
        Stop::Return => "return",
        Stop::Call => "call",
        Stop::Cut => "cut",
    });
    let repairs = parsed.repairs.iter().map(|one| json!([one.position, one.kind.name()]));
    let repairs: Vec<Value> = repairs.collect();
    Ok(json!({"messages": parsed.messages, "repairs": repairs, "stop": stop}).to_string())
}

/// A namespace of tools that gpt-oss models know from training, as JSON.
#[pyfunction]
pub(crate) fn tool_namespace(py: Python<'_>, name: &str) -> PyResult<String> {
    match name {
        "browser" => Ok(json!(ToolNamespace::browser()).to_string()),
        "python" => Ok(json!(ToolNamespace::python()).to_string()),
        _ => Err(of_harmony(
            py,
            format!("there is no built-in namespace {name:?}: use browser or python"),
        )),
    }
}

/// The prompt of a chat: messages and tools in the form of Chat Completions, as JSON.
#[pyfunction]
pub(crate) fn chat_prompt(
    py: Python<'_>,
    messages: &str,
    tools: &str,
    effort: Option<&str>,
    date: Option<String>,
) -> PyResult<Vec<u32>> {
    let invalid = |why: String| of_class(py, "InvalidRequestError", why);
    let history: Vec<ChatMessage> =
        serde_json::from_str(messages).map_err(|why| invalid(format!("messages: {why}")))?;
    let tools: Vec<Tool> =
        serde_json::from_str(tools).map_err(|why| invalid(format!("tools: {why}")))?;
    let effort = match effort {
        None => None,
        Some("low") => Some(ReasoningEffort::Low),
        Some("medium") => Some(ReasoningEffort::Medium),
        Some("high") => Some(ReasoningEffort::High),
        Some(other) => {
            return Err(invalid(format!(
                "reasoning_effort is {other:?}; it can be low, medium or high"
            )));
        }
    };
    let options = PromptOptions { date, effort, tools, ..PromptOptions::default() };
    let conversation =
        harmony::chat_conversation(&history, &options).map_err(|why| invalid(why.to_string()))?;
    let render =
        RenderOptions { drop_analysis: DropAnalysis::BeforeLastFinal, ..RenderOptions::default() };
    let tokens = harmony::render_for_completion_with(&conversation, Role::Assistant, &render);
    tokens.map_err(|why| of_harmony(py, why))
}

/// An answer as a message of Chat Completions, as JSON.
#[pyfunction]
pub(crate) fn chat_reply(tokens: Vec<u32>) -> String {
    let parsed = harmony::parse_lenient(&tokens, Some(Role::Assistant));
    json!(harmony::chat_reply(&parsed.messages)).to_string()
}

/// The reference library's streaming parser.
#[pyclass(module = "ossmith._ossmith")]
pub(crate) struct ReferenceParser {
    parser: harmony::ReferenceParser,
    tokens: Vec<u32>,
}

#[pymethods]
impl ReferenceParser {
    #[new]
    fn new(py: Python<'_>, author: Option<&str>, strict: bool) -> PyResult<ReferenceParser> {
        let parser = harmony::ReferenceParser::new(role(py, author)?, strictness(strict));
        Ok(ReferenceParser { parser, tokens: Vec::new() })
    }

    /// Takes a token and returns the text that it added, if any.
    fn push(&mut self, py: Python<'_>, token: u32) -> PyResult<Option<&str>> {
        let delta = self.parser.push(token).map_err(|why| of_harmony(py, why))?;
        self.tokens.push(token);
        Ok(delta)
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<()> {
        self.parser.finish().map_err(|why| of_harmony(py, why))
    }

    /// `start`, `header` or `content`.
    #[getter]
    fn state(&self) -> &'static str {
        self.parser.state_name()
    }

    #[getter]
    fn role(&self) -> Option<&'static str> {
        self.parser.role().map(Role::as_str)
    }

    #[getter]
    fn channel(&self) -> Option<&str> {
        self.parser.channel()
    }

    #[getter]
    fn recipient(&self) -> Option<&str> {
        self.parser.recipient()
    }

    #[getter]
    fn content_type(&self) -> Option<&str> {
        self.parser.content_type()
    }

    #[getter]
    fn content(&self) -> &str {
        self.parser.content()
    }

    #[getter]
    fn tokens(&self) -> Vec<u32> {
        self.tokens.clone()
    }

    /// The messages that are complete, as JSON.
    #[getter]
    fn messages(&self) -> String {
        json!(self.parser.messages()).to_string()
    }
}
