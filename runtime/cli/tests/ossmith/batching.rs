//! The engine on the CPU backend: what shares a step changes no token.

use std::sync::Arc;

use super::common::Folder;
use ossmith::engine::{EngineOptions, SamplingParams};
use ossmith::{Checkpoint, Device, Engine, Limits};
use ossmith_plan::Model;

fn engine(model: &'static Model, limits: Limits) -> Engine {
    let options =
        EngineOptions { device: Device::Cpu, limits, threads: Some(2), ..EngineOptions::default() };
    let checkpoint = Arc::new(Checkpoint::synthetic(model, 7));
    Engine::load(model, checkpoint, options, &mut |_| {}).unwrap()
}

#[test]
fn every_answer_equals_its_solo_run_on_the_cpu() {
    let folder = Folder::tiny();
    let model = ossmith_models::from_folder(folder.path("").as_ref()).unwrap();
    let (mut prompts, mut settings) = (Vec::new(), Vec::new());
    for (index, length) in [1_u32, 70, 3, 17, 64, 130, 2, 33, 90].into_iter().enumerate() {
        prompts.push(
            (0..length).map(|at| (at * 31 + index as u32 * 17 + 5) % 320).collect::<Vec<_>>(),
        );
        settings.push(SamplingParams {
            temperature: [0.0, 1.0, 0.7][index % 3],
            top_p: 0.95,
            top_k: 50,
            seed: index as u64,
            max_tokens: Some(5 + 7 * (index % 4)),
            ignore_eos: index % 2 == 0,
            ..SamplingParams::default()
        });
    }
    let solo_limits = Limits { max_sequences: 1, max_step_tokens: 512, pages: 8 };
    let mut solo = engine(model, solo_limits);
    let alone: Vec<_> = prompts
        .iter()
        .zip(&settings)
        .map(|(prompt, params)| {
            solo.generate(&[prompt], std::slice::from_ref(params)).unwrap().remove(0)
        })
        .collect();
    for (max_sequences, max_step_tokens, pages) in [(9, 512, 64), (4, 48, 9), (3, 10, 6), (2, 1, 4)]
    {
        let limits = Limits { max_sequences, max_step_tokens, pages };
        let mut shared = engine(model, limits);
        assert_eq!(shared.generate(&prompts, &settings).unwrap(), alone, "{limits:?}");
        assert_eq!(shared.free_pages(), pages);
    }
}

#[test]
fn limits_without_room_are_refused() {
    let folder = Folder::tiny();
    let model = ossmith_models::from_folder(folder.path("").as_ref()).unwrap();
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
