//! From what a request says to what the engine is asked: the prompt's tokens, the tokens with which the turn begins, and
//! the rules that it has to keep. Chat Completions and Responses both end here.

use std::sync::Arc;

use ossmith_harmony::{
    Conversation, DropAnalysis, PromptOptions, ReasoningEffort, RenderOptions, Role,
    render_for_completion_with,
};

use crate::config::Config;
use crate::engine::{Ask, Sampling};
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::format::Format;
use crate::guide::{CallRule, Guide, Rules, begin_call, begin_channel};
use crate::sampling::{Common, fit};
use crate::stops::StopFilter;
use crate::tools::{Choice, Tools};
use crate::turn::{Offered, Turn};

/// Most tokens of thoughts where something has to follow them and the client set no bound.
const MOST_THOUGHTS: usize = 1024;

/// How the model is to think.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thinking {
    pub(crate) effort: Option<ReasoningEffort>,
    /// Not at all.
    pub(crate) off: bool,
}

impl Thinking {
    /// Reads an effort from a field.
    pub(crate) fn read(fields: &Fields<'_>, field: &str) -> Result<Option<Thinking>> {
        let Some(word) = fields.string(field)? else { return Ok(None) };
        let (effort, off) = match word {
            "none" | "minimal" => (ReasoningEffort::Low, true),
            "low" => (ReasoningEffort::Low, false),
            "medium" => (ReasoningEffort::Medium, false),
            "high" | "xhigh" | "max" => (ReasoningEffort::High, false),
            other => {
                let why =
                    format!("is `{other}`; use none, minimal, low, medium, high, xhigh or max");
                return Err(fields.wrong(field, why));
            }
        };
        Ok(Some(Thinking { effort: Some(effort), off }))
    }
}

/// A turn that is ready to be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// All prompt tokens, those with which the turn begins included.
    pub(crate) prompt: Vec<u32>,
    /// Those with which it begins.
    begun: Vec<u32>,
    offered: Offered,
    rules: Option<Arc<Rules>>,
    sampling: Sampling,
    stops: StopFilter,
    pub(crate) n: usize,
}

/// What a plan is made from, besides the conversation.
pub(crate) struct Wishes<'a> {
    pub(crate) config: &'a Config,
    pub(crate) tools: Tools,
    pub(crate) format: Format,
    pub(crate) thinking: Thinking,
    pub(crate) common: &'a Common,
    /// The field that holds the conversation.
    pub(crate) param: &'static str,
}

impl Wishes<'_> {
    /// What the prompt has besides its history.
    pub(crate) fn prompt_options(&self, instructions: Option<String>) -> PromptOptions {
        PromptOptions {
            date: Some(self.config.date()),
            effort: self.thinking.effort,
            tools: self.tools.declarations(),
            instructions,
            response_format: self.format.shown.clone(),
        }
    }

    /// The plan for this conversation.
    pub(crate) fn plan(&self, conversation: &Conversation) -> Result<Planned> {
        let (common, must_call) = (self.common, self.tools.choice == Choice::Required);
        let mut prompt = render(conversation, self.param)?;
        let answer = self.format.compile()?;
        let mut thinking = common.thinking_budget.or(self.thinking.off.then_some(0));
        let begun = self.beginning(thinking, must_call);
        prompt.extend_from_slice(&begun);
        common.truncate(&mut prompt);
        let mut sampling = common.sampling.clone();
        fit(&mut sampling, prompt.len(), self.config, self.param)?;
        if must_call || answer.is_some() {
            let room = sampling.max_tokens.unwrap_or(self.config.context) / 4;
            thinking = thinking.or(Some(room.min(MOST_THOUGHTS)));
        }
        let functions = &self.tools.functions;
        let offered: Offered = functions.iter().map(|function| function.name.clone()).collect();
        let rule = |function: &crate::tools::Function| -> Result<CallRule> {
            let arguments = Some(function.arguments(must_call)?);
            Ok(CallRule { name: function.name.clone(), arguments })
        };
        let calls = functions.iter().map(rule).collect::<Result<Vec<CallRule>>>()?;
        let free = thinking.is_none() && calls.is_empty() && answer.is_none();
        if !free {
            refuse_beside_rules(&sampling, "tools, a response format or a thinking budget")?;
        }
        let several_calls = self.tools.parallel;
        let rules = Rules { thinking, calls, must_call, several_calls, answer };
        let rules = (!free).then(|| Arc::new(rules));
        let stops = StopFilter::new(&common.stops, common.keep_stop);
        Ok(Planned { prompt, begun, offered, rules, sampling, stops, n: common.n })
    }

    /// The tokens with which the turn begins, if that is decided already.
    fn beginning(&self, thinking: Option<usize>, must_call: bool) -> Vec<u32> {
        match (thinking, self.tools.functions.as_slice()) {
            (Some(0), [only]) if must_call => begin_call(&only.name),
            (Some(0), []) => begin_channel("final"),
            (Some(budget), _) if budget > 0 => begin_channel("analysis"),
            _ => Vec::new(),
        }
    }
}

impl Planned {
    /// One request to the engine for each alternative.
    pub(crate) fn asks(&self) -> Vec<Ask> {
        let ask = |choice: usize| Ask {
            prompt: self.prompt.clone(),
            sampling: nth(&self.sampling, choice),
            guide: self.rules.as_ref().map(|rules| Guide::new(Arc::clone(rules), &self.begun)),
            alternative: choice,
            timeout: None,
        };
        (0..self.n).map(ask).collect()
    }

    /// A reader for one alternative.
    pub(crate) fn turn(&self) -> Turn {
        Turn::new(Arc::clone(&self.offered), self.stops.clone(), &self.begun)
    }
}

/// Refuses what would leave a guided text no token where only some, or only a stop token, may come.
pub(crate) fn refuse_beside_rules(sampling: &Sampling, rules: &str) -> Result<()> {
    for (name, given) in [
        ("allowed_token_ids", sampling.allowed_token_ids.is_some()),
        ("min_tokens", sampling.min_tokens > 0),
    ] {
        if given {
            return Err(ApiError::bad(name, format!("`{name}` cannot be combined with {rules}")));
        }
    }
    Ok(())
}

/// The sampling of alternative `choice`: the seed counts up.
pub(crate) fn nth(sampling: &Sampling, choice: usize) -> Sampling {
    let seed = sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
    Sampling { seed, ..sampling.clone() }
}

/// The prompt's tokens. Thoughts before the last final answer are left out; those of a tool round under way stay.
pub(crate) fn render(conversation: &Conversation, param: &str) -> Result<Vec<u32>> {
    let options =
        RenderOptions { drop_analysis: DropAnalysis::BeforeLastFinal, ..RenderOptions::default() };
    render_for_completion_with(conversation, Role::Assistant, &options)
        .map_err(|why| ApiError::bad(param, why.to_string()))
}
