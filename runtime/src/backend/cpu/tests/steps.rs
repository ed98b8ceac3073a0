//! Whole steps: a token's numbers depend on its sequence, not on the rest of the batch.

use super::super::q8::{DenseQ8, bytes as dense_q8_bytes};
use super::*;

const PAGES: [&[u32]; 3] = [&[7, 2, 11, 0], &[1, 5, 9], &[3, 15]];

/// Logits of a prompt read in chunks of `chunk`, in sequence slot 1.
fn chunked(backend: &mut CpuBackend, prompt: &[u32], chunk: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for (index, part) in prompt.chunks(chunk).enumerate() {
        let sequences = [appending(1, index * chunk, part, PAGES[0])];
        logits.extend(step(backend, &sequences).logits.remove(0));
    }
    logits
}

#[test]
fn chunks_give_the_same_bits_as_the_whole_prompt() {
    for spec in [ODD, WIDE] {
        let (model, prompt) = (model(spec), tokens(150, 1));
        for isa in Isa::available() {
            let whole = chunked(&mut backend(model, isa, LIMITS, 2), &prompt, 150);
            for (chunk, threads) in [(1, 1), (7, 2), (64, 1), (100, 2)] {
                // There are no more pages than necessary.
                let limits = Limits { max_step_tokens: chunk, ..LIMITS };
                let parts = chunked(&mut backend(model, isa, limits, threads), &prompt, chunk);
                assert!(bits(&parts) == bits(&whole), "{} {} {chunk}", spec.name, isa.name());
            }
        }
    }
}

#[test]
fn a_batch_gives_the_same_bits_as_each_sequence_alone() {
    let model = model(ODD);
    let prompts = [tokens(90, 1), tokens(41, 2), tokens(77, 3)];
    for isa in Isa::available() {
        let alone: Vec<Vec<f32>> = prompts
            .iter()
            .map(|prompt| chunked(&mut backend(model, isa, LIMITS, 2), prompt, 200))
            .collect();
        let mut backend = backend(model, isa, LIMITS, 2);
        let mut together = vec![Vec::new(); 3];
        // Ragged: each sequence advances by its own stride until its end.
        let mut read = [0; 3];
        while (0..3).any(|i| read[i] < prompts[i].len()) {
            let unfinished: Vec<usize> = (0..3).filter(|&i| read[i] < prompts[i].len()).collect();
            let parts = unfinished.iter().map(|&i| {
                let end = prompts[i].len().min(read[i] + [30, 1, 13][i]);
                appending(2 - i, read[i], &prompts[i][read[i]..end], PAGES[i])
            });
            let sequences: Vec<Sequence<'_>> = parts.collect();
            let output = step(&mut backend, &sequences);
            for ((&i, sequence), logits) in unfinished.iter().zip(&sequences).zip(output.logits) {
                read[i] += sequence.input.len();
                together[i].extend(logits);
            }
        }
        for (together, alone) in together.iter().zip(&alone) {
            assert!(bits(together) == bits(alone), "{}", isa.name());
        }
    }
}

#[test]
fn a_sequence_slot_and_its_pages_keep_nothing_of_earlier_sequences() {
    let model = model(ODD);
    let prompt = tokens(60, 4);
    let mut used = backend(model, Isa::SCALAR, LIMITS, 2);
    chunked(&mut used, &tokens(190, 9), 50);
    let fresh = chunked(&mut backend(model, Isa::SCALAR, LIMITS, 2), &prompt, 60);
    assert!(bits(&chunked(&mut used, &prompt, 60)) == bits(&fresh));
}

#[test]
fn instruction_sets_agree_with_the_scalar_oracle() {
    for spec in [ODD, WIDE] {
        let (model, prompt) = (model(spec), tokens(150, 6));
        let oracle = chunked(&mut backend(model, Isa::SCALAR, LIMITS, 2), &prompt, 150);
        for isa in Isa::available() {
            let logits = chunked(&mut backend(model, isa, LIMITS, 2), &prompt, 150);
            // Another order of adding a few hundred f32 makes a difference of some 1e-7, a wrong lane one of some 1e-2.
            let apart = distance(&logits, &oracle);
            assert!(apart < 1e-5, "{} {}: {apart:e}", spec.name, isa.name());
        }
    }
}

#[test]
fn sampled_tokens_feed_the_next_step() {
    let model = model(WIDE);
    let prompt = tokens(20, 2);
    let config = SamplerConfig { temperature: 0.8, top_k: 50, seed: 9, ..SamplerConfig::GREEDY };
    let generate = |feed_back: bool| {
        let mut backend = backend(model, Isa::SCALAR, LIMITS, 1);
        let mut sampled: Vec<u32> = Vec::new();
        for _ in 0..12 {
            let input = match sampled.last() {
                None => Input::Tokens(&prompt),
                Some(_) if feed_back => Input::Sampled,
                Some(token) => Input::Tokens(std::slice::from_ref(token)),
            };
            let start = if sampled.is_empty() { 0 } else { prompt.len() + sampled.len() - 1 };
            let (sample, logits) = (Some(config.into()), LogitRows::Last);
            let (pages, prompt_report) = (PAGES[1], None);
            let sequence =
                Sequence { seq_slot: 0, start, input, pages, sample, prompt_report, logits };
            let output = step(&mut backend, &[sequence]);
            assert_eq!(output.logits[0].len(), WIDE.vocab);
            sampled.push(output.sampled[0].expect("a token was requested"));
        }
        sampled
    };
    assert_eq!(generate(true), generate(false));
}

#[test]
fn each_layers_activations_are_captured() {
    let model = model(ODD);
    let prompt = tokens(9, 1);
    let mut backend = backend(model, Isa::SCALAR, LIMITS, 1);
    let sequences = [Sequence { logits: LogitRows::None, ..appending(0, 0, &prompt, PAGES[0]) }];
    let output = backend
        .run(&Step { sequences: &sequences, capture_activations: true })
        .expect("a good step");
    assert_eq!((output.logits, output.sampled), (vec![Vec::new()], Vec::new()));
    assert_eq!(output.activations.len(), ODD.layers.len());
    for layer in &output.activations {
        assert_eq!(layer.residual.len(), 9 * ODD.hidden);
        for (ids, logits) in layer
            .router_indices
            .chunks(ODD.max_top_k())
            .zip(layer.router_logits.chunks(ODD.max_experts()))
        {
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(logits[ids[0] as usize], best);
            assert!(ids[0] != ids[1] && logits[ids[0] as usize] >= logits[ids[1] as usize]);
        }
    }
}

#[test]
fn dense_weights_in_8_bits_are_near_and_have_the_same_bits_in_any_chunks() {
    let (model, pages) = (model(WIDE), [0, 1, 2, 3]);
    let tokens = tokens(70, 3);
    for isa in Isa::available() {
        let run = |dense: DenseWeights, chunk: usize| {
            let weights = Arc::new(Checkpoint::synthetic(model, 5));
            let executor = Executor::with_dense(model, weights, isa, Some(2), dense).expect("good");
            let error = executor.dense_error();
            let mut backend = CpuBackend::with_executor(executor, LIMITS).expect("a small cache");
            let mut logits = Vec::new();
            for (index, part) in tokens.chunks(chunk).enumerate() {
                let sequence = appending(0, index * chunk, part, &pages);
                logits.extend(step(&mut backend, &[sequence]).logits.remove(0));
            }
            (logits, error)
        };
        let (exact, none) = run(DenseWeights::Bf16, 70);
        let (whole, error) = run(DenseWeights::Q8, 70);
        assert_eq!(none, None);
        let error = error.expect("quantised");
        let held = DenseQ8::new(model, &Checkpoint::synthetic(model, 5), isa).expect("good");
        assert_eq!(held.bytes(), dense_q8_bytes(model), "what is budgeted is what it takes");
        assert!((1e-3..0.01).contains(&error), "{}: {error}", isa.name());
        let apart = distance(&whole, &exact);
        assert!((1e-4..0.1).contains(&apart), "{}: {apart}", isa.name());
        for chunk in [1, 9] {
            let (chunked, _) = run(DenseWeights::Q8, chunk);
            assert_eq!(bits(&chunked), bits(&whole), "{} in chunks of {chunk}", isa.name());
        }
    }
}
