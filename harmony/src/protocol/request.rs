//! The shapes of requests, with their defaults.

use serde::Deserialize;

use crate::encoding::SpecialSet;
use crate::parse::Strictness;
use crate::render::{DropAnalysis, RenderOptions};
use crate::special::Token;
use crate::types::{Conversation, Message, Role};

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request {
    Render(Render),
    RenderForCompletion(RenderForCompletion),
    RenderForTraining(Render),
    RenderMessage(RenderMessage),
    Parse(Parse),
    Stream(Stream),
    Encode(Encode),
    Decode(Decode),
    StopTokens {},
}

#[derive(Deserialize)]
pub(super) struct Render {
    pub(super) conversation: Conversation,
    #[serde(default = "yes")]
    auto_drop_analysis: bool,
}

impl Render {
    pub(super) fn options(&self) -> RenderOptions {
        let drop_analysis = if self.auto_drop_analysis {
            DropAnalysis::BeforeFirstFinal
        } else {
            DropAnalysis::Never
        };
        RenderOptions { drop_analysis, ..RenderOptions::default() }
    }
}

#[derive(Deserialize)]
pub(super) struct RenderForCompletion {
    #[serde(flatten)]
    pub(super) render: Render,
    pub(super) next_role: Role,
}

#[derive(Deserialize)]
pub(super) struct RenderMessage {
    pub(super) message: Message,
    #[serde(default)]
    pub(super) conversation_has_function_tools: bool,
}

#[derive(Deserialize)]
pub(super) struct Parse {
    pub(super) tokens: Vec<Token>,
    #[serde(default)]
    pub(super) role: Option<Role>,
    #[serde(default = "yes")]
    strict: bool,
}

impl Parse {
    pub(super) fn strictness(&self) -> Strictness {
        if self.strict { Strictness::Strict } else { Strictness::KeepUnfinishedHeaders }
    }
}

#[derive(Deserialize)]
pub(super) struct Stream {
    #[serde(flatten)]
    pub(super) parse: Parse,
    #[serde(default = "yes")]
    pub(super) eos: bool,
}

#[derive(Deserialize)]
pub(super) struct Encode {
    pub(super) text: String,
    #[serde(default)]
    pub(super) allowed_special: Names,
    #[serde(default = "Names::all")]
    pub(super) disallowed_special: Names,
}

/// `"all"` or a list of names.
#[derive(Deserialize)]
#[serde(untagged, expecting = "special tokens are given as \"all\" or as a list of names")]
pub(super) enum Names {
    Word(All),
    List(Vec<String>),
}

#[derive(Deserialize)]
pub(super) enum All {
    #[serde(rename = "all")]
    All,
}

impl Default for Names {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Names {
    fn all() -> Self {
        Self::Word(All::All)
    }
}

impl From<Names> for SpecialSet {
    fn from(names: Names) -> Self {
        match names {
            Names::Word(All::All) => Self::All,
            Names::List(names) => Self::Named(names),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Decode {
    pub(super) tokens: Vec<Token>,
    #[serde(default)]
    pub(super) errors: DecodeErrors,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum DecodeErrors {
    #[default]
    Strict,
    Replace,
}

fn yes() -> bool {
    true
}
