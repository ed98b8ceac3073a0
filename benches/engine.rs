//! The host side of the engine, over a backend that computes nothing: what a step costs besides the model.
//!
//! `cargo bench -p ossmith-benches --bench engine`; results that are quoted lie in `results/`.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ossmith::{
    Allowed, Engine, EngineHandle, Events, MaskSource, Request, SamplingParams, TextStream,
    TokenMask,
};
use ossmith_benches::engine;
use ossmith_harmony::{encode, token_bytes};

fn endless() -> SamplingParams {
    SamplingParams::default().with_ignore_eos(true)
}

/// One decode step: every sample gets a token, without and with its text.
fn step(c: &mut Criterion) {
    for (running, text) in [(64, false), (256, false), (256, true)] {
        let mut engine = engine(running, running * 512);
        let name = if text { "step_with_text" } else { "step" };
        c.bench_function(&format!("{name}/{running}"), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    if engine.is_idle() {
                        fill(&mut engine, running, text);
                    }
                    let begin = Instant::now();
                    black_box(engine.step().expect("a step").len());
                    spent += begin.elapsed();
                }
                spent
            });
        });
    }
}

/// A request for many tokens.
fn request(index: u32, text: bool) -> Request {
    let stop = if text { vec!["THE END".to_owned()] } else { Vec::new() };
    let params = endless().with_max_tokens(30_000).with_stop(stop);
    let request = Request::new([index + 1; 100], params);
    if text { request.with_detokenizer(token_bytes) } else { request }
}

/// Advances until every step yields a token for each sample.
fn fill(engine: &mut Engine, running: usize, text: bool) {
    for index in 0..running as u32 {
        engine.submit(request(index, text)).expect("room");
    }
    while engine.step().expect("a step").len() < running {}
}

/// The engine as a server runs it: on its own thread, with 256 answers with text, and another thread that takes all
/// events at intervals. Measures elapsed time per step.
fn streamed(c: &mut Criterion) {
    let running = 256;
    let handle = EngineHandle::start(engine(running, running * 512)).expect("a thread");
    let mut readers: Vec<Events> = Vec::new();
    let mut drain = |steps: u64| {
        let begin = Instant::now();
        let last = handle.metrics().steps + steps;
        while handle.metrics().steps < last {
            if readers.is_empty() {
                let submit = |index| handle.submit(request(index, true)).expect("room");
                readers.extend((0..running as u32).map(submit));
            }
            readers.retain_mut(|events| {
                loop {
                    match events.poll_event(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(Some(event)) => drop(black_box(event)),
                        Poll::Ready(None) => break false,
                        Poll::Pending => break true,
                    }
                }
            });
            std::thread::sleep(Duration::from_micros(500));
        }
        begin.elapsed()
    };
    c.bench_function("streamed_step/256", |b| b.iter_custom(&mut drain));
}

/// Allows every third token.
struct Thirds;

impl MaskSource for Thirds {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        Box::new(Thirds)
    }
}

impl TokenMask for Thirds {
    fn fill(&mut self, _generated: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        words.fill(0x4924_9249);
        Ok(Allowed::Listed)
    }
}

/// A step with one masked sample over the whole vocabulary: the mask is requested, transferred and applied.
fn mask(c: &mut Criterion) {
    let mut engine = engine(1, 2048);
    let request =
        Request::new([1; 10], endless().with_temperature(0.0)).with_mask(Arc::new(Thirds));
    c.bench_function("masked_step/1", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                if engine.is_idle() {
                    engine.submit(request.clone()).expect("room");
                    engine.step().expect("a step");
                }
                let begin = Instant::now();
                black_box(engine.step().expect("a step"));
                spent += begin.elapsed();
            }
            spent
        });
    });
}

/// Tokens to text, with stop strings to look for.
fn text(c: &mut Criterion) {
    let tokens = encode(&include_str!("../README.md")[..4000]);
    for stops in [vec![], vec!["\n\n\n".to_owned(), "THE END".to_owned()]] {
        let stops: Arc<[String]> = stops.into();
        c.bench_function(&format!("text/{} tokens, {} stops", tokens.len(), stops.len()), |b| {
            b.iter(|| {
                let mut stream = TextStream::new(stops.clone(), false);
                let mut out = String::new();
                for &token in &tokens {
                    stream.push(token_bytes(token), true, &mut out);
                }
                stream.finish(&mut out);
                black_box(out.len())
            });
        });
    }
}

criterion_group!(benches, step, streamed, mask, text);
criterion_main!(benches);
