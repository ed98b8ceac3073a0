//! Steps are staged over plain memory and read at the addresses that kernels are given.

use ossmith_models::NANO;
use ossmith_plan::LayerKind;

use super::*;
use crate::backend::PromptReport;
use crate::sampling::SamplerConfig;

const LIMITS: Limits = Limits { max_sequences: 4, max_step_tokens: 64, pages: 40 };
/// Where the step's words, and the page tables of sliding and of full layers, lie on the device.
const WORDS: Ptr = 1 << 20;
const TABLES: [Ptr; 2] = [1 << 24, 1 << 28];
const TILE_TOKENS: usize = 16;
/// Entries of a slot in a page table, of sliding and of full layers.
const STRIDES: [u64; 2] = [131_072 / 16, 131_072 / 64];
const PENALTIES: Penalties = Penalties { repetition: 1.25, presence: 0.5, frequency: -0.75 };

/// A step's words and tables with the addresses of the step staged last.
struct Staged {
    staging: Staging<Vec<u32>>,
    tables: PageTables,
    arrays: Arrays,
}

impl Staged {
    fn new() -> Staged {
        let arrays = Arrays::new(&NANO.spec, &LIMITS);
        // What is not staged shows.
        let words = vec![0xdead_beef; arrays.words()];
        Staged {
            staging: Staging::new(words, arrays, Some(TILE_TOKENS)),
            tables: PageTables::new(&NANO.spec, &LIMITS, TABLES),
            arrays,
        }
    }

    fn stage(&mut self, sequences: &[Sequence<'_>]) -> StepInputs {
        let step = Step { sequences, capture_activations: false };
        self.tables.place(&step).unwrap();
        self.staging.fill(&step, &mut self.tables);
        self.staging.inputs(&self.arrays.inputs(WORDS))
    }

    /// `count` words that a kernel reads at `address`; all of them are sent to the device.
    fn at(&self, address: Ptr, count: usize) -> &[u32] {
        assert!(address.is_multiple_of(4));
        let first = ((address - WORDS) / 4) as usize;
        let range = first..first + count;
        let mut sent = self.staging.rare_ranges().chain([self.staging.device_range()]);
        assert!(
            sent.any(|sent| sent.start <= range.start && range.end <= sent.end),
            "words {range:?} are not sent"
        );
        &self.staging.words[range]
    }

    /// The page-table entries that are sent, with their addresses.
    fn page_updates(&self) -> Vec<(Ptr, Vec<u32>)> {
        let updates = self.staging.page_updates.iter();
        updates.map(|(range, at)| (*at, self.staging.words[range.clone()].to_vec())).collect()
    }
}

fn sequence<'a>(slot: usize, start: usize, input: Input<'a>, pages: &'a [u32]) -> Sequence<'a> {
    Sequence {
        seq_slot: slot,
        start,
        input,
        pages,
        sample: None,
        prompt_report: None,
        logits: LogitRows::None,
    }
}

/// A decode, a draft with everything that changes its logits, a chunk of a prompt whose tokens are reported, and a
/// prompt's last token with edits of its own.
fn mixed_step<'a>(prompt: &'a [u32]) -> [Sequence<'a>; 4] {
    let config = SamplerConfig {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.75,
        min_p: 1.0,
        seed: 0x0000_0007_8000_0005,
    };
    let draft = RowSampling {
        biases: &[(4, 1.5)],
        penalties: Some(PENALTIES),
        forbidden: &[9],
        mask: Some(1),
        report: Some(2),
        ..config.into()
    };
    let edited = RowSampling { biases: &[(6, -1.0), (7, 0.25)], ..SamplerConfig::GREEDY.into() };
    [
        Sequence { sample: Some(config.into()), ..sequence(2, 130, Input::Sampled, &[7, 8, 9]) },
        Sequence {
            sample: Some(draft),
            logits: LogitRows::Last,
            ..sequence(0, 5, Input::Draft(&[11, 12, 13]), &[3])
        },
        Sequence {
            prompt_report: Some(PromptReport { next: &[31, 32], top: 3 }),
            ..sequence(1, 64, Input::Tokens(prompt), &[5, 6])
        },
        Sequence {
            sample: Some(edited),
            logits: LogitRows::All,
            ..sequence(3, 0, Input::Tokens(&[21]), &[1])
        },
    ]
}

fn prompt() -> Vec<u32> {
    (100..120).collect()
}

#[test]
fn tokens_positions_and_slots_of_a_mixed_step() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    let inputs = staged.stage(&mixed_step(&prompt));
    assert_eq!(staged.staging.tokens, 25);
    assert_eq!(
        staged.at(inputs.tokens, 25),
        [&[u32::MAX, 11, 12, 13], &prompt[..], &[21]].concat()
    );
    let positions: Vec<u32> = (64..84).collect();
    assert_eq!(staged.at(inputs.positions, 25), [&[130, 5, 6, 7], &positions[..], &[0]].concat());
    assert_eq!(staged.at(inputs.seq_slots, 25), [&[2, 0, 0, 0], &[1; 20][..], &[3]].concat());
}

#[test]
fn head_rows_of_a_mixed_step() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    let inputs = staged.stage(&mixed_step(&prompt));
    // Sampled rows, of the draft one after each token; then those of the prompt that are reported.
    assert_eq!(staged.staging.head_rows, 7);
    assert_eq!(staged.at(inputs.rows, 7), [0, 1, 2, 3, 24, 4, 5]);
    assert_eq!(staged.staging.head_row_tokens(5), [0, 1, 2, 3, 24]);
    assert_eq!(staged.staging.sampled, [0, 1, 1, 1, 3]);
    assert_eq!(staged.staging.reported, [None, Some(2), Some(2), Some(2), None]);
    assert_eq!(staged.staging.given, [(2, 3), (2, 3)]);
    let wanted = |sequence, head_row| WantedRow { sequence, head_row };
    assert_eq!(staged.staging.wanted, [wanted(1, 3), wanted(3, 4)]);
    let nothing = u32::MAX;
    assert_eq!(
        staged.at(inputs.given, 2 * SAMPLE_ROW_WORDS).as_chunks().0,
        [[0, 0, 0, 0, 0, 0, 0, 0, 4, 31, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 4, 32, 0, 0]]
    );

    // Settings: 1 / temperature, top-k, top-p, ln min-p, seed (low, high), position, slot, report, given, changed, penalties.
    let filters = [2_f32.to_bits(), 40, 0.75_f32.to_bits(), 0, 0x8000_0005, 7];
    let greedy = [0, 0, 1_f32.to_bits(), f32::NEG_INFINITY.to_bits(), 0, 0];
    let settings = |of: [u32; 6], rest: [u32; 6]| [of, rest].concat();
    let expected = [
        settings(filters, [131, 2, 0, nothing, 0, 0]),
        settings(filters, [6, 0, 3, nothing, 1, 1]),
        settings(filters, [7, 0, 3, nothing, 1, 1]),
        settings(filters, [8, 0, 3, nothing, 1, 1]),
        settings(greedy, [1, 3, 0, nothing, 1, 0]),
    ];
    assert_eq!(staged.at(inputs.sampling, 5 * SAMPLE_ROW_WORDS), expected.concat());
}

#[test]
fn changes_of_logits_of_a_mixed_step() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    let inputs = staged.stage(&mixed_step(&prompt));
    // Penalties, first edit, biases, forbidden tokens, mask. The first row has no changes, and its words are not read.
    let bits = f32::to_bits;
    let draft = [bits(1.25), bits(0.5), bits(-0.75), 0, 1, 1, 1, 0];
    let edited = [bits(1.0), 0, 0, 2, 2, 0, u32::MAX, 0];
    let of_first = (CHANGES_WORDS * size_of::<u32>()) as Ptr;
    assert_eq!(
        staged.at(inputs.changes + of_first, 4 * CHANGES_WORDS),
        [draft, draft, draft, edited].concat()
    );
    assert!(inputs.edits.is_multiple_of(8), "a kernel reads an edit as 8 bytes");
    assert_eq!(
        staged.at(inputs.edits, 4 * EDIT_WORDS),
        [4, bits(1.5), 9, 0, 6, bits(-1.0), 7, bits(0.25)]
    );
}

#[test]
fn rows_that_are_sampled_later_have_the_settings_of_then() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    let mut step = mixed_step(&prompt);
    let inputs = staged.stage(&step);
    // The first row gets a mask, the draft's are left out, and the last one stays as it was.
    let masked = RowSampling { mask: Some(1), ..step[0].sample.unwrap() };
    (step[0].sample, step[1].sample) = (Some(masked), None);
    staged.staging.put_sampled_rows(&step);
    assert_eq!(staged.staging.sampled, [0, 1, 1, 1, 3]);
    assert_eq!(staged.staging.left_out, [false, true, true, true, false]);
    assert_eq!(staged.staging.reported, [None; 5]);
    let later = |staged: &Staged| {
        let ranges = staged.staging.sampling_ranges();
        let sent: Vec<u32> =
            ranges.flat_map(|range| staged.staging.words[range].to_vec()).collect();
        (sent, staged.staging.edits)
    };
    // As if the step had been staged so, with rows that change nothing where some are left out.
    let mut alone = Staged::new();
    step[1].sample = Some(SamplerConfig::GREEDY.into());
    alone.stage(&step);
    let of_changes = |staged: &Staged, row: usize| {
        let at = inputs.changes + (row * CHANGES_WORDS * size_of::<u32>()) as Ptr;
        staged.at(at, CHANGES_WORDS).to_vec()
    };
    let rows = 5 * SAMPLE_ROW_WORDS;
    assert_eq!(later(&staged).0[..rows], later(&alone).0[..rows]);
    assert_eq!(staged.staging.edits, 2);
    for row in [0, 4] {
        assert_eq!(of_changes(&staged, row), of_changes(&alone, row));
    }
    let expected = [6, f32::to_bits(-1.0), 7, f32::to_bits(0.25)];
    assert_eq!(staged.at(inputs.edits, 2 * EDIT_WORDS), expected);
}

#[test]
fn only_prompts_are_taken_in_tiles() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    let inputs = staged.stage(&mixed_step(&prompt));
    let tiled = inputs.tiled.unwrap();
    assert_eq!((tiled.query_tile_count, tiled.single_query_count), (2, 5));
    // First token and tokens of a tile; those at the highest positions first.
    assert_eq!(staged.at(tiled.query_tiles, 4), [20, 4, 4, 16]);
    assert_eq!(staged.at(tiled.single_query_tokens, 5), [0, 1, 2, 3, 24]);
    // Two decodes have no tiles: their step may replay a graph.
    let decode = |slot, start| Sequence {
        sample: Some(SamplerConfig::GREEDY.into()),
        ..sequence(slot, start, Input::Sampled, &[7, 8, 9])
    };
    assert_eq!(staged.stage(&[decode(2, 131), decode(0, 130)]).tiled, None);
}

#[test]
fn page_tables_receive_what_they_lack_and_nothing_twice() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    staged.stage(&mixed_step(&prompt));
    let entry = |kind: LayerKind, slot: usize, entry: usize| {
        TABLES[kind as usize] + 4 * (slot as u64 * STRIDES[kind as usize] + entry as u64)
    };
    // In sliding layers a slot's ring has twelve pages, whose blocks are sent ahead; entry 0 of slot 0 is 0 from the start.
    let sliding = |slot: usize, block: usize, first: usize, count: usize| {
        let pages = (first..first + count).map(|at| (12 * slot + at % 12) as u32);
        (entry(LayerKind::Sliding, slot, block), pages.collect::<Vec<u32>>())
    };
    let full = |slot, first, pages: &[u32]| (entry(LayerKind::Full, slot, first), pages.to_vec());
    let expected = [
        // Blocks 0 to 8, of which the window needs all.
        sliding(2, 0, 0, 9 + ENTRIES_AHEAD),
        full(2, 0, &[7, 8, 9]),
        // One block, which is known; the ring's other pages are not.
        full(0, 0, &[3]),
        sliding(1, 0, 0, 6 + ENTRIES_AHEAD),
        full(1, 0, &[5, 6]),
        sliding(3, 0, 0, 1 + ENTRIES_AHEAD),
        full(3, 0, &[1]),
    ];
    assert_eq!(staged.page_updates(), expected);
    let decode = |start, pages| Sequence {
        sample: Some(SamplerConfig::GREEDY.into()),
        ..sequence(2, start, Input::Sampled, pages)
    };
    // A page more of full layers is sent alone; while the sequence generates, its blocks take the pages that were sent.
    let known = 16 * (9 + ENTRIES_AHEAD);
    let pages: Vec<u32> = (7..7 + known.div_ceil(64) as u32 + 1).collect();
    for start in 131..known {
        staged.stage(&[decode(start, &pages[..start / 64 + 1])]);
        let of_full = full(2, start / 64, &pages[start / 64..][..1]);
        let expected = if start % 64 == 0 { vec![of_full] } else { vec![] };
        assert_eq!(staged.page_updates(), expected, "{start}");
    }
    staged.stage(&[decode(known, &pages[..known / 64 + 1])]);
    let block = known / 16;
    assert_eq!(staged.page_updates()[0], sliding(2, block, block, 1 + ENTRIES_AHEAD));
}

#[test]
fn a_step_leaves_nothing_to_the_next() {
    let (mut used, mut fresh, prompt) = (Staged::new(), Staged::new(), prompt());
    used.stage(&mixed_step(&prompt));
    let next = [Sequence {
        sample: Some(SamplerConfig::GREEDY.into()),
        ..sequence(1, 84, Input::Sampled, &[5, 6])
    }];
    let (after, alone) = (used.stage(&next), fresh.stage(&next));
    for staged in [&used, &fresh] {
        assert_eq!((staged.staging.tokens, staged.staging.head_rows), (1, 1));
        assert_eq!(staged.staging.sampled, [0]);
        assert_eq!(staged.staging.reported, [None]);
        assert!(staged.staging.given.is_empty() && staged.staging.wanted.is_empty());
        assert_eq!(staged.staging.rare_ranges().count(), 0);
    }
    assert_eq!(after, alone);
    let words = |staged: &Staged, at, count| staged.at(at, count).to_vec();
    for (address, count) in [
        (after.tokens, 1),
        (after.positions, 1),
        (after.seq_slots, 1),
        (after.rows, 1),
        (after.sampling, SAMPLE_ROW_WORDS),
    ] {
        assert_eq!(words(&used, address, count), words(&fresh, address, count));
    }
}

#[test]
fn tokens_are_grouped_by_their_adapters() {
    let (mut staged, prompt) = (Staged::new(), prompt());
    let sequences = mixed_step(&prompt);
    let plain = staged.stage(&sequences);
    assert_eq!(plain.adapted, None);
    let step = Step { sequences: &sequences, capture_activations: false };
    // The prompt has one adapter; the decode and the last token share another one; the draft has none.
    staged.staging.put_adapters(&step, |slot| [None, Some(1), Some(0), Some(0)][slot]);
    let inputs = staged.staging.inputs(&staged.arrays.inputs(WORDS));
    let adapted = inputs.adapted.unwrap();
    assert_eq!(staged.at(adapted.group_count, 1), [4]);
    let groups = [[0, 0, 2, 0], [1, 2, 8, 0], [1, 10, 8, 0], [1, 18, 4, 0]];
    assert_eq!(staged.at(adapted.groups, 16), groups.as_flattened());
    let tokens: Vec<u32> = [0, 24].into_iter().chain(4..24).collect();
    assert_eq!(staged.at(adapted.tokens, 22), tokens);
    // The next step has none again.
    assert_eq!(staged.stage(&sequences[..1]).adapted, None);
}
