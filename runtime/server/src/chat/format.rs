//! How a chat answer looks: in chunks as the SDKs parse them (the role, then the tokens, then the finish reason, then usage),
//! and whole.

use ossmith::FinishReason;
use serde::Serialize;
use serde_json::{Value, json};

use super::message::{CallDelta, Delta, Message, ReasoningFields};
use crate::answer::{AnswerFormat, Choice, Ending, ResponseOptions, ResponseState};
use crate::error::json_of;
use crate::generation::GeneratedToken;
use crate::logprobs::{ContentLogprobs, PromptLogprobs, TokenReport};
use crate::metrics::Metrics;
use crate::sse;
use crate::turn::parser::TurnEvent;
use crate::turn::prepare::PreparedTurn;

/// The format of one request's answer.
pub(super) struct ChatFormat {
    pub(super) turn: PreparedTurn,
    pub(super) reasoning: ReasoningFields,
}

/// A chunk.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a PromptLogprobs>,
}

/// A choice in a chunk.
#[derive(Serialize)]
pub(super) struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ContentLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

impl<'a> Chunk<'a> {
    fn new(state: &'a ResponseState, choices: Vec<ChunkChoice>) -> Chunk<'a> {
        let options = &state.options;
        Chunk {
            id: &options.id,
            object: "chat.completion.chunk",
            created: options.created,
            model: &options.model,
            system_fingerprint: None,
            choices,
            usage: state.chunk_usage(),
            prompt_token_ids: None,
            prompt_logprobs: None,
        }
    }
}

impl ChunkChoice {
    fn new(index: usize, delta: Delta, options: &ResponseOptions) -> ChunkChoice {
        ChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: options.token_ids.then(Vec::new),
        }
    }
}

impl AnswerFormat for ChatFormat {
    type Content = Message;
    type Part = ChunkChoice;

    fn content(&self) -> Message {
        Message::new(self.turn.parser(), self.reasoning)
    }

    fn read_token(
        &self,
        message: &mut Message,
        token: &GeneratedToken,
        options: &ResponseOptions,
    ) -> Option<Ending> {
        if options.logprobs
            && let Some(logprobs) = &token.logprobs
        {
            message.pending_logprobs.push(TokenReport::new(
                token.id,
                logprobs,
                options.tokens_as_ids,
            ));
        }
        for event in message.parser.push(token.id) {
            message.on_event(event, self.reasoning);
        }
        let stopped = message.parser.stopped().map(str::to_owned);
        if token.finish.is_some() || stopped.is_some() {
            // A text that has no header was read as one until here: its tokens are those so far.
            let pending = message.pending_logprobs.clone();
            for event in message.parser.finish() {
                let starts = matches!(event, TurnEvent::Start(_));
                message.on_event(event, self.reasoning);
                if starts {
                    message.pending_logprobs.clone_from(&pending);
                }
            }
        }
        let ending = Ending::of(token, stopped.as_deref(), &options.stop_token_ids)?;
        let called = message.whole_calls > 0
            && stopped.is_none()
            && token.finish != Some(FinishReason::Length);
        Some(if called { Ending::plain("tool_calls") } else { ending })
    }

    fn has_news(&self, message: &Message) -> bool {
        !message.delta.is_empty()
    }

    fn reasoning_tokens(&self, message: &Message) -> usize {
        message.parser.reasoning_tokens()
    }

    fn record(&self, message: &Message, metrics: &Metrics) {
        metrics.record_repairs(message.parser.repairs());
    }

    fn write_opening(&self, state: &ResponseState, choices: usize, out: &mut Vec<u8>) {
        let options = &state.options;
        for index in 0..choices {
            let (role, content) = (Some("assistant"), Some(String::new()));
            let delta = Delta { role, content, ..Delta::default() };
            let choices = vec![ChunkChoice::new(index, delta, options)];
            let ids = (options.token_ids && index == 0).then_some(self.turn.prompt.as_slice());
            sse::data(out, &Chunk { prompt_token_ids: ids, ..Chunk::new(state, choices) });
        }
    }

    fn write_prompt(&self, state: &ResponseState, prompt: usize, out: &mut Vec<u8>) {
        let prompt_logprobs = state.prompt_logprobs[prompt].as_ref();
        sse::data(out, &Chunk { prompt_logprobs, ..Chunk::new(state, Vec::new()) });
    }

    fn parts(&self, state: &ResponseState, choice: &mut Choice<Message>) -> Vec<ChunkChoice> {
        let options = &state.options;
        let delta = std::mem::take(&mut choice.content.delta);
        // The finish reason comes with an empty delta, in a chunk of its own.
        let deltas = match (delta.is_empty(), choice.ending.is_some()) {
            (false, true) => vec![delta, Delta::default()],
            _ => vec![delta],
        };
        let mut parts: Vec<ChunkChoice> = deltas
            .into_iter()
            .map(|delta| ChunkChoice::new(choice.index, delta, options))
            .collect();
        if let Some(first) = parts.first_mut() {
            let logprobs = std::mem::take(&mut choice.content.logprobs);
            first.logprobs = (!logprobs.is_empty()).then(|| ContentLogprobs::new(logprobs));
            first.token_ids = options.token_ids.then(|| std::mem::take(&mut choice.ids));
        }
        if let (Some(last), Some(ending)) = (parts.last_mut(), &choice.ending) {
            last.finish_reason = Some(ending.finish_reason);
            last.stop_reason = Some(ending.stop_reason.clone());
        }
        parts
    }

    fn write_chunk(&self, state: &mut ResponseState, part: ChunkChoice, out: &mut Vec<u8>) {
        sse::data(out, &Chunk::new(state, vec![part]));
    }

    fn write_closing(&self, state: &ResponseState, out: &mut Vec<u8>) {
        if state.options.stream.include_usage {
            let usage = Some(state.usage().json());
            sse::data(out, &Chunk { usage, ..Chunk::new(state, Vec::new()) });
        }
    }

    fn whole(&self, state: &ResponseState, choices: Vec<Choice<Message>>) -> String {
        let options = &state.options;
        json_of(&Whole {
            id: &options.id,
            object: "chat.completion",
            created: options.created,
            model: &options.model,
            system_fingerprint: None,
            service_tier: None,
            choices: choices.into_iter().map(|choice| WholeChoice::new(choice, options)).collect(),
            usage: state.usage().json(),
            prompt_logprobs: state.prompt_logprobs.first().and_then(Option::as_ref),
            prompt_token_ids: options.token_ids.then_some(&self.turn.prompt),
        })
    }
}

/// The whole answer.
#[derive(Serialize)]
struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    service_tier: Option<&'a str>,
    choices: Vec<WholeChoice>,
    usage: Value,
    prompt_logprobs: Option<&'a PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct WholeChoice {
    index: usize,
    message: Value,
    logprobs: Option<ContentLogprobs>,
    finish_reason: &'static str,
    stop_reason: Value,
    token_ids: Option<Vec<u32>>,
}

impl WholeChoice {
    fn new(choice: Choice<Message>, options: &ResponseOptions) -> WholeChoice {
        let Message { mut delta, whole_calls, has_content, logprobs, .. } = choice.content;
        // A call that was cut off cannot be executed.
        delta.tool_calls.truncate(whole_calls);
        let calls: Vec<Value> = delta
            .tool_calls
            .iter()
            .map(|call| json!(CallDelta { index: None, ..call.clone() }))
            .collect();
        let content = delta.content.or(has_content.then(String::new));
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        for (name, reasoning) in
            [("reasoning", delta.reasoning), ("reasoning_content", delta.reasoning_content)]
        {
            if let Some(reasoning) = reasoning {
                message[name] = reasoning.into();
            }
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let Ending { finish_reason, stop_reason } = choice.ending.unwrap_or(Ending::plain("stop"));
        WholeChoice {
            index: choice.index,
            message,
            logprobs: options.logprobs.then(|| ContentLogprobs::new(logprobs)),
            finish_reason,
            stop_reason,
            token_ids: options.token_ids.then_some(choice.ids),
        }
    }
}
