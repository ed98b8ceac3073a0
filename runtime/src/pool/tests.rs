//! A pool over scripted backends, whose answers a reference computes again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::engine::testing::{Fault, SPEC, Scripted, expected};
use crate::{FinishReason, Policy, SamplingParams};

const LIMITS: Limits = Limits { max_sequences: 3, max_step_tokens: 64, pages: 60 };

/// An engine for each of these faults and the steps in which they happen.
fn pool(faults: &[Option<(Fault, usize)>], limits: Limits, policy: Policy) -> EnginePool {
    let engine = |fault: &Option<(Fault, usize)>| {
        let mut backend = Scripted::new(limits, 64);
        backend.fault = *fault;
        Engine::with_backend(&SPEC, Box::new(backend), 1, policy).unwrap()
    };
    EnginePool::start(faults.iter().map(engine).collect()).unwrap()
}

fn params(max_tokens: usize) -> SamplingParams {
    SamplingParams {
        seed: 1,
        ignore_eos: true,
        max_tokens: Some(max_tokens),
        ..SamplingParams::default()
    }
}

fn prompt(length: usize, salt: usize) -> Vec<u32> {
    (0..length).map(|at| ((at * 31 + salt * 17 + 5) % SPEC.vocab) as u32).collect()
}

fn request(length: usize, salt: usize, max_tokens: usize) -> Request {
    Request::new(prompt(length, salt), params(max_tokens))
}

/// Whether something becomes true within a minute.
fn soon(mut is_true: impl FnMut() -> bool) -> bool {
    (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_true()
    })
}

/// The tokens of a request, and its end.
fn read(events: PoolEvents) -> (Vec<u32>, Option<FinishReason>) {
    let (mut tokens, mut finish) = (Vec::new(), None);
    for event in events {
        tokens.extend(event.token);
        finish = event.finish.or(finish);
    }
    (tokens, finish)
}

/// The same through `poll_event`.
fn poll(mut events: PoolEvents) -> (Vec<u32>, Option<FinishReason>) {
    let (mut tokens, mut finish) = (Vec::new(), None);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match events.poll_event(&mut context) {
            Poll::Ready(None) => return (tokens, finish),
            Poll::Ready(Some(event)) => {
                tokens.extend(event.token);
                finish = event.finish.or(finish);
            }
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[test]
fn answers_are_those_of_one_engine() {
    let pool = pool(&[None, None, None], LIMITS, Policy::default());
    std::thread::scope(|scope| {
        for salt in 0..8 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 1..6 {
                    let asked = request(20 * round, salt, 30);
                    let want = expected(&asked.prompt, &asked.params);
                    assert_eq!(read(pool.submit(asked).unwrap()).0, want);
                }
            });
        }
    });
    let several = Request::new(prompt(70, 1), SamplingParams { n: 3, ..params(9) });
    let mut counts = [0; 3];
    for event in pool.submit(several).unwrap() {
        counts[event.sample] += usize::from(event.token.is_some());
    }
    assert_eq!(counts, [9; 3]);
    pool.shutdown();
    let metrics = pool.metrics();
    let each: Vec<u64> = pool.engines().iter().map(|engine| engine.metrics().requests).collect();
    assert_eq!((metrics.requests, metrics.pages_total), (41, 3 * LIMITS.pages));
    assert_eq!((each.iter().sum::<u64>(), metrics.pages_used), (41, 0));
    assert!(each.iter().all(|&requests| requests > 0), "{each:?}");
    assert_eq!(pool.shared.loads().samples(), 0);
}

#[test]
fn a_conversation_comes_back_to_the_engine_that_has_its_pages() {
    let pool = pool(&[None, None], LIMITS, Policy::default());
    // Prompts with nothing in common, placed one after another.
    let mut chats: Vec<(Vec<u32>, usize)> = Vec::new();
    for salt in 0..4 {
        let asked = request(200, salt, 100);
        let mut tokens = asked.prompt.clone();
        let events = pool.submit(asked).unwrap();
        let home = events.engine();
        tokens.extend(read(events).0);
        chats.push((tokens, home));
    }
    let homes: Vec<usize> = chats.iter().map(|(_, home)| *home).collect();
    assert_eq!(homes, [0, 1, 0, 1]);
    for (tokens, home) in chats.into_iter().rev() {
        let next = [&tokens[..], &prompt(40, 77)].concat();
        let mut events = pool.submit(Request::new(next.clone(), params(2))).unwrap();
        assert_eq!(events.engine(), home);
        let first = events.next_blocking().unwrap();
        let cached = first.prompt.unwrap().cached_tokens;
        assert!((192..=tokens.len()).contains(&cached), "{cached} cached tokens");
        drop(events);
        // Another tenant's prompt of the same tokens finds nothing anywhere.
        let mut other = pool.submit(Request::new(next, params(2)).with_cache_salt(9)).unwrap();
        let first = other.next_blocking().unwrap();
        assert_eq!(first.prompt.unwrap().cached_tokens, 0);
        drop(other);
    }
}

#[test]
fn a_request_is_placed_again_if_its_engine_fails_before_an_event_was_read() {
    for fault in [Fault::FailsAtCollect, Fault::PanicsAtSubmit, Fault::PanicsAtCollect] {
        for reader in [read, poll] {
            let pool = pool(&[Some((fault, 0)), None], LIMITS, Policy::default());
            let asked: Vec<Request> = (0..6).map(|salt| request(30, salt, 20)).collect();
            let all: Vec<PoolEvents> =
                asked.iter().map(|one| pool.submit(one.clone()).unwrap()).collect();
            for (one, events) in asked.iter().zip(all) {
                let (tokens, finish) = reader(events);
                assert_eq!(tokens, expected(&one.prompt, &one.params), "{fault:?}: {finish:?}");
                assert_eq!(finish, Some(FinishReason::Length));
            }
            assert!(pool.closed().is_none(), "one engine runs");
            assert_eq!(pool.shared.loads().alive(), 1);
            let after = pool.submit(request(30, 9, 3)).unwrap();
            assert_eq!((after.engine(), read(after).0.len()), (1, 3));
            assert_eq!(pool.shared.loads().samples(), 0);
        }
    }
}

#[test]
fn a_request_that_was_cancelled_is_not_placed_again() {
    let pool = pool(&[Some((Fault::FailsAtCollect, 0)), None], LIMITS, Policy::default());
    let events = pool.submit(request(30, 0, 20)).unwrap();
    assert!(soon(|| pool.engines()[0].closed().is_some()));
    events.cancel();
    let (tokens, finish) = read(events);
    let failed =
        matches!(&finish, Some(FinishReason::Failed(why)) if why.contains("of 2 has failed"));
    assert!(tokens.is_empty() && failed, "{finish:?}");
    assert_eq!(pool.engines()[1].metrics().requests, 0);
    assert_eq!(pool.shared.loads().samples(), 0);
}

#[test]
fn a_request_of_which_something_was_read_ends_with_its_engine() {
    // Its reader is slow, so the engine waits for it after the first tokens.
    let policy = Policy { event_capacity: 2, ..Policy::default() };
    let pool = pool(&[Some((Fault::FailsAtCollect, 9)), None], LIMITS, policy);
    let mut begun = pool.submit(request(30, 0, 200)).unwrap();
    let other = pool.submit(request(30, 1, 40)).unwrap();
    assert_eq!((begun.engine(), other.engine()), (0, 1));
    assert!(begun.next_blocking().unwrap().token.is_some());
    let (tokens, finish) = read(begun);
    assert!(tokens.len() < 20);
    let Some(FinishReason::Failed(reason)) = finish else { panic!("{finish:?}") };
    assert!(reason.contains("engine 0 of 2 has failed") && reason.contains("scripted device"));
    assert_eq!(read(other).0.len(), 40, "the other engine goes on");
    assert!(pool.closed().is_none());
    assert!(pool.engines()[0].closed().is_some());
    // The queue has room for what one engine runs, and what may wait.
    let full = Request::new(prompt(9, 0), SamplingParams { n: 3, ..params(2) });
    assert_eq!(read(pool.submit(full).unwrap()).0.len(), 6);
}

#[test]
fn a_pool_whose_engines_have_all_failed_is_closed() {
    let fault = Some((Fault::FailsAtCollect, 0));
    let pool = pool(&[fault, fault], LIMITS, Policy::default());
    let (tokens, finish) = read(pool.submit(request(30, 0, 5)).unwrap());
    let failed =
        matches!(&finish, Some(FinishReason::Failed(why)) if why.contains("of 2 has failed"));
    assert!(tokens.is_empty() && failed, "{finish:?}");
    let closed = pool.closed();
    assert!(matches!(&closed, Some(Error::Stopped { reason }) if reason.contains("scripted")));
    let refused = pool.submit(request(30, 0, 5));
    assert!(matches!(refused, Err(Error::Stopped { .. })), "{refused:?}");
}

#[test]
fn the_queue_has_one_limit_for_all_engines() {
    // Nothing ends, since nobody reads.
    let policy = Policy { max_waiting: 4, event_capacity: 1, ..Policy::default() };
    let limits = Limits { max_sequences: 1, ..LIMITS };
    let pool = pool(&[None, None], limits, policy);
    let one = |salt| pool.submit(request(9, salt, 400));
    let held: Vec<PoolEvents> = (0..6).map(|salt| one(salt).unwrap()).collect();
    let full = one(6);
    let expected = matches!(full, Err(Error::QueueFull { waiting: 4, limit: 4, capacity: 6 }));
    assert!(expected, "{full:?}");
    let never = pool.submit(Request::new(prompt(9, 0), SamplingParams { n: 7, ..params(9) }));
    assert!(matches!(never, Err(Error::InvalidRequest { field: "n", .. })), "{never:?}");
    held.iter().for_each(PoolEvents::cancel);
    for events in held {
        assert_eq!(read(events).1, Some(FinishReason::Cancelled));
    }
    assert!(soon(|| pool.metrics().waiting + pool.metrics().running == 0));
    let again: Vec<PoolEvents> = (0..6).map(|salt| one(salt).unwrap()).collect();
    drop(again);
    assert!(soon(|| pool.metrics().running == 0), "what is dropped is cancelled");
    assert_eq!(pool.shared.loads().samples(), 0);
}

#[test]
fn a_pool_whose_engines_have_failed_reports_that_and_no_full_queue() {
    // Every place is taken when both fail, and nobody reads the events that would tell.
    let policy = Policy { max_waiting: 1, ..Policy::default() };
    let limits = Limits { max_sequences: 1, ..LIMITS };
    let fault = Some((Fault::FailsAtCollect, 50));
    let pool = pool(&[fault, fault], limits, policy);
    let mut held = Vec::new();
    let refused = loop {
        // Looked at first: both may fail while a request is refused.
        let runs = pool.engines().iter().any(|engine| engine.closed().is_none());
        match pool.submit(request(9, held.len(), 400)) {
            Ok(events) => held.push(events),
            Err(Error::QueueFull { .. }) if runs => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, Error::Stopped { reason } if reason.contains("scripted")),
        "{refused:?}"
    );
    assert!(!held.is_empty());
}

#[test]
fn shutdown_ends_every_reader() {
    let policy = Policy { event_capacity: 1, ..Policy::default() };
    let pool = pool(&[None, None], LIMITS, policy);
    let all: Vec<PoolEvents> =
        (0..9).map(|salt| pool.submit(request(9, salt, 400)).unwrap()).collect();
    pool.shutdown();
    for events in all {
        assert_eq!(read(events).1, Some(FinishReason::Cancelled));
    }
    assert!(matches!(pool.submit(request(9, 0, 4)), Err(Error::ShutDown)));
    assert!(matches!(pool.closed(), Some(Error::ShutDown)));
}

#[test]
fn engines_that_differ_are_refused() {
    let engine = |limits| {
        Engine::with_backend(&SPEC, Box::new(Scripted::new(limits, 64)), 1, Policy::default())
            .unwrap()
    };
    let other = Limits { pages: 9, ..LIMITS };
    let error = EnginePool::start(vec![engine(LIMITS), engine(other)]).unwrap_err().to_string();
    assert!(error.contains("engine 1 of the pool"), "{error}");
    assert!(EnginePool::start(Vec::new()).is_err());
    let same = EnginePool::start(vec![engine(LIMITS), engine(LIMITS)]).unwrap();
    let described = same.describe();
    assert!(described.starts_with("2 engines, each "), "{described}");
}
