//! A backend for tests of the engine: no weights, but a cache. The token that it samples is a hash of everything that the
//! cache then holds for the sequence, read back through its pages, so one page or sequence slot of the wrong request
//! changes the answer. It also refuses any step that breaks the contract of [`Backend`].

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ossmith_plan::{Layer, ModelSpec, Rope};

use super::SamplingParams;
use super::clock::Clock;
use crate::backend::{
    Backend, HeldStep, Input, LogitRows, PAGE_TOKENS, RowSampling, Sequence, SlotState, Step,
    StepOutput, StepTime, max_revised_tokens, out_of_order,
};
use crate::sampling::{self, LogitChanges, TokenHistory, TokenLogprobs};
use crate::{Error, Limits, Result};

/// Dimensions that matter to the engine: vocabulary, context and stop tokens.
pub(crate) static SPEC: ModelSpec = ModelSpec {
    name: "scripted",
    hidden: 32,
    inter: 32,
    head_dim: 32,
    q_heads: 1,
    kv_heads: 1,
    vocab: 97,
    context: 1000,
    layers: &[Layer::sliding(16, 2, 1), Layer::full(2, 1)],
    rms_eps: 1e-5,
    swiglu_limit: 7.0,
    swiglu_alpha: 1.702,
    attention_bias: true,
    tied_embeddings: false,
    rope: Rope {
        theta: 1e4,
        factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 1000,
        truncate: false,
    },
    stop_tokens: &[0],
    max_new_tokens: None,
};

/// The steps that the backend received, shared with the test.
#[derive(Debug, Default)]
pub(crate) struct StepLog {
    /// Tokens of each sequence of each step.
    pub(super) steps: Vec<Vec<usize>>,
    /// The largest number of steps in flight at once.
    pub(super) max_in_flight: usize,
}

/// What a backend may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `submit` refuses the step before it starts.
    Refuses,
    /// `collect` reports that the first sequence's logits are not finite.
    NonFinite,
    /// `submit` panics.
    PanicsAtSubmit,
    /// `collect` reports a device error.
    FailsAtCollect,
    /// `collect` panics.
    PanicsAtCollect,
    /// `collect` returns fewer tokens than were sampled.
    LosesTokens,
}

#[derive(Debug)]
pub(crate) struct Scripted {
    limits: Limits,
    max_append: usize,
    /// Token at each offset of each page.
    pages: Vec<[Option<u32>; PAGE_TOKENS]>,
    /// What the ring of each sequence slot holds: every token so far.
    rings: Vec<Vec<u32>>,
    sampled: Vec<Option<u32>>,
    slots: Vec<SlotState>,
    results: VecDeque<StepOutput>,
    /// The step that is still to be sampled, with the hashes of each sequence's tokens.
    held: Option<(HeldStep, Vec<Vec<u64>>)>,
    /// What each snapshot holds: every token of the sequence before its end.
    snapshots: Vec<Vec<u32>>,
    /// The fault, and the step in which it happens (counted from 0).
    pub(crate) fault: Option<(Fault, usize)>,
    /// How many of the last tokens determine the next one; a small number makes text that repeats itself.
    pub(super) memory: usize,
    /// A clock that a step moves by these times, of a step and of each of its tokens.
    pub(super) clock: Option<(Clock, [Duration; 2])>,
    /// What the device's clock reports for each step.
    pub(super) time: Option<StepTime>,
    pub(crate) log: Arc<Mutex<StepLog>>,
}

impl Scripted {
    pub(crate) fn new(limits: Limits, max_append: usize) -> Scripted {
        Scripted {
            limits,
            max_append,
            pages: vec![[None; PAGE_TOKENS]; limits.pages],
            rings: vec![Vec::new(); limits.max_sequences],
            sampled: vec![None; limits.max_sequences],
            slots: vec![SlotState::default(); limits.max_sequences],
            results: VecDeque::new(),
            held: None,
            snapshots: Vec::new(),
            fault: None,
            memory: usize::MAX,
            clock: None,
            time: None,
            log: Arc::default(),
        }
    }

    fn check(&self, step: &Step<'_>) -> std::result::Result<(), String> {
        let total: usize = step.sequences.iter().map(|sequence| sequence.input.len()).sum();
        if total == 0 || total > self.limits.max_step_tokens {
            return Err(format!("{total} tokens in a step"));
        }
        let sampled: usize = step.sequences.iter().map(Sequence::sampled_rows).sum();
        if sampled > self.max_sampled_rows() {
            return Err(format!("{sampled} sampled rows in a step"));
        }
        for (index, sequence) in step.sequences.iter().enumerate() {
            let written = &sequence.pages[sequence.start / PAGE_TOKENS..];
            for other in step.sequences.iter().enumerate().filter(|(at, _)| *at != index) {
                let shared = written.iter().any(|page| other.1.pages.contains(page));
                if other.1.seq_slot == sequence.seq_slot || shared {
                    return Err(
                        "a sequence slot, or a page that is written, is named twice".to_owned()
                    );
                }
            }
            let (start, tokens) = (sequence.start, sequence.input.len());
            if tokens == 0 || tokens > self.max_append {
                return Err(format!("{tokens} tokens for one sequence"));
            }
            if sequence.pages.len() != (start + tokens).div_ceil(PAGE_TOKENS) {
                return Err(format!(
                    "{} pages for {} tokens",
                    sequence.pages.len(),
                    start + tokens
                ));
            }
            let ring = self.rings.get(sequence.seq_slot).ok_or("no such sequence slot")?;
            // Draft tokens that were rejected may lie beyond `start`.
            let revised = ring.len() >= start + max_revised_tokens(&self.limits) && start > 0;
            if ring.len() < start || revised {
                return Err(format!("starts at {start}, the sequence slot holds {}", ring.len()));
            }
        }
        Ok(())
    }

    fn fault_at(&self, step: usize) -> Option<Fault> {
        self.fault.filter(|&(_, at)| at == step).map(|(fault, _)| fault)
    }

    /// How far behind the newest position a snapshot may end.
    fn reach(&self) -> usize {
        self.max_append.min(self.limits.max_step_tokens).max(3)
    }

    /// Appends a sequence's tokens and returns the hash after each.
    fn append(&mut self, sequence: &Sequence<'_>) -> Result<Vec<u64>> {
        let sampled = self.sampled[sequence.seq_slot];
        let tokens = match sequence.input {
            Input::Tokens(tokens) | Input::Draft(tokens) => tokens.to_vec(),
            Input::Sampled => vec![sampled.ok_or(Error::Internal("nothing sampled".into()))?],
        };
        self.rings[sequence.seq_slot].truncate(sequence.start);
        let mut hashes = Vec::new();
        for (position, token) in (sequence.start..).zip(tokens) {
            let place = |at: usize| (sequence.pages[at / PAGE_TOKENS] as usize, at % PAGE_TOKENS);
            let (page, offset) = place(position);
            self.pages[page][offset] = Some(token);
            self.rings[sequence.seq_slot].push(token);
            let cached = |at: usize| self.pages[place(at).0][place(at).1];
            let history: Option<Vec<u32>> = (0..=position).map(cached).collect();
            if history.as_ref() != Some(&self.rings[sequence.seq_slot]) {
                return Err(Error::Internal(format!(
                    "the pages of sequence slot {} were overwritten",
                    sequence.seq_slot
                )));
            }
            hashes.push(hash(&self.rings[sequence.seq_slot], self.memory));
        }
        Ok(hashes)
    }
}

impl Backend for Scripted {
    fn describe(&self) -> String {
        "scripted".to_owned()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn max_append(&self) -> usize {
        self.max_append
    }

    fn max_sampled_rows(&self) -> usize {
        2 * self.limits.max_sequences + 4
    }

    fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        self.snapshots = vec![Vec::new(); count];
        Ok(())
    }

    fn save_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        let ring = &self.rings[seq_slot];
        // A real ring has overwritten what is further back.
        if !end.is_multiple_of(PAGE_TOKENS) || end > ring.len() || ring.len() > end + self.reach() {
            return Err(Error::Internal(format!("no window before {end} of {}", ring.len())));
        }
        self.snapshots[snapshot] = ring[..end].to_vec();
        Ok(())
    }

    fn load_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        if self.snapshots[snapshot].len() != end {
            let problem = format!("snapshot {snapshot} was not taken at position {end}");
            return Err(Error::Internal(problem));
        }
        self.rings[seq_slot] = self.snapshots[snapshot].clone();
        Ok(())
    }

    fn step_time(&self) -> Option<StepTime> {
        self.time
    }

    fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) -> Result<()> {
        self.slots[seq_slot].history = history.clone();
        Ok(())
    }

    fn set_mask(&mut self, seq_slot: usize, mask: usize, words: &[u32]) -> Result<()> {
        words.clone_into(&mut self.slots[seq_slot].masks[mask]);
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let hashes = self.run_layers(step)?;
        self.finish(step.sequences, &hashes);
        Ok(())
    }

    fn submit_layers(&mut self, step: &Step<'_>) -> Result<()> {
        let hashes = self.run_layers(step)?;
        self.held = Some((HeldStep::new(step), hashes));
        Ok(())
    }

    fn sample(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<()> {
        let (step, hashes) = self.held.take().ok_or_else(|| out_of_order("sample"))?;
        self.finish(&step.sequences(rows)?, &hashes);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let step = self.log.lock().unwrap().steps.len()
            - self.results.len()
            - usize::from(self.held.is_some());
        if let Some((clock, [of_step, of_token])) = &self.clock {
            let tokens: usize =
                self.log.lock().unwrap().steps.get(step).into_iter().flatten().sum();
            clock.advance(*of_step + *of_token * tokens as u32);
        }
        let output = self.results.pop_front();
        match self.fault_at(step) {
            Some(Fault::FailsAtCollect) => {
                Err(Error::device("collect a step", "the scripted device is lost"))
            }
            Some(Fault::PanicsAtCollect) => panic!("the scripted device panicked"),
            Some(Fault::LosesTokens) => Ok(StepOutput::default()),
            Some(Fault::NonFinite) => {
                self.fault = None;
                let mut output = output.unwrap();
                output.sampled.iter_mut().take(1).for_each(|token| *token = None);
                Ok(output)
            }
            _ => output.ok_or_else(|| Error::Internal("nothing was submitted".to_owned())),
        }
    }
}

impl Scripted {
    /// Appends a step's tokens; returns the hash after each of every sequence's.
    fn run_layers(&mut self, step: &Step<'_>) -> Result<Vec<Vec<u64>>> {
        if self.held.is_some() {
            return Err(out_of_order("a submission"));
        }
        match self.fault_at(self.log.lock().unwrap().steps.len()) {
            Some(Fault::Refuses) => {
                self.fault = None;
                return Err(Error::invalid_step("the scripted device refuses the step"));
            }
            Some(Fault::PanicsAtSubmit) => panic!("the scripted device panicked"),
            _ => {}
        }
        self.check(step).map_err(Error::invalid_step)?;
        let appended: Result<Vec<Vec<u64>>> =
            step.sequences.iter().map(|sequence| self.append(sequence)).collect();
        let mut log = self.log.lock().unwrap();
        log.steps.push(step.sequences.iter().map(|sequence| sequence.input.len()).collect());
        log.max_in_flight = log.max_in_flight.max(self.results.len() + 1);
        appended
    }

    /// Samples a step's rows.
    fn finish(&mut self, sequences: &[Sequence<'_>], hashes: &[Vec<u64>]) {
        let mut output = StepOutput::default();
        for (sequence, hashes) in sequences.iter().zip(hashes) {
            let slot = &mut self.slots[sequence.seq_slot];
            let first = hashes.len() - sequence.sampled_rows();
            self.sampled[sequence.seq_slot] = None;
            for (position, &hash) in (sequence.start + 1..).zip(hashes).skip(first) {
                let Some(row) = &sequence.sample else { continue };
                let (token, report) = sample(slot, hash, row, position);
                slot.count(row, token);
                output.sampled.push(Some(token));
                output.reports.push(report);
                let known = !matches!(sequence.input, Input::Draft(_));
                self.sampled[sequence.seq_slot] = Some(token).filter(|_| known);
            }
            let reported = sequence.prompt_report.map_or(Vec::new(), |report| {
                let of = |(&hash, &token)| sampling::report(&row(hash), token, report.top);
                hashes.iter().zip(report.next).map(of).collect()
            });
            output.prompt_reports.push(reported);
            let rows = match sequence.logits {
                LogitRows::None => &[][..],
                LogitRows::Last => &hashes[hashes.len() - 1..],
                LogitRows::All => hashes,
            };
            output.logits.push(rows.iter().flat_map(|&hash| logits(hash)).collect());
        }
        self.results.push_back(output);
    }
}

/// FNV-1a over the last token ids.
fn hash(tokens: &[u32], memory: usize) -> u64 {
    tokens[tokens.len().saturating_sub(memory)..].iter().fold(
        0xcbf2_9ce4_8422_2325,
        |hash, &token| {
            (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
        },
    )
}

fn sample(
    slot: &SlotState,
    hash: u64,
    sampling: &RowSampling<'_>,
    position: usize,
) -> (u32, Option<TokenLogprobs>) {
    let logits = row(hash);
    let changes = slot.changes(sampling);
    let token = sampling::sample_changed(&logits, &changes, &sampling.config, position).unwrap();
    (token, sampling.report.map(|top| sampling::report(&logits, token, top)))
}

fn row(hash: u64) -> Vec<f32> {
    logits(hash).collect()
}

/// Logits from -4 to 4.
fn logits(hash: u64) -> impl Iterator<Item = f32> {
    (0..SPEC.vocab as u64).map(move |id| {
        let mixed =
            (hash ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 40) as f32 / (1 << 21) as f32 - 4.0
    })
}

/// The row of logits that follows tokens.
pub(super) fn logits_after(tokens: &[u32]) -> Vec<f32> {
    logits(hash(tokens, usize::MAX)).collect()
}

/// The answer to a prompt, computed without an engine: tokens up to a stop or `max_tokens`. `adjust` changes each row
/// of logits, given the tokens generated so far.
pub(crate) fn expected_with(
    prompt: &[u32],
    params: &SamplingParams,
    sample: usize,
    memory: usize,
    adjust: &mut dyn FnMut(&[u32], &mut [f32]),
) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    let config = params.sampler(sample);
    while tokens.len() < prompt.len() + params.max_tokens.unwrap_or(usize::MAX) {
        let mut row: Vec<f32> = logits(hash(&tokens, memory)).collect();
        adjust(&tokens[prompt.len()..], &mut row);
        let token = sampling::sample_changed(&row, &LogitChanges::default(), &config, tokens.len())
            .unwrap();
        tokens.push(token);
        let stops = params.stop_token_ids.contains(&token);
        if stops || (!params.ignore_eos && SPEC.stop_tokens.contains(&token)) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

/// The same with no adjustment.
pub(crate) fn expected(prompt: &[u32], params: &SamplingParams) -> Vec<u32> {
    expected_with(prompt, params, 0, usize::MAX, &mut |_, _| {})
}
