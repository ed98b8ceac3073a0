//! Requests that cannot be served, each refused by a message that names the thing.

use super::*;
use crate::Error;

#[test]
fn bad_steps_are_refused_and_leave_the_backend_working() {
    let mut backend = backend(model(ODD), Isa::SCALAR, LIMITS, 1);
    let (ids, long) = (tokens(3, 1), tokens(150, 1));
    let good = share(0, 0, &ids, &[1, 2]);
    let sampled = Sequence { input: Input::Sampled, start: 3, ..good };
    let silly = Some(Sampling { top_p: 2.0, ..Sampling::GREEDY });
    let cases: [(&str, Vec<Sequence<'_>>); 12] = [
        ("the step has no tokens", vec![]),
        ("the sequence in slot 0 appends no tokens", vec![share(0, 0, &[], &[1])]),
        ("token id 331 is not below the vocabulary's 331", vec![share(0, 0, &[4, 331], &[1])]),
        ("slot 3 is not below max_sequences 3", vec![share(3, 0, &ids, &[1])]),
        ("slot 0 appears twice", vec![good, good]),
        ("pass the context of 4096 tokens", vec![share(0, 4094, &ids, &[1])]),
        ("pass the context", vec![share(0, usize::MAX, &ids, &[1])]),
        ("0 pages of 64 tokens do not hold the 3 positions", vec![share(0, 0, &ids, &[])]),
        ("1 pages of 64 tokens do not hold the 65 positions", vec![share(0, 62, &ids, &[1])]),
        ("page 16 of slot 0 is not below", vec![share(0, 0, &ids, &[16])]),
        ("slot 0 asks for its sampled token", vec![sampled]),
        ("top_p is 2", vec![Sequence { sample: silly, ..good }]),
    ];
    for (wanted, sequences) in cases {
        let error = backend.run(&Step { sequences: &sequences, taps: false });
        let error = error.expect_err(wanted);
        assert!(matches!(error, Error::Request(_)), "{wanted}: {error:?}");
        assert!(error.to_string().contains(wanted), "{error} does not say: {wanted}");
    }
    let (one, two) = (share(0, 0, &long, &[0, 1, 2]), share(1, 0, &long, &[3, 4, 5]));
    let error = backend.run(&Step { sequences: &[one, two], taps: false }).expect_err("300 tokens");
    assert!(error.to_string().contains("300 tokens, more than max_step_tokens 200"), "{error}");
    assert!(backend.collect().is_err(), "nothing was started");
    assert_eq!(step(&mut backend, &[good]).logits[0].len(), 3 * ODD.vocab);
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let error = Isa::named("sse9").expect_err("no such thing").to_string();
    assert!(error.contains("OSSMITH_CPU=sse9") && error.contains("scalar"), "{error}");
    for isa in Isa::available() {
        assert_eq!(Isa::named(isa.name()).expect("available"), isa);
    }
}

#[test]
fn a_cache_that_cannot_be_is_refused() {
    let model = model(ODD);
    let weights = Arc::new(Checkpoint::synthetic(model, 5));
    let none = Limits { max_sequences: 0, ..LIMITS };
    let error = CpuBackend::new(model, weights.clone(), none, Some(1)).expect_err("no slot");
    assert!(error.to_string().contains("max_sequences is 0"), "{error}");
    let limits = Limits { pages: usize::MAX / 2, ..LIMITS };
    let error = CpuBackend::new(model, weights, limits, Some(1)).expect_err("too large");
    assert!(error.to_string().contains("lower max_sequences"), "{error}");
}

#[test]
fn values_that_were_not_written_are_not_read() {
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
