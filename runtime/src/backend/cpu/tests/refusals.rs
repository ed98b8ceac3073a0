//! Steps that a backend must refuse, each with a message that names the problem.

use super::*;
use crate::Error;

#[test]
fn bad_steps_are_refused_and_leave_the_backend_working() {
    let mut backend = backend(model(ODD), Isa::SCALAR, LIMITS, 1);
    let (ids, long) = (tokens(3, 1), tokens(150, 1));
    let good = appending(0, 0, &ids, &[1, 2]);
    let sampled = Sequence { input: Input::Sampled, start: 3, ..good };
    let bad_config = Some(SamplerConfig { top_p: 2.0, ..SamplerConfig::GREEDY }.into());
    let cases: [(&str, Vec<Sequence<'_>>); 12] = [
        ("the step has no tokens", vec![]),
        ("the sequence in slot 0 appends no tokens", vec![appending(0, 0, &[], &[1])]),
        ("token id 331 is not below the vocabulary's 331", vec![appending(0, 0, &[4, 331], &[1])]),
        ("sequence slot 3 is not below max_sequences 3", vec![appending(3, 0, &ids, &[1])]),
        ("sequence slot 0 appears twice", vec![good, good]),
        ("pass the context of 4096 tokens", vec![appending(0, 4094, &ids, &[1])]),
        ("pass the context", vec![appending(0, usize::MAX, &ids, &[1])]),
        ("0 pages of 64 tokens do not hold the 3 positions", vec![appending(0, 0, &ids, &[])]),
        ("1 pages of 64 tokens do not hold the 65 positions", vec![appending(0, 62, &ids, &[1])]),
        ("page 16 of sequence slot 0 is not below", vec![appending(0, 0, &ids, &[16])]),
        ("sequence slot 0 continues from its sampled token", vec![sampled]),
        ("top_p is 2", vec![Sequence { sample: bad_config, ..good }]),
    ];
    for (wanted, sequences) in cases {
        let error = backend.run(&Step { sequences: &sequences, capture_activations: false });
        let error = error.expect_err(wanted);
        assert!(matches!(error, Error::InvalidStep { .. }), "{wanted}: {error:?}");
        assert!(error.to_string().contains(wanted), "{error} does not contain: {wanted}");
    }
    let (one, two) = (appending(0, 0, &long, &[0, 1, 2]), appending(1, 0, &long, &[3, 4, 5]));
    let error = backend
        .run(&Step { sequences: &[one, two], capture_activations: false })
        .expect_err("300 tokens");
    assert!(error.to_string().contains("300 tokens, more than max_step_tokens 200"), "{error}");
    assert!(backend.collect().is_err(), "nothing was started");
    assert_eq!(step(&mut backend, &[good]).logits[0].len(), 3 * ODD.vocab);
}

#[test]
fn an_unknown_instruction_set_is_refused() {
    let error = Isa::named("sse9").expect_err("no such thing").to_string();
    assert!(error.contains("OSSMITH_CPU=sse9") && error.contains("scalar"), "{error}");
    for isa in Isa::available() {
        assert_eq!(Isa::named(isa.name()).expect("available"), isa);
    }
}

#[test]
fn a_cache_without_room_is_refused() {
    let model = model(ODD);
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let none = Limits { max_sequences: 0, ..LIMITS };
    let error =
        CpuBackend::new(model, weights.clone(), none, Some(1)).expect_err("no sequence slot");
    assert!(error.to_string().contains("max_sequences is 0"), "{error}");
    let limits = Limits { pages: usize::MAX / 2, ..LIMITS };
    let error = CpuBackend::new(model, weights, limits, Some(1)).expect_err("too large");
    assert!(error.to_string().contains("lower max_sequences"), "{error}");
}

#[test]
fn values_are_not_read_before_they_are_written() {
    let model = model(ODD);
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let executor = Executor::new(model, weights, Isa::SCALAR, Some(1)).expect("a good model");
    let mut cache = super::super::Cache::new(model, &LIMITS).expect("a small cache");
    let mut values = super::super::Values::new(model, 2);
    let batch = super::super::Batch::default();
    let error = executor
        .run(model.graph.head, 0, &mut values, &batch, &mut cache)
        .expect_err("nothing was written");
    assert!(error.to_string().contains("Residual is read before it is written"), "{error}");
    assert!(executor.run(model.graph.layer, 3, &mut values, &batch, &mut cache).is_err());
    assert!(values.set_f32(ossmith_plan::Value::Residual, &[0.0; 5]).is_err());
}
