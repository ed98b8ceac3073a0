//! How a completion looks, whole and in chunks. There is a chunk for each token, even where its text is empty.

use ossmith::TokenLogprobs;
use serde::Serialize;
use serde_json::Value;

use super::text::Text;
use crate::answer::{AnswerFormat, Choice, Ending, ResponseOptions, ResponseState};
use crate::error::json_of;
use crate::generation::GeneratedToken;
use crate::logprobs::{PromptLogprobs, TextLogprobs};
use crate::sse;
use crate::stop_strings::StopFilter;

/// The format of one request's answer.
pub(super) struct TextFormat {
    pub(super) stops: StopFilter,
    /// The prompt comes before the answer.
    pub(super) echo: bool,
    /// The client wants the prompt alone; the one token that is generated is left out.
    pub(super) discard: bool,
    pub(super) skip_special: bool,
}

/// A choice, whole or in a chunk.
#[derive(Serialize)]
pub(super) struct Part {
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Option<PromptLogprobs>>,
}

/// A chunk, or the whole answer.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<&'a str>,
    choices: &'a [Part],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

impl<'a> Body<'a> {
    fn new(state: &'a ResponseState, choices: &'a [Part], usage: Option<Value>) -> Body<'a> {
        let options = &state.options;
        Body {
            id: &options.id,
            object: "text_completion",
            created: options.created,
            model: &options.model,
            system_fingerprint: None,
            choices,
            usage,
        }
    }
}

fn part(state: &ResponseState, choice: &mut Choice<Text>) -> Part {
    let (options, prompt) = (&state.options, choice.prompt);
    let (finish_reason, stop_reason) = match choice.ending.clone() {
        Some(Ending { finish_reason, stop_reason }) => (Some(finish_reason), Some(stop_reason)),
        None => (None, None),
    };
    // What is about the prompt comes with a choice's first part.
    let first = !choice.sent;
    Part {
        index: choice.index,
        text: std::mem::take(&mut choice.content.text),
        logprobs: options.logprobs.then(|| std::mem::take(&mut choice.content.logprobs)),
        finish_reason,
        stop_reason,
        token_ids: options.token_ids.then(|| std::mem::take(&mut choice.ids)),
        prompt_token_ids: (options.token_ids && first).then(|| state.prompts[prompt].clone()),
        prompt_logprobs: (options.prompt_logprobs && first)
            .then(|| state.prompt_logprobs[prompt].clone()),
    }
}

impl AnswerFormat for TextFormat {
    type Content = Text;
    type Part = Part;

    fn content(&self) -> Text {
        Text::new(self.stops.clone())
    }

    fn read_prompt(
        &self,
        text: &mut Text,
        prompt: &[u32],
        logprobs: &[Option<TokenLogprobs>],
        options: &ResponseOptions,
    ) {
        if self.echo {
            text.echo(prompt, logprobs, options);
        }
    }

    fn read_token(
        &self,
        text: &mut Text,
        token: &GeneratedToken,
        options: &ResponseOptions,
    ) -> Option<Ending> {
        if self.discard {
            return Some(Ending::plain("length"));
        }
        text.read(token, self.skip_special, options)
    }

    fn counts_tokens(&self) -> bool {
        !self.discard
    }

    fn parts(&self, state: &ResponseState, choice: &mut Choice<Text>) -> Vec<Part> {
        if self.discard {
            choice.ids.clear();
        }
        vec![part(state, choice)]
    }

    fn write_chunk(&self, state: &mut ResponseState, part: Part, out: &mut Vec<u8>) {
        sse::data(out, &Body::new(state, &[part], state.chunk_usage()));
    }

    fn write_closing(&self, state: &ResponseState, out: &mut Vec<u8>) {
        if state.options.stream.include_usage {
            sse::data(out, &Body::new(state, &[], Some(state.usage().json())));
        }
    }

    fn whole(&self, state: &ResponseState, mut choices: Vec<Choice<Text>>) -> String {
        let parts: Vec<Part> =
            choices.iter_mut().flat_map(|choice| self.parts(state, choice)).collect();
        json_of(&Body::new(state, &parts, Some(state.usage().json())))
    }
}
