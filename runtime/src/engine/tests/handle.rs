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

/// Whether something becomes true within a minute.
fn soon(mut is_true: impl FnMut() -> bool) -> bool {
    (0..6000).any(|_| {
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
                    let (prompt, settings) = (prompt(20 * round, salt), params(salt as u64, 30));
                    let events =
                        handle.submit(Request::new(&prompt[..], settings.clone())).unwrap();
                    let tokens: Vec<u32> =
                        events.into_iter().filter_map(|event| event.token).collect();
                    assert_eq!(tokens, expected(&prompt, &settings));
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
fn an_event_that_has_arrived_is_counted() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    let mut read = 0;
    for round in 0..300 {
        let events = handle.submit(Request::new(prompt(9, round % 7), long())).unwrap();
        for event in events.into_iter().take(3) {
            read += u64::from(event.token.is_some());
            assert!(handle.metrics().generated_tokens >= read);
        }
    }
}

#[test]
fn a_request_waits_or_runs_from_its_submission_to_its_end() {
    // Without a reader it goes on to its first token, and no further.
    let policy = Policy { event_capacity: 1, ..Policy::default() };
    let handle = start(Scripted::new(LIMITS, 10), policy);
    for round in 0..300 {
        let events = handle.submit(Request::new(prompt(9, round % 7), long())).unwrap();
        let metrics = handle.metrics();
        assert!(metrics.waiting + metrics.running > 0, "{metrics:?}");
        drop(events);
    }
    assert!(soon(|| handle.metrics().waiting + handle.metrics().running == 0));
}

#[test]
fn a_slow_reader_loses_nothing_and_delays_no_other_request() {
    let policy = Policy { event_capacity: 8, ..Policy::default() };
    // The slow request alone takes nearly all pages.
    let handle = start(Scripted::new(Limits { pages: 8, ..LIMITS }, 10), policy);
    let slow = handle.submit(Request::new(prompt(50, 0), long())).unwrap();
    let quick = prompt(100, 1);
    for _ in 0..5 {
        let tokens: Vec<u32> = handle
            .submit(Request::new(&quick[..], long()))
            .unwrap()
            .into_iter()
            .filter_map(|event| event.token)
            .collect();
        assert_eq!(tokens, expected(&quick, &long()));
    }
    let tokens: Vec<u32> = slow.into_iter().filter_map(|event| event.token).collect();
    assert_eq!(tokens, expected(&prompt(50, 0), &long()));
}

#[test]
fn dropping_or_cancelling_frees_the_sequence_slot() {
    let handle = start(Scripted::new(Limits { max_sequences: 1, ..LIMITS }, 10), Policy::default());
    drop(handle.submit(Request::new(prompt(5, 0), long())).unwrap());
    let mut cancelled = handle.submit(Request::new(prompt(5, 0), long())).unwrap();
    assert!(cancelled.next_blocking().unwrap().token.is_some());
    cancelled.cancel();
    assert_eq!(cancelled.into_iter().last().unwrap().finish, Some(FinishReason::Cancelled));
    let after = handle.submit(Request::new(prompt(5, 0), params(1, 3))).unwrap();
    assert_eq!(after.into_iter().filter_map(|event| event.token).count(), 3);
}

#[test]
fn events_can_be_polled() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    let mut events = handle.submit(Request::new(prompt(5, 0), params(2, 4))).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut tokens = Vec::new();
    loop {
        match events.poll_event(&mut context) {
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
    // A wait longer than the clock can represent.
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
            let end = reader.into_iter().last().unwrap().finish.unwrap();
            assert!(matches!(end, FinishReason::Failed(why) if why.contains("scripted device")));
        }
        handle.shutdown();
        let error = handle.submit(Request::new(prompt(9, 0), long())).unwrap_err();
        assert!(
            matches!(&error, Error::Stopped { reason } if reason.contains("scripted device")),
            "{error}"
        );
    }
}

#[test]
fn shutdown_ends_every_reader() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    let readers: Vec<_> =
        (0..9).map(|salt| handle.submit(Request::new(prompt(9, salt), long())).unwrap()).collect();
    handle.shutdown();
    for reader in readers {
        let end = reader.into_iter().last().unwrap().finish;
        assert!(matches!(end, Some(FinishReason::Cancelled | FinishReason::Length)), "{end:?}");
    }
    assert!(matches!(handle.submit(Request::new([1], long())), Err(Error::ShutDown)));
}

#[test]
fn a_full_queue_has_room_again_once_its_requests_are_cancelled() {
    let backend = Scripted::new(LIMITS, 10);
    let log = backend.log.clone();
    let policy = Policy { max_waiting: 0, ..Policy::default() };
    let handle = EngineHandle::start(with_policy(backend, 0, policy)).unwrap();
    let request_of = |n| Request::new(prompt(9, 0), SamplingParams { n, ..long() });
    {
        // The first request's only step does not end until two more have come and gone.
        let _step = log.lock().unwrap();
        let one = SamplingParams { max_tokens: Some(1), ..long() };
        drop(handle.submit(Request::new(prompt(9, 0), one)).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        let others = [handle.submit(request_of(1)).unwrap(), handle.submit(request_of(1)).unwrap()];
        drop(others);
    }
    assert!(soon(|| handle.submit(request_of(3)).is_ok()), "{:?}", handle.metrics());
}

#[test]
fn the_metrics_of_an_idle_engine_report_that_nothing_runs() {
    let engine = with_policy(Scripted::new(LIMITS, 10), 0, Policy::default());
    let handle = EngineHandle::start(engine).unwrap();
    let mut events = handle.submit(Request::new(prompt(9, 0), long())).unwrap();
    assert!(events.next_blocking().is_some());
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
    assert!(matches!(
        handle.submit(Request::new([97], long())),
        Err(Error::InvalidRequest { field: "prompt", .. })
    ));
    let request_of = |n| Request::new(prompt(9, 0), SamplingParams { n, ..long() });
    let _first = handle.submit(request_of(4)).unwrap();
    let full = handle.submit(request_of(5));
    assert!(matches!(full, Err(Error::QueueFull { limit: 4, capacity: 5, .. })), "{full:?}");
    let never = handle.submit(request_of(6));
    assert!(matches!(never, Err(Error::InvalidRequest { field: "n", .. })), "{never:?}");
}

#[test]
fn logits_come_from_the_engines_thread_while_no_request_runs() {
    let handle = start(Scripted::new(LIMITS, 10), Policy::default());
    let tokens = prompt(30, 3);
    let mut expected = Vec::new();
    let options = super::super::LogitsOptions::default();
    with_policy(Scripted::new(LIMITS, 10), 1, Policy::default())
        .logits(&tokens, options, &mut |_, mut output| {
            expected.append(&mut output.logits[0]);
            Ok(())
        })
        .unwrap();
    assert_eq!(handle.logits(tokens.clone()).unwrap(), expected);
    let mut events = handle.submit(Request::new(prompt(9, 0), long())).unwrap();
    assert!(events.next_blocking().is_some());
    assert!(matches!(handle.logits(tokens.clone()), Err(Error::NotIdle { .. })));
    // A request that was cancelled is no obstacle, though steps of it may still be in flight.
    drop(events);
    assert_eq!(handle.logits(tokens).unwrap(), expected);
    assert!(matches!(handle.logits(vec![97]), Err(Error::InvalidRequest { .. })));
    handle.shutdown();
    assert!(matches!(handle.logits(vec![1]), Err(Error::ShutDown)));
}
