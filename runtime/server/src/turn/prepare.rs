//! From what a request says to what the engine runs: the prompt's tokens, the tokens with which the assistant's turn is
//! prefilled, and the rules that the turn follows. Chat Completions and Responses both end here.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ossmith_guide::{CallRule, Guide, Rules, begin_call, begin_channel};
use ossmith_harmony::{
    Conversation, DropAnalysis, Message, PromptOptions, RenderOptions, Role, encode,
    render_for_completion_with, render_message, special,
};

use super::parser::{CallTargets, TurnParser};
use crate::backend::GenerationRequest;
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::generation::within;
use crate::guide::compiler::{Compiler, GrammarRequest};
use crate::options::generation::GenerationOptions;
use crate::options::reasoning::ReasoningOptions;
use crate::options::structured_output::StructuredOutput;
use crate::options::tools::{ToolChoice, ToolOptions};
use crate::stop_strings::StopFilter;
use crate::tenant::Tenant;

/// Tokens that are kept for a forced call or a structured answer where the client bounds neither: a quarter of all, within these
/// limits, and at most half.
const ANSWER_TOKENS: RangeInclusive<usize> = 256..=4096;

/// What a turn is prepared from, besides the conversation.
pub(crate) struct RequestOptions<'a> {
    pub(crate) config: &'a Config,
    pub(crate) tools: ToolOptions,
    pub(crate) output: StructuredOutput,
    pub(crate) reasoning: ReasoningOptions,
    /// The field that holds the conversation.
    pub(crate) param: &'static str,
}

/// A turn that can be generated once its grammars are compiled.
#[derive(Clone, Debug)]
pub(crate) struct PreparedTurn {
    /// All prompt tokens, the prefill included.
    pub(crate) prompt: Vec<u32>,
    /// How its choices are generated, with a limit of tokens that fits.
    pub(crate) options: GenerationOptions,
    /// The tokens with which the prompt begins the assistant's turn.
    prefill: Vec<u32>,
    targets: CallTargets,
    /// Types of tools that the request has and this server does not run.
    pub(crate) ignored_tools: Vec<String>,
    /// Where anything is constrained.
    rules: Option<Rules>,
    /// The grammars of the arguments of its functions, in their order, and then that of its answer, until they are compiled.
    grammars: Vec<GrammarRequest>,
    stops: StopFilter,
}

impl RequestOptions<'_> {
    /// What the prompt has besides its history.
    pub(crate) fn prompt_options(&self, instructions: Option<String>) -> PromptOptions {
        PromptOptions {
            date: Some(self.config.date()),
            effort: self.reasoning.effort,
            built_in: self.tools.built_in(),
            tools: self.tools.declarations(),
            namespaces: self.tools.namespaces(),
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
        let answer = self.output.grammar()?;
        let mut reasoning_bound = options.thinking_budget.or(self.reasoning.off.then_some(0));
        let prefill = self.prefill(reasoning_bound, must_call);
        prompt.extend_from_slice(&prefill);
        options.truncate(&mut prompt);
        options.clamp_max_tokens(prompt.len(), self.config, self.param)?;
        options.check_prompt_report(prompt.len())?;
        if must_call || answer.is_some() {
            let all = options.params.max_tokens.unwrap_or(self.config.context);
            reasoning_bound = reasoning_bound.or(Some(all - answer_tokens(all)));
        }
        let functions = &self.tools.functions;
        let with_grammar = functions.iter().filter(|function| !function.target.is_code());
        let arguments = with_grammar.map(|function| function.arguments(must_call));
        let mut grammars = arguments.collect::<Result<Vec<GrammarRequest>>>()?;
        let free = reasoning_bound.is_none() && grammars.is_empty() && answer.is_none();
        if !free {
            options.refuse_beside_constraints("tools, a response format or a thinking budget")?;
        }
        grammars.extend(answer);
        let targets: CallTargets =
            functions.iter().map(|function| Arc::clone(&function.target)).collect();
        let calls = targets.iter().map(|target| CallRule {
            recipient: target.recipient.clone(),
            arguments: None,
            built_in: target.is_built_in(),
        });
        let rules = Rules {
            thinking: reasoning_bound,
            calls: calls.collect(),
            must_call,
            several_calls: self.tools.parallel,
            answer: None,
        };
        Ok(PreparedTurn {
            prompt,
            prefill,
            targets,
            ignored_tools: self.tools.ignored.clone(),
            rules: (!free).then_some(rules),
            grammars,
            stops: StopFilter::new(&options.stop_strings, options.include_stop),
            options,
        })
    }

    /// The tokens with which the turn begins, where the request leaves no choice of them.
    fn prefill(&self, reasoning_bound: Option<usize>, must_call: bool) -> Vec<u32> {
        match (reasoning_bound, self.tools.functions.as_slice()) {
            (Some(0), [only]) if must_call && !only.target.is_built_in() => {
                begin_call(&only.target.recipient)
            }
            (Some(0), []) => begin_channel("final"),
            (Some(bound), _) if bound > 0 => begin_channel("analysis"),
            _ => Vec::new(),
        }
    }
}

impl PreparedTurn {
    /// Compiles its grammars, within the time of a request.
    pub(crate) async fn compile(
        &mut self,
        compiler: &Compiler,
        tenant: Tenant,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let mut compiled =
            within(timeout, compiler.compile(tenant, &self.grammars)).await??.into_iter();
        self.grammars.clear();
        if let Some(rules) = &mut self.rules {
            for (call, target) in rules.calls.iter_mut().zip(self.targets.iter()) {
                if !target.is_code() {
                    call.arguments = compiled.next();
                }
            }
            rules.answer = compiled.next();
        }
        Ok(())
    }

    /// One request for each choice.
    ///
    /// # Errors
    /// Its grammars are not compiled.
    pub(crate) fn generation_requests(&self) -> Result<Vec<GenerationRequest>> {
        if !self.grammars.is_empty() {
            return Err(ApiError::internal("the grammars of the request were not compiled"));
        }
        // The choices start alike, so that what they may write is worked out once.
        let guide = self.rules.clone().map(|rules| Guide::new(Arc::new(rules), &self.prefill));
        let request = |choice| self.options.request(&self.prompt, guide.clone(), choice);
        Ok((0..self.options.n).map(request).collect())
    }

    /// Whether any tool may be called that a server runs.
    pub(crate) fn has_hosted_tools(&self) -> bool {
        self.targets.iter().any(|target| target.host.is_some())
    }

    /// The turn that goes on after calls that were answered here: what was generated, and the results, follow the prompt. Calls of
    /// tools that servers run may come only if `more_calls`.
    ///
    /// # Errors
    /// It leaves no room for an answer.
    pub(crate) fn continued(
        &self,
        generated: &[u32],
        results: &[Message],
        more_calls: bool,
        config: &Config,
    ) -> Result<PreparedTurn> {
        let mut next = self.clone();
        next.prompt.extend_from_slice(generated);
        for result in results {
            let tokens = render_message(result);
            next.prompt.extend(tokens.map_err(|why| ApiError::internal(why.to_string()))?);
        }
        next.prompt.push(special::START);
        next.prompt.extend(encode(Role::Assistant.as_str()));
        next.prefill.clear();
        if let Some(rules) = &mut next.rules {
            rules.must_call = false;
            if !more_calls {
                let is_own = |recipient: &str| {
                    let mut targets = self.targets.iter();
                    targets.any(|target| target.recipient == recipient && target.host.is_none())
                };
                rules.calls.retain(|call| is_own(&call.recipient));
            }
        }
        let limit =
            self.options.params.max_tokens.map(|limit| limit.saturating_sub(generated.len()));
        if limit == Some(0) {
            return Err(ApiError::too_long("max_output_tokens", "no token is left for an answer"));
        }
        next.options.params.max_tokens = limit;
        next.options.clamp_max_tokens(next.prompt.len(), config, "input")?;
        Ok(next)
    }

    /// A parser for one choice.
    pub(crate) fn parser(&self) -> TurnParser {
        TurnParser::new(Arc::clone(&self.targets), self.stops.clone(), &self.prefill)
    }
}

/// How many of a request's tokens reasoning must leave for what has to follow it.
fn answer_tokens(all: usize) -> usize {
    (all / 4).clamp(*ANSWER_TOKENS.start(), *ANSWER_TOKENS.end()).min(all / 2)
}

/// The prompt's tokens. Reasoning before the last final answer is left out; that of a tool round that has not ended stays.
pub(crate) fn render(conversation: &Conversation, param: &str) -> Result<Vec<u32>> {
    let options =
        RenderOptions { drop_analysis: DropAnalysis::BeforeLastFinal, ..RenderOptions::default() };
    render_for_completion_with(conversation, Role::Assistant, &options)
        .map_err(|why| ApiError::bad(param, why.to_string()))
}
