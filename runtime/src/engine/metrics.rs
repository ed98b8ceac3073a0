//! What the engine counts, as plain data: whoever exports it (a server, a benchmark) decides how.

/// Bounds of times to the first token and of whole requests, in seconds.
const TIME_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Bounds of times between tokens and of steps, in seconds.
const STEP_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4,
    0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
];
/// Bounds of numbers of tokens.
const TOKEN_BOUNDS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

/// How many values lie between bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    pub bounds: &'static [f64],
    /// One count per bound, not cumulative, and one for the values above all bounds.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
    /// Number of values.
    pub count: u64,
}

impl Histogram {
    /// No values yet.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0, count: 0 }
    }

    /// Counts a value.
    pub fn add(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|&bound| bound < value)] += 1;
        self.sum += value;
        self.count += 1;
    }
}

impl std::ops::AddAssign<&Histogram> for Histogram {
    /// Adds the values of another histogram with the same bounds.
    fn add_assign(&mut self, other: &Histogram) {
        debug_assert_eq!(self.bounds, other.bounds);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
        self.count += other.count;
    }
}

/// Counters, gauges and histograms of an engine.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EngineMetrics {
    /// Samples that wait for their first step, or for pages after they were preempted.
    pub waiting: usize,
    /// Samples that have a sequence slot, those that wait for a slow reader included.
    pub running: usize,
    /// Pages of the cache.
    pub pages_total: usize,
    /// Pages that running requests use.
    pub pages_used: usize,
    /// Pages that hold prefixes and that no request uses.
    pub pages_cached: usize,
    /// Requests accepted.
    pub requests: u64,
    /// Samples that ended, by reason: stop, length, abort, error.
    pub finished: [u64; 4],
    /// Prompt tokens of samples that started.
    pub prompt_tokens: u64,
    /// Of these, tokens that were taken from a cached prefix.
    pub cached_tokens: u64,
    /// Tokens for which a prefix was looked up.
    pub prefix_queries: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// How often a sample was preempted for another.
    pub preemptions: u64,
    /// Steps that carried drafts.
    pub drafts: u64,
    /// Draft tokens.
    pub draft_tokens: u64,
    /// Of these, tokens that were accepted.
    pub accepted_tokens: u64,
    /// The same by position in the draft.
    pub accepted_by_position: Vec<u64>,
    /// Tokens that were sampled in no step, because a mask left no other.
    pub forced_tokens: u64,
    /// How often a token ran again, because the mask of the token after it was not there when its step was sampled.
    pub late_masks: u64,
    /// Steps run.
    pub steps: u64,
    /// Tokens of a step.
    pub step_tokens: Histogram,
    /// Time from one step's results to the next step's, in seconds.
    pub step_seconds: Histogram,
    /// Time that the device computed, in seconds, by its own clock if it has one.
    pub device_busy_seconds: f64,
    /// Time between steps in which it did not compute, in seconds: transfers, and waiting for the host. Time in which
    /// the engine had nothing to do does not count.
    pub device_idle_seconds: f64,
    /// Tokens that were sampled on the host from returned logits, because of penalties, bias, masks, `min_tokens` or
    /// logprobs.
    pub host_sampled_tokens: u64,
    /// Time that the host spent on a step outside the backend, in seconds.
    pub host_seconds: Histogram,
    /// Time from arrival to the first token.
    pub first_token_seconds: Histogram,
    /// Time between tokens of a sample.
    pub inter_token_seconds: Histogram,
    /// Time from arrival to the first step.
    pub queue_seconds: Histogram,
    /// Time from the first step to the first token.
    pub prefill_seconds: Histogram,
    /// Time from the first token to the last.
    pub decode_seconds: Histogram,
    /// Time from arrival to the end.
    pub request_seconds: Histogram,
    /// Prompt tokens of a request.
    pub request_prompt_tokens: Histogram,
    /// Generated tokens of a sample.
    pub request_generated_tokens: Histogram,
}

impl EngineMetrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(pages_total: usize) -> EngineMetrics {
        let times = || Histogram::new(TIME_BOUNDS);
        let (steps, tokens) = (|| Histogram::new(STEP_BOUNDS), || Histogram::new(TOKEN_BOUNDS));
        EngineMetrics {
            waiting: 0,
            running: 0,
            pages_total,
            pages_used: 0,
            pages_cached: 0,
            requests: 0,
            finished: [0; 4],
            prompt_tokens: 0,
            cached_tokens: 0,
            prefix_queries: 0,
            generated_tokens: 0,
            preemptions: 0,
            drafts: 0,
            draft_tokens: 0,
            accepted_tokens: 0,
            accepted_by_position: Vec::new(),
            forced_tokens: 0,
            late_masks: 0,
            steps: 0,
            step_tokens: tokens(),
            step_seconds: steps(),
            device_busy_seconds: 0.0,
            device_idle_seconds: 0.0,
            host_sampled_tokens: 0,
            host_seconds: steps(),
            first_token_seconds: times(),
            inter_token_seconds: steps(),
            queue_seconds: times(),
            prefill_seconds: times(),
            decode_seconds: times(),
            request_seconds: times(),
            request_prompt_tokens: tokens(),
            request_generated_tokens: tokens(),
        }
    }

    /// Every histogram, with its name and what it counts, for whoever exports them. A histogram that is not listed here does
    /// not compile.
    #[must_use]
    pub fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 11] {
        let EngineMetrics {
            waiting: _,
            running: _,
            pages_total: _,
            pages_used: _,
            pages_cached: _,
            requests: _,
            finished: _,
            prompt_tokens: _,
            cached_tokens: _,
            prefix_queries: _,
            generated_tokens: _,
            preemptions: _,
            drafts: _,
            draft_tokens: _,
            accepted_tokens: _,
            accepted_by_position: _,
            forced_tokens: _,
            late_masks: _,
            steps: _,
            step_tokens,
            step_seconds,
            device_busy_seconds: _,
            device_idle_seconds: _,
            host_sampled_tokens: _,
            host_seconds,
            first_token_seconds,
            inter_token_seconds,
            queue_seconds,
            prefill_seconds,
            decode_seconds,
            request_seconds,
            request_prompt_tokens,
            request_generated_tokens,
        } = self;
        [
            ("step_tokens", "Tokens of a step.", step_tokens),
            ("step_seconds", "From one step's results to the next step's.", step_seconds),
            ("host_seconds", "Host time of a step outside the backend.", host_seconds),
            ("first_token_seconds", "From arrival to a sample's first token.", first_token_seconds),
            ("inter_token_seconds", "Between two tokens of a sample.", inter_token_seconds),
            ("queue_seconds", "From arrival to a sample's first step.", queue_seconds),
            ("prefill_seconds", "From a sample's first step to its first token.", prefill_seconds),
            ("decode_seconds", "From a sample's first token to its last.", decode_seconds),
            ("request_seconds", "From arrival to a sample's end.", request_seconds),
            ("request_prompt_tokens", "Prompt tokens of a request.", request_prompt_tokens),
            ("request_generated_tokens", "Tokens of a sample.", request_generated_tokens),
        ]
    }

    /// Counts a draft of which the first `accepted` tokens were accepted.
    pub(super) fn count_draft(&mut self, drafted: usize, accepted: usize) {
        self.drafts += 1;
        self.draft_tokens += drafted as u64;
        self.accepted_tokens += accepted as u64;
        self.accepted_by_position.resize(self.accepted_by_position.len().max(drafted), 0);
        self.accepted_by_position[..accepted].iter_mut().for_each(|count| *count += 1);
    }
}

impl std::ops::AddAssign<&EngineMetrics> for EngineMetrics {
    /// Adds what another engine has counted. A field that is not listed here does not compile.
    fn add_assign(&mut self, other: &EngineMetrics) {
        let EngineMetrics {
            waiting,
            running,
            pages_total,
            pages_used,
            pages_cached,
            requests,
            finished,
            prompt_tokens,
            cached_tokens,
            prefix_queries,
            generated_tokens,
            preemptions,
            drafts,
            draft_tokens,
            accepted_tokens,
            accepted_by_position,
            forced_tokens,
            late_masks,
            steps,
            step_tokens,
            step_seconds,
            device_busy_seconds,
            device_idle_seconds,
            host_sampled_tokens,
            host_seconds,
            first_token_seconds,
            inter_token_seconds,
            queue_seconds,
            prefill_seconds,
            decode_seconds,
            request_seconds,
            request_prompt_tokens,
            request_generated_tokens,
        } = other;
        self.waiting += waiting;
        self.running += running;
        self.pages_total += pages_total;
        self.pages_used += pages_used;
        self.pages_cached += pages_cached;
        self.requests += requests;
        self.prompt_tokens += prompt_tokens;
        self.cached_tokens += cached_tokens;
        self.prefix_queries += prefix_queries;
        self.generated_tokens += generated_tokens;
        self.preemptions += preemptions;
        self.drafts += drafts;
        self.draft_tokens += draft_tokens;
        self.accepted_tokens += accepted_tokens;
        self.forced_tokens += forced_tokens;
        self.late_masks += late_masks;
        self.steps += steps;
        self.step_tokens += step_tokens;
        self.step_seconds += step_seconds;
        self.device_busy_seconds += device_busy_seconds;
        self.device_idle_seconds += device_idle_seconds;
        self.host_sampled_tokens += host_sampled_tokens;
        self.host_seconds += host_seconds;
        self.first_token_seconds += first_token_seconds;
        self.inter_token_seconds += inter_token_seconds;
        self.queue_seconds += queue_seconds;
        self.prefill_seconds += prefill_seconds;
        self.decode_seconds += decode_seconds;
        self.request_seconds += request_seconds;
        self.request_prompt_tokens += request_prompt_tokens;
        self.request_generated_tokens += request_generated_tokens;
        self.finished.iter_mut().zip(finished).for_each(|(count, more)| *count += more);
        let positions = self.accepted_by_position.len().max(accepted_by_position.len());
        self.accepted_by_position.resize(positions, 0);
        let accepted = self.accepted_by_position.iter_mut().zip(accepted_by_position);
        accepted.for_each(|(count, more)| *count += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_their_bound() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        [0.0, 1.0, 1.5, 2.0, 2.5, 9.0].into_iter().for_each(|value| histogram.add(value));
        assert_eq!((histogram.counts, histogram.sum, histogram.count), (vec![2, 2, 2], 16.0, 6));
    }

    #[test]
    fn what_engines_counted_adds_up() {
        let (mut sum, mut one, mut two) =
            (EngineMetrics::new(0), EngineMetrics::new(5), EngineMetrics::new(7));
        one.count_draft(3, 2);
        two.count_draft(1, 1);
        (one.running, two.running) = (2, 3);
        one.finished = [1, 0, 2, 0];
        two.finished = [1, 1, 1, 1];
        one.step_tokens.add(3.0);
        two.step_tokens.add(300.0);
        sum += &one;
        sum += &two;
        assert_eq!((sum.running, sum.pages_total, sum.finished), (5, 12, [2, 1, 3, 1]));
        assert_eq!(sum.accepted_by_position, [2, 1, 0]);
        assert_eq!((sum.step_tokens.count, sum.step_tokens.sum), (2, 303.0));
    }
}
