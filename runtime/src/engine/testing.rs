//! A backend for tests of the engine: no weights, but a cache. The token it draws is a hash of everything that the
//! cache then holds for the sequence, read back through its pages, so one page or slot given to the wrong request
//! changes the answer. It also refuses any step that breaks the contract of [`Backend`].

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ossmith_plan::{Layer, ModelSpec, Rope};

use super::SamplingParams;
use crate::backend::{Input, LogitRows, Output, PAGE_TOKENS, Sequence, Step, StepTime};
use crate::{Backend, Error, Limits, Result, Sampling, sampling};

/// Dimensions that matter to the engine: vocabulary, context and stop tokens.
pub(super) static SPEC: ModelSpec = ModelSpec {
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

/// What the backend saw, shared with the test.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Tokens of each sequence of each step.
    pub(super) steps: Vec<Vec<usize>>,
    /// Most steps that were under way at once.
    pub(super) most_under_way: usize,
}

/// What a backend may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `submit` refuses the step before it starts.
    Refuses,
    /// `collect` says that the first sequence's logits are no numbers.
    Damages,
    /// `submit` panics.
    PanicsAtSubmit,
    /// `collect` reports a device error.
    FailsAtCollect,
    /// `collect` panics.
    PanicsAtCollect,
    /// `collect` returns fewer tokens than were drawn.
    LosesTokens,
}

#[derive(Debug)]
pub(super) struct Scripted {
    limits: Limits,
    max_append: usize,
    /// Token at each offset of each page.
    pages: Vec<[Option<u32>; PAGE_TOKENS]>,
    /// What each slot's ring holds: every token so far.
    rings: Vec<Vec<u32>>,
    sampled: Vec<Option<u32>>,
    results: VecDeque<Output>,
    /// What each tail holds: every token of the sequence before its end.
    tails: Vec<Vec<u32>>,
    /// What goes wrong, and in which step (counted from 0).
    pub(super) fault: Option<(Fault, usize)>,
    /// How many of the last tokens decide the next one; few make text that repeats itself.
    pub(super) memory: usize,
    /// What the device's clock says of each step.
    pub(super) time: Option<StepTime>,
    pub(super) seen: Arc<Mutex<Seen>>,
}

impl Scripted {
    pub(super) fn new(limits: Limits, max_append: usize) -> Scripted {
        Scripted {
            limits,
            max_append,
            pages: vec![[None; PAGE_TOKENS]; limits.pages],
            rings: vec![Vec::new(); limits.max_sequences],
            sampled: vec![None; limits.max_sequences],
            results: VecDeque::new(),
            tails: Vec::new(),
            fault: None,
            memory: usize::MAX,
            time: None,
            seen: Arc::default(),
        }
    }

    fn check(&self, step: &Step<'_>) -> std::result::Result<(), String> {
        let total: usize = step.sequences.iter().map(|sequence| sequence.input.len()).sum();
        if total == 0 || total > self.limits.max_step_tokens {
            return Err(format!("{total} tokens in a step"));
        }
        for (index, sequence) in step.sequences.iter().enumerate() {
            let written = &sequence.pages[sequence.start / PAGE_TOKENS..];
            for other in step.sequences.iter().enumerate().filter(|(at, _)| *at != index) {
                let shared = written.iter().any(|page| other.1.pages.contains(page));
                if other.1.slot == sequence.slot || shared {
                    return Err("a slot, or a page that is written, is named twice".to_owned());
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
            let ring = self.rings.get(sequence.slot).ok_or("no such slot")?;
            // Behind the end are guesses that turned out wrong.
            if ring.len() < start {
                return Err(format!("starts at {start}, the slot holds {}", ring.len()));
            }
        }
        Ok(())
    }

    fn fault_at(&self, step: usize) -> Option<Fault> {
        self.fault.filter(|&(_, at)| at == step).map(|(fault, _)| fault)
    }

    /// How far behind the newest position a tail may end.
    fn reach(&self) -> usize {
        self.max_append.min(self.limits.max_step_tokens).max(3)
    }

    /// Appends a sequence's tokens and returns the hash after each.
    fn append(&mut self, sequence: &Sequence<'_>) -> Result<Vec<u64>> {
        let sampled = self.sampled[sequence.slot];
        let tokens = match sequence.input {
            Input::Tokens(tokens) => tokens.to_vec(),
            Input::Sampled => vec![sampled.ok_or(Error::Internal("nothing sampled".into()))?],
        };
        self.rings[sequence.slot].truncate(sequence.start);
        let mut hashes = Vec::new();
        for (position, token) in (sequence.start..).zip(tokens) {
            let place = |at: usize| (sequence.pages[at / PAGE_TOKENS] as usize, at % PAGE_TOKENS);
            let (page, offset) = place(position);
            self.pages[page][offset] = Some(token);
            self.rings[sequence.slot].push(token);
            let cached = |at: usize| self.pages[place(at).0][place(at).1];
            let history: Option<Vec<u32>> = (0..=position).map(cached).collect();
            if history.as_ref() != Some(&self.rings[sequence.slot]) {
                return Err(Error::Internal(format!(
                    "slot {}'s pages were overwritten",
                    sequence.slot
                )));
            }
            hashes.push(hash(&self.rings[sequence.slot], self.memory));
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

    fn reserve_tails(&mut self, count: usize) -> Result<()> {
        self.tails = vec![Vec::new(); count];
        Ok(())
    }

    fn save_tail(&mut self, tail: usize, slot: usize, end: usize) -> Result<()> {
        let ring = &self.rings[slot];
        // A real ring has dropped what is further back.
        if !end.is_multiple_of(PAGE_TOKENS) || end > ring.len() || ring.len() > end + self.reach() {
            return Err(Error::Internal(format!("no window before {end} of {}", ring.len())));
        }
        self.tails[tail] = ring[..end].to_vec();
        Ok(())
    }

    fn load_tail(&mut self, tail: usize, slot: usize, end: usize) -> Result<()> {
        if self.tails[tail].len() != end {
            return Err(Error::Internal(format!("tail {tail} is not of position {end}")));
        }
        self.rings[slot] = self.tails[tail].clone();
        Ok(())
    }

    fn step_time(&self) -> Option<StepTime> {
        self.time
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        match self.fault_at(self.seen.lock().unwrap().steps.len()) {
            Some(Fault::Refuses) => {
                self.fault = None;
                return Err(Error::Request("the scripted device wants no such step".to_owned()));
            }
            Some(Fault::PanicsAtSubmit) => panic!("the scripted device lost its temper"),
            _ => {}
        }
        self.check(step).map_err(Error::Request)?;
        let mut output = Output::default();
        for sequence in step.sequences {
            let hashes = self.append(sequence)?;
            let last = hashes[hashes.len() - 1];
            let position = sequence.start + hashes.len();
            let token = sequence.sample.map(|sampling| draw(last, &sampling, position));
            self.sampled[sequence.slot] = token;
            output.sampled.push(token);
            let rows = match sequence.logits {
                LogitRows::None => &[][..],
                LogitRows::Last => &hashes[hashes.len() - 1..],
                LogitRows::All => &hashes,
            };
            output.logits.push(rows.iter().flat_map(|&hash| logits(hash)).collect());
        }
        self.results.push_back(output);
        let mut seen = self.seen.lock().unwrap();
        seen.steps.push(step.sequences.iter().map(|sequence| sequence.input.len()).collect());
        seen.most_under_way = seen.most_under_way.max(self.results.len());
        Ok(())
    }

    fn collect(&mut self) -> Result<Output> {
        let step = self.seen.lock().unwrap().steps.len() - self.results.len();
        let output = self.results.pop_front();
        match self.fault_at(step) {
            Some(Fault::FailsAtCollect) => {
                Err(Error::Device("the scripted device fell off the bus".to_owned()))
            }
            Some(Fault::PanicsAtCollect) => panic!("the scripted device lost its temper"),
            Some(Fault::LosesTokens) => Ok(Output::default()),
            Some(Fault::Damages) => {
                self.fault = None;
                let mut output = output.unwrap();
                output.sampled[0] = None;
                output.damaged.push(0);
                Ok(output)
            }
            _ => output.ok_or_else(|| Error::Internal("nothing was submitted".to_owned())),
        }
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

fn draw(hash: u64, sampling: &Sampling, position: usize) -> u32 {
    sampling::draw(&logits(hash).collect::<Vec<f32>>(), sampling, position).unwrap()
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

/// The answer to a prompt, worked out with no engine: tokens up to a stop or `max_tokens`. `adjust` changes each row
/// of logits, given the tokens generated so far.
pub(super) fn expected_with(
    prompt: &[u32],
    params: &SamplingParams,
    sample: usize,
    memory: usize,
    adjust: &mut dyn FnMut(&[u32], &mut [f32]),
) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    let sampling = params.sampling(sample);
    while tokens.len() < prompt.len() + params.max_tokens.unwrap_or(usize::MAX) {
        let mut row: Vec<f32> = logits(hash(&tokens, memory)).collect();
        adjust(&tokens[prompt.len()..], &mut row);
        let token = sampling::draw(&row, &sampling, tokens.len()).unwrap();
        tokens.push(token);
        let stops = params.stop_token_ids.contains(&token);
        if stops || (!params.ignore_eos && SPEC.stop_tokens.contains(&token)) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

/// The same with no adjustment.
pub(super) fn expected(prompt: &[u32], params: &SamplingParams) -> Vec<u32> {
    expected_with(prompt, params, 0, usize::MAX, &mut |_, _| {})
}
