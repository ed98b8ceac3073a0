//! One sample of a request, waiting or running: its tokens, what it uses of the cache, and what a new token means for it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use super::constraint::Constraint;
use super::draft::DraftState;
use super::host_sampling;
use super::mask_threads::SampleMask;
use super::metrics::EngineMetrics;
use super::request::{FinishReason, PromptInfo, TokenEvent};
use super::text::TextStream;
use super::validate::ValidatedRequest;
use crate::sampling::{TokenHistory, TokenLogprobs};

/// A request of priority `p + 1` is overtaken by requests of priority `p` that arrive up to this many steps later.
pub(super) const PRIORITY_STEPS: i64 = 1024;

/// Names a sample, and orders samples: by arrival, which the priority shifts, then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The step of its arrival, and [`PRIORITY_STEPS`] later for each unit of its priority.
    pub(super) order: i64,
    pub(super) request: u64,
    pub(super) index: usize,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Requests are numbered, so their order adds nothing to the hash.
        state.write_u64(self.request << 8 ^ self.index as u64);
    }
}

/// Hashes [`Key`]s, which no outsider can choose; a step looks up each of its samples several times.
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

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) request: Arc<ValidatedRequest>,
    /// The prompt, then what was generated.
    pub(super) tokens: Vec<u32>,
    /// In order of position. The first `cached_blocks` of them hold cached blocks.
    pub(super) pages: Vec<u32>,
    pub(super) cached_blocks: usize,
    /// The number of pages after which the prompt diverged from a cached one, where it could not be resumed.
    pub(super) divergence: usize,
    /// The last page whose snapshot was saved while decoding.
    pub(super) tail_page: Option<u32>,
    /// `None` while it waits.
    pub(super) seq_slot: Option<usize>,
    /// Positions scheduled, which are in the cache for any later step.
    pub(super) scheduled: usize,
    /// Tokens that are being sampled in steps in flight.
    pub(super) pending: usize,
    /// Whether the last position scheduled runs again if the mask of the token after it is late.
    pub(super) may_rerun: bool,
    /// How often it was preempted. What was scheduled before does not move `scheduled`.
    pub(super) epoch: u32,
    /// Whether it waits for its reader.
    pub(super) held: bool,
    pub(super) text: TextStream,
    pub(super) mask: Option<Constraint>,
    /// Kept only for a sample with penalties.
    pub(super) history: TokenHistory,
    /// Whether the device has the history too, tokens in flight included.
    pub(super) history_on_device: bool,
    pub(super) drafts: DraftState,
    /// Whether a draft is in flight, so that the number of tokens that it yields is not known yet.
    pub(super) draft_in_flight: bool,
    pub(super) cached_tokens: usize,
    pub(super) prompt_logprobs: Vec<Option<TokenLogprobs>>,
    pub(super) started_at: Option<Instant>,
    pub(super) first_token_at: Option<Instant>,
    pub(super) last_token_at: Option<Instant>,
}

impl Sample {
    /// Sample `index` of a request that arrives at step `arrived_step`.
    pub(super) fn new(
        request: &Arc<ValidatedRequest>,
        index: usize,
        vocab: usize,
        arrived_step: u64,
    ) -> Sample {
        let params = &request.params;
        let shift = i64::from(request.priority) * PRIORITY_STEPS;
        let order = i64::try_from(arrived_step).unwrap_or(i64::MAX).saturating_add(shift);
        let mask = request.mask.as_ref();
        let mask =
            mask.map(|source| Constraint::new(SampleMask::new(source, index, vocab, request)));
        Sample {
            key: Key { order, request: request.id.0, index },
            tokens: request.prompt.to_vec(),
            pages: Vec::new(),
            cached_blocks: 0,
            divergence: 0,
            tail_page: None,
            seq_slot: None,
            scheduled: 0,
            pending: 0,
            may_rerun: false,
            epoch: 0,
            held: false,
            text: TextStream::new(request.stop_strings.clone(), params.include_stop),
            mask,
            history: match params.penalties() {
                Some(_) => TokenHistory::new(&request.prompt, &[]),
                None => TokenHistory::default(),
            },
            history_on_device: false,
            drafts: DraftState::new(),
            draft_in_flight: false,
            cached_tokens: 0,
            prompt_logprobs: Vec::new(),
            started_at: None,
            first_token_at: None,
            last_token_at: None,
            request: request.clone(),
        }
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Known tokens that are not scheduled yet.
    pub(super) fn unscheduled(&self) -> usize {
        self.tokens.len().saturating_sub(self.scheduled)
    }

    /// Whether its tokens must be sampled on the host.
    pub(super) fn needs_host(&self) -> bool {
        host_sampling::needs_host(&self.request)
    }

    /// Whether logprobs of the prompt are still to be computed.
    pub(super) fn reports_prompt(&self) -> bool {
        self.request.params.prompt_logprobs.is_some()
            && self.prompt_logprobs.len() < self.request.prompt.len()
    }

    /// Appends one token, and returns the event for it.
    pub(super) fn record(
        &mut self,
        token: u32,
        logprobs: Option<TokenLogprobs>,
        now: Instant,
        metrics: &mut EngineMetrics,
    ) -> TokenEvent {
        self.count(now, metrics);
        self.tokens.push(token);
        if self.request.params.penalties().is_some() {
            self.history.add(token);
        }
        let prompt = (self.generated() == 1).then(|| {
            let logprobs = std::mem::take(&mut self.prompt_logprobs);
            let started_at = self.started_at.unwrap_or(now);
            let queued = started_at.saturating_duration_since(self.request.arrived);
            Box::new(PromptInfo { cached_tokens: self.cached_tokens, queued, logprobs })
        });
        let (text, finish) = self.detokenize(token);
        let (request, sample) = (self.request.id, self.key.index);
        TokenEvent { request, sample, token: Some(token), text, logprobs, prompt, finish }
    }

    /// The text that became certain with a token, and whether the sample ends with it.
    fn detokenize(&mut self, token: u32) -> (String, Option<FinishReason>) {
        let (generated, mut text) = (self.generated(), String::new());
        let ValidatedRequest { stop_ids, params, max_tokens, .. } = &*self.request;
        let stopped = stop_ids.binary_search(&token).is_ok();
        let mut finish = stopped.then_some(FinishReason::Stop);
        if let Some(detokenizer) = &self.request.detokenizer
            && (!stopped || params.include_stop)
        {
            let stopping = !stopped && generated > params.min_tokens;
            let found = self.text.push(detokenizer.token_bytes(token), stopping, &mut text);
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

    fn count(&mut self, now: Instant, metrics: &mut EngineMetrics) {
        metrics.generated_tokens += 1;
        let since = |earlier: Instant| now.saturating_duration_since(earlier).as_secs_f64();
        match self.last_token_at {
            Some(last) => metrics.inter_token_seconds.add(since(last)),
            None => {
                metrics.first_token_seconds.add(since(self.request.arrived));
                metrics.prefill_seconds.add(since(self.started_at.unwrap_or(now)));
                self.first_token_at = Some(now);
            }
        }
        self.last_token_at = Some(now);
    }

    /// The end of the sample without a token, with the text that was held back.
    pub(super) fn end(&mut self, reason: FinishReason) -> TokenEvent {
        let mut event = TokenEvent::end(self.request.id, self.key.index, reason);
        self.text.finish(&mut event.text);
        event
    }

    /// Counts the sample as ended.
    pub(super) fn count_end(
        &self,
        reason: &FinishReason,
        now: Instant,
        metrics: &mut EngineMetrics,
    ) {
        let reasons = ["stop", "length", "abort", "error"];
        let at = reasons.iter().position(|name| *name == reason.name());
        metrics.finished[at.unwrap_or(reasons.len() - 1)] += 1;
        let since = |earlier: Instant| now.saturating_duration_since(earlier).as_secs_f64();
        metrics.request_seconds.add(since(self.request.arrived));
        if let Some(first) = self.first_token_at {
            metrics.decode_seconds.add(since(first));
        }
        metrics.request_generated_tokens.add(self.generated() as f64);
    }
}
