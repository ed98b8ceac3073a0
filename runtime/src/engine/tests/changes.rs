//! Penalties, biases, `min_tokens` and reports: sampled where the logits are, beside plain samples and in the pipeline.

use super::super::Request;
use super::super::testing::{expected, expected_with, logits_after};
use super::*;
use crate::sampling::{LogitChanges, Penalties, TokenHistory, report};

const BIASES: [(u32, f32); 3] = [(3, 1.0), (9, f32::NEG_INFINITY), (3, 0.5)];

fn changed(seed: u64) -> SamplingParams {
    SamplingParams {
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        frequency_penalty: 0.2,
        logit_bias: BIASES.to_vec(),
        stop_token_ids: vec![40, 41],
        min_tokens: 40,
        logprobs: Some(2),
        n: 2,
        ..params(seed, 80)
    }
}

/// What a sample of a prompt with [`changed`] settings yields.
fn answer(prompt: &[u32], settings: &SamplingParams, sample: usize) -> Vec<u32> {
    let penalties = Penalties {
        repetition: settings.repetition_penalty,
        presence: settings.presence_penalty,
        frequency: settings.frequency_penalty,
    };
    let stops: Vec<u32> = [&settings.stop_token_ids[..], SPEC.stop_tokens].concat();
    let mut adjust = |generated: &[u32], row: &mut [f32]| {
        let history = TokenHistory::new(prompt, generated);
        let changes = LogitChanges {
            biases: &[(3, 1.5), (9, f32::NEG_INFINITY)],
            penalties: Some((penalties, &history)),
            forbidden: if generated.len() < settings.min_tokens { &stops } else { &[] },
            mask: None,
        };
        changes.apply(row);
    };
    expected_with(prompt, settings, sample, usize::MAX, &mut adjust)
}

#[test]
fn changed_and_reported_samples_run_in_the_pipeline() {
    // So few pages that samples are preempted and their histories are written again.
    let limits = Limits { max_sequences: 5, max_step_tokens: 40, pages: 8 };
    let backend = Scripted::new(limits, 40);
    let log = backend.log.clone();
    let mut engine = over(backend, 1);
    let requests: Vec<Request> = (0..8)
        .map(|at| {
            let settings = if at % 3 == 2 {
                SamplingParams { ignore_eos: true, ..params(at, 60) }
            } else {
                changed(at)
            };
            Request::new(prompt(60 + 9 * at as usize, at as usize % 2), settings)
        })
        .collect();
    let answers = engine.complete(requests.clone()).unwrap();
    let mut answers = answers.iter();
    for request in &requests {
        for sample in 0..request.params.n {
            let got = answers.next().unwrap();
            let want = match request.params.logprobs {
                Some(_) => answer(&request.prompt, &request.params, sample),
                None => expected(&request.prompt, &request.params),
            };
            assert_eq!(got.tokens, want, "{:?}", request.params);
            for (at, logprobs) in got.logprobs.iter().enumerate() {
                let before = [&request.prompt[..], &want[..at]].concat();
                assert_eq!(*logprobs, report(&logits_after(&before), want[at], 2));
            }
            let reported = request.params.logprobs.map_or(0, |_| want.len());
            assert_eq!(got.logprobs.len(), reported);
        }
    }
    assert!(engine.metrics().preemptions > 0, "no history had to be written again");
    assert_eq!(engine.metrics().host_sampled_tokens, 0);
    assert_eq!(log.lock().unwrap().max_in_flight, 2);
}

#[test]
fn more_than_a_backend_reports_is_sampled_on_the_host() {
    let limits = Limits { max_sequences: 4, max_step_tokens: 64, pages: 40 };
    let few = SamplingParams { prompt_logprobs: Some(20), logprobs: Some(20), ..changed(4) };
    let many = SamplingParams { prompt_logprobs: Some(21), logprobs: Some(21), ..changed(4) };
    let prompt = prompt(70, 1);
    let mut on_host = Vec::new();
    for settings in [&few, &many] {
        let mut engine = engine(limits, 64, 1);
        let request = Request::new(prompt.clone(), settings.clone());
        let answers = engine.complete(vec![request]).unwrap();
        for (sample, got) in answers.iter().enumerate() {
            assert_eq!(got.tokens, answer(&prompt, settings, sample));
            assert_eq!(got.prompt.logprobs.len(), 70);
            for (at, logprobs) in got.prompt.logprobs.iter().enumerate().skip(1) {
                let row = logits_after(&prompt[..at]);
                let top = settings.prompt_logprobs.unwrap();
                assert_eq!(*logprobs, Some(report(&row, prompt[at], top)));
            }
        }
        on_host.push(engine.metrics().host_sampled_tokens > 0);
    }
    assert_eq!(on_host, [false, true]);
}
