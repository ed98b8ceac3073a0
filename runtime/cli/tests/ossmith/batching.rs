//! The engine on the CPU backend: neither what shares a step, nor a cached prefix, nor a guess ahead changes a token.

use std::sync::Arc;

use super::common::Folder;
use ossmith::engine::{Completion, EngineOptions, Policy, Request, SamplingParams};
use ossmith::{Checkpoint, Device, Engine, Limits};
use ossmith_plan::Model;

fn engine(model: &'static Model, limits: Limits, policy: Policy) -> Engine {
    let options = EngineOptions { device: Device::Cpu, limits, threads: Some(2), policy };
    let checkpoint = Arc::new(Checkpoint::synthetic(model, 7));
    Engine::load(model, checkpoint, options, &mut |_| {}).unwrap()
}

fn tiny() -> &'static Model {
    let folder = Folder::tiny();
    ossmith_models::from_folder(folder.path("").as_ref()).unwrap()
}

/// Prompts that begin alike in threes, with settings that use every way to draw.
fn requests() -> Vec<Request> {
    let lengths = [1_u32, 70, 3, 17, 64, 130, 2, 33, 90, 200, 129, 128];
    let request = |(index, &length): (usize, &u32)| {
        let prompt: Vec<u32> =
            (0..length).map(|at| (at * 31 + index as u32 % 3 * 17 + 5) % 320).collect();
        let base = SamplingParams {
            temperature: [0.0, 1.0, 0.7][index % 3],
            top_p: 0.95,
            top_k: 50,
            seed: index as u64,
            max_tokens: Some(5 + 30 * (index % 4)),
            ignore_eos: index % 2 == 0,
            n: 1 + index % 2,
            ..SamplingParams::default()
        };
        let params = match index % 5 {
            0 => SamplingParams { repetition_penalty: 1.3, presence_penalty: 0.5, ..base },
            1 => SamplingParams { logprobs: Some(2), prompt_logprobs: Some(1), ..base },
            2 => SamplingParams { logit_bias: vec![(3, 2.0)], min_tokens: 4, ..base },
            _ => base,
        };
        Request { priority: index as i32 % 2, ..Request::new(prompt, params) }
    };
    lengths.iter().enumerate().map(request).collect()
}

/// All that must be the same: bits of logprobs included, spared prompt tokens not.
fn same(answer: &Completion) -> impl PartialEq + std::fmt::Debug + use<> {
    let logprobs: Vec<u32> = answer.logprobs.iter().map(|entry| entry.logprob.to_bits()).collect();
    let of_prompt = answer.prompt.logprobs.clone();
    (answer.tokens.clone(), logprobs, of_prompt, answer.finish.clone())
}

#[test]
fn every_answer_equals_its_solo_run_on_the_cpu() {
    let (model, requests) = (tiny(), requests());
    let solo_limits = Limits { max_sequences: 1, max_step_tokens: 512, pages: 8 };
    let plain = Policy { prefix_cache: false, ..Policy::default() };
    let mut solo = engine(model, solo_limits, plain);
    let mut alone = Vec::new();
    for request in &requests {
        alone.extend(solo.complete(vec![request.clone()]).unwrap().iter().map(same));
    }
    let mut seen = [0; 3];
    for (max_sequences, max_step_tokens, pages, draft_tokens) in
        [(9, 512, 64, 0), (4, 48, 9, 3), (3, 10, 6, 0), (2, 1, 5, 2), (6, 64, 5, 0)]
    {
        let limits = Limits { max_sequences, max_step_tokens, pages };
        let mut shared = engine(model, limits, Policy { draft_tokens, ..Policy::default() });
        // The second round finds the first one's prefixes.
        for _ in 0..2 {
            let answers = shared.complete(requests.clone()).unwrap();
            assert_eq!(answers.iter().map(same).collect::<Vec<_>>(), alone, "{limits:?}");
            assert_eq!(shared.free_pages(), pages);
        }
        let metrics = shared.metrics();
        for (seen, count) in seen.iter_mut().zip([
            metrics.cached_tokens,
            metrics.accepted_tokens,
            metrics.preemptions,
        ]) {
            *seen += count;
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "cached, accepted, preempted: {seen:?}");
}

#[test]
fn a_long_prefix_is_read_once_and_changes_no_bit() {
    let model = tiny();
    let limits = Limits { max_sequences: 2, max_step_tokens: 100, pages: 20 };
    let prefix: Vec<u32> = (0..400).map(|at| (at * 37 + at / 7) % 320).collect();
    let params =
        SamplingParams { max_tokens: Some(40), logprobs: Some(0), ..SamplingParams::default() };
    let ask = |tail: &[u32]| Request::new([&prefix[..], tail].concat(), params.clone());
    let plain = Policy { prefix_cache: false, ..Policy::default() };
    let mut cached = engine(model, limits, Policy::default());
    let mut fresh = engine(model, limits, plain);
    for (tail, spared) in [(&[1, 2, 3][..], 0), (&[9], 384), (&[1, 2, 3], 384)] {
        let answer = cached.complete(vec![ask(tail)]).unwrap().remove(0);
        let want = fresh.complete(vec![ask(tail)]).unwrap().remove(0);
        assert_eq!(same(&answer), same(&want));
        assert_eq!((answer.prompt.cached_tokens, want.prompt.cached_tokens), (spared, 0));
    }
}

#[test]
fn limits_without_room_are_refused() {
    let model = tiny();
    for (max_sequences, max_step_tokens, pages) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let limits = Limits { max_sequences, max_step_tokens, pages };
        let options = EngineOptions {
            device: Device::Cpu,
            limits,
            threads: Some(1),
            ..EngineOptions::default()
        };
        let checkpoint = Arc::new(Checkpoint::synthetic(model, 0));
        let error = Engine::load(model, checkpoint, options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("at least 1"), "{error}");
    }
}

#[test]
fn more_than_the_memory_is_refused_with_the_numbers() {
    let limits = Limits { max_sequences: 1, max_step_tokens: 8, pages: 4_000_000_000 };
    let options = EngineOptions { device: Device::Cpu, limits, ..EngineOptions::default() };
    let model = tiny();
    let checkpoint = Arc::new(Checkpoint::synthetic(model, 0));
    let error = Engine::load(model, checkpoint, options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("does not fit: pages ") && error.contains("pages fewer"), "{error}");
}
