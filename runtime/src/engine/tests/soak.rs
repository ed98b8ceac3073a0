//! A long run of random requests with cancellations: no page leaks, no request hangs, memory use stays flat.

use std::collections::BTreeMap;

use super::super::{Request, RequestId};
use super::random::Random;
use super::*;

/// Serves `count` requests and returns how many samples ended by themselves.
fn soak(count: usize) -> u64 {
    let limits = Limits { max_sequences: 24, max_step_tokens: 192, pages: 64 };
    let policy = Policy { draft_tokens: 2, ..Policy::default() };
    let mut backend = Scripted::new(limits, 192);
    // Greedy text repeats itself, so that drafts are accepted and not by chance alone.
    backend.memory = 1;
    let mut engine = with_policy(backend, 1, policy);
    let (mut random, mut live, mut sent) = (Random::new(9), BTreeMap::<RequestId, usize>::new(), 0);
    let mut most_samples = 0;
    while sent < count || !engine.is_idle() {
        while sent < count && live.len() < 48 {
            let params = SamplingParams {
                n: 1 + random.below(20) / 19,
                presence_penalty: (random.below(8) / 7) as f32,
                temperature: random.below(2) as f32,
                ..params(sent as u64, 1 + random.below(12))
            };
            let tokens = prompt(1 + random.below(150), random.below(5));
            let samples = params.n;
            let priority = random.below(3) as i32;
            let request = Request { priority, ..Request::new(tokens, params) };
            live.insert(engine.submit(request).unwrap(), samples);
            sent += 1;
        }
        if random.below(10) == 0
            && let Some(&id) = live.keys().nth(random.below(live.len().max(1)))
        {
            engine.cancel(id);
            live.remove(&id);
        }
        for event in engine.step().unwrap() {
            let left = live.get_mut(&event.request).expect("an event of a live request");
            *left -= usize::from(event.finish.is_some());
            if *left == 0 {
                live.remove(&event.request);
            }
        }
        most_samples = most_samples.max(engine.metrics().waiting + engine.metrics().running);
    }
    assert!(live.is_empty(), "stuck: {live:?}");
    assert_eq!(engine.free_pages(), limits.pages);
    assert!(most_samples <= 48 * 2, "{most_samples} samples at once");
    let metrics = engine.metrics();
    assert_eq!(metrics.finished.iter().sum::<u64>(), metrics.request_generated_tokens.count);
    assert!(metrics.preemptions > 0, "nothing was preempted");
    assert!(metrics.cached_tokens > 0, "no prefix was shared");
    assert!(metrics.accepted_tokens > 0, "no draft was accepted");
    metrics.finished[..2].iter().sum()
}

#[test]
fn fifty_thousand_requests_leave_nothing_behind() {
    assert!(soak(50_000) > 40_000);
}
