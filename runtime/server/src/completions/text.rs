//! The text that tokens become: whole characters, stop strings taken out, log-probabilities beside it.

use ossmith::{FinishReason, TokenLogprobs};
use ossmith_harmony::{TextDecoder, special, token_bytes};

use crate::answer::{Ending, ResponseOptions};
use crate::generation::GeneratedToken;
use crate::logprobs::TextLogprobs;
use crate::stop_strings::StopFilter;

/// The content of one choice.
pub(super) struct Text {
    decoder: TextDecoder,
    stops: StopFilter,
    /// Characters of the text so far, including those that are held back.
    characters: usize,
    /// Text that was not sent.
    pub(super) text: String,
    pub(super) logprobs: TextLogprobs,
}

impl Text {
    pub(super) fn new(stops: StopFilter) -> Text {
        Text {
            decoder: TextDecoder::default(),
            stops,
            characters: 0,
            text: String::new(),
            logprobs: TextLogprobs::default(),
        }
    }

    /// Puts the prompt before the answer.
    pub(super) fn echo(
        &mut self,
        prompt: &[u32],
        logprobs: &[Option<TokenLogprobs>],
        options: &ResponseOptions,
    ) {
        let mut decoder = TextDecoder::default();
        for (index, &token) in prompt.iter().enumerate() {
            if options.logprobs {
                let of_token = logprobs.get(index).and_then(Option::as_ref);
                self.logprobs.add(token, of_token, self.characters, options.tokens_as_ids);
            }
            let mut text = String::new();
            // The prompt is echoed as it was sent, with its special tokens.
            decode(token, false, &mut decoder, &mut text);
            self.add(&text);
        }
        let mut rest = String::new();
        decoder.finish(&mut rest);
        self.add(&rest);
    }

    fn add(&mut self, text: &str) {
        self.characters += text.chars().count();
        self.text.push_str(text);
    }

    /// Reads a token. Returns how the text ended, if it did.
    pub(super) fn read(
        &mut self,
        token: &GeneratedToken,
        skip_special: bool,
        options: &ResponseOptions,
    ) -> Option<Ending> {
        let GeneratedToken { id, logprobs, finish } = token;
        if options.logprobs {
            self.logprobs.add(*id, logprobs.as_ref(), self.characters, options.tokens_as_ids);
        }
        let is_eos = special::is_special(*id)
            && finish.as_ref().is_some_and(|finish| *finish != FinishReason::Length);
        let mut text = String::new();
        if !(is_eos && skip_special) {
            decode(*id, skip_special, &mut self.decoder, &mut text);
        }
        if finish.is_some() {
            self.decoder.finish(&mut text);
        }
        self.characters += text.chars().count();
        self.stops.push(&text, &mut self.text);
        if skip_special && let Some(name) = special::name(*id) {
            self.stops.push_special(&name, &mut self.text);
        }
        if finish.is_some() {
            self.stops.flush(&mut self.text);
        }
        Ending::of(token, self.stops.found(), &options.stop_token_ids)
    }
}

/// Appends what a token adds to the text.
fn decode(token: u32, skip_special: bool, decoder: &mut TextDecoder, text: &mut String) {
    match token_bytes(token) {
        Some(bytes) => {
            decoder.push(bytes, text);
        }
        None if skip_special => {}
        None => {
            decoder.finish(text);
            text.push_str(&special::name(token).unwrap_or_default());
        }
    }
}
