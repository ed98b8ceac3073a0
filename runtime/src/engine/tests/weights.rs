//! Paused steps. That replaced weights compute what they should is tested in `tests/suites/numerics/adapters.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::engine::request::FinishReason;
use crate::{Checkpoint, EngineHandle, Error, Request};

#[test]
fn paused_steps_wait_and_deadlines_do_not() {
    let handle = EngineHandle::start(engine(LIMITS, 10, 1)).unwrap();
    let request = |salt| {
        let params = SamplingParams { ignore_eos: true, ..params(salt as u64, 5) };
        Request::new(prompt(9, salt), params)
    };
    handle.pause_steps().unwrap();
    assert!(handle.is_paused());
    let waiting = handle.submit(request(1)).unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = handle.submit(request(2).with_deadline(deadline)).unwrap();
    let ends: Vec<_> = late.into_iter().map(|event| (event.token, event.finish)).collect();
    assert_eq!(ends, [(None, Some(FinishReason::Deadline))]);
    assert_eq!(handle.metrics().steps, 0, "no step ran");
    handle.resume_steps().unwrap();
    assert_eq!(waiting.into_iter().filter_map(|event| event.token).count(), 5);
    // The scripted backend has no weights.
    let weights = Arc::new(Checkpoint::synthetic(ossmith_models::NANO, 1));
    let refused = handle.replace_weights(weights.clone());
    assert!(matches!(refused, Err(Error::InvalidOption { option: "weights", .. })), "{refused:?}");
    // A request that a pause interrupts goes on.
    let running = handle.submit(request(3)).unwrap();
    handle.pause_steps().unwrap();
    handle.resume_steps().unwrap();
    assert_eq!(running.into_iter().filter_map(|event| event.token).count(), 5);
    handle.shutdown();
    assert!(handle.pause_steps().is_err() && handle.replace_weights(weights).is_err());
}
