//! The engine on the CPU backend: neither the rest of a step, nor a cached prefix, nor a draft changes a token.

use std::sync::Arc;

use super::common::Folder;
use ossmith::Completion;
use ossmith::prelude::*;

fn engine(model: &'static Model, limits: Limits, policy: Policy) -> Engine {
    let options = EngineOptions::default()
        .with_device(Device::Cpu)
        .with_limits(limits)
        .with_threads(2)
        .with_policy(policy);
    let checkpoint = Arc::new(Checkpoint::synthetic(model, 7));
    Engine::load(model, checkpoint, options, &mut |_| {}).unwrap()
}

fn tiny() -> &'static Model {
    let folder = Folder::tiny();
    ossmith_models::from_folder(folder.path("").as_ref()).unwrap()
}

/// Prompts of which every third has the same prefix, with settings that use every way to sample.
fn requests() -> Vec<Request> {
    let lengths = [1_u32, 70, 3, 17, 64, 130, 2, 33, 90, 200, 129, 128];
    let request = |(index, &length): (usize, &u32)| {
        let prompt: Vec<u32> =
            (0..length).map(|at| (at * 31 + index as u32 % 3 * 17 + 5) % 320).collect();
        let base = SamplingParams::default()
            .with_temperature([0.0, 1.0, 0.7][index % 3])
            .with_top_p(0.95)
            .with_top_k(50)
            .with_seed(index as u64)
            .with_max_tokens(5 + 30 * (index % 4))
            .with_ignore_eos(index % 2 == 0)
            .with_n(1 + index % 2);
        let params = match index % 5 {
            0 => base.with_repetition_penalty(1.3).with_presence_penalty(0.5),
            1 => base.with_logprobs(2).with_prompt_logprobs(1),
            2 => base.with_logit_bias([(3, 2.0)]).with_min_tokens(4),
            _ => base,
        };
        Request::new(prompt, params).with_priority(index as i32 % 2)
    };
    lengths.iter().enumerate().map(request).collect()
}

/// Everything that must be equal: the bits of logprobs, but not the number of cached prompt tokens.
fn same(answer: &Completion) -> impl PartialEq + std::fmt::Debug + use<> {
    let logprobs: Vec<u32> = answer.logprobs.iter().map(|entry| entry.logprob.to_bits()).collect();
    let of_prompt = answer.prompt.logprobs.clone();
    (answer.tokens.clone(), logprobs, of_prompt, answer.finish.clone())
}

#[test]
fn every_answer_equals_its_solo_run_on_the_cpu() {
    let (model, requests) = (tiny(), requests());
    let solo_limits =
        Limits::default().with_max_sequences(1).with_max_step_tokens(512).with_pages(8);
    let plain = Policy::default().with_prefix_cache(false);
    let mut solo = engine(model, solo_limits, plain);
    let mut alone = Vec::new();
    for request in &requests {
        alone.extend(solo.complete(vec![request.clone()]).unwrap().iter().map(same));
    }
    let mut seen = [0; 3];
    for (max_sequences, max_step_tokens, pages, draft_tokens) in
        [(9, 512, 64, 0), (4, 48, 9, 3), (3, 10, 6, 0), (2, 1, 5, 2), (6, 64, 5, 0)]
    {
        let limits = Limits::default()
            .with_max_sequences(max_sequences)
            .with_max_step_tokens(max_step_tokens)
            .with_pages(pages);
        let mut shared = engine(model, limits, Policy::default().with_draft_tokens(draft_tokens));
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
    let limits = Limits::default().with_max_sequences(2).with_max_step_tokens(100).with_pages(20);
    let prefix: Vec<u32> = (0..400).map(|at| (at * 37 + at / 7) % 320).collect();
    let params = SamplingParams::default().with_max_tokens(40).with_logprobs(0);
    let ask = |tail: &[u32]| Request::new([&prefix[..], tail].concat(), params.clone());
    let plain = Policy::default().with_prefix_cache(false);
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
        let limits = Limits::default()
            .with_max_sequences(max_sequences)
            .with_max_step_tokens(max_step_tokens)
            .with_pages(pages);
        let options = EngineOptions::default().with_device(Device::Cpu).with_limits(limits);
        let checkpoint = Arc::new(Checkpoint::synthetic(model, 0));
        let error = Engine::load(model, checkpoint, options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("at least 1"), "{error}");
    }
}

#[test]
fn more_than_the_memory_is_refused_with_the_numbers() {
    let limits =
        Limits::default().with_max_sequences(1).with_max_step_tokens(8).with_pages(4_000_000_000);
    let options = EngineOptions::default().with_device(Device::Cpu).with_limits(limits);
    let model = tiny();
    let checkpoint = Arc::new(Checkpoint::synthetic(model, 0));
    let error = Engine::load(model, checkpoint, options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("does not fit: pages ") && error.contains("pages fewer"), "{error}");
}
