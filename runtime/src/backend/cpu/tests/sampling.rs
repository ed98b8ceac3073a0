//! What a step changes before it samples, and what it reports, against the rows that it returns.

use super::*;
use crate::backend::{PromptReport, RowSampling};
use crate::sampling::{LogitChanges, Penalties, TokenHistory, report, sample_changed};

#[test]
fn rows_are_changed_sampled_and_reported_as_they_name_it() {
    let model = model(ODD);
    let mut rows_of = backend(model, Isa::SCALAR, LIMITS, 1);
    let mut backend = backend(model, Isa::SCALAR, LIMITS, 1);
    let prompt = tokens(9, 1);
    let penalties = Penalties { repetition: 1.3, presence: 0.2, frequency: 0.1 };
    let mut history = TokenHistory::new(&prompt, &[5, 5, 7]);
    let mask: Vec<u32> =
        (0..ODD.vocab.div_ceil(32)).map(|word| 0x5555_1111 << (word % 2)).collect();
    let forbidden: Vec<u32> = (0..ODD.vocab as u32 / 2).collect();
    let config = SamplerConfig { temperature: 0.7, seed: 3, ..SamplerConfig::GREEDY };
    let row = RowSampling {
        biases: &[(300, 2.0), (301, f32::NEG_INFINITY)],
        penalties: Some(penalties),
        forbidden: &forbidden,
        mask: Some(1),
        report: Some(4),
        ..RowSampling::from(config)
    };
    backend.set_history(0, &history).expect("a history");
    backend.set_mask(0, 1, &mask).expect("a mask");
    let mut start = 0;
    let mut input = prompt.clone();
    for _ in 0..6 {
        let next = &prompt[..input.len() - 1];
        let sequence = Sequence {
            sample: Some(row),
            prompt_report: Some(PromptReport { next, top: 2 }),
            logits: LogitRows::None,
            ..appending(0, start, &input, &[7, 2, 11, 0])
        };
        let output = step(&mut backend, &[sequence]);
        let logits = &step(&mut rows_of, &[appending(0, start, &input, &[7, 2, 11, 0])]).logits[0];
        start += input.len();
        let rows: Vec<&[f32]> = logits.chunks(ODD.vocab).collect();
        let changes = LogitChanges {
            biases: row.biases,
            penalties: Some((penalties, &history)),
            forbidden: &forbidden,
            mask: Some(&mask),
        };
        let last = rows[rows.len() - 1];
        let token = sample_changed(last, &changes, &config, start).expect("finite logits");
        assert_eq!(output.sampled, [Some(token)]);
        assert_eq!(output.reports, [Some(report(last, token, 4))]);
        let of_prompt = rows.iter().zip(next).map(|(row, &token)| report(row, token, 2));
        assert_eq!(output.prompt_reports, [of_prompt.collect::<Vec<_>>()]);
        history.add(token);
        input = vec![token];
    }
}

/// A decode with penalties and a mask, a draft, and a chunk of a prompt whose tokens are reported.
fn mixed_step<'a>(
    start: usize,
    last: &'a [u32],
    draft: &'a [u32],
    prompt: &'a [u32],
) -> [Sequence<'a>; 3] {
    let config = SamplerConfig { temperature: 0.9, seed: 7, ..SamplerConfig::GREEDY };
    let penalties = Penalties { repetition: 1.2, presence: 0.1, frequency: 0.3 };
    let masked =
        RowSampling { penalties: Some(penalties), mask: Some(0), report: Some(2), ..config.into() };
    let report = Some(PromptReport { next: &prompt[1..], top: 1 });
    let none = LogitRows::None;
    [
        Sequence { sample: Some(masked), logits: none, ..appending(0, start, last, &[7, 2]) },
        Sequence {
            sample: Some(config.into()),
            input: Input::Draft(draft),
            ..appending(1, start, draft, &[3, 4])
        },
        Sequence { prompt_report: report, logits: none, ..appending(2, start, prompt, &[5, 6]) },
    ]
}

#[test]
fn sampling_apart_from_the_layers_changes_nothing_and_what_is_left_out_runs_again() {
    let model = model(ODD);
    let mask: Vec<u32> = (0..ODD.vocab.div_ceil(32)).map(|_| 0x1248_8421).collect();
    let new = || {
        let mut backend = backend(model, Isa::SCALAR, LIMITS, 1);
        // Long enough for windows to have moved.
        let prompt = tokens(69, 2);
        for slot in 0..3 {
            let pages = [[7, 2], [3, 4], [5, 6]][slot];
            step(&mut backend, &[appending(slot, 0, &prompt, &pages)]);
        }
        backend.set_history(0, &TokenHistory::new(&prompt, &[])).expect("a history");
        backend
    };
    let (mut at_once, mut apart) = (new(), new());
    let (draft, prompt) = (tokens(4, 5), tokens(6, 6));
    let (mut last, mut start) = (tokens(1, 3), 69);
    at_once.set_mask(0, 0, &mask).expect("a mask");
    for round in 0..4 {
        let sequences = mixed_step(start, &last, &draft, &prompt);
        let wanted = step(&mut at_once, &sequences);
        let submitted = Step { sequences: &sequences, capture_activations: false };
        apart.submit_layers(&submitted).expect("a good step");
        assert!(apart.submit_layers(&submitted).is_err() && apart.submit(&submitted).is_err());
        assert!(apart.collect().is_err());
        if round == 0 {
            // The mask is late. What the row would have sampled is counted nowhere, and its token runs again.
            apart.sample(&[None, sequences[1].sample, None]).expect("good rows");
            let output = apart.collect().expect("a step");
            assert_eq!(output.sampled, wanted.sampled[1..]);
            assert_eq!(output.prompt_reports, wanted.prompt_reports);
            apart.submit_layers(&Step { sequences: &sequences[..1], ..submitted }).expect("again");
            apart.set_mask(0, 0, &mask).expect("a mask");
            apart.sample(&[sequences[0].sample]).expect("good rows");
            let output = apart.collect().expect("a step");
            assert_eq!(output.sampled, wanted.sampled[..1]);
            assert_eq!(output.reports, wanted.reports[..1]);
        } else {
            apart.sample(&sequences.map(|sequence| sequence.sample)).expect("good rows");
            assert_eq!(apart.collect().expect("a step"), wanted);
        }
        last = vec![wanted.sampled[0].expect("a token")];
        start += 1;
    }
    // Rows of another step are refused, and those that name no mask that there is.
    for rows in [&[][..], &[Some(RowSampling { mask: Some(1), ..SamplerConfig::GREEDY.into() })]] {
        let one = [Sequence {
            sample: Some(SamplerConfig::GREEDY.into()),
            ..appending(0, start, &last, &[7, 2])
        }];
        let step = Step { sequences: &one, capture_activations: false };
        apart.submit_layers(&step).expect("a good step");
        assert!(apart.sample(rows).is_err() && apart.sample(rows).is_err());
    }
}

#[test]
fn histories_and_masks_that_do_not_fit_are_refused() {
    let model = model(ODD);
    let mut backend = backend(model, Isa::SCALAR, LIMITS, 1);
    let words = vec![!0; ODD.vocab.div_ceil(32)];
    let unknown = TokenHistory::new(&[ODD.vocab as u32], &[]);
    assert!(backend.set_history(0, &unknown).is_err());
    assert!(backend.set_history(LIMITS.max_sequences, &TokenHistory::default()).is_err());
    assert!(backend.set_mask(0, 2, &words).is_err());
    assert!(backend.set_mask(0, 0, &words[1..]).is_err());
    let (ids, many) = (tokens(3, 1), vec![1; 1025]);
    let greedy = RowSampling::from(SamplerConfig::GREEDY);
    let next = [0; 4];
    for (wanted, row, next) in [
        ("mask 0 of sequence slot 0 was never set", RowSampling { mask: Some(0), ..greedy }, None),
        ("mask 2 of sequence slot 0", RowSampling { mask: Some(2), ..greedy }, None),
        ("changes 1025 tokens; at most 1024", RowSampling { forbidden: &many, ..greedy }, None),
        ("has 21 tokens reported", RowSampling { report: Some(21), ..greedy }, None),
        ("token id 331, which", RowSampling { biases: &[(331, 1.0)], ..greedy }, None),
        ("has 4 of its 3 rows reported", greedy, Some(PromptReport { next: &next, top: 0 })),
    ] {
        let sequence = Sequence {
            sample: Some(row),
            prompt_report: next,
            ..appending(0, 0, &ids, &[7, 2, 11, 0])
        };
        let refused = backend.run(&Step { sequences: &[sequence], capture_activations: false });
        let error = refused.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error} does not contain: {wanted}");
    }
}
