//! What a run is like: the engine that it is of, the requests that come, and how often what happens.

use std::sync::Arc;
use std::time::Duration;

use super::super::super::testing::Fault;
use super::super::super::{Clock, MaskSource, Policy, Request, SamplingParams};
use super::super::random::Random;
use super::super::traffic::Runs;
use super::super::{params, prompt};
use crate::Limits;

/// How a run is set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) policy: Policy,
    pub(super) pipeline_depth: usize,
    /// How many of the last tokens determine the next one.
    pub(super) memory: usize,
    /// Nothing is scarce but slots, nobody is slow, and all have one priority, so that waiting has a bound.
    pub(super) calm: bool,
    /// Most requests at once.
    pub(super) most_open: usize,
    /// Moves before the run comes to its end.
    pub(super) moves: usize,
    /// How often each kind of move is made, of 100; the rest are steps.
    pub(super) odds: Odds,
    /// Where masks may be late: the seed of when each comes.
    pub(super) late_masks: Option<u64>,
}

/// How often a move is made, of 100.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    pub(super) submit: usize,
    pub(super) cancel: usize,
    pub(super) discard: usize,
    pub(super) reset: usize,
    pub(super) pause: usize,
    pub(super) shutdown: usize,
}

impl Setup {
    pub(super) fn choose(random: &mut Random) -> Setup {
        let calm = random.once_in(4);
        let max_sequences = random.between(1, 5);
        let (max_step_tokens, pages, event_capacity) = match calm {
            true => (random.between(64, 128), 64, 64),
            false => (random.between(1, 80), random.between(6, 26), random.between(1, 9)),
        };
        let often = |random: &mut Random, most: usize| random.below(most + 1);
        Setup {
            limits: Limits { max_sequences, max_step_tokens, pages },
            policy: Policy {
                max_waiting: random.between(0, 9),
                event_capacity,
                prefix_cache: !random.once_in(8),
                draft_tokens: random.below(5),
                // What a step takes is no part of a seed.
                prompt_time: None,
                step_time: None,
            },
            pipeline_depth: random.below(3),
            memory: random.one_of(&[1, 2, usize::MAX]),
            calm,
            most_open: random.between(1, 14),
            moves: random.between(20, 160),
            odds: Odds {
                submit: random.between(5, 40),
                cancel: often(random, 6),
                discard: often(random, 4),
                reset: often(random, 2),
                pause: often(random, 10),
                shutdown: if random.once_in(6) { 1 } else { 0 },
            },
            late_masks: random.once_in(2).then(|| random.below(usize::MAX) as u64),
        }
    }

    /// What the next engine's backend does wrong, and in which step.
    pub(super) fn fault(&self, random: &mut Random) -> Option<(Fault, usize)> {
        let faults = [
            Fault::Refuses,
            Fault::NonFinite,
            Fault::PanicsAtSubmit,
            Fault::FailsAtCollect,
            Fault::PanicsAtCollect,
            Fault::LosesTokens,
        ];
        (!self.calm && random.once_in(3)).then(|| (random.one_of(&faults), random.below(60)))
    }

    /// The next request. `newcomer` is the number of a tenant who has no other.
    pub(super) fn request(
        &self,
        random: &mut Random,
        clock: &Clock,
        newcomer: Option<u64>,
    ) -> Request {
        let length = match random.below(3) {
            0 => random.between(1, 20),
            1 => random.between(50, 140),
            _ => random.between(1, 300),
        };
        let max_tokens = random.between(1, 60);
        let kind = if newcomer.is_some() { 99 } else { random.below(14) };
        let n = if newcomer.is_none() && random.once_in(4) { random.between(2, 3) } else { 1 };
        let base = SamplingParams { n, ..params(random.below(3) as u64, max_tokens) };
        let params = match kind {
            0 => SamplingParams { temperature: 0.0, ..base },
            1 => SamplingParams { repetition_penalty: 1.4, ..base },
            2 => SamplingParams { presence_penalty: 0.7, logprobs: Some(1), ..base },
            3 => SamplingParams { logit_bias: vec![(7, 3.0), (8, f32::NEG_INFINITY)], ..base },
            4 => SamplingParams { min_tokens: max_tokens / 2, ..base },
            5 => SamplingParams { prompt_logprobs: Some(1), ..base },
            // So many that the host samples them.
            6 => SamplingParams { logprobs: Some(21), ..base },
            7 | 8 => SamplingParams { ignore_eos: true, temperature: 0.0, ..base },
            _ => base,
        };
        let masked = kind >= 10 && newcomer.is_none() && !self.calm;
        let mask = masked.then(|| Arc::new(Runs) as Arc<dyn MaskSource>);
        let tenant = newcomer.unwrap_or(random.below(3) as u64);
        let priority = if self.calm { 0 } else { random.one_of(&[0, 0, 0, -1, 1]) };
        let late = !self.calm && random.once_in(6);
        let deadline =
            late.then(|| clock.now() + Duration::from_millis(random.between(0, 400) as u64));
        Request {
            priority,
            deadline,
            mask,
            tenant,
            // Tenants have the same prompts, so that one who found another's prefixes would be seen.
            cache_salt: tenant,
            group: random.once_in(3).then(|| random.below(4) as u64),
            ..Request::new(prompt(length, random.below(3)), params)
        }
    }
}
