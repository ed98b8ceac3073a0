//! The engine on its own thread: events, slow readers, cancellation, shutdown, failure.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::testing::{Fault, expected};
use super::super::{EngineHandle, FinishReason, Request};
use super::*;
use crate::Error;

fn start(backend: Scripted, policy: Policy) -> EngineHandle {
    EngineHandle::start(with_policy(backend, 1, policy)).unwrap()
}

fn long() -> SamplingParams {
    SamplingParams { ignore_eos: true, ..params(1, 400) }
}

/// Whether something becomes true within five seconds.
fn soon(mut is_true: impl FnMut() -> bool) -> bool {
    (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_true()
    })
}

#[test]
fn many_threads_get_the_answers_of_solo_runs() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    std::thread::scope(|scope| {
        for salt in 0..8 {
            let handle = handle.clone();
            scope.spawn(move || {
                for round in 1..6 {
                    let (prompt, asked) = (prompt(20 * round, salt), params(salt as u64, 30));
                    let events = handle.submit(Request::new(&prompt[..], asked.clone())).unwrap();
                    let tokens: Vec<u32> = events.filter_map(|event| event.token).collect();
                    assert_eq!(tokens, expected(&prompt, &asked));
                }
            });
        }
    });
    handle.shutdown();
    let metrics = handle.metrics();
    assert_eq!((metrics.requests, metrics.finished[..2].iter().sum::<u64>()), (40, 40));
    assert_eq!(metrics.pages_used, 0);
}

#[test]
fn a_slow_reader_loses_nothing_and_delays_nobody() {
    let policy = Policy { event_capacity: 8, ..Policy::default() };
    // The slow request alone takes nearly all pages.
    let handle = start(Scripted::new(Limits { pages: 8, ..LIMITS }, 10), policy);
    let slow = handle.submit(Request::new(prompt(50, 0), long())).unwrap();
    let quick = prompt(100, 1);
    for _ in 0..5 {
        let tokens: Vec<u32> = handle
            .submit(Request::new(&quick[..], long()))
            .unwrap()
            .filter_map(|event| event.token)
            .collect();
        assert_eq!(tokens, expected(&quick, &long()));
    }
    let tokens: Vec<u32> = slow.filter_map(|event| event.token).collect();
    assert_eq!(tokens, expected(&prompt(50, 0), &long()));
}

#[test]
fn whoever_drops_or_cancels_frees_the_place() {
    let handle = start(Scripted::new(Limits { max_sequences: 1, ..LIMITS }, 10), Policy::default());
    drop(handle.submit(Request::new(prompt(5, 0), long())).unwrap());
    let mut cancelled = handle.submit(Request::new(prompt(5, 0), long())).unwrap();
    assert!(cancelled.next().unwrap().token.is_some());
    cancelled.cancel();
    assert_eq!(cancelled.last().unwrap().finish, Some(FinishReason::Cancelled));
    let after = handle.submit(Request::new(prompt(5, 0), params(1, 3))).unwrap();
    assert_eq!(after.filter_map(|event| event.token).count(), 3);
}

#[test]
fn events_can_be_polled() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    let mut events = handle.submit(Request::new(prompt(5, 0), params(2, 4))).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut tokens = Vec::new();
    loop {
        match events.poll_next(&mut context) {
            Poll::Ready(Some(event)) => tokens.extend(event.token),
            Poll::Ready(None) => break,
            Poll::Pending => match events.next_within(Duration::from_secs(60)) {
                Poll::Ready(Some(event)) => tokens.extend(event.token),
                Poll::Ready(None) => break,
                Poll::Pending => panic!("no event within a minute"),
            },
        }
    }
    assert_eq!(tokens, expected(&prompt(5, 0), &params(2, 4)));
    // A wait longer than any clock can say.
    assert_eq!(events.next_within(Duration::MAX), Poll::Ready(None));
}

#[test]
fn a_failing_step_ends_every_reader_and_later_requests_are_refused() {
    for fault in [Fault::FailsAtCollect, Fault::PanicsAtSubmit, Fault::PanicsAtCollect] {
        let mut backend = Scripted::new(LIMITS, 10);
        backend.fault = Some((fault, 6));
        let handle = start(backend, Policy::default());
        let readers: Vec<_> = (0..6)
            .filter_map(|salt| handle.submit(Request::new(prompt(9, salt), long())).ok())
            .collect();
        for reader in readers {
            let end = reader.last().unwrap().finish.unwrap();
            assert!(matches!(end, FinishReason::Failed(why) if why.contains("scripted device")));
        }
        handle.shutdown();
        let error = handle.submit(Request::new(prompt(9, 0), long())).unwrap_err();
        assert!(matches!(&error, Error::Closed(why) if why.contains("scripted device")), "{error}");
    }
}

#[test]
fn shutdown_ends_every_reader() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    let readers: Vec<_> =
        (0..9).map(|salt| handle.submit(Request::new(prompt(9, salt), long())).unwrap()).collect();
    handle.shutdown();
    for reader in readers {
        let end = reader.last().unwrap().finish;
        assert!(matches!(end, Some(FinishReason::Cancelled | FinishReason::Length)), "{end:?}");
    }
    assert!(matches!(handle.submit(Request::new([1], long())), Err(Error::Closed(_))));
}

#[test]
fn a_full_queue_whose_requests_are_all_cancelled_takes_others() {
    let backend = Scripted::new(LIMITS, 10);
    let seen = backend.seen.clone();
    let policy = Policy { max_waiting: 3, ..Policy::default() };
    let handle = EngineHandle::start(with_policy(backend, 0, policy)).unwrap();
    let ask = |n| Request::new(prompt(9, 0), SamplingParams { n, ..long() });
    {
        // The first request's only step does not end until two more have come and gone.
        let _step = seen.lock().unwrap();
        let one = SamplingParams { max_tokens: Some(1), ..long() };
        drop(handle.submit(Request::new(prompt(9, 0), one)).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        let others = [handle.submit(ask(1)).unwrap(), handle.submit(ask(1)).unwrap()];
        drop(others);
    }
    assert!(soon(|| handle.submit(ask(2)).is_ok()), "{:?}", handle.metrics());
}

#[test]
fn the_numbers_of_an_idle_engine_say_that_nothing_runs() {
    let engine = with_policy(Scripted::new(LIMITS, 10), 0, Policy::default());
    let handle = EngineHandle::start(engine).unwrap();
    let mut events = handle.submit(Request::new(prompt(9, 0), long())).unwrap();
    assert!(events.next().is_some());
    drop(events);
    let idle = || {
        let now = handle.metrics();
        (now.waiting, now.running, now.pages_used) == (0, 0, 0)
    };
    assert!(soon(idle), "{:?}", handle.metrics());
}

#[test]
fn bad_requests_and_full_queues_are_refused_at_once() {
    let policy = Policy { max_waiting: 4, event_capacity: 1, ..Policy::default() };
    let handle = start(Scripted::new(Limits { max_sequences: 1, ..LIMITS }, 10), policy);
    assert!(matches!(handle.submit(Request::new([97], long())), Err(Error::Request(_))));
    let ask = |n| Request::new(prompt(9, 0), SamplingParams { n, ..long() });
    let _first = handle.submit(ask(4)).unwrap();
    assert!(matches!(handle.submit(ask(5)), Err(Error::Busy(_))));
}
