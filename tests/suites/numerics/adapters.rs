//! Adapters as peft saves them, made by `fixtures/make_lora.py` while the test runs, against the float64 model of the weights
//! with each adapter added: beside each other in one batch, and merged.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ossmith::unstable::cpu::{CpuBackend, Executor};
use ossmith::unstable::export::ExportOptions;
use ossmith::unstable::{Backend, LogitsOptions};
use ossmith::{
    Adapter, Checkpoint, CheckpointOptions, Device, Engine, EngineHandle, EngineOptions, Error,
    ExpertStorage, PauseMode, Request, SamplingParams, SleepLevel,
};
use ossmith_tests::bounds::{Profile, rel_l2};
use ossmith_tests::drive::{self, Feed};
use ossmith_tests::fixture::Fixture;
use ossmith_tests::{not_checked, reference, root};

use crate::model::{Loaded, expect_rows, expect_same_bits, fastest};

const ADAPTERS: [&str; 4] = ["attention", "experts", "patterns", "per-expert"];

/// Merged weights are rounded to bf16, by at most 2^-9 of each, which attention magnifies: 0.2 to 0.8 % in logits was seen.
const MERGED: Profile =
    Profile { name: "merged in bf16", rel_l2: 4e-2, kl: 4e-3, top1: 1.0, margin: 0.5 };
/// Experts that are quantised after an adapter was added: as in `layouts.rs`.
const MXFP4_RESIDUAL: f64 = 0.21;

#[test]
fn adapters_beside_each_other_and_merged() {
    let Some(python) = reference::python() else {
        not_checked("adapters", "no python3 with numpy; `cargo xtask test` installs it");
        return;
    };
    let scratch = tempfile::tempdir().expect("temporary folder");
    let seed = reference::fresh_seed() % 1_000_000;
    let out = scratch.path().join("out");
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("OMP_NUM_THREADS", "1");
    command.arg(root().join("tests/fixtures/make_lora.py"));
    let output = command.args(["--seed", &seed.to_string(), "--out"]).arg(&out).output();
    let output = output.expect("the generator runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {errors}");

    let base = Fixture::open(&out.join("base"));
    let loaded = Loaded::open(&base.folder);
    let fixtures = ADAPTERS.map(|name| Fixture::open(&out.join(name)));
    let adapters = ADAPTERS.map(|name| {
        let adapter = Adapter::open(name, &out.join(name), &loaded.model.spec);
        Arc::new(adapter.unwrap_or_else(|why| panic!("seed {seed}: {why}")))
    });
    one_batch(&format!("seed {seed}"), &loaded, &base, &fixtures, &adapters);
    one_engine(&format!("seed {seed}"), &loaded, &out, &adapters);
    other_weights(&format!("seed {seed}"), &loaded, &base, &adapters[0]);
    for (fixture, adapter) in fixtures.iter().zip(&adapters) {
        merged(&format!("{} with seed {seed}", adapter.name()), &base, fixture, adapter, &out);
    }
}

/// All adapters and the model without one, in chunks that begin at different steps.
fn one_batch(
    what: &str,
    loaded: &Loaded,
    base: &Fixture,
    fixtures: &[Fixture],
    adapters: &[Arc<Adapter>],
) {
    let of_feed = |(place, fixture)| {
        let fixture: &Fixture = fixture;
        Feed { chunk: 3 + 5 * place, wait: place, ..Feed::at_once(&fixture.tokens) }
    };
    let all: Vec<&Fixture> = std::iter::once(base).chain(fixtures).collect();
    let feeds: Vec<Feed<'_>> = all.iter().copied().enumerate().map(of_feed).collect();
    let run = |feeds: &[Feed<'_>], adapters: &[Option<Arc<Adapter>>]| {
        let executor = Executor::new(loaded.model, loaded.weights().clone(), fastest(), None)
            .expect("executor");
        let mut backend =
            CpuBackend::with_executor(executor, drive::limits(feeds)).expect("backend");
        for (slot, adapter) in adapters.iter().enumerate() {
            backend.set_adapter(slot, adapter.clone()).expect("an adapter of the model");
        }
        drive::run(&mut backend, feeds).expect("a step within its limits")
    };
    let slots: Vec<Option<Arc<Adapter>>> =
        std::iter::once(None).chain(adapters.iter().cloned().map(Some)).collect();
    let rows = run(&feeds, &slots);
    for ((fixture, rows), slot) in all.iter().zip(&rows).zip(&slots) {
        let name = slot.as_ref().map_or("base", |adapter| adapter.name());
        let what = format!("{name} in a batch, {what}");
        expect_rows(&what, fixture, loaded.model, rows, fixture.tokens.len());
        let alone = run(&[Feed::at_once(&fixture.tokens)], std::slice::from_ref(slot));
        expect_same_bits(&format!("{what} and alone"), rows, &alone[0]);
    }
}

/// An adapter in the weights: in bf16 within its rounding, and in MXFP4, which exports to what it computes.
fn merged(what: &str, base: &Fixture, fixture: &Fixture, adapter: &Arc<Adapter>, out: &Path) {
    let feed = [Feed::at_once(&fixture.tokens)];
    for experts in [ExpertStorage::Bf16, ExpertStorage::Mxfp4] {
        let model = crate::model::compile(&base.folder);
        let options = CheckpointOptions::default().with_experts(ExpertStorage::Bf16);
        let weights = Checkpoint::open_with(&base.folder, model, options)
            .and_then(|weights| weights.with_adapters(model, vec![adapter.clone()], experts));
        let loaded = Loaded::new(model, weights.unwrap_or_else(|why| panic!("{what}: {why}")));
        let rows = loaded.run(fastest(), &feed).remove(0);
        let residual = rel_l2(fixture.expected.f32("resid.0"), &rows.layers[0].residual);
        assert!(residual < MXFP4_RESIDUAL, "{what}: {residual}");
        if experts == ExpertStorage::Bf16 || adapter.name() == "attention" {
            let expected = fixture.expected.f32("logits");
            MERGED.assert_logits(what, expected, &rows.logits, model.spec.vocab);
        }
        let changed = loaded.conversions().iter().any(|one| one.to == "MXFP4");
        let adapts_experts = adapter.name() != "attention";
        assert_eq!(changed, experts == ExpertStorage::Mxfp4 && adapts_experts, "{what}");
        if experts == ExpertStorage::Bf16 {
            continue;
        }
        // The same model with experts in bf16, of which those that no adapter changes are quantised too.
        let wide = Checkpoint::open_with(&out.join("base-bf16"), model, options)
            .and_then(|weights| weights.with_adapters(model, vec![adapter.clone()], experts));
        let wide = Loaded::new(model, wide.unwrap_or_else(|why| panic!("{what}: {why}")));
        let from_bf16 = wide.run(fastest(), &feed).remove(0);
        expect_same_bits(&format!("{what}, from bf16"), &rows, &from_bf16);
        let folder = &out.join(format!("{}-merged", adapter.name()));
        let config = std::fs::read(base.folder.join("config.json")).expect("config.json");
        let files = [("config.json".to_owned(), config)];
        let options = ExportOptions { folder, files: &files, shard_bytes: 1 << 30 };
        let export =
            loaded.weights().export(&model.spec, &options, &mut |_| ControlFlow::Continue(()));
        assert!(export.expect("an export").complete, "{what}");
        let read = Loaded::open(folder).run(fastest(), &feed).remove(0);
        expect_same_bits(&format!("{what}, exported"), &rows, &read);
    }
}

/// Requests with several adapters, one of them twice, and without one: the tokens are those of each alone, and what is cached
/// is found by requests with the same adapter only.
fn one_engine(what: &str, loaded: &Loaded, out: &Path, adapters: &[Arc<Adapter>]) {
    let prompt: Vec<u32> = (0..150).map(|at| (at * 37 + 11) % 250).collect();
    let request = |adapter: &Option<Arc<Adapter>>| {
        let params = SamplingParams::greedy().with_max_tokens(12).with_ignore_eos(true);
        Request::new(prompt.clone(), params).with_adapter(adapter.clone())
    };
    let engine = || {
        let options = EngineOptions::default().with_device(Device::Cpu);
        Engine::load(loaded.model, loaded.weights().clone(), options, &mut |_| {})
            .expect("an engine")
    };
    let wanted = [
        None,
        Some(adapters[0].clone()),
        Some(adapters[1].clone()),
        None,
        Some(adapters[0].clone()),
    ];
    let mut together = engine();
    let answers = together.complete(wanted.iter().map(request).collect()).expect("answers");
    for (adapter, answer) in wanted.iter().zip(&answers) {
        let alone = engine().complete(vec![request(adapter)]).expect("an answer").remove(0);
        let name = adapter.as_ref().map_or("base", |adapter| adapter.name());
        assert_eq!(alone.tokens, answer.tokens, "{what}: {name}");
    }
    let again = Adapter::open("again", &out.join(ADAPTERS[0]), &loaded.model.spec);
    let again = Some(Arc::new(again.expect("an adapter")));
    // One that was loaded anew may be another one of the same name.
    for (adapter, cached) in [(&wanted[1], 128), (&again, 0), (&again, 128), (&None, 128)] {
        let answer = together.complete(vec![request(adapter)]).expect("an answer").remove(0);
        assert_eq!(answer.prompt.cached_tokens, cached, "{what}");
    }
    // Logits of a prompt are the model's own, whatever the slot's last request had.
    let logits = |engine: &mut Engine| {
        let mut all: Vec<f32> = Vec::new();
        engine
            .logits(&prompt, LogitsOptions::default(), &mut |_, output| {
                all.extend(output.logits.concat());
                Ok(())
            })
            .expect("logits");
        all
    };
    let mut used = engine();
    used.complete(vec![request(&wanted[1])]).expect("an answer");
    while !used.is_idle() {
        used.step().expect("a step");
    }
    assert!(logits(&mut used) == logits(&mut engine()), "{what}: an adapter was left in its slot");
}

/// Weights that are replaced while a request runs: it goes on to its end, and what comes after computes with the new weights and
/// nothing that the old ones left in the cache.
fn other_weights(what: &str, loaded: &Loaded, base: &Fixture, adapter: &Arc<Adapter>) {
    let options = CheckpointOptions::default().with_experts(ExpertStorage::Bf16);
    let merged = Checkpoint::open_with(&base.folder, loaded.model, options).and_then(|weights| {
        weights.with_adapters(loaded.model, vec![adapter.clone()], ExpertStorage::Mxfp4)
    });
    let merged = Arc::new(merged.expect("merged weights"));
    let prompt: Vec<u32> = (0..150).map(|at| (at * 41 + 7) % 250).collect();
    let request = |tokens: usize| {
        let params = SamplingParams::greedy().with_max_tokens(tokens).with_ignore_eos(true);
        Request::new(prompt.clone(), params)
    };
    let engine = |weights: &Arc<Checkpoint>| {
        let options = EngineOptions::default().with_device(Device::Cpu);
        Engine::load(loaded.model, weights.clone(), options, &mut |_| {}).expect("an engine")
    };
    let alone = |weights: &Arc<Checkpoint>| {
        engine(weights).complete(vec![request(12)]).expect("an answer").remove(0).tokens
    };
    let (before, after) = (alone(loaded.weights()), alone(&merged));
    let handle = EngineHandle::start(engine(loaded.weights())).expect("a thread");
    let answer = |handle: &EngineHandle, tokens: usize| {
        let events: Vec<_> =
            handle.submit(request(tokens)).expect("a request").into_iter().collect();
        let cached = events[0].prompt.as_ref().expect("the first event").cached_tokens;
        (events.into_iter().filter_map(|event| event.token).collect::<Vec<_>>(), cached)
    };
    assert_eq!(answer(&handle, 12), (before.clone(), 0), "{what}");
    let running = handle.submit(request(200)).expect("a request");
    handle.pause(PauseMode::Keep).expect("a running engine");
    assert!(handle.is_paused(), "{what}");
    handle.replace_weights(Arc::clone(&merged)).expect("weights of the model");
    handle.unpause().expect("a running engine");
    let tokens = running.into_iter().filter_map(|event| event.token).count();
    assert_eq!(tokens, 200, "{what}: the request that ran");
    assert_eq!(answer(&handle, 12).0, after, "{what}");
    assert!(answer(&handle, 1).1 > 0, "{what}: the new weights' prefix is cached");
    handle.replace_weights(Arc::clone(loaded.weights())).expect("weights of the model");
    assert_eq!(answer(&handle, 12), (before, 0), "{what}: nothing of the other weights is cached");
    // The same weights come from files, which may go once they were read.
    let folder = tempfile::tempdir().expect("temporary folder");
    let options = ExportOptions { folder: folder.path(), files: &[], shard_bytes: 1 << 16 };
    merged
        .export(&loaded.model.spec, &options, &mut |_| ControlFlow::Continue(()))
        .expect("an export");
    let count = handle.update_weights(folder.path()).expect("weights of the model");
    assert_eq!(count, loaded.model.graph.all_weights().count(), "{what}");
    folder.close().expect("the folder goes");
    assert_eq!(answer(&handle, 12), (after.clone(), 0), "{what}: weights from files");
    let missing = handle.update_weights("nowhere.safetensors".as_ref());
    assert!(missing.is_err_and(|why| why.to_string().contains("nowhere")), "{what}");
    assert!(answer(&handle, 1).1 > 0, "{what}: a refused update changes nothing");
    handle.sleep(SleepLevel::Two, PauseMode::Abort).expect("the CPU can sleep");
    assert!(handle.is_asleep() && handle.is_paused(), "{what}");
    for refused in [handle.unpause(), handle.logits(prompt.clone()).map(drop)] {
        assert!(matches!(refused, Err(Error::Asleep { .. })), "{what}: {refused:?}");
    }
    let refused = handle.replace_weights(Arc::clone(loaded.weights()));
    assert!(matches!(refused, Err(Error::Asleep { .. })), "{what}: {refused:?}");
    let waiting = handle.submit(request(12)).expect("a request");
    handle.wake().expect("memory");
    assert!(!handle.is_asleep() && !handle.is_paused(), "{what}");
    let events: Vec<_> = waiting.into_iter().collect();
    assert_eq!(events[0].prompt.as_ref().map(|prompt| prompt.cached_tokens), Some(0), "{what}");
    let tokens: Vec<u32> = events.into_iter().filter_map(|event| event.token).collect();
    assert_eq!(tokens, after, "{what}: the weights were kept");
    handle.shutdown();
}
