//! What the flight recorder costs a step of 256 sequences, over a backend that computes nothing.
//!
//!     cargo bench -p ossmith-benches --bench recorder
//!
//! runs an engine with it and one without it in turns, and prints the processor time of a step in each, with the median of the
//! pairs' ratios. With `on` or `off` and a number of steps it runs that engine alone, so that its instructions can be counted
//! (`valgrind --tool=callgrind --toggle-collect='*measured*'`).

#![allow(clippy::print_stdout, reason = "its result is for people")]
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;

use ossmith::{Engine, Request, SamplingParams};
use ossmith_benches::engine;

/// Sequences of a step.
const SEQUENCES: usize = 256;
/// Steps of one side of a pair, more than the ring keeps.
const STEPS: usize = 600;
const PAIRS: usize = 40;

/// An engine in which every step yields a token for each sequence.
fn filled(recorded: bool) -> Engine {
    let engine = engine(SEQUENCES, SEQUENCES * 512);
    let mut engine = if recorded { engine } else { engine.without_step_records() };
    for index in 0..SEQUENCES as u32 {
        let params = SamplingParams::default().with_ignore_eos(true).with_max_tokens(30_000);
        engine.submit(Request::new([index + 1; 100], params)).unwrap();
    }
    while engine.step().unwrap().len() < SEQUENCES {}
    // A ring that is full uses its memory again.
    measured(&mut engine, STEPS);
    engine
}

/// Makes so many steps.
#[inline(never)]
fn measured(engine: &mut Engine, steps: usize) {
    for _ in 0..steps {
        assert_eq!(black_box(engine.step().unwrap().len()), SEQUENCES);
    }
}

/// Processor time of this thread so far, in nanoseconds: other work on the machine does not count.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn microseconds(engine: &mut Engine) -> f64 {
    let begin = processor_time();
    measured(engine, STEPS);
    (processor_time() - begin) / 1e3 / STEPS as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [recorded, steps] = &words[..] {
        measured(&mut filled(recorded == "on"), steps.parse().unwrap());
        return;
    }
    let (mut on, mut off) = (filled(true), filled(false));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // Who goes first changes, so that neither has the warmer caches.
        if pair % 2 == 0 {
            with.push(microseconds(&mut on));
            without.push(microseconds(&mut off));
        } else {
            without.push(microseconds(&mut off));
            with.push(microseconds(&mut on));
        }
    }
    let ratio = median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
    let (with, without) = (median(with), median(without));
    println!(
        "a step of {SEQUENCES} sequences: {with:.2} µs with the flight recorder, {without:.2} µs without, median of {PAIRS} \
         ratios {ratio:.4}"
    );
}
