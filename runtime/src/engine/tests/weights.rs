//! Paused steps. That replaced weights compute what they should is tested in `tests/suites/numerics/adapters.rs`.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::*;
use crate::engine::events::{Command, Events};
use crate::engine::handle::{Worker, parts};
use crate::engine::request::FinishReason;
use crate::{Checkpoint, EngineHandle, Error, PauseMode, Request};

#[test]
fn paused_steps_wait_and_deadlines_do_not() {
    let handle = EngineHandle::start(engine(LIMITS, 10, 1)).unwrap();
    let request = |salt| {
        let params = SamplingParams { ignore_eos: true, ..params(salt as u64, 5) };
        Request::new(prompt(9, salt), params)
    };
    handle.pause(PauseMode::Keep).unwrap();
    assert!(handle.is_paused());
    let waiting = handle.submit(request(1)).unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = handle.submit(request(2).with_deadline(deadline)).unwrap();
    let ends: Vec<_> = late.into_iter().map(|event| (event.token, event.finish)).collect();
    assert_eq!(ends, [(None, Some(FinishReason::Deadline))]);
    assert_eq!(handle.metrics().steps, 0, "no step ran");
    handle.unpause().unwrap();
    assert_eq!(waiting.into_iter().filter_map(|event| event.token).count(), 5);
    // The scripted backend has no weights.
    let weights = Arc::new(Checkpoint::synthetic(ossmith_models::NANO, 1));
    let refused = handle.replace_weights(weights.clone());
    assert!(matches!(refused, Err(Error::InvalidOption { option: "weights", .. })), "{refused:?}");
    let refused = handle.update_weights("weights.safetensors".as_ref());
    assert!(matches!(refused, Err(Error::InvalidOption { option: "weights", .. })), "{refused:?}");
    // A request that a pause interrupts goes on.
    let running = handle.submit(request(3)).unwrap();
    handle.pause(PauseMode::Keep).unwrap();
    handle.unpause().unwrap();
    assert_eq!(running.into_iter().filter_map(|event| event.token).count(), 5);
    handle.shutdown();
    assert!(handle.pause(PauseMode::Keep).is_err() && handle.replace_weights(weights).is_err());
}

/// A worker that took four requests, one more than there are sequence slots, and made a step.
fn four_requests() -> (EngineHandle, Worker, Vec<Events>) {
    let (handle, mut worker) = parts(engine(LIMITS, 10, 1));
    let request = |salt: u64| {
        let params = SamplingParams { ignore_eos: true, ..params(salt, 5) };
        let events = handle.submit(Request::new(prompt(3, salt as usize), params)).unwrap();
        assert!(worker.execute(worker.next_command().unwrap()).is_none());
        events
    };
    let events = (0..4).map(request).collect();
    assert!(worker.step().is_none());
    (handle, worker, events)
}

/// The tokens of a request whose events have all arrived, and how it ended.
fn ended(events: Events) -> (usize, Option<FinishReason>) {
    let events: Vec<_> = events.into_iter().collect();
    let tokens = events.iter().filter(|event| event.token.is_some()).count();
    (tokens, events.last().and_then(|event| event.finish.clone()))
}

#[test]
fn a_pause_ends_what_there_is() {
    let (handle, mut worker, requests) = four_requests();
    let (reply, paused) = channel();
    assert!(worker.execute(Command::Pause(PauseMode::Abort, reply)).is_none());
    assert!(handle.is_paused() && paused.try_recv().is_ok());
    for request in requests {
        let (tokens, finish) = ended(request);
        assert!(tokens < 5 && finish == Some(FinishReason::Cancelled), "{tokens} {finish:?}");
    }
}

#[test]
fn a_pause_finishes_what_runs_and_starts_nothing() {
    let (handle, mut worker, mut requests) = four_requests();
    let (reply, paused) = channel();
    assert!(worker.execute(Command::Pause(PauseMode::Wait, reply)).is_none());
    assert!(!handle.is_paused() && paused.try_recv().is_err());
    while !handle.is_paused() {
        assert!(worker.iterate().is_none());
    }
    assert!(paused.try_recv().is_ok());
    let waiting = requests.pop().unwrap();
    for request in requests {
        assert_eq!(ended(request), (5, Some(FinishReason::Length)));
    }
    assert_eq!(handle.metrics().waiting, 1);
    let (reply, unpaused) = channel();
    assert!(worker.execute(Command::Unpause(reply)).is_none() && unpaused.try_recv().is_ok());
    while handle.metrics().running + handle.metrics().waiting > 0 {
        assert!(worker.iterate().is_none());
    }
    assert_eq!(ended(waiting), (5, Some(FinishReason::Length)));
}

#[test]
fn a_pause_that_waits_can_be_taken_back() {
    let (handle, mut worker, requests) = four_requests();
    let (reply, paused) = channel();
    assert!(worker.execute(Command::Pause(PauseMode::Wait, reply)).is_none());
    let (reply, unpaused) = channel();
    assert!(worker.execute(Command::Unpause(reply)).is_none());
    assert!(paused.try_recv().is_ok() && unpaused.try_recv().is_ok() && !handle.is_paused());
    while handle.metrics().running + handle.metrics().waiting > 0 {
        assert!(worker.iterate().is_none());
    }
    for request in requests {
        assert_eq!(ended(request), (5, Some(FinishReason::Length)));
    }
}

#[test]
fn a_paused_engine_is_paused_again_without_a_step() {
    let (handle, mut worker, requests) = four_requests();
    for mode in [PauseMode::Keep, PauseMode::Wait] {
        let (reply, paused) = channel();
        assert!(worker.execute(Command::Pause(mode, reply)).is_none());
        assert!(handle.is_paused() && paused.try_recv().is_ok(), "{mode:?}");
    }
    let (reply, unpaused) = channel();
    assert!(worker.execute(Command::Unpause(reply)).is_none() && unpaused.try_recv().is_ok());
    while handle.metrics().running + handle.metrics().waiting > 0 {
        assert!(worker.iterate().is_none());
    }
    for request in requests {
        assert_eq!(ended(request), (5, Some(FinishReason::Length)));
    }
}
