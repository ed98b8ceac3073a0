//! The engine over the CPU backend: greedy answers to several prompts at once are the stored continuations, also
//! where the cache holds only some of the sequences at a time.

use std::sync::Arc;

use ossmith::prelude::*;
use ossmith_tests::fixture::Fixture;

use crate::model::compile;

fn check(name: &str, limits: Limits) {
    let fixture = Fixture::committed(name);
    let model = compile(&fixture.folder);
    let weights = Arc::new(Checkpoint::open(&fixture.folder, model).expect("a whole checkpoint"));
    let options = EngineOptions::default().with_device(Device::Cpu).with_limits(limits);
    let mut engine = Engine::load(model, weights, options, &mut |_| ()).expect("an engine");
    let greedy = fixture.expected.ids("greedy_tokens");
    let params = |max_tokens: usize| {
        SamplingParams::greedy().with_max_tokens(max_tokens).with_ignore_eos(true)
    };
    // The whole prompt, the prompt with part of its continuation, and shorter prompts beside them.
    let (whole, half) = (fixture.tokens.clone(), greedy.len() / 2);
    let continued = [&whole[..], &greedy[..half]].concat();
    let prompts = [whole.clone(), whole[..9].to_vec(), continued, whole[..1].to_vec(), whole];
    let lengths = [greedy.len(), 5, greedy.len() - half, 3, greedy.len()];
    let answers = engine.generate(&prompts, &lengths.map(params)).expect("answers");
    for (i, (answer, length)) in answers.iter().zip(lengths).enumerate() {
        assert_eq!(answer.tokens.len(), length, "{name}, prompt {i}");
        assert_eq!(answer.finish, FinishReason::Length, "{name}, prompt {i}");
    }
    for (i, expected) in [(0, &greedy[..]), (2, &greedy[half..]), (4, &greedy[..])] {
        assert_eq!(answers[i].tokens, expected, "{name}, prompt {i} with {limits:?}");
    }
    let alone = engine.generate(&prompts[1..2], &[params(5)]).expect("an answer");
    assert_eq!(alone[0].tokens, answers[1].tokens, "{name}: the same prompt alone");
}

#[test]
fn several_prompts_at_once() {
    check("tiny", Limits::default().with_max_sequences(8).with_max_step_tokens(256).with_pages(16));
    check(
        "window",
        Limits::default().with_max_sequences(8).with_max_step_tokens(512).with_pages(64),
    );
}

#[test]
fn prompts_wait_for_sequence_slots_pages_and_step_tokens() {
    check("tiny", Limits::default().with_max_sequences(2).with_max_step_tokens(20).with_pages(2));
    check("odd", Limits::default().with_max_sequences(3).with_max_step_tokens(7).with_pages(3));
    check("window", Limits::default().with_max_sequences(2).with_max_step_tokens(64).with_pages(7));
}
