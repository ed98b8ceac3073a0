//! Many random requests through the engine on the real CPU backend with a tiny model: no page is lost, none hangs, every
//! answer equals its solo run, and memory stays flat. It is a program of its own, so that it can measure its memory.
//!
//! `OSSMITH_SOAK` sets how many requests; the scripted backend's soak, which has no model, is the engine's own test.

#![allow(missing_docs, clippy::print_stdout, reason = "a test, whose figures are for people")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ossmith::RequestId;
use ossmith::prelude::*;

const LIMITS: Limits = Limits::for_sequences(24, 192).with_max_step_tokens(256);
/// Requests in flight at once; more than the sequences that run, so some wait.
const LIVE: usize = 40;
/// Different requests; each comes many times, beside others.
const KINDS: usize = 60;

fn engine(policy: Policy, limits: Limits) -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
    let spec = ossmith_codegen::spec::parse("tiny", &config, None).expect("a model");
    let model = ossmith_codegen::compile(spec).expect("kernels");
    let weights = Arc::new(Checkpoint::synthetic(model, 11));
    let options = EngineOptions::default()
        .with_device(Device::Cpu)
        .with_limits(limits)
        .with_threads(2)
        .with_policy(policy);
    Engine::load(model, weights, options, &mut |_| ()).expect("an engine")
}

/// A simple stream of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

/// One of the different requests: prompts that begin alike in tens, settings of every way to sample.
fn kind(index: usize) -> Request {
    let mut random = Random(index as u64 + 1);
    let length = [3, 20, 64, 65, 90, 150][random.below(6)];
    let prompt: Vec<u32> =
        (0..length).map(|at| ((at * 31 + index % 10 * 17 + 5) % 250) as u32).collect();
    let base = SamplingParams::default()
        .with_temperature([0.0, 1.0][index % 2])
        .with_top_k([0, 20][random.below(2)])
        .with_seed(index as u64)
        .with_max_tokens(1 + random.below(12))
        .with_n(1 + index % 13 / 12);
    let params = match index % 7 {
        0 => base.with_presence_penalty(0.5).with_repetition_penalty(1.2),
        1 => base.with_logprobs(1),
        2 => base.with_ignore_eos(true),
        _ => base,
    };
    Request::new(prompt, params).with_priority(index as i32 % 3)
}

/// Resident memory of this process in KiB.
fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn random_requests_leave_nothing_behind() {
    let count: usize = match std::env::var("OSSMITH_SOAK") {
        Ok(text) => text.parse().expect("OSSMITH_SOAK is a number of requests"),
        Err(_) => 3000,
    };
    let plain = Policy::default().with_prefix_cache(false);
    let mut solo = engine(plain, LIMITS.with_max_sequences(1));
    let tokens = |request| {
        let answers = solo.complete(vec![request]).expect("a solo run");
        answers.into_iter().map(|answer| answer.tokens).collect::<Vec<_>>()
    };
    let alone: Vec<Vec<Vec<u32>>> = (0..KINDS).map(kind).map(tokens).collect();
    drop(solo);

    let mut engine = engine(Policy::default().with_draft_tokens(3), LIMITS);
    let mut random = Random(3);
    // By request: its kind, and the tokens of its samples so far.
    let mut live: BTreeMap<RequestId, (usize, Vec<Vec<u32>>)> = BTreeMap::new();
    let (mut sent, mut whole, mut cancelled, mut marks) = (0, 0, 0, Vec::new());
    let begin = Instant::now();
    while sent < count || !engine.is_idle() {
        while sent < count && live.len() < LIVE {
            let index = random.below(KINDS);
            let request = kind(index);
            let samples = vec![Vec::new(); request.params.n];
            live.insert(engine.submit(request).expect("room"), (index, samples));
            sent += 1;
            // A fifth in, everything has been used once.
            if sent == count / 5 || sent == count / 2 {
                marks.push(resident_kib());
            }
        }
        // The seed chooses who is cancelled, among all that wait or run.
        if random.below(4) == 0
            && let Some(&id) = live.keys().nth(random.below(live.len().max(1)))
        {
            engine.cancel(id);
            live.remove(&id);
            cancelled += 1;
        }
        for event in engine.step().expect("a step") {
            let (index, samples) = live.get_mut(&event.request).expect("a live request");
            samples[event.sample].extend(event.token);
            if event.finish.is_some() {
                let said = &samples[event.sample];
                assert_eq!(*said, alone[*index][event.sample], "kind {index}");
                whole += 1;
            }
            if event.finish.is_some() && samples.iter().zip(&alone[*index]).all(|(a, b)| a == b) {
                live.remove(&event.request);
            }
        }
    }
    marks.push(resident_kib());
    let metrics = engine.metrics();
    println!(
        "{count} requests, {whole} whole answers, {cancelled} cancelled, {} steps, {} preemptions, {} cached and {} \
         draft tokens in {:.0} s; resident at a fifth, the middle, the end: {marks:?} KiB",
        metrics.steps,
        metrics.preemptions,
        metrics.cached_tokens,
        metrics.accepted_tokens,
        begin.elapsed().as_secs_f64()
    );
    assert!(live.is_empty(), "stuck: {live:?}");
    assert_eq!(engine.free_pages(), LIMITS.pages);
    assert_eq!((metrics.running, metrics.waiting, metrics.pages_used), (0, 0, 0));
    assert!(whole as usize > count * 3 / 4, "{whole} whole answers");
    assert!(metrics.preemptions > 0 && metrics.cached_tokens > 0 && metrics.accepted_tokens > 0);
    // A leak of one token per request would show in a long run; allocators keep a little.
    assert!(marks[2] < marks[1] + 4096, "memory grows: {marks:?} KiB");
}
