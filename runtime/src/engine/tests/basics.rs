//! Answers, order, refusals, failures.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::{Fault, SPEC, Scripted, expected};
use super::super::{FinishReason, LogitsOptions, Request, RequestId};
use super::*;
use crate::backend::StepTime;

/// Requests in flight: the expected answer of each, and the tokens so far.
type Live = BTreeMap<RequestId, (Vec<u32>, Vec<u32>)>;

fn step(engine: &mut Engine, live: &mut Live) -> Result<(), TestCaseError> {
    for event in engine.step().unwrap() {
        let (want, got) = live.get_mut(&event.request).expect("an event of a live request");
        got.extend(event.token);
        prop_assert!(want.starts_with(got), "{:?} is not the start of {:?}", got, want);
        prop_assert_eq!(event.finish.is_some(), got.len() == want.len());
        if event.finish.is_some() {
            live.remove(&event.request);
        }
    }
    Ok(())
}

proptest! {
    /// Whatever shares the steps, each prompt gets the tokens that it gets alone, and everything is free afterwards.
    #[test]
    fn every_answer_equals_its_solo_run(
        cases in prop::collection::vec((1_usize..200, 1_usize..120, any::<u8>(), any::<bool>()), 0..12),
        max_sequences in 1_usize..5,
        max_step_tokens in 1_usize..40,
        max_append in 1_usize..40,
        pages in 5_usize..16,
        pipeline_depth in 0_usize..3,
    ) {
        let mut engine = engine(Limits { max_sequences, max_step_tokens, pages }, max_append, pipeline_depth);
        let prompts: Vec<_> = cases.iter().enumerate().map(|(i, case)| prompt(case.0, i)).collect();
        let settings: Vec<_> = cases
            .iter()
            .map(|case| SamplingParams { ignore_eos: case.3, ..params(case.2.into(), case.1) })
            .collect();
        let answers = engine.generate(&prompts, &settings).unwrap();
        for ((answer, prompt), settings) in answers.iter().zip(&prompts).zip(&settings) {
            let want = expected(prompt, settings);
            prop_assert_eq!(&answer.tokens, &want);
            let stopped = !settings.ignore_eos && want.last().is_some_and(|last| SPEC.stop_tokens.contains(last));
            prop_assert_eq!(answer.finish == FinishReason::Stop, stopped);
        }
        prop_assert!(engine.is_idle());
        prop_assert_eq!(engine.free_pages(), pages);
    }

    /// Requests that arrive and are cancelled at any step neither leak pages nor disturb the others.
    #[test]
    fn cancelled_requests_leave_nothing_behind(
        moves in prop::collection::vec((0_u8..4, 0_usize..150, 1_usize..60), 0..60),
        pipeline_depth in 0_usize..3,
    ) {
        let mut engine = engine(LIMITS, 7, pipeline_depth);
        let mut live = Live::new();
        for (index, &(kind, length, max_tokens)) in moves.iter().enumerate() {
            match kind {
                0 => {
                    let prompt = prompt(length, index);
                    if let Ok(id) = engine.submit(Request::new(&prompt[..], params(3, max_tokens))) {
                        live.insert(id, (expected(&prompt, &params(3, max_tokens)), Vec::new()));
                    }
                }
                1 if !live.is_empty() => {
                    let id = *live.keys().nth(length % live.len()).expect("in range");
                    live.remove(&id);
                    engine.cancel(id);
                }
                _ => step(&mut engine, &mut live)?,
            }
        }
        while !engine.is_idle() {
            step(&mut engine, &mut live)?;
        }
        prop_assert!(live.is_empty(), "stuck: {:?}", live.keys());
        prop_assert_eq!(engine.free_pages(), LIMITS.pages);
    }
}

#[test]
fn long_prompts_are_read_in_chunks_beside_running_answers() {
    let backend = Scripted::new(LIMITS, 6);
    let log = Arc::clone(&backend.log);
    let mut engine = over(backend, 0);
    let prompts = [prompt(4, 0), prompt(15, 1), prompt(3, 2)];
    engine.generate(&prompts, &[SamplingParams { ignore_eos: true, ..params(0, 3) }]).unwrap();
    let steps = &log.lock().unwrap().steps;
    // A step of 10 tokens: the short prompts and 3 of 15, then 6 of 15 beside two running, ...
    assert_eq!(steps[..4], [vec![4, 3, 3], vec![1, 1, 6], vec![1, 1, 6], vec![1]], "{steps:?}");
    assert!(steps.iter().all(|step| step.iter().sum::<usize>() <= LIMITS.max_step_tokens));
}

#[test]
fn the_next_step_is_submitted_before_the_last_one_is_collected() {
    for pipeline_depth in [0, 1, 2] {
        let backend = Scripted::new(LIMITS, 10);
        let log = Arc::clone(&backend.log);
        let mut engine = over(backend, pipeline_depth);
        let answers = engine
            .generate(&[prompt(5, 0)], &[SamplingParams { ignore_eos: true, ..params(1, 20) }])
            .unwrap();
        assert_eq!(
            answers[0].tokens,
            expected(&prompt(5, 0), &SamplingParams { ignore_eos: true, ..params(1, 20) })
        );
        let log = log.lock().unwrap();
        assert_eq!(log.max_in_flight, pipeline_depth + 1);
        assert_eq!(log.steps.len(), 20, "max_tokens is known in advance, so no step is wasted");
    }
}

#[test]
fn a_device_is_idle_between_steps_but_not_between_requests() {
    let mut backend = Scripted::new(LIMITS, 10);
    backend.time = Some(StepTime { busy: 2.0, idle: 0.5 });
    let mut engine = over(backend, 1);
    for round in 1..4 {
        let settings = SamplingParams { ignore_eos: true, ..params(1, 8) };
        engine.generate(&[prompt(5, 0)], &[settings]).unwrap();
        let metrics = engine.metrics();
        let (steps, first) = (metrics.steps as f64, f64::from(round));
        assert_eq!(metrics.device_busy_seconds, 2.0 * steps);
        assert_eq!(metrics.device_idle_seconds, 0.5 * (steps - first));
    }
    // Without a clock: the time outside the calls of a backend that works inside them.
    for (pipeline_depth, known) in [(0, true), (1, false)] {
        let mut engine = over(Scripted::new(LIMITS, 10), pipeline_depth);
        engine.generate(&[prompt(5, 0)], &[params(1, 8)]).unwrap();
        assert_eq!(engine.metrics().device_busy_seconds > 0.0, known);
    }
}

#[test]
fn each_answer_reports_how_long_it_waited_for_its_first_step() {
    let mut engine = engine(Limits { max_sequences: 1, ..LIMITS }, 10, 0);
    let prompts = [prompt(5, 0), prompt(9, 4)];
    let answers = engine.generate(&prompts, &[params(2, 6)]).unwrap();
    let queued = [answers[0].prompt.queued, answers[1].prompt.queued];
    assert!(queued[1] > queued[0], "{queued:?}");
    let sum = (queued[0] + queued[1]).as_secs_f64();
    assert!((sum - engine.metrics().queue_seconds.sum).abs() < 1e-9);
}

#[test]
fn a_stream_yields_each_token_once_and_marks_the_last() {
    let mut engine = engine(LIMITS, 10, 1);
    let prompts = [prompt(5, 0), prompt(9, 4)];
    let mut answers = [Vec::new(), Vec::new()];
    let mut finished = 0;
    for event in engine.stream(&prompts, &[params(2, 6), params(7, 4)]).unwrap() {
        let (prompt, event) = event.unwrap();
        answers[prompt].extend(event.token);
        finished += usize::from(event.finish.is_some());
    }
    assert_eq!(answers[0], expected(&prompts[0], &params(2, 6)));
    assert_eq!(answers[1], expected(&prompts[1], &params(7, 4)));
    assert_eq!(finished, 2);
}

#[test]
fn a_dropped_stream_leaves_the_engine_free() {
    let mut engine = engine(LIMITS, 10, 1);
    let mut stream = engine.stream(&[prompt(5, 0), prompt(50, 1)], &[params(2, 60)]).unwrap();
    stream.next().unwrap().unwrap();
    drop(stream);
    assert!(engine.is_idle());
    assert_eq!(engine.free_pages(), LIMITS.pages);
    let again = engine.generate(&[prompt(5, 0)], &[params(2, 60)]).unwrap();
    assert_eq!(again[0].tokens, expected(&prompt(5, 0), &params(2, 60)));
}

#[test]
fn a_bad_prompt_is_named_and_nothing_runs() {
    let backend = Scripted::new(LIMITS, 10);
    let log = Arc::clone(&backend.log);
    let mut engine = over(backend, 0);
    let error = engine.generate(&[vec![1], vec![], vec![2]], &[params(0, 4)]).unwrap_err();
    assert_eq!(error.to_string(), "prompt 1: the prompt is empty; give at least one token");
    let error = engine.generate(&[vec![1]], &[]).unwrap_err();
    assert!(error.to_string().contains("0 sampling settings for 1 prompts"), "{error}");
    assert!(engine.is_idle());
    assert!(log.lock().unwrap().steps.is_empty());
}

#[test]
fn a_refused_request_does_not_disturb_the_others() {
    let mut engine = engine(LIMITS, 10, 1);
    let id = engine.submit(Request::new(prompt(30, 0), params(5, 12))).unwrap();
    let mut tokens = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            assert_eq!(event.request, id);
            tokens.extend(event.token);
        }
        assert!(engine.submit(Request::new([96, 97], params(0, 1))).is_err());
        assert!(engine.generate(&[[1]], &[params(0, 1)]).is_err() || engine.is_idle());
    }
    assert_eq!(tokens, expected(&prompt(30, 0), &params(5, 12)));
}

#[test]
fn every_request_ends_whatever_fault_a_step_has() {
    for (fault, message, continues) in [
        (Fault::Refuses, "refuses the step", true),
        (Fault::PanicsAtSubmit, "device panicked", false),
        (Fault::FailsAtCollect, "device is lost", false),
        (Fault::PanicsAtCollect, "device panicked", false),
        (Fault::LosesTokens, "no token for sequence slot", false),
    ] {
        for pipeline_depth in [0, 1] {
            let mut backend = Scripted::new(LIMITS, 10);
            backend.fault = Some((fault, 3));
            let mut engine = over(backend, pipeline_depth);
            let settings = SamplingParams { ignore_eos: true, ..params(0, 20) };
            let ids: Vec<RequestId> = [5, 8, 40, 3]
                .map(|length| {
                    engine.submit(Request::new(prompt(length, 0), settings.clone())).unwrap()
                })
                .into();
            let mut ends = BTreeMap::new();
            while let Ok(events) = engine.step() {
                for event in events.into_iter().filter(|event| event.finish.is_some()) {
                    assert!(ends.insert(event.request, event.finish.unwrap()).is_none());
                }
                if engine.is_idle() {
                    break;
                }
            }
            assert_eq!(
                ends.keys().copied().collect::<Vec<_>>(),
                ids,
                "{fault:?}: every request ends once"
            );
            let failed = |end: &FinishReason| matches!(end, FinishReason::Failed(why) if why.contains(message));
            let failures = ends.values().filter(|end| failed(end)).count();
            assert!(if continues { failures == 3 } else { failures == 4 }, "{fault:?}: {ends:?}");
            let again = engine.submit(Request::new(prompt(4, 0), settings.clone()));
            assert_eq!(again.is_ok(), continues, "{fault:?}");
            if !continues {
                let why = engine.generate(&[prompt(4, 0)], &[settings]).unwrap_err().to_string();
                assert!(why.contains("has stopped") && why.contains(message), "{why}");
            }
            assert_eq!(engine.free_pages(), LIMITS.pages);
        }
    }
}

#[test]
fn non_finite_logits_end_one_sample_alone() {
    for pipeline_depth in [0, 1] {
        let mut backend = Scripted::new(LIMITS, 10);
        backend.fault = Some((Fault::NonFinite, 3));
        let mut engine = over(backend, pipeline_depth);
        let settings = SamplingParams { ignore_eos: true, ..params(0, 20) };
        for length in [5, 8] {
            engine.submit(Request::new(prompt(length, 0), settings.clone())).unwrap();
        }
        let mut ends = Vec::new();
        while !engine.is_idle() {
            ends.extend(engine.step().unwrap().into_iter().filter_map(|event| event.finish));
        }
        let [FinishReason::Failed(why), FinishReason::Length] = &ends[..] else {
            panic!("{ends:?}")
        };
        assert!(why.contains("is not a finite number"), "{why}");
        assert_eq!(engine.free_pages(), LIMITS.pages);
    }
}

#[test]
fn logits_are_the_same_in_any_chunks() {
    let tokens = prompt(150, 3);
    let read = |chunk: Option<usize>| {
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        let options = LogitsOptions { chunk, capture_activations: false };
        engine(LIMITS, 8, 0)
            .logits(&tokens, options, &mut |start, mut output| {
                starts.push(start);
                rows.append(&mut output.logits[0]);
                Ok(())
            })
            .unwrap();
        (rows, starts)
    };
    let (whole, starts) = read(None);
    assert_eq!(whole.len(), 150 * SPEC.vocab);
    assert_eq!(starts, (0..150).step_by(8).collect::<Vec<_>>());
    assert_eq!(read(Some(1)).0, whole);
    assert_eq!(read(Some(7)).0, whole);
}

#[test]
fn logits_refuse_what_does_not_fit() {
    let mut engine = engine(LIMITS, 8, 0);
    let mut refuse = |tokens: &[u32], chunk| {
        let options = LogitsOptions { chunk, capture_activations: false };
        engine.logits(tokens, options, &mut |_, _| Ok(())).unwrap_err().to_string()
    };
    assert!(refuse(&[], None).contains("empty"));
    assert!(refuse(&[97], None).contains("ids 0 to 96"));
    assert!(refuse(&[1], Some(0)).contains("at least 1"));
    assert!(refuse(&prompt(20, 0), Some(9)).contains("at most 8"));
    assert!(refuse(&prompt(12 * 64 + 1, 0), None).contains("need 13 cache pages"));
    assert!(refuse(&prompt(1001, 0), None).contains("shorten the prompt by 1"));
}
