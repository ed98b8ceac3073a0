//! Events as a `futures_core::Stream`, under an executor of a few lines: wakers, other tasks, dropped streams.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use futures_core::Stream;

use super::super::testing::expected;
use super::super::{EngineHandle, Events, FinishReason, Request, TokenEvent};
use super::*;

/// Wakes a parked thread, and counts how often it did.
struct ThreadWaker {
    thread: Thread,
    wakes: AtomicUsize,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn thread_waker() -> Arc<ThreadWaker> {
    Arc::new(ThreadWaker { thread: std::thread::current(), wakes: AtomicUsize::new(0) })
}

/// Runs a future on this thread, which sleeps until the future's waker is called.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(thread_waker());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

/// The next item, as `StreamExt::next` returns it.
async fn next(events: &mut Events) -> Option<TokenEvent> {
    poll_fn(|context| Pin::new(&mut *events).poll_next(context)).await
}

fn start() -> EngineHandle {
    EngineHandle::start(with_policy(Scripted::new(LIMITS, 10), 1, Policy::default())).unwrap()
}

fn long() -> SamplingParams {
    SamplingParams { ignore_eos: true, ..params(1, 400) }
}

#[test]
fn a_task_that_sleeps_between_events_gets_every_token() {
    let handle = start();
    let params = SamplingParams { n: 2, ..params(3, 30) };
    let mut events = handle.submit(Request::new(prompt(20, 1), params.clone())).unwrap();
    let (tokens, ends) = block_on(async {
        let (mut tokens, mut ends) = ([Vec::new(), Vec::new()], 0);
        while let Some(event) = next(&mut events).await {
            tokens[event.sample].extend(event.token);
            ends += usize::from(event.finish.is_some());
        }
        assert!(next(&mut events).await.is_none(), "a stream that has ended stays at its end");
        (tokens, ends)
    });
    assert_eq!((&tokens[0], ends), (&expected(&prompt(20, 1), &params), 2));
    handle.shutdown();
}

#[test]
fn the_waker_of_the_last_poll_is_called() {
    let backend = Scripted::new(LIMITS, 10);
    let log = backend.log.clone();
    let handle = EngineHandle::start(over(backend, 0)).unwrap();
    let (first, second) = (thread_waker(), thread_waker());
    let mut events = {
        // The first step does not end before both polls are made.
        let _step = log.lock().unwrap();
        let mut events = handle.submit(Request::new(prompt(9, 0), long())).unwrap();
        for waker in [&first, &second] {
            let waker = Waker::from(waker.clone());
            let polled = Pin::new(&mut events).poll_next(&mut Context::from_waker(&waker));
            assert_eq!(polled, Poll::Pending);
        }
        events
    };
    while second.wakes.load(Ordering::SeqCst) == 0 {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut events).poll_next(&mut context).is_ready());
    assert_eq!(first.wakes.load(Ordering::SeqCst), 0, "the stream moved to another task");
    assert_eq!(second.wakes.load(Ordering::SeqCst), 1, "a waker is called once for each poll");
    handle.shutdown();
}

#[test]
fn the_end_of_the_engine_wakes_a_sleeping_task() {
    let handle = start();
    let mut events = handle.submit(Request::new(prompt(9, 0), long())).unwrap();
    let last = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            block_on(async {
                let mut last = None;
                while let Some(event) = next(&mut events).await {
                    last = Some(event);
                }
                last
            })
        });
        handle.shutdown();
        reader.join().unwrap()
    });
    let finish = last.unwrap().finish;
    assert!(matches!(finish, Some(FinishReason::Cancelled | FinishReason::Length)), "{finish:?}");
}

#[test]
fn a_stream_that_is_dropped_cancels_its_request() {
    let handle = start();
    let mut events = handle.submit(Request::new(prompt(9, 0), long())).unwrap();
    block_on(async move { assert!(next(&mut events).await.is_some()) });
    let mut metrics = handle.metrics();
    while metrics.running + metrics.waiting > 0 {
        std::thread::sleep(Duration::from_millis(2));
        metrics = handle.metrics();
    }
    assert_eq!(metrics.finished, [0, 0, 1, 0], "the sample ended with `abort`");
    assert!(metrics.generated_tokens < 400);
    handle.shutdown();
}
