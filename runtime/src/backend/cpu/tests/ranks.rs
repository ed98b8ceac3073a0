//! Ranks against the whole model, against each other and themselves, and what happens when one fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ossmith_plan::{DType, TILE_K};

use super::super::rank_sums::SharedSums;
use super::super::{RankSums, rank_executors};
use super::*;
use crate::backend::RowSampling;
use crate::engine::{Engine, FinishReason, Policy, Request, SamplingParams};
use crate::sampling::{Penalties, TokenHistory};
use crate::{Error, Result};

/// Eight key heads of which four queries share each, nine tiles of inner width of which the last is a half, and a
/// vocabulary that ends within a tile: 2, 4 and 8 ranks share them, unevenly.
const EIGHT: ModelSpec =
    ModelSpec { name: "eight", inter: 8 * TILE_K + 32, q_heads: 32, kv_heads: 8, ..ODD };

/// Longer than any test waits.
const PATIENT: Duration = Duration::from_secs(600);

/// Float32 sums in another order, over three layers.
const CLOSE: f64 = 2e-5;

fn ranked(model: &'static Model, isa: Isa, ranks: usize) -> CpuBackend {
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    CpuBackend::with_ranks(model, &weights, LIMITS, isa, ranks, Some(1)).expect("ranks")
}

/// Three steps that mix a prompt's chunks with single tokens, with every row's logits and all captured activations.
fn run(backend: &mut CpuBackend) -> Vec<StepOutput> {
    let (long, short) = (tokens(90, 1), tokens(7, 2));
    let steps: [&[Sequence<'_>]; 3] = [
        &[appending(0, 0, &long[..40], &[7, 2]), appending(2, 0, &short[..6], &[11])],
        &[appending(2, 6, &short[6..], &[11]), appending(0, 40, &long[40..89], &[7, 2])],
        &[appending(0, 89, &long[89..], &[7, 2])],
    ];
    steps
        .iter()
        .map(|&sequences| backend.run(&Step { sequences, capture_activations: true }))
        .collect::<Result<_>>()
        .expect("good steps")
}

#[test]
fn ranks_compute_what_the_whole_model_does() {
    for (spec, counts) in [(ODD, &[2][..]), (EIGHT, &[2, 4, 8])] {
        let model = model(spec);
        for isa in [Isa::SCALAR, *Isa::available().last().expect("scalar code runs anywhere")] {
            let whole = run(&mut backend(model, isa, LIMITS, 1));
            for &ranks in counts {
                let what = format!("{} on {ranks} ranks, {}", spec.name, isa.name());
                // The backend refuses activations that differ from rank to rank in a bit.
                let shared = run(&mut ranked(model, isa, ranks));
                assert_eq!(shared, run(&mut ranked(model, isa, ranks)), "{what}: another run");
                for (whole, shared) in whole.iter().zip(&shared) {
                    for (whole, shared) in whole.logits.iter().zip(&shared.logits) {
                        let off = distance(shared, whole);
                        assert!(off < CLOSE, "{what}: logits are {off:.1e} apart");
                    }
                    for (whole, shared) in whole.activations.iter().zip(&shared.activations) {
                        assert_eq!(whole.router_indices, shared.router_indices, "{what}: experts");
                        let off = distance(&shared.residual, &whole.residual);
                        assert!(off < CLOSE, "{what}: residuals are {off:.1e} apart");
                    }
                }
            }
        }
    }
}

#[test]
fn tokens_are_sampled_from_the_joined_logits_in_every_form() {
    let model = model(EIGHT);
    let prompt = tokens(20, 3);
    let mask: Vec<u32> = vec![0x5555_5555; EIGHT.vocab.div_ceil(32)];
    let penalties = Penalties { repetition: 1.2, presence: 0.1, frequency: 0.1 };
    let warm = SamplerConfig { temperature: 1.0, seed: 9, ..SamplerConfig::GREEDY };
    let plain = RowSampling::from(warm);
    let rows = [
        RowSampling::from(SamplerConfig::GREEDY),
        plain,
        RowSampling::from(SamplerConfig { top_k: 5, ..warm }),
        RowSampling::from(SamplerConfig { top_p: 0.7, min_p: 0.01, ..warm }),
        RowSampling { biases: &[(3, 4.0), (330, 4.0)], report: Some(7), ..plain },
        RowSampling { penalties: Some(penalties), forbidden: &[0, 100, 200], ..plain },
        RowSampling { mask: Some(0), report: Some(0), ..plain },
    ];
    let outputs = |mut backend: CpuBackend| -> Vec<StepOutput> {
        let history = TokenHistory::new(&prompt, &[1, 1, 2]);
        backend.set_mask(0, 0, &mask).expect("a mask");
        let of = |row: &RowSampling<'_>| {
            backend.set_history(0, &history).expect("a history");
            let sample = Some(*row);
            step(&mut backend, &[Sequence { sample, ..appending(0, 0, &prompt, &[7]) }])
        };
        rows.iter().map(of).collect()
    };
    let whole = outputs(backend(model, Isa::SCALAR, LIMITS, 1));
    for ranks in [2, 8] {
        let shared = outputs(ranked(model, Isa::SCALAR, ranks));
        for (row, (whole, shared)) in whole.iter().zip(&shared).enumerate() {
            assert_eq!(whole.sampled, shared.sampled, "row {row} on {ranks} ranks");
            let ranks_of = |output: &StepOutput| {
                output.reports[0].as_ref().map(|report| (report.rank, report.top.len()))
            };
            assert_eq!(ranks_of(whole), ranks_of(shared), "row {row} on {ranks} ranks");
        }
    }
}

#[test]
fn windows_are_saved_and_loaded_on_every_rank() {
    let model = model(EIGHT);
    let long = tokens(80, 4);
    let pages = [7, 2];
    let mut backend = ranked(model, Isa::SCALAR, 4);
    backend.reserve_snapshots(2).expect("room");
    step(&mut backend, &[appending(0, 0, &long[..64], &pages)]);
    backend.save_snapshot(1, 0, 64).expect("a snapshot");
    let expected = step(&mut backend, &[appending(0, 64, &long[64..], &pages)]);
    // Another sequence continues from it; full layers share the first page.
    backend.load_snapshot(1, 2, 64).expect("a snapshot");
    let resumed = step(&mut backend, &[appending(2, 64, &long[64..], &[7, 11])]);
    assert_eq!(bits(&resumed.logits[0]), bits(&expected.logits[0]));
    let error = backend.load_snapshot(5, 0, 64).expect_err("no such snapshot").to_string();
    assert!(error.contains("of 4 failed") && error.contains("no snapshot 5"), "{error}");
    // Later commands fail too, more of them than there are ranks whose replies may still wait to be read.
    for _ in 0..5 {
        let later = backend.load_snapshot(1, 2, 64).expect_err("it has failed").to_string();
        assert_eq!(later, error);
    }
}

#[test]
fn models_that_ranks_cannot_share_are_refused_with_the_numbers() {
    for (spec, ranks, wanted) in [
        (ODD, 4, "2 key/value heads cannot be shared by 4 ranks"),
        (WIDE, 2, "1 key/value heads cannot be shared by 2 ranks"),
        (
            ModelSpec { inter: 64, ..ODD },
            2,
            "1 tiles of the experts' inner width cannot be shared by 2 ranks",
        ),
        (ODD, 0, "it must be at least 1"),
    ] {
        let model = model(spec);
        let weights = Arc::new(Checkpoint::synthetic(model, 5));
        let refused = CpuBackend::with_ranks(model, &weights, LIMITS, Isa::SCALAR, ranks, Some(1));
        let error = refused.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error} does not contain: {wanted}");
    }
}

#[test]
fn ranks_read_their_parts_of_the_checkpoint() {
    let model = model(EIGHT);
    let whole: u64 = model.graph.all_weights().map(|(info, _)| info.bytes() as u64).sum();
    assert_eq!(model.bytes_of_rank(Shard::WHOLE), Ok(whole));
    // Every rank reads the embedding, norms and router; one the biases of sums; of the rest each byte has one reader.
    let (hidden, layers) = (EIGHT.hidden, EIGHT.layers.len());
    let replicated = DType::Bf16
        .bytes(EIGHT.vocab * hidden + hidden + layers * (2 * hidden + 5 * hidden + 5))
        as u64;
    for of in [2, 4, 8] {
        let read: Vec<u64> =
            Shard::all(of).map(|shard| model.bytes_of_rank(shard).expect("a part")).collect();
        assert_eq!(read.iter().sum::<u64>(), whole + (of as u64 - 1) * replicated, "{of} ranks");
        assert!(read.iter().all(|&bytes| bytes < whole), "{read:?} of {whole}");
    }
}

/// What a rank does at one of its sums instead of adding.
enum Fault {
    Error,
    /// Its memory is short.
    Memory,
    Panic,
    /// It waits for a message.
    Stall(Mutex<Receiver<()>>),
}

fn short_of_memory() -> Error {
    let problem = "no room for the workspace".to_owned();
    Error::OutOfMemory { needed_bytes: 1 << 40, available_bytes: Some(1 << 30), problem }
}

/// An exchange of which one sum fails.
struct Faulty {
    sums: Arc<SharedSums>,
    rank: usize,
    /// At which of its sums.
    at: usize,
    fault: Fault,
    count: AtomicUsize,
}

impl RankSums for Faulty {
    fn sum(&self, rank: usize, part: &mut [f32]) -> Result<()> {
        if rank == self.rank && self.count.fetch_add(1, Ordering::Relaxed) == self.at {
            match &self.fault {
                Fault::Error => return Err(Error::device("launch a kernel", "a cosmic ray")),
                Fault::Memory => return Err(short_of_memory()),
                Fault::Panic => panic!("rank on fire"),
                Fault::Stall(message) => {
                    let message = message.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = message.recv();
                }
            }
        }
        self.sums.sum(rank, part)
    }
}

/// Generates through an engine whose rank 1 has a fault at one of its sums; returns how the first request ended and why
/// the second was refused.
fn drill(fault: Fault, limit: Duration) -> (FinishReason, String) {
    let model = model(ODD);
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let sums = Arc::new(SharedSums::new(2, limit));
    let at = match fault {
        // At the first, so that a busy machine makes no other rank late before.
        Fault::Stall(_) => 0,
        // In the third step, so that others went well.
        Fault::Error | Fault::Memory | Fault::Panic => 2 * 2 * ODD.layers.len() + 1,
    };
    let faulty = Faulty { sums: sums.clone(), rank: 1, at, fault, count: AtomicUsize::new(0) };
    let adding: Arc<dyn RankSums> = Arc::new(faulty);
    let executors = rank_executors(model, &weights, Isa::SCALAR, 2, Some(1), &adding);
    let backend = CpuBackend::of_ranks(&executors.expect("executors"), LIMITS, sums, limit);
    let backend = Box::new(backend.expect("ranks"));
    let mut engine =
        Engine::with_backend(&model.spec, backend, 0, Policy::default()).expect("an engine");
    let request = || {
        let params = SamplingParams::greedy().with_max_tokens(8).with_ignore_eos(true);
        Request::new(tokens(5, 1), params)
    };
    engine.submit(request()).expect("a request");
    let mut ends = Vec::new();
    while !engine.is_idle() {
        let events = engine.step().expect("a step or its failure");
        ends.extend(events.into_iter().filter_map(|event| event.finish));
    }
    assert_eq!(ends.len(), 1, "one end for each accepted request: {ends:?}");
    let error = engine.submit(request()).expect_err("the engine has stopped").to_string();
    (ends.remove(0), error)
}

#[test]
fn a_rank_that_fails_ends_the_engine_with_its_number() {
    let (_sender, receiver) = channel();
    for (fault, limit, why) in [
        (Fault::Error, PATIENT, "cannot launch a kernel: a cosmic ray"),
        (Fault::Memory, PATIENT, "no room for the workspace"),
        (Fault::Panic, PATIENT, "it panicked: rank on fire"),
        (Fault::Stall(Mutex::new(receiver)), Duration::from_millis(200), "waiting for 0.2 s"),
    ] {
        let (finish, stopped) = drill(fault, limit);
        let FinishReason::Failed(reason) = finish else { panic!("{finish:?}") };
        assert!(reason.contains("rank 1 of 2 failed") && reason.contains(why), "{reason}");
        assert!(stopped.contains("stopped") && stopped.contains("rank 1 of 2"), "{stopped}");
    }
}

/// A backend of two ranks of which rank 1 has a fault at its first sum.
fn faulty(fault: Fault) -> CpuBackend {
    let model = model(ODD);
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let sums = Arc::new(SharedSums::new(2, PATIENT));
    let count = AtomicUsize::new(0);
    let adding: Arc<dyn RankSums> =
        Arc::new(Faulty { sums: sums.clone(), rank: 1, at: 0, fault, count });
    let executors = rank_executors(model, &weights, Isa::SCALAR, 2, Some(1), &adding);
    CpuBackend::of_ranks(&executors.expect("executors"), LIMITS, sums, PATIENT).expect("ranks")
}

#[test]
fn what_failed_in_a_rank_can_be_matched() {
    let prompt = tokens(5, 1);
    let sequences = [appending(0, 0, &prompt, &[7])];
    let step = Step { sequences: &sequences, capture_activations: false };
    let mut backend = faulty(Fault::Memory);
    for _ in 0..3 {
        let error = backend.run(&step).expect_err("rank 1 has no memory");
        let Error::Rank { rank: 1, of: 2, problem } = &error else { panic!("{error}") };
        let bytes = match &**problem {
            Error::OutOfMemory { needed_bytes, available_bytes, .. } => {
                (*needed_bytes, *available_bytes)
            }
            other => panic!("{other}"),
        };
        assert_eq!(bytes, (1 << 40, Some(1 << 30)));
    }
    let error = faulty(Fault::Error).run(&step).expect_err("rank 1 cannot launch");
    let launch = matches!(&error, Error::Rank { rank: 1, problem, .. } if matches!(**problem, Error::Device { .. }));
    assert!(launch, "{error}");
}

#[test]
fn a_rank_without_memory_for_its_cache_is_named() {
    let model = model(ODD);
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let limits = Limits { pages: 1 << 48, ..LIMITS };
    let refused = CpuBackend::with_ranks(model, &weights, limits, Isa::SCALAR, 2, Some(1));
    let error = refused.expect_err("2^48 pages");
    let short = matches!(&error, Error::Rank { rank: 0, of: 2, problem } if matches!(**problem, Error::OutOfMemory { .. }));
    assert!(short, "{error}");
}
