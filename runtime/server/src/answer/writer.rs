//! The writer of answers with choices. It reads the events of a generation, counts tokens, decides when a chunk is due, and
//! has the API's [`AnswerFormat`] write it.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use ossmith::{PromptInfo, TokenLogprobs};
use serde::Serialize;
use serde_json::Value;

use super::choice::{Choice, Ending};
use crate::error::{Result, json_text};
use crate::extract::aside;
use crate::generation::{GeneratedToken, Generation, GenerationEvent};
use crate::ids::unix_seconds;
use crate::logprobs::PromptLogprobs;
use crate::metrics::Metrics;
use crate::options::generation::GenerationOptions;
use crate::options::stream::StreamOptions;
use crate::reading::in_place;
use crate::sse::{self, Flow, StreamWriter};
use crate::usage::Usage;

/// How an answer is reported.
#[derive(Clone, Debug)]
pub(crate) struct ResponseOptions {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) stream: StreamOptions,
    /// Tokens per chunk of a stream.
    pub(crate) stream_interval: usize,
    pub(crate) logprobs: bool,
    pub(crate) token_ids: bool,
    /// Log-probabilities write tokens as `token_id:N`.
    pub(crate) tokens_as_ids: bool,
    /// The client wants the prompt's log-probabilities, too.
    pub(crate) prompt_logprobs: bool,
    /// Token ids with which the client wants an answer to end.
    pub(crate) stop_token_ids: Vec<u32>,
    /// The answer is logged.
    pub(crate) log: bool,
}

/// What sets one API's answers apart: what a choice's tokens become, and how chunks and whole answers look.
pub(crate) trait AnswerFormat: Send + Unpin + 'static {
    /// What the tokens of a choice become, as far as it was not sent.
    type Content: Send + Unpin;
    /// A choice in a chunk.
    type Part: Serialize;

    /// The content of a choice before its first token.
    fn content(&self) -> Self::Content;

    /// Reads what is known about the prompt of a choice, before its first token.
    fn read_prompt(
        &self,
        _content: &mut Self::Content,
        _prompt: &[u32],
        _logprobs: &[Option<TokenLogprobs>],
        _options: &ResponseOptions,
    ) {
    }

    /// Reads a token. Returns how the choice ended, if it did.
    fn read_token(
        &self,
        content: &mut Self::Content,
        token: &GeneratedToken,
        options: &ResponseOptions,
    ) -> Option<Ending>;

    /// Whether a chunk would have anything in it.
    fn has_news(&self, _content: &Self::Content) -> bool {
        true
    }

    /// Whether generated tokens count as usage.
    fn counts_tokens(&self) -> bool {
        true
    }

    /// Tokens of reasoning so far.
    fn reasoning_tokens(&self, _content: &Self::Content) -> usize {
        0
    }

    /// Adds to the server's metrics what a choice that has ended leaves behind.
    fn record(&self, _content: &Self::Content, _metrics: &Metrics) {}

    /// Writes the chunks that come before any token.
    fn write_opening(&self, _state: &ResponseState, _choices: usize, _out: &mut Vec<u8>) {}

    /// Writes a chunk about a prompt whose log-probabilities are known now.
    fn write_prompt(&self, _state: &ResponseState, _prompt: usize, _out: &mut Vec<u8>) {}

    /// Takes from a choice what was not sent: the parts of as many chunks.
    fn parts(&self, state: &ResponseState, choice: &mut Choice<Self::Content>) -> Vec<Self::Part>;

    /// Writes a chunk.
    fn write_chunk(&self, state: &mut ResponseState, part: Self::Part, out: &mut Vec<u8>);

    /// Writes what comes after the last token, if anything does.
    fn write_closing(&self, state: &ResponseState, out: &mut Vec<u8>);

    /// The whole answer in one piece, as JSON.
    fn whole(&self, state: &ResponseState, choices: Vec<Choice<Self::Content>>) -> String;
}

/// What is known about an answer, whatever its API.
#[derive(Debug)]
pub(crate) struct ResponseState {
    pub(crate) options: ResponseOptions,
    pub(crate) prompts: Vec<Vec<u32>>,
    /// The log-probabilities of each prompt, once they are known.
    pub(crate) prompt_logprobs: Vec<Option<PromptLogprobs>>,
    cached: usize,
    completion: usize,
    reasoning: usize,
}

impl ResponseState {
    /// The tokens so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt: self.prompts.iter().map(Vec::len).sum(),
            cached: self.cached,
            completion: self.completion,
            reasoning: self.reasoning,
        }
    }

    /// Whether log-probabilities make its answer long.
    fn reports(&self) -> bool {
        self.options.logprobs || self.options.prompt_logprobs
    }

    /// The usage of a chunk in the middle of a stream.
    pub(crate) fn chunk_usage(&self) -> Option<Value> {
        self.options.stream.continuous_usage.then(|| self.usage().json())
    }
}

/// Writes one answer.
pub(crate) struct ResponseWriter<F: AnswerFormat> {
    format: F,
    state: ResponseState,
    choices: Vec<Choice<F::Content>>,
    metrics: Arc<Metrics>,
}

/// What an event changed.
enum Change {
    /// The log-probabilities of this prompt are known.
    Prompt(usize),
    /// A choice has something to send, and may have ended.
    Choice {
        due: bool,
        ended: bool,
    },
    Nothing,
}

impl ResponseOptions {
    /// What the APIs have in common.
    pub(crate) fn new(
        id: String,
        model: &str,
        stream: StreamOptions,
        generation: &GenerationOptions,
        log: bool,
    ) -> ResponseOptions {
        let params = &generation.params;
        ResponseOptions {
            id,
            created: unix_seconds(),
            model: model.to_owned(),
            stream,
            stream_interval: generation.stream_interval,
            logprobs: params.logprobs.is_some(),
            token_ids: generation.return_token_ids,
            tokens_as_ids: generation.tokens_as_ids,
            prompt_logprobs: params.prompt_logprobs.is_some(),
            stop_token_ids: params.stop_token_ids.clone(),
            log,
        }
    }
}

impl<F: AnswerFormat> ResponseWriter<F> {
    /// A writer for as many choices of each prompt.
    pub(crate) fn new(
        format: F,
        options: ResponseOptions,
        prompts: Vec<Vec<u32>>,
        choices_per_prompt: usize,
        metrics: Arc<Metrics>,
    ) -> ResponseWriter<F> {
        let choice = |index| Choice {
            index,
            prompt: index / choices_per_prompt,
            content: format.content(),
            ids: Vec::new(),
            tokens: 0,
            // The first token is sent at once.
            unsent: options.stream_interval,
            sent: false,
            ending: None,
        };
        let choices = (0..prompts.len() * choices_per_prompt).map(choice).collect();
        let prompt_logprobs = vec![None; prompts.len()];
        let state = ResponseState {
            options,
            prompts,
            prompt_logprobs,
            cached: 0,
            completion: 0,
            reasoning: 0,
        };
        ResponseWriter { format, state, choices, metrics }
    }

    /// The response to a request: a stream if it wants one, else the whole answer once it is there.
    pub(crate) async fn respond(
        self,
        generation: Generation,
        timeout: Option<Duration>,
    ) -> Result<Response> {
        if self.state.options.stream.stream {
            return Ok(sse::response(generation, self, timeout));
        }
        self.collect(generation, timeout).await.map(|whole| json_text(whole).into_response())
    }

    async fn collect(
        mut self,
        generation: Generation,
        timeout: Option<Duration>,
    ) -> Result<String> {
        let read = |choice, event| {
            Ok(matches!(self.read(choice, event)?, Change::Choice { ended: true, .. }))
        };
        generation.read_to_end(timeout, read).await?;
        let slowly = self.state.reports();
        let write = move || {
            let whole = self.format.whole(&self.state, self.choices);
            if self.state.options.log {
                tracing::info!(id = self.state.options.id, answer = whole, "answer");
            }
            whole
        };
        if slowly { aside(write).await } else { Ok(write()) }
    }

    /// Reads an event. Streamed and whole answers both come from here.
    fn read(&mut self, index: usize, event: GenerationEvent) -> Result<Change> {
        match event {
            GenerationEvent::Prompt(info) => Ok(self.read_prompt(index, info)),
            GenerationEvent::Token(token) => Ok(self.read_token(index, &token)),
            GenerationEvent::Failed(error) => Err(error),
        }
    }

    fn read_prompt(&mut self, index: usize, info: PromptInfo) -> Change {
        let (state, choice) = (&mut self.state, &mut self.choices[index]);
        let number = choice.prompt;
        let prompt = &state.prompts[number];
        self.format.read_prompt(&mut choice.content, prompt, &info.logprobs, &state.options);
        // All choices of a prompt report about it; the first one counts.
        if index > 0 && self.choices[index - 1].prompt == number {
            return Change::Nothing;
        }
        let known = state.options.prompt_logprobs && !info.logprobs.is_empty();
        state.cached += info.cached_tokens;
        state.prompt_logprobs[number] = known.then(|| PromptLogprobs::new(prompt, info.logprobs));
        if known { Change::Prompt(number) } else { Change::Nothing }
    }

    fn read_token(&mut self, index: usize, token: &GeneratedToken) -> Change {
        let (state, choice) = (&mut self.state, &mut self.choices[index]);
        choice.tokens += 1;
        choice.unsent += 1;
        if state.options.token_ids {
            choice.ids.push(token.id);
        }
        let reasoning = self.format.reasoning_tokens(&choice.content);
        choice.ending = self.format.read_token(&mut choice.content, token, &state.options);
        state.reasoning += self.format.reasoning_tokens(&choice.content) - reasoning;
        state.completion += usize::from(self.format.counts_tokens());
        let ended = choice.ending.is_some();
        if ended {
            self.format.record(&choice.content, &self.metrics);
        }
        let enough = choice.unsent >= state.options.stream_interval;
        Change::Choice { due: ended || (enough && self.format.has_news(&choice.content)), ended }
    }

    fn write_choice(&mut self, index: usize, out: &mut Vec<u8>) {
        // With a choice's first chunk come the log-probabilities of its prompt.
        if !self.choices[index].sent && self.state.options.prompt_logprobs {
            in_place(|| self.write_parts(index, out));
        } else {
            self.write_parts(index, out);
        }
    }

    fn write_parts(&mut self, index: usize, out: &mut Vec<u8>) {
        let choice = &mut self.choices[index];
        for part in self.format.parts(&self.state, choice) {
            self.format.write_chunk(&mut self.state, part, out);
        }
        choice.unsent = 0;
        choice.sent = true;
    }
}

impl<F: AnswerFormat> StreamWriter for ResponseWriter<F> {
    fn begin(&mut self, out: &mut Vec<u8>) {
        self.format.write_opening(&self.state, self.choices.len(), out);
    }

    fn on_event(&mut self, choice: usize, event: GenerationEvent, out: &mut Vec<u8>) -> Flow {
        match self.read(choice, event) {
            Ok(Change::Nothing) => Flow::Continue,
            Ok(Change::Prompt(prompt)) => {
                in_place(|| self.format.write_prompt(&self.state, prompt, out));
                Flow::Continue
            }
            Ok(Change::Choice { due, ended }) => {
                if due {
                    self.write_choice(choice, out);
                }
                if ended { Flow::EndChoice } else { Flow::Continue }
            }
            Err(error) => {
                self.fail(error, out);
                Flow::EndStream
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.format.write_closing(&self.state, out);
        sse::done(out);
    }
}
