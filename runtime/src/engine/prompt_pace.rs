//! How large the prompts' part of a step may be while other samples generate: what it computes in a given time, or in the time
//! of a step without a prompt if that is longer. So whoever sends a long prompt makes the others' tokens come at
//! most that much later. [`super::batch`] asks for it; what steps take is measured as they are collected.

use std::time::Duration;

use super::step_plan::StepPlan;

/// Prompt tokens of a step at least, so that a prompt goes on however slow the machine is. Fewer take as long in a long
/// context, where reading the keys is most of the work.
const LEAST_TOKENS: usize = 8;
/// The weight of what was measured before.
const KEPT: f64 = 0.75;
/// A machine with other work may stop for a while, so one measurement counts as at most this many times the mean.
const OUTLIER: f64 = 4.0;

/// Contexts are told apart by their length: up to this many tokens, up to twice as many, and so on. A token of a prompt reads all
/// keys before it, so one in the middle of a long prompt takes many times as long as one at its beginning.
const SHORT_CONTEXT: usize = 2048;
const CONTEXTS: usize = 8;

/// What steps take, by what they hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct PromptPace {
    limit: Option<Duration>,
    /// Seconds of a step without a prompt.
    step: Option<f64>,
    /// Seconds that each prompt token adds, by its context.
    token: [Option<f64>; CONTEXTS],
}

impl PromptPace {
    /// With this limit. None leaves steps as large as they may be.
    pub(super) fn new(limit: Option<Duration>) -> PromptPace {
        PromptPace { limit, step: None, token: [None; CONTEXTS] }
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
        let (Some(limit), Some(token)) = (self.limit, self.token_seconds(context)) else {
            return usize::MAX;
        };
        let time = limit.as_secs_f64().max(self.step.unwrap_or(0.0));
        ((time / token) as usize).max(LEAST_TOKENS)
    }

    /// Records how long a step took.
    pub(super) fn measure(&mut self, plan: &StepPlan, seconds: f64) {
        let prompts =
            plan.entries.iter().filter(|entry| entry.tokens > 1 && entry.draft.is_empty());
        let context = prompts.clone().map(|entry| entry.start).max().unwrap_or(0);
        let tokens: usize = prompts.map(|entry| entry.tokens).sum();
        if tokens == 0 {
            mean(&mut self.step, seconds);
        } else if tokens >= LEAST_TOKENS {
            let beside = if plan.entries.len() > 1 { self.step.unwrap_or(0.0) } else { 0.0 };
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
    use super::*;

    fn pace(limit_ms: u64, step: f64, token: f64) -> PromptPace {
        let limit = Some(Duration::from_millis(limit_ms));
        let mut means = [None; CONTEXTS];
        means[0] = Some(token);
        PromptPace { limit, step: Some(step), token: means }
    }

    #[test]
    fn a_step_takes_as_many_prompt_tokens_as_its_time_allows() {
        assert_eq!(pace(12, 0.002, 0.000_3).most_tokens(0), 40);
        // A large model: as much time as its other tokens take.
        assert_eq!(pace(12, 0.2, 0.002).most_tokens(0), 100);
        assert_eq!(pace(12, 0.002, 0.1).most_tokens(0), LEAST_TOKENS);
        assert_eq!(PromptPace::new(None).most_tokens(0), usize::MAX);
        let unmeasured = PromptPace::new(Some(Duration::from_millis(12)));
        assert_eq!(unmeasured.most_tokens(0), usize::MAX);
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
