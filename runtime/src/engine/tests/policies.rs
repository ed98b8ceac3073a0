//! The engine's policies one by one: deadlines beside full pages, samples of one prompt, salts, drafts where samples are
//! preempted, slow readers, and the defaults of settings.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::clock::Clock;
use super::super::events::Command;
use super::super::handle::parts;
use super::super::testing::{Fault, expected, expected_with};
use super::super::{Completion, FinishReason, Request, RequestId};
use super::*;

fn endless(seed: u64, max_tokens: usize) -> SamplingParams {
    SamplingParams { ignore_eos: true, ..params(seed, max_tokens) }
}

/// An engine whose time stands still until it is moved.
fn with_clock(backend: Scripted, pipeline_depth: usize, policy: Policy) -> (Engine, Clock) {
    let clock = Clock::moved_by_hand();
    let mut engine = with_policy(backend, pipeline_depth, policy);
    (engine.clock, engine.scheduler.clock) = (clock.clone(), clock.clone());
    (engine, clock)
}

#[test]
fn deadlines_end_their_own_requests_and_free_all_that_they_used() {
    for pipeline_depth in [0, 1, 2] {
        let limits = Limits { max_sequences: 2, max_step_tokens: 64, pages: 4 };
        let (mut engine, clock) =
            with_clock(Scripted::new(limits, 64), pipeline_depth, Policy::default());
        let start = clock.now();
        let after = |ms| Some(start + Duration::from_millis(ms));
        let late = |deadline, salt| Request {
            deadline,
            ..Request::new(prompt(100, salt), endless(1, 150))
        };
        let early = engine.submit(late(after(10), 0)).unwrap();
        let later = engine.submit(late(after(20), 1)).unwrap();
        // Another with the same deadline as the first, which waits for a place.
        let waiting = engine.submit(late(after(10), 2)).unwrap();
        let patient = Request::new(prompt(100, 3), endless(1, 30));
        let last = engine.submit(patient.clone()).unwrap();
        while engine.free_pages() > 0 {
            engine.step().unwrap();
        }
        let ends = |engine: &mut Engine| -> Vec<(RequestId, FinishReason)> {
            let events = engine.step().unwrap();
            engine.audit().unwrap();
            events.into_iter().filter_map(|event| Some((event.request, event.finish?))).collect()
        };
        clock.advance(Duration::from_micros(9_999));
        assert_eq!((ends(&mut engine), engine.next_deadline()), (vec![], after(10)));
        clock.advance(Duration::from_micros(1));
        let first = [(early, FinishReason::Deadline), (waiting, FinishReason::Deadline)];
        assert_eq!(ends(&mut engine), first);
        assert_eq!(engine.next_deadline(), after(20));
        clock.advance(Duration::from_millis(10));
        assert_eq!(ends(&mut engine), [(later, FinishReason::Deadline)]);
        assert_eq!(engine.next_deadline(), None);
        let mut tokens = Vec::new();
        while !engine.is_idle() {
            let events = engine.step().unwrap();
            engine.audit().unwrap();
            assert!(events.iter().all(|event| event.request == last));
            tokens.extend(events.iter().filter_map(|event| event.token));
        }
        // Some of them may have come before the last deadline.
        assert!(expected(&patient.prompt, &patient.params).ends_with(&tokens));
        assert_eq!(engine.free_pages(), 4);
        assert_eq!(engine.metrics().finished, [0, 1, 3, 0]);
    }
}

#[test]
fn samples_of_a_prompt_wait_until_it_is_read_and_equal_solo_runs_with_their_seeds() {
    let limits = Limits { max_sequences: 8, max_step_tokens: 64, pages: 60 };
    for pipeline_depth in [0, 1] {
        let backend = Scripted::new(limits, 64);
        let log = backend.log.clone();
        let mut engine = over(backend, pipeline_depth);
        let settings = SamplingParams { n: 4, ..endless(30, 20) };
        let request = Request::new(prompt(500, 0), settings.clone());
        let answers = engine.complete(vec![request.clone()]).unwrap();
        // The prompt takes eight steps of one sequence; then the others read what is left of their last page.
        let steps = log.lock().unwrap().steps.clone();
        assert_eq!(steps[..8].concat(), [64, 64, 64, 64, 64, 64, 64, 52]);
        assert!(steps[..8].iter().all(|step| step.len() == 1), "{steps:?}");
        assert_eq!(steps.iter().flatten().sum::<usize>(), 500 + 3 * (500 - 448) + 4 * 19);
        for (sample, answer) in answers.iter().enumerate() {
            let seed = settings.seed + sample as u64;
            let solo = SamplingParams { n: 1, seed, ..settings.clone() };
            let mut alone = over(Scripted::new(limits, 64), pipeline_depth);
            let solo = alone.complete(vec![Request::new(prompt(500, 0), solo)]).unwrap().remove(0);
            assert_eq!(answer.tokens, solo.tokens, "sample {sample}");
        }
        let different: std::collections::BTreeSet<&[u32]> =
            answers.iter().map(|answer| &answer.tokens[..]).collect();
        assert_eq!(different.len(), 4, "each sample has a seed of its own");
    }
}

#[test]
fn salts_share_nothing_in_either_order() {
    let cached = |engine: &mut Engine, cache_salt: u64| {
        let request = Request { cache_salt, ..Request::new(prompt(300, 1), params(0, 1)) };
        engine.complete(vec![request]).unwrap().remove(0).prompt.cached_tokens
    };
    for order in [[0, 7], [7, 0], [7, 8]] {
        let mut engine = engine(Limits { max_sequences: 2, max_step_tokens: 64, pages: 40 }, 64, 0);
        // Each salt finds what it has sent itself, and nothing else.
        let found: Vec<usize> =
            [order[0], order[1], order[0], order[1]].map(|salt| cached(&mut engine, salt)).into();
        assert_eq!(found, [0, 0, 256, 256], "{order:?}");
    }
}

#[test]
fn drafts_and_preemptions_in_one_pipeline_change_no_token() {
    for pipeline_depth in [1, 2] {
        let limits = Limits { max_sequences: 3, max_step_tokens: 64, pages: 7 };
        let mut backend = Scripted::new(limits, 64);
        backend.memory = 1;
        let log = backend.log.clone();
        let policy = Policy { draft_tokens: 4, ..Policy::default() };
        let mut engine = with_policy(backend, pipeline_depth, policy);
        // Greedy text repeats itself and is drafted; the others are sampled, and keep the pipeline full.
        let request = |salt: usize| {
            let temperature = [0.0, 0.9][salt % 2];
            Request::new(prompt(60, salt), SamplingParams { temperature, ..endless(1, 220) })
        };
        let requests: Vec<Request> = (0..4).map(request).collect();
        let answers = engine.complete(requests.clone()).unwrap();
        for (answer, request) in answers.iter().zip(&requests) {
            let want = expected_with(&request.prompt, &request.params, 0, 1, &mut |_, _| {});
            assert_eq!(answer.tokens, want);
        }
        let metrics = engine.metrics();
        assert!(metrics.preemptions > 0 && metrics.accepted_tokens > 100, "{metrics:?}");
        assert_eq!(log.lock().unwrap().max_in_flight, pipeline_depth + 1);
        assert_eq!(engine.free_pages(), 7);
    }
}

#[test]
fn a_slow_reader_has_exactly_its_capacity_and_what_was_in_flight() {
    for (pipeline_depth, capacity, want) in [(0, 5, 5), (1, 5, 6), (2, 5, 7), (0, 1, 1), (0, 8, 8)]
    {
        let policy = Policy { event_capacity: capacity, ..Policy::default() };
        let backend =
            Scripted::new(Limits { max_sequences: 2, max_step_tokens: 64, pages: 12 }, 64);
        let (handle, mut worker) = parts(with_policy(backend, pipeline_depth, policy));
        let mut events = handle.submit(Request::new(prompt(9, 0), endless(1, 100))).unwrap();
        let command = worker.next_command().unwrap();
        assert!(worker.execute(command).is_none());
        for _ in 0..50 {
            if worker.engine.can_step() {
                assert!(worker.step().is_none());
            }
        }
        assert_eq!(events.backlog(), (true, want), "depth {pipeline_depth}, capacity {capacity}");
        // The request goes on once no more than half of its capacity waits.
        let mut read = 0;
        let resumed = loop {
            match worker.next_command() {
                Some(command) => break command,
                None => {
                    let mut context = Context::from_waker(Waker::noop());
                    assert!(matches!(events.poll_event(&mut context), Poll::Ready(Some(_))));
                    read += 1;
                }
            }
        };
        assert!(matches!(resumed, Command::Resume(id) if id == events.id()));
        assert_eq!(read, want - capacity / 2, "depth {pipeline_depth}, capacity {capacity}");
        assert_eq!(events.backlog(), (false, capacity / 2));
    }
}

#[test]
fn a_prompt_is_reported_only_if_that_was_requested() {
    let mut engine = engine(Limits { max_sequences: 2, max_step_tokens: 64, pages: 12 }, 64, 1);
    for wanted in [None, Some(0), Some(3), None] {
        let settings = SamplingParams { prompt_logprobs: wanted, ..params(1, 4) };
        let request = Request::new(prompt(100, 0), settings);
        let answer = engine.complete(vec![request]).unwrap().remove(0);
        assert_eq!(answer.prompt.logprobs.is_empty(), wanted.is_none(), "{wanted:?}");
    }
}

#[test]
fn stop_tokens_end_an_answer_unless_they_are_ignored() {
    assert!(!SamplingParams::default().ignore_eos && !SamplingParams::greedy().ignore_eos);
    let run = |settings: SamplingParams| -> Completion {
        let mut engine = engine(Limits { max_sequences: 1, max_step_tokens: 64, pages: 12 }, 64, 1);
        engine.complete(vec![Request::new(prompt(9, 0), settings)]).unwrap().remove(0)
    };
    let default = SamplingParams { seed: 1, max_tokens: Some(600), ..SamplingParams::default() };
    let stopped = run(default.clone());
    let stop = stopped.tokens.len();
    assert_eq!((stopped.finish, stopped.tokens[stop - 1]), (FinishReason::Stop, 0));
    assert!(!stopped.tokens[..stop - 1].contains(&0));
    let ignored = run(SamplingParams { ignore_eos: true, ..default.clone() });
    assert_eq!((ignored.finish, ignored.tokens.len()), (FinishReason::Length, 600));
    assert_eq!(ignored.tokens[..stop], stopped.tokens);
    // Ids that the request itself names still count.
    let own =
        SamplingParams { stop_token_ids: vec![ignored.tokens[3]], ignore_eos: true, ..default };
    assert_eq!(run(own).finish, FinishReason::Stop);
}

#[test]
fn the_record_of_a_failed_step_names_it_and_who_ran() {
    for (fault, pipeline_depth) in [
        (Fault::FailsAtCollect, 1),
        (Fault::PanicsAtCollect, 0),
        (Fault::PanicsAtSubmit, 1),
        (Fault::LosesTokens, 1),
    ] {
        let mut backend =
            Scripted::new(Limits { max_sequences: 3, max_step_tokens: 64, pages: 12 }, 64);
        // Counted from 0.
        backend.fault = Some((fault, 6));
        let mut engine = over(backend, pipeline_depth);
        let ids: Vec<u64> = (0..2)
            .map(|salt| engine.submit(Request::new(prompt(9, salt), endless(1, 100))).unwrap().0)
            .collect();
        while engine.failure().is_none() {
            engine.step().unwrap();
        }
        let reason = engine.failure().unwrap().to_owned();
        let steps = engine.recent_steps(usize::MAX);
        let failed = steps.iter().find(|step| step.failure.is_some()).unwrap();
        assert_eq!((failed.step, failed.failure.as_deref()), (7, Some(&reason[..])), "{fault:?}");
        let who: Vec<(u64, u32)> =
            failed.entries.iter().map(|entry| (entry.request, entry.tokens)).collect();
        assert_eq!(who, [(ids[0], 1), (ids[1], 1)]);
        let whole: Vec<u64> =
            steps.iter().filter(|step| step.failure.is_none()).map(|step| step.step).collect();
        assert!(whole.iter().copied().eq(1..=whole.len() as u64) && whole.len() >= 5, "{whole:?}");
    }
}

#[test]
fn the_flight_recorder_has_each_step_with_who_ran() {
    let mut engine = engine(Limits { max_sequences: 2, max_step_tokens: 64, pages: 8 }, 64, 0);
    let settings = endless(1, 5);
    engine.generate(&[prompt(100, 0), prompt(10, 1)], &[settings]).unwrap();
    let steps = engine.recent_steps(usize::MAX);
    assert_eq!(steps.len() as u64, engine.metrics().steps);
    let tokens: usize = steps.iter().map(|step| step.tokens).sum();
    assert_eq!(tokens, 110 + 2 * 4);
    assert_eq!(steps.iter().map(|step| step.generated).sum::<usize>(), 10);
    for step in &steps {
        let of_entries: u32 = step.entries.iter().map(|entry| entry.tokens).sum();
        assert_eq!(of_entries as usize, step.tokens, "{step:?}");
        assert!(step.running <= 2 && !step.graph && step.regime.is_none());
    }
    let last = steps.last().unwrap();
    assert_eq!((last.running, last.waiting, last.failure.as_ref()), (0, 0, None));
    assert_eq!(engine.recent_steps(2).len(), 2);
}
