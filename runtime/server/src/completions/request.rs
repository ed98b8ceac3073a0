//! What a completion request says.

use std::sync::Arc;
use std::time::Duration;

use ossmith_guide::{Compiled, Guide};
use serde_json::{Map, Value};

use super::format::TextFormat;
use crate::answer::ResponseOptions;
use crate::backend::GenerationRequest;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, describe, token_ids};
use crate::generation::within;
use crate::guide::compiler::{Compiler, GrammarRequest};
use crate::options::generation::GenerationOptions;
use crate::options::stream::StreamOptions;
use crate::options::structured_output::StructuredOutput;
use crate::state::AppState;
use crate::stop_strings::StopFilter;
use crate::tenant::Tenant;
use crate::tokens::encode;

const MAX_PROMPTS: usize = 1024;
/// Most choices of all prompts together.
const MAX_CHOICES: usize = 4096;
/// Limit of tokens where a request names none.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A request that was understood.
pub(super) struct CompletionRequest {
    pub(super) prompts: Vec<Vec<u32>>,
    /// One for each prompt.
    generations: Vec<GenerationOptions>,
    /// Choices for each prompt.
    pub(super) n: usize,
    /// The grammar of the text, until it is compiled.
    grammar: Option<GrammarRequest>,
    compiled: Option<Arc<Compiled>>,
    pub(super) format: TextFormat,
    pub(super) options: ResponseOptions,
}

impl CompletionRequest {
    /// Compiles its grammar, within the time of a request.
    pub(super) async fn compile(
        &mut self,
        compiler: &Compiler,
        tenant: Tenant,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let wanted = Vec::from_iter(self.grammar.clone());
        self.compiled = within(timeout, compiler.compile(tenant, &wanted)).await??.pop();
        self.grammar = None;
        Ok(())
    }

    /// One request for each choice of each prompt.
    ///
    /// # Errors
    /// Its grammar is not compiled.
    pub(super) fn generation_requests(&self) -> Result<Vec<GenerationRequest>> {
        if self.grammar.is_some() {
            return Err(ApiError::internal("the grammar of the request was not compiled"));
        }
        let request = |index: usize| {
            let (prompt, choice) = (index / self.n, index % self.n);
            let guide = self.compiled.as_deref().map(Guide::of_text);
            self.generations[prompt].request(&self.prompts[prompt], guide, choice)
        };
        Ok((0..self.prompts.len() * self.n).map(request).collect())
    }

    pub(super) fn read(
        app: &AppState,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<CompletionRequest> {
        let fields = Fields::new(body);
        let config = &app.config;
        app.check_model(fields.string("model")?)?;
        fields.refuse(&[
            ("suffix", "; gpt-oss models cannot fill in"),
            ("thinking_token_budget", " for raw prompts"),
        ])?;
        let stream = StreamOptions::read(&fields)?;
        let mut generation = GenerationOptions::read(&fields, config)?;
        let n = generation.n;
        if fields.integer("best_of", 1..=128)?.is_some_and(|best| best as usize != n) {
            return Err(ApiError::unsupported("best_of", "`best_of` is not supported; use `n`"));
        }
        let echo = fields.bool("echo", false)?;
        let max_tokens = fields.count("max_tokens", i64::from(!echo))?;
        let max_tokens = max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        generation.set_max_tokens(&fields, Some(max_tokens.max(1)))?;
        let logprobs = fields.integer("logprobs", 0..=20)?.map(|top| top as u32);
        generation.params.logprobs = logprobs;
        let model = fields.string("model")?.unwrap_or(config.name());
        let id = format!("cmpl-{id}");
        let options = ResponseOptions::new(id, model, stream, &generation, config.log_prompts);
        if echo && logprobs.is_some() {
            // The prompt is part of the text, so it has log-probabilities, too.
            let prompt_logprobs = &mut generation.params.prompt_logprobs;
            *prompt_logprobs = (*prompt_logprobs).max(logprobs);
        }
        let prompts = prompts(&fields, config.vocab, &generation)?;
        if prompts.len() * n > MAX_CHOICES {
            return Err(fields.wrong("n", format!("times prompts is over {MAX_CHOICES}")));
        }
        generation.check_prompt_report(prompts.iter().map(Vec::len).sum())?;
        let fitted = |prompt: &Vec<u32>| {
            let mut generation = generation.clone();
            generation.clamp_max_tokens(prompt.len(), config, "prompt")?;
            Ok(generation)
        };
        let generations = prompts.iter().map(fitted).collect::<Result<Vec<_>>>()?;
        let grammar = StructuredOutput::read_chat(&fields)?.grammar()?;
        if grammar.is_some() {
            generation.refuse_beside_constraints("a response format")?;
        }
        let format = TextFormat {
            stops: StopFilter::new(&generation.stop_strings, generation.include_stop),
            echo,
            discard: max_tokens == 0,
            skip_special: fields.bool("skip_special_tokens", true)?,
        };
        Ok(CompletionRequest { prompts, generations, n, grammar, compiled: None, format, options })
    }
}

/// A string, strings, token ids or lists of token ids. Strings may hold special tokens by name.
fn prompts(
    fields: &Fields<'_>,
    vocab: usize,
    generation: &GenerationOptions,
) -> Result<Vec<Vec<u32>>> {
    let value = fields.get("prompt").ok_or_else(|| fields.wrong("prompt", "is missing"))?;
    let mut prompts = match value {
        Value::String(text) => vec![encode(text)],
        Value::Array(list) => match list.first() {
            None => return Err(fields.wrong("prompt", "is empty")),
            Some(Value::Number(_)) => vec![token_ids(value, "prompt", vocab)?],
            Some(_) if list.len() > MAX_PROMPTS => {
                return Err(fields.wrong("prompt", format!("has over {MAX_PROMPTS} prompts")));
            }
            Some(_) => {
                let one = |(index, item): (usize, &Value)| match item {
                    Value::String(text) => Ok(encode(text)),
                    other => token_ids(other, &format!("prompt[{index}]"), vocab),
                };
                list.iter().enumerate().map(one).collect::<Result<_>>()?
            }
        },
        other => {
            let kind = describe(other);
            let why = format!("is {kind}, not text, token ids, or a list of either");
            return Err(fields.wrong("prompt", why));
        }
    };
    prompts.iter_mut().for_each(|prompt| generation.truncate(prompt));
    Ok(prompts)
}
