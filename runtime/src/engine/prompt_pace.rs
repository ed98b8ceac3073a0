//! How large the prompts' part of a step may be while other samples generate. Either it has a time of its own, or that of a step
//! without a prompt if that is longer ([`Policy::prompt_time`]); or the whole step has one ([`Policy::step_time`]). So whoever
//! sends a long prompt makes the others' tokens come at most that much later. [`super::batch`] asks for it; what steps take is
//! measured as they are collected, and until then expected by the device's cost model.
//!
//! A prompt token whose logprobs are reported needs a row of logits over the whole vocabulary besides, which may take as long as
//! a hundred others. It counts as that many, in a step of its own too, so that whoever comes next does not wait for thousands.

use std::time::Duration;

use super::options::Policy;
use super::step_plan::{PlanEntry, SampleOn, StepPlan};

/// Prompt tokens of a step at least, so that a prompt goes on however slow the machine is. Fewer take as long in a long
/// context, where reading the keys is most of the work.
const LEAST_TOKENS: usize = 8;
/// The prompt from which the time of a token is expected, before any is measured: as long as those of a full step.
const EXPECTED_TOKENS: usize = 2048;
/// The weight of what was measured before.
const KEPT: f64 = 0.75;
/// A machine with other work may stop for a while, so one measurement counts as at most this many times the mean.
const OUTLIER: f64 = 4.0;

/// How many others a reported token counts as until it is known what it takes.
const UNKNOWN_COST: usize = 64;
const MAX_COST: usize = 4096;

/// Contexts are told apart by their length: up to this many tokens, up to twice as many, and so on. A token of a prompt reads all
/// keys before it, so one in the middle of a long prompt takes many times as long as one at its beginning.
const SHORT_CONTEXT: usize = 2048;
const CONTEXTS: usize = 8;

/// What steps take, by what they hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct PromptPace {
    prompt_time: Option<Duration>,
    step_time: Option<Duration>,
    /// Seconds of a step without a prompt.
    step: Option<f64>,
    /// Seconds that each prompt token adds, by its context.
    token: [Option<f64>; CONTEXTS],
    /// Seconds that its report adds to a reported one.
    report: Option<f64>,
}

impl PromptPace {
    /// With a policy's limits, and what a prompt of so many tokens is expected to take. Without limits steps are as large as they
    /// may be.
    pub(super) fn new(policy: &Policy, expected: impl Fn(usize) -> Option<Duration>) -> PromptPace {
        let Policy { prompt_time, step_time, .. } = *policy;
        let seconds = |tokens| expected(tokens).map(|time: Duration| time.as_secs_f64());
        let step = prompt_time.or(step_time).and_then(|_| seconds(1));
        let mut token = [None; CONTEXTS];
        token[0] = step
            .zip(seconds(EXPECTED_TOKENS))
            .map(|(step, prompt)| (prompt - step).max(prompt / 4.0) / EXPECTED_TOKENS as f64);
        PromptPace { prompt_time, step_time, step, token, report: None }
    }

    /// Seconds that a prompt token adds in a context: what was measured, or follows from the next shorter context, of which it
    /// takes at most twice the time for each doubling.
    fn token_seconds(&self, context: usize) -> Option<f64> {
        let class = class(context);
        let known =
            |shorter: usize| Some(self.token[shorter]? * f64::from(1_u32 << (class - shorter)));
        (0..=class).rev().find_map(known)
    }

    /// The most prompt tokens of a step in which others generate, where the longest of the prompts is in this context.
    pub(super) fn most_tokens(&self, context: usize) -> usize {
        let step = self.step.unwrap_or(0.0);
        let of_prompts = self.prompt_time.map(|limit| limit.as_secs_f64().max(step));
        let left = self.step_time.map(|limit| limit.as_secs_f64() - step);
        let time = of_prompts.into_iter().chain(left).reduce(f64::min);
        let tokens = time.zip(self.token_seconds(context)).map(|(time, token)| time / token);
        tokens.map_or(usize::MAX, |tokens| (tokens as usize).max(LEAST_TOKENS))
    }

    /// How many others a reported prompt token counts as.
    pub(super) fn reported_cost(&self, context: usize) -> usize {
        if self.prompt_time.or(self.step_time).is_none() {
            return 1;
        }
        let known = self.report.zip(self.token_seconds(context));
        let cost = known.map(|(report, token)| ((token + report) / token).ceil() as usize);
        cost.map_or(UNKNOWN_COST, |cost| cost.min(MAX_COST))
    }

    /// Records how long a step took.
    pub(super) fn measure(&mut self, plan: &StepPlan, seconds: f64) {
        let reported = |entry: &&PlanEntry| entry.report_prompt_on != SampleOn::None;
        let prompts = plan
            .entries
            .iter()
            .filter(|entry| (entry.tokens > 1 && entry.draft.is_empty()) || reported(entry));
        let context = prompts.clone().map(|entry| entry.start).max().unwrap_or(0);
        let reports: usize = prompts.clone().filter(reported).map(|entry| entry.tokens).sum();
        let tokens: usize = prompts.map(|entry| entry.tokens).sum();
        let beside = if plan.entries.len() > 1 { self.step.unwrap_or(0.0) } else { 0.0 };
        if reports > 0 {
            let read = tokens as f64 * self.token_seconds(context).unwrap_or(0.0);
            mean(&mut self.report, (seconds - beside - read).max(seconds / 4.0) / reports as f64);
        } else if tokens == 0 {
            mean(&mut self.step, seconds);
        } else if tokens >= LEAST_TOKENS {
            let of = &mut self.token[class(context)];
            mean(of, (seconds - beside).max(seconds / 4.0) / tokens as f64);
        }
    }
}

/// Which of the [`CONTEXTS`] it is.
fn class(context: usize) -> usize {
    ((context / SHORT_CONTEXT + 1).ilog2() as usize).min(CONTEXTS - 1)
}

/// Moves a mean towards a measurement.
fn mean(of: &mut Option<f64>, measured: f64) {
    let new = match *of {
        None => measured,
        Some(old) => KEPT * old + (1.0 - KEPT) * measured.clamp(old / OUTLIER, old * OUTLIER),
    };
    // Of a clock that stands still nothing can be learnt.
    *of = Some(new).filter(|seconds| *seconds > 0.0);
}

#[cfg(test)]
mod tests {
    use super::super::sample::Key;
    use super::*;

    /// Where prompts have a limit, and what was measured.
    fn pace(limit_ms: u64, step: f64, token: f64) -> PromptPace {
        let prompt_time = Some(Duration::from_millis(limit_ms));
        let mut means = [None; CONTEXTS];
        means[0] = Some(token);
        PromptPace { prompt_time, step_time: None, step: Some(step), token: means, report: None }
    }

    #[test]
    fn a_step_takes_as_many_prompt_tokens_as_its_time_allows() {
        assert_eq!(pace(12, 0.002, 0.000_3).most_tokens(0), 40);
        // A large model: as much time as its other tokens take.
        assert_eq!(pace(12, 0.2, 0.002).most_tokens(0), 100);
        assert_eq!(pace(12, 0.002, 0.1).most_tokens(0), LEAST_TOKENS);
        assert_eq!(PromptPace::new(&Policy::default(), |_| None).most_tokens(0), usize::MAX);
        let limited = Policy::default().with_prompt_time(Duration::from_millis(12));
        assert_eq!(PromptPace::new(&limited, |_| None).most_tokens(0), usize::MAX);
    }

    #[test]
    fn a_whole_step_has_a_time_of_which_prompts_get_what_is_left() {
        let limited = |step_ms| PromptPace {
            prompt_time: None,
            step_time: Some(Duration::from_millis(step_ms)),
            ..pace(0, 0.005, 0.000_011)
        };
        assert_eq!(limited(15).most_tokens(0), 909);
        // Without time left a prompt still goes on.
        assert_eq!((limited(5).most_tokens(0), limited(3).most_tokens(0)), (8, 8));
        // The lower limit counts.
        let both = |prompt_ms| PromptPace {
            prompt_time: Some(Duration::from_millis(prompt_ms)),
            ..limited(15)
        };
        assert_eq!((both(7).most_tokens(0), both(30).most_tokens(0)), (636, 909));
    }

    #[test]
    fn before_anything_is_measured_the_cost_model_says_how_long_a_token_takes() {
        let expected = |tokens: usize| Some(Duration::from_micros(2000 + 10 * (tokens as u64 - 1)));
        let policy = Policy::default().with_step_time(Duration::from_millis(12));
        let pace = PromptPace::new(&policy, expected);
        assert!((990..=1010).contains(&pace.most_tokens(0)), "{}", pace.most_tokens(0));
        assert_eq!(PromptPace::new(&Policy::default(), expected).most_tokens(0), usize::MAX);
    }

    #[test]
    fn tokens_of_a_long_context_are_not_taken_for_those_of_a_short_one() {
        let mut pace = pace(12, 0.002, 0.000_3);
        assert_eq!(pace.most_tokens(2047), 40);
        // Nothing is known of longer ones yet.
        assert_eq!((pace.most_tokens(2048), pace.most_tokens(30_000)), (20, LEAST_TOKENS));
        pace.token[3] = Some(0.001);
        assert_eq!((pace.most_tokens(2048), pace.most_tokens(30_000)), (20, 12));
        assert_eq!(class(usize::MAX / 2), CONTEXTS - 1);
    }

    #[test]
    fn a_reported_token_counts_as_those_that_take_as_long() {
        let entry = |tokens: usize, report_prompt_on| PlanEntry {
            key: Key { order: 0, request: 0, index: 0 },
            epoch: 0,
            seq_slot: 0,
            start: 0,
            tokens,
            sample_on: SampleOn::None,
            draft: Vec::new(),
            forbids_stops: false,
            report_prompt_on,
            mask: None,
            awaits_mask: false,
        };
        let plan = |entries: Vec<PlanEntry>| StepPlan { entries, ..StepPlan::default() };
        let unlimited = PromptPace { prompt_time: None, ..pace(6, 0.002, 0.000_1) };
        assert_eq!(unlimited.reported_cost(0), 1);
        let mut pace = pace(6, 0.002, 0.000_1);
        assert_eq!(pace.reported_cost(0), UNKNOWN_COST);
        // Ten tokens take 1 ms, and their reports 4 ms each.
        pace.measure(&plan(vec![entry(10, SampleOn::Device)]), 0.041);
        assert_eq!(pace.reported_cost(0), 41);
        // One alone, which is no step without a prompt.
        (0..50).for_each(|_| pace.measure(&plan(vec![entry(1, SampleOn::Device)]), 0.008_1));
        assert_eq!((pace.reported_cost(0), pace.step), (81, Some(0.002)));
        // What others take is not counted for it, nor its time for theirs.
        let both = plan(vec![entry(10, SampleOn::None), entry(1, SampleOn::Host)]);
        (0..50).for_each(|_| pace.measure(&both, 0.011_1));
        assert_eq!((pace.reported_cost(0), pace.most_tokens(0)), (81, 60));
        pace.report = Some(1e9);
        assert_eq!(pace.reported_cost(0), MAX_COST);
    }

    #[test]
    fn a_mean_follows_what_is_measured_and_is_not_led_astray_once() {
        let mut of = None;
        mean(&mut of, 1.0);
        mean(&mut of, 1000.0);
        assert_eq!(of, Some(0.75 + 0.25 * OUTLIER));
        (0..100).for_each(|_| mean(&mut of, 3.0));
        assert!((of.unwrap_or_default() - 3.0).abs() < 1e-6, "{of:?}");
        mean(&mut of, 0.0);
        assert!(of.is_some_and(|seconds| seconds > 2.0));
    }
}
