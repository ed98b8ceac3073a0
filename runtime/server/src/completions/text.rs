//! One generation of a raw completion while it is written: bytes to text, stop strings, log-probabilities.

use ossmith_harmony::{TextDecoder, special, token_bytes};
use serde_json::Value;

use super::Telling;
use crate::engine::{Finish, Logprobs};
use crate::logprobs::TextLogprobs;
use crate::stops::{StopFilter, ending};

/// One generation.
pub(super) struct Choice {
    decoder: TextDecoder,
    stops: StopFilter,
    /// Characters of the text so far, those held back included.
    chars: usize,
    /// What is not reported yet.
    pub(super) text: String,
    pub(super) logprobs: TextLogprobs,
    pub(super) ids: Vec<u32>,
    pub(super) tokens: usize,
    pub(super) ending: Option<(&'static str, Value)>,
    /// The prompt was given back.
    pub(super) echoed: bool,
    /// A part of it was reported.
    pub(super) told: bool,
}

impl Choice {
    pub(super) fn new(telling: &Telling) -> Choice {
        Choice {
            decoder: TextDecoder::default(),
            stops: StopFilter::new(&telling.stops, telling.keep_stop),
            chars: 0,
            text: String::new(),
            logprobs: TextLogprobs::default(),
            ids: Vec::new(),
            tokens: 0,
            ending: None,
            echoed: false,
            told: false,
        }
    }

    /// Gives the prompt back as part of the answer.
    pub(super) fn echo(
        &mut self,
        prompt: &[u32],
        logprobs: &[Option<Logprobs>],
        telling: &Telling,
    ) {
        self.echoed = true;
        let mut decoder = TextDecoder::default();
        for (index, &token) in prompt.iter().enumerate() {
            if telling.logprobs.is_some() {
                let of_token = logprobs.get(index).and_then(Option::as_ref);
                self.logprobs.add(token, of_token, self.chars, telling.tokens_as_ids);
            }
            let mut text = String::new();
            spell(token, telling.skip_special, &mut decoder, &mut text);
            self.give_back(&text);
        }
        let mut rest = String::new();
        decoder.finish(&mut rest);
        self.give_back(&rest);
    }

    fn give_back(&mut self, text: &str) {
        self.chars += text.chars().count();
        self.text.push_str(text);
    }

    /// Takes a token; true if it ends the generation.
    pub(super) fn token(
        &mut self,
        id: u32,
        logprobs: Option<&Logprobs>,
        finish: Option<Finish>,
        telling: &Telling,
    ) -> bool {
        self.tokens += 1;
        if telling.discard {
            self.ending = Some(("length", Value::Null));
            return true;
        }
        if telling.token_ids {
            self.ids.push(id);
        }
        if telling.logprobs.is_some() {
            self.logprobs.add(id, logprobs, self.chars, telling.tokens_as_ids);
        }
        let ended_by_eos = finish == Some(Finish::Stop) && special::is_special(id);
        let mut text = String::new();
        if !(ended_by_eos && telling.skip_special) {
            spell(id, telling.skip_special, &mut self.decoder, &mut text);
        }
        if finish.is_some() {
            self.decoder.finish(&mut text);
        }
        self.chars += text.chars().count();
        self.stops.push(&text, &mut self.text);
        if finish.is_some() {
            self.stops.flush(&mut self.text);
        }
        self.ending = ending(self.stops.found(), finish, id, &telling.stop_token_ids);
        self.ending.is_some()
    }
}

/// Appends what a token adds to the text.
fn spell(token: u32, skip_special: bool, decoder: &mut TextDecoder, text: &mut String) {
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
