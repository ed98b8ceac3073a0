//! One sample of a request, waiting or running: its tokens, its place in the cache, and what a new token means for it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::accept::Accepted;
use super::draft::Drafting;
use super::draw::{self, Counts};
use super::mask::TokenMask;
use super::metrics::Metrics;
use super::request::{FinishReason, PromptInfo, TokenEvent, TokenLogprobs};
use super::text::TextStream;

/// Names a sample, and orders samples: by priority, then arrival, then number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) priority: i32,
    pub(super) request: u64,
    pub(super) index: usize,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Requests are numbered, so their priority tells nothing more.
        state.write_u64(self.request << 8 ^ self.index as u64);
    }
}

/// Spreads [`Key`]s, which no stranger chooses: a step looks up each of its samples several times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// Samples by their names.
pub(super) type Samples = HashMap<Key, Sample, BuildHasherDefault<KeyHasher>>;

/// A sample's grammar and its latest words.
pub(super) struct MaskState {
    /// Behind a lock only so that samples can be looked at from several threads; nobody waits for it.
    pub(super) mask: Mutex<Box<dyn TokenMask>>,
    pub(super) words: Vec<u32>,
    /// What the last call said: all tokens (`false`), those listed, or why the sample must end.
    pub(super) said: Result<bool, String>,
}

impl std::fmt::Debug for MaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskState").field("said", &self.said).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) request: Arc<Accepted>,
    /// The prompt, then what was generated.
    pub(super) tokens: Vec<u32>,
    /// In position order; the first `nodes` of them are nodes of the cache.
    pub(super) pages: Vec<u32>,
    pub(super) nodes: usize,
    /// Pages at which the prompt parted from a cached one that could not be resumed there.
    pub(super) parted: usize,
    /// The last node whose tail was kept while decoding.
    pub(super) rolling: Option<u32>,
    /// `None` while it waits.
    pub(super) slot: Option<usize>,
    /// Positions planned, so in the cache for any later step.
    pub(super) planned: usize,
    /// Draws planned that have not come back.
    pub(super) pending: usize,
    /// Times it gave its pages up; what was planned before does not move `planned`.
    pub(super) epoch: u32,
    /// Waits for its reader.
    pub(super) held: bool,
    pub(super) text: TextStream,
    pub(super) mask: Option<MaskState>,
    pub(super) counts: Counts,
    pub(super) drafting: Drafting,
    /// Whether a draft is under way: how many tokens come of it is not known.
    pub(super) guessed: bool,
    pub(super) cached_tokens: usize,
    pub(super) prompt_logprobs: Vec<Option<TokenLogprobs>>,
    pub(super) begun: Option<Instant>,
    pub(super) first: Option<Instant>,
    pub(super) last: Option<Instant>,
}

impl Sample {
    pub(super) fn new(request: &Arc<Accepted>, index: usize, vocab: usize) -> Sample {
        let params = &request.params;
        let mask = request.mask.as_ref().map(|source| MaskState {
            mask: Mutex::new(source.start(index)),
            words: vec![0; vocab.div_ceil(u32::BITS as usize)],
            said: Ok(false),
        });
        Sample {
            key: Key { priority: request.priority, request: request.id.0, index },
            tokens: request.prompt.to_vec(),
            pages: Vec::new(),
            nodes: 0,
            parted: 0,
            rolling: None,
            slot: None,
            planned: 0,
            pending: 0,
            epoch: 0,
            held: false,
            text: TextStream::new(request.stop_strings.clone(), params.include_stop),
            mask,
            counts: Counts::new(params, &request.prompt),
            drafting: Drafting::new(),
            guessed: false,
            cached_tokens: 0,
            prompt_logprobs: Vec::new(),
            begun: None,
            first: None,
            last: None,
            request: request.clone(),
        }
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Known tokens that are not planned.
    pub(super) fn unread(&self) -> usize {
        self.tokens.len().saturating_sub(self.planned)
    }

    /// Whether the engine draws its next token itself.
    pub(super) fn needs_host(&self) -> bool {
        draw::needs_host(&self.request, self.generated())
    }

    /// Whether prompt logprobs are still to be worked out.
    pub(super) fn reports_prompt(&self) -> bool {
        self.request.params.prompt_logprobs.is_some()
            && self.prompt_logprobs.len() < self.request.prompt.len()
    }

    /// The words of its mask; `None` if every token may come.
    ///
    /// # Errors
    /// Why its grammar ends the sample.
    pub(super) fn listed(&self) -> Result<Option<&[u32]>, String> {
        let Some(state) = &self.mask else { return Ok(None) };
        if !state.said.clone()? {
            return Ok(None);
        }
        if state.words.iter().all(|&word| word == 0) {
            return Err(
                "the mask allows no token; a grammar that is complete must allow a stop token"
                    .to_owned(),
            );
        }
        Ok(Some(&state.words))
    }

    /// Takes note of one token, and says what it means.
    pub(super) fn record(
        &mut self,
        token: u32,
        logprobs: Option<TokenLogprobs>,
        now: Instant,
        metrics: &mut Metrics,
    ) -> TokenEvent {
        self.count(now, metrics);
        self.tokens.push(token);
        if draw::has_penalties(&self.request.params) {
            self.counts.add(token);
        }
        let prompt = (self.generated() == 1).then(|| {
            let logprobs = std::mem::take(&mut self.prompt_logprobs);
            let begun = self.begun.unwrap_or(now);
            let queued = begun.saturating_duration_since(self.request.arrived);
            Box::new(PromptInfo { cached_tokens: self.cached_tokens, queued, logprobs })
        });
        let (text, finish) = self.read(token);
        let (request, sample) = (self.request.id, self.key.index);
        TokenEvent { request, sample, token: Some(token), text, logprobs, prompt, finish }
    }

    /// The text that a token made certain, and whether the sample ends with it.
    fn read(&mut self, token: u32) -> (String, Option<FinishReason>) {
        let (generated, mut text) = (self.generated(), String::new());
        let Accepted { stops, params, max_tokens, .. } = &*self.request;
        let stopped = stops.binary_search(&token).is_ok();
        let mut finish = stopped.then_some(FinishReason::Stop);
        if let Some(vocabulary) = &self.request.text
            && (!stopped || params.include_stop)
        {
            let stopping = !stopped && generated > params.min_tokens;
            let found = self.text.push(vocabulary.bytes(token), stopping, &mut text);
            finish = finish.or(found.map(FinishReason::StopString));
        }
        if finish.is_none() && generated == *max_tokens {
            finish = Some(FinishReason::Length);
        }
        if finish.is_some() {
            self.text.finish(&mut text);
        }
        (text, finish)
    }

    fn count(&mut self, now: Instant, metrics: &mut Metrics) {
        metrics.generated_tokens += 1;
        let since = |earlier: Instant| now.saturating_duration_since(earlier).as_secs_f64();
        match self.last {
            Some(last) => metrics.inter_token_seconds.add(since(last)),
            None => {
                metrics.first_token_seconds.add(since(self.request.arrived));
                metrics.prefill_seconds.add(since(self.begun.unwrap_or(now)));
                self.first = Some(now);
            }
        }
        self.last = Some(now);
    }

    /// The end of the sample without a token, with the text that was held back.
    pub(super) fn end(&mut self, why: FinishReason) -> TokenEvent {
        let mut event = TokenEvent::end(self.request.id, self.key.index, why);
        self.text.finish(&mut event.text);
        event
    }

    /// Counts the sample as ended.
    pub(super) fn count_end(&self, why: &FinishReason, now: Instant, metrics: &mut Metrics) {
        let reason = ["stop", "length", "abort", "error"];
        let at = reason.iter().position(|name| *name == why.name()).unwrap_or(reason.len() - 1);
        metrics.finished[at] += 1;
        let since = |earlier: Instant| now.saturating_duration_since(earlier).as_secs_f64();
        metrics.request_seconds.add(since(self.request.arrived));
        if let Some(first) = self.first {
            metrics.decode_seconds.add(since(first));
        }
        metrics.request_generated_tokens.add(self.generated() as f64);
    }
}
