//! From what a request says to what the engine runs: the prompt's tokens, the tokens with which the assistant's turn is
//! prefilled, and the rules that the turn follows. Chat Completions and Responses both end here.

use std::sync::Arc;

use ossmith_harmony::{
    Conversation, DropAnalysis, PromptOptions, RenderOptions, Role, render_for_completion_with,
};

use super::parser::{FunctionNames, TurnParser};
use crate::backend::GenerationRequest;
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::guide::{CallRule, Guide, Rules, begin_call, begin_channel};
use crate::options::generation::GenerationOptions;
use crate::options::reasoning::ReasoningOptions;
use crate::options::structured_output::StructuredOutput;
use crate::options::tools::{FunctionTool, ToolChoice, ToolOptions};
use crate::stop_strings::StopFilter;

/// Most tokens of reasoning where something has to follow it and the client sets no bound.
const DEFAULT_REASONING_BOUND: usize = 1024;

/// What a turn is prepared from, besides the conversation.
pub(crate) struct RequestOptions<'a> {
    pub(crate) config: &'a Config,
    pub(crate) tools: ToolOptions,
    pub(crate) output: StructuredOutput,
    pub(crate) reasoning: ReasoningOptions,
    /// The field that holds the conversation.
    pub(crate) param: &'static str,
}

/// A turn that is ready to be generated.
#[derive(Clone, Debug)]
pub(crate) struct PreparedTurn {
    /// All prompt tokens, the prefill included.
    pub(crate) prompt: Vec<u32>,
    /// How its choices are generated, with a limit of tokens that fits.
    pub(crate) options: GenerationOptions,
    /// The tokens with which the prompt begins the assistant's turn.
    prefill: Vec<u32>,
    functions: FunctionNames,
    rules: Option<Arc<Rules>>,
    stops: StopFilter,
}

impl RequestOptions<'_> {
    /// What the prompt has besides its history.
    pub(crate) fn prompt_options(&self, instructions: Option<String>) -> PromptOptions {
        PromptOptions {
            date: Some(self.config.date()),
            effort: self.reasoning.effort,
            tools: self.tools.declarations(),
            instructions,
            response_format: self.output.shown.clone(),
        }
    }

    /// Prepares the turn that continues this conversation.
    pub(crate) fn prepare(
        &self,
        conversation: &Conversation,
        generation: &GenerationOptions,
    ) -> Result<PreparedTurn> {
        let mut options = generation.clone();
        let must_call = self.tools.choice == ToolChoice::Required;
        let mut prompt = render(conversation, self.param)?;
        let answer = self.output.compile()?;
        let mut reasoning_bound = options.thinking_budget.or(self.reasoning.off.then_some(0));
        let prefill = self.prefill(reasoning_bound, must_call);
        prompt.extend_from_slice(&prefill);
        options.truncate(&mut prompt);
        options.clamp_max_tokens(prompt.len(), self.config, self.param)?;
        if must_call || answer.is_some() {
            let quarter = options.params.max_tokens.unwrap_or(self.config.context) / 4;
            reasoning_bound = reasoning_bound.or(Some(quarter.min(DEFAULT_REASONING_BOUND)));
        }
        let functions = &self.tools.functions;
        let rule = |function: &FunctionTool| -> Result<CallRule> {
            let arguments = Some(function.arguments(must_call)?);
            Ok(CallRule { name: function.name.clone(), arguments })
        };
        let calls = functions.iter().map(rule).collect::<Result<Vec<CallRule>>>()?;
        let free = reasoning_bound.is_none() && calls.is_empty() && answer.is_none();
        if !free {
            options.refuse_beside_constraints("tools, a response format or a thinking budget")?;
        }
        let rules = Rules {
            thinking: reasoning_bound,
            calls,
            must_call,
            several_calls: self.tools.parallel,
            answer,
        };
        Ok(PreparedTurn {
            prompt,
            prefill,
            functions: functions.iter().map(|function| function.name.clone()).collect(),
            rules: (!free).then(|| Arc::new(rules)),
            stops: StopFilter::new(&options.stop_strings, options.include_stop),
            options,
        })
    }

    /// The tokens with which the turn begins, where the request leaves no choice of them.
    fn prefill(&self, reasoning_bound: Option<usize>, must_call: bool) -> Vec<u32> {
        match (reasoning_bound, self.tools.functions.as_slice()) {
            (Some(0), [only]) if must_call => begin_call(&only.name),
            (Some(0), []) => begin_channel("final"),
            (Some(bound), _) if bound > 0 => begin_channel("analysis"),
            _ => Vec::new(),
        }
    }
}

impl PreparedTurn {
    /// One request for each choice.
    pub(crate) fn generation_requests(&self) -> Vec<GenerationRequest> {
        let guide = || Some(Guide::new(Arc::clone(self.rules.as_ref()?), &self.prefill));
        let request = |choice| self.options.request(&self.prompt, guide(), choice);
        (0..self.options.n).map(request).collect()
    }

    /// A parser for one choice.
    pub(crate) fn parser(&self) -> TurnParser {
        TurnParser::new(Arc::clone(&self.functions), self.stops.clone(), &self.prefill)
    }
}

/// The prompt's tokens. Reasoning before the last final answer is left out; that of a tool round that has not ended stays.
pub(crate) fn render(conversation: &Conversation, param: &str) -> Result<Vec<u32>> {
    let options =
        RenderOptions { drop_analysis: DropAnalysis::BeforeLastFinal, ..RenderOptions::default() };
    render_for_completion_with(conversation, Role::Assistant, &options)
        .map_err(|why| ApiError::bad(param, why.to_string()))
}
