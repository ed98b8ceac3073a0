//! What the host says of a step, gathered in one page-locked block and sent in one copy (and one more for each
//! sequence whose page table changed).
//!
//! Layout in words: tokens, positions, slots `[step tokens]` each; head rows `[step tokens]`; sampling settings and changes
//! `[sampled rows]` each; query tiles and single-query tokens, `[step tokens]`. What most steps lack is sent apart: edits
//! `[sequences][MAX_EDITS]`, settings of the rows that are only reported `[step tokens]`, and of adapters the number of groups,
//! their tokens `[step tokens]` and the groups `[step tokens]`; then page-table entries.

use std::collections::BTreeMap;

use ossmith_plan::ModelSpec;
use ossmith_plan::facts::{ADAPTER_TOKENS, SLIDING_PAGE_TOKENS};
use ossmith_plan::params::{
    AdapterGroup, NO_MASK, NOTHING_GIVEN, Ptr, SampleChanges, SampleEdit, SampleRow,
};

use super::forward::{AdaptedInputs, StepInputs, TiledInputs};
use super::memory::Pinned;
use super::page_tables::{ENTRIES_AHEAD, PageTables, TableUpdate};
use super::query_tiles::QueryTiles;
use super::sampling_state::mask_index;
use super::workspace;
use crate::backend::sliding_pages::pages_per_sequence;
use crate::backend::{
    Input, Limits, LogitRows, MAX_EDITS, PAGE_TOKENS, RowSampling, Sequence, Step,
};
use crate::sampling::{Penalties, SamplerConfig};

/// Stands for the last token that was sampled for the slot.
const SAMPLED: u32 = ossmith_plan::facts::LAST_SAMPLED as u32;
/// Words of a [`SampleRow`].
pub(super) const SAMPLE_ROW_WORDS: usize = size_of::<SampleRow>() / size_of::<u32>();
/// Words of a [`SampleChanges`].
pub(super) const CHANGES_WORDS: usize = size_of::<SampleChanges>() / size_of::<u32>();
/// Words of a [`SampleEdit`].
pub(super) const EDIT_WORDS: usize = size_of::<SampleEdit>() / size_of::<u32>();

/// Where each array begins, in words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrays {
    step_tokens: usize,
    sequences: usize,
    sampled_rows: usize,
    /// Page-table entries that a step may send.
    table_entries: usize,
}

impl Arrays {
    pub(super) fn new(spec: &ModelSpec, limits: &Limits) -> Arrays {
        let (sequences, step_tokens) = (limits.max_sequences, limits.max_step_tokens);
        // A row for full layers; for sliding ones the blocks of the window and of the step, and those ahead.
        let sliding = pages_per_sequence(spec, limits) + 2 + ENTRIES_AHEAD;
        let row = spec.context.div_ceil(PAGE_TOKENS) + sliding;
        let table_entries = sequences * row + step_tokens / SLIDING_PAGE_TOKENS;
        let sampled_rows = workspace::logit_rows(limits);
        Arrays { step_tokens, sequences, sampled_rows, table_entries }
    }

    fn rows(&self) -> usize {
        3 * self.step_tokens
    }

    fn sampling(&self) -> usize {
        self.rows() + self.step_tokens
    }

    fn changes(&self) -> usize {
        self.sampling() + self.sampled_rows * SAMPLE_ROW_WORDS
    }

    fn query_tiles(&self) -> usize {
        self.changes() + self.sampled_rows * CHANGES_WORDS
    }

    fn edits(&self) -> usize {
        // An edit is read as 8 bytes.
        (self.query_tiles() + QueryTiles::max_words(self.step_tokens)).next_multiple_of(EDIT_WORDS)
    }

    fn given(&self) -> usize {
        self.edits() + self.sequences * MAX_EDITS * EDIT_WORDS
    }

    fn adapter_groups(&self) -> usize {
        self.given() + self.step_tokens * SAMPLE_ROW_WORDS
    }

    fn pages(&self) -> usize {
        self.adapter_groups() + 1 + self.step_tokens * (1 + GROUP_WORDS)
    }

    /// Where a step on the device says which tokens have which adapter; its copy begins at `first`.
    pub(super) fn adapted(&self, first: Ptr) -> AdaptedInputs {
        let at = |words: usize| first + (words * size_of::<u32>()) as Ptr;
        let group_count = self.adapter_groups();
        AdaptedInputs {
            group_count: at(group_count),
            tokens: at(group_count + 1),
            groups: at(group_count + 1 + self.step_tokens),
        }
    }

    /// Words of the device's copy, which has no page-table entries.
    pub(super) fn device_words(&self) -> usize {
        self.pages()
    }

    /// Words of the host's copy.
    pub(super) fn words(&self) -> usize {
        self.pages() + self.table_entries
    }

    /// Addresses of the arrays on the device, whose copy begins at `first`.
    pub(super) fn inputs(&self, first: Ptr) -> StepInputs {
        let at = |words: usize| first + (words * size_of::<u32>()) as Ptr;
        StepInputs {
            tokens: at(0),
            positions: at(self.step_tokens),
            seq_slots: at(2 * self.step_tokens),
            rows: at(self.rows()),
            sampling: at(self.sampling()),
            changes: at(self.changes()),
            edits: at(self.edits()),
            given: at(self.given()),
            tiled: None,
            adapted: None,
        }
    }
}

/// Words of an [`AdapterGroup`].
const GROUP_WORDS: usize = size_of::<AdapterGroup>() / size_of::<u32>();

/// A row of the head that goes back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedRow {
    /// Index of the sequence in the step.
    pub sequence: usize,
    /// Row of the head.
    pub head_row: usize,
}

/// A step's words and what they mean. The words lie in memory that the device copies from while the host goes on.
#[derive(Debug)]
pub(super) struct Staging<W = Pinned> {
    arrays: Arrays,
    /// Tokens of a tile of attention, if the model takes any in tiles.
    tile_tokens: Option<usize>,
    query_tiles: QueryTiles,
    pub words: W,
    /// Page-table entries to send: (range of words, device address).
    pub page_updates: Vec<(std::ops::Range<usize>, u64)>,
    /// Tokens of the step.
    pub tokens: usize,
    /// Rows of the head; the sampled ones come first.
    pub head_rows: usize,
    /// For each sampled row, the sequence's index in the step.
    pub sampled: Vec<usize>,
    /// For each sampled row, how many tokens its report lists, if it has one.
    pub reported: Vec<Option<u32>>,
    /// For each sampled row, whether it is left out: what is sampled from it means nothing.
    pub left_out: Vec<bool>,
    /// For each row that is only reported, the sequence's index in the step and how many tokens are listed. These are
    /// the last rows of the head.
    pub given: Vec<(usize, u32)>,
    /// Edits of all sampled rows.
    edits: usize,
    /// Groups of tokens that have the same adapter.
    adapter_groups: usize,
    /// Rows whose logits are wanted, in order of sequence and token.
    pub wanted: Vec<WantedRow>,
    /// Whether all sampled rows are sampled greedily or by temperature alone, and nothing is reported of them.
    pub samples_plainly: bool,
}

impl<W: AsRef<[u32]> + AsMut<[u32]>> Staging<W> {
    /// An empty step in `words`, of which there are at least [`Arrays::words`].
    pub(super) fn new(words: W, arrays: Arrays, tile_tokens: Option<usize>) -> Staging<W> {
        Staging {
            arrays,
            tile_tokens,
            query_tiles: QueryTiles::default(),
            words,
            page_updates: Vec::new(),
            tokens: 0,
            head_rows: 0,
            sampled: Vec::new(),
            reported: Vec::new(),
            left_out: Vec::new(),
            given: Vec::new(),
            edits: 0,
            adapter_groups: 0,
            wanted: Vec::new(),
            samples_plainly: true,
        }
    }

    /// Writes a step's words, with the page-table entries that the device lacks.
    pub(super) fn fill(&mut self, step: &Step<'_>, tables: &mut PageTables) {
        self.page_updates.clear();
        self.sampled.clear();
        self.reported.clear();
        self.left_out.clear();
        self.given.clear();
        self.wanted.clear();
        (self.tokens, self.edits, self.adapter_groups) = (0, 0, 0);
        self.samples_plainly = true;
        let mut last_rows = Vec::with_capacity(step.sequences.len());
        let mut page_word = self.arrays.pages();
        for sequence in step.sequences {
            self.put_tokens(sequence);
            last_rows.push(self.tokens as u32 - 1);
            for TableUpdate { address, entries } in tables.updates(sequence).into_iter().flatten() {
                self.words.as_mut()[page_word..][..entries.len()].copy_from_slice(&entries);
                self.page_updates.push((page_word..page_word + entries.len(), address));
                page_word += entries.len();
            }
        }
        self.put_head_rows(step, &last_rows);
        self.put_query_tiles(step);
    }

    fn put_tokens(&mut self, sequence: &Sequence<'_>) {
        let (capacity, first) = (self.arrays.step_tokens, self.tokens);
        let count = sequence.input.len();
        let words = self.words.as_mut();
        match sequence.input {
            Input::Tokens(tokens) | Input::Draft(tokens) => {
                words[first..first + count].copy_from_slice(tokens)
            }
            Input::Sampled => words[first] = SAMPLED,
        }
        for i in 0..count {
            words[capacity + first + i] = (sequence.start + i) as u32;
            words[2 * capacity + first + i] = sequence.seq_slot as u32;
        }
        self.tokens += count;
    }

    fn put_query_tiles(&mut self, step: &Step<'_>) {
        let Some(tile_tokens) = self.tile_tokens else { return };
        // A step that samples after each token replays a graph, whose launches know no tiles.
        let samples_all = self.sampled.len() == self.tokens;
        let sequences = step.sequences.iter().filter(|_| !samples_all);
        self.query_tiles.fill(sequences.map(|one| (one.start, one.input.len())), tile_tokens);
        let at = self.arrays.query_tiles();
        let words = &mut self.words.as_mut()[at..self.arrays.pages()];
        let QueryTiles { tiles, single_query_tokens } = &self.query_tiles;
        let (tile_words, singles) = words.split_at_mut(2 * tiles.len());
        tile_words.copy_from_slice(tiles.as_flattened());
        singles[..single_query_tokens.len()].copy_from_slice(single_query_tokens);
    }

    /// Where the step's words lie on the device; `arrays` are those of any step.
    pub(super) fn inputs(&self, arrays: &StepInputs) -> StepInputs {
        let QueryTiles { tiles, single_query_tokens } = &self.query_tiles;
        let at = arrays.tokens + (self.arrays.query_tiles() * size_of::<u32>()) as u64;
        let tiled = (!tiles.is_empty()).then(|| TiledInputs {
            query_tiles: at,
            query_tile_count: tiles.len(),
            single_query_tokens: at + size_of_val(&tiles[..]) as u64,
            single_query_count: single_query_tokens.len(),
        });
        let adapted = self.is_adapted().then(|| self.arrays.adapted(arrays.tokens));
        StepInputs { tiled, adapted, ..*arrays }
    }

    /// Groups the step's tokens by the adapters of their slots, of which `place_of` says where they are listed.
    pub(super) fn put_adapters(
        &mut self,
        step: &Step<'_>,
        place_of: impl Fn(usize) -> Option<usize>,
    ) {
        let (mut by_place, mut first) = (BTreeMap::<usize, Vec<u32>>::new(), 0);
        for sequence in step.sequences {
            let next = first + sequence.input.len() as u32;
            if let Some(place) = place_of(sequence.seq_slot) {
                by_place.entry(place).or_default().extend(first..next);
            }
            first = next;
        }
        let (count_at, capacity) = (self.arrays.adapter_groups(), self.arrays.step_tokens);
        let words = &mut self.words.as_mut()[count_at..self.arrays.pages()];
        let (tokens, groups) = words[1..].split_at_mut(capacity);
        let (mut first, mut groups) = (0, groups.chunks_exact_mut(GROUP_WORDS));
        for (place, of_place) in by_place {
            for group in of_place.chunks(ADAPTER_TOKENS) {
                tokens[first..first + group.len()].copy_from_slice(group);
                if let Some(words) = groups.next() {
                    words.copy_from_slice(&[place as u32, first as u32, group.len() as u32, 0]);
                }
                first += group.len();
                self.adapter_groups += 1;
            }
        }
        words[0] = self.adapter_groups as u32;
    }

    /// Whether a token of the step has an adapter.
    pub(super) fn is_adapted(&self) -> bool {
        self.adapter_groups > 0
    }

    /// Sampled rows first, then every other row that is wanted, then those that are only reported.
    fn put_head_rows(&mut self, step: &Step<'_>, last_rows: &[u32]) {
        let mut rows = Vec::new();
        for (index, sequence) in step.sequences.iter().enumerate() {
            let count = sequence.sampled_rows();
            self.put_rows(index, sequence, count);
            rows.extend((0..count as u32).rev().map(|back| last_rows[index] - back));
        }
        for (index, sequence) in step.sequences.iter().enumerate() {
            let last = last_rows[index];
            let first = match sequence.logits {
                LogitRows::None => continue,
                LogitRows::Last => last,
                LogitRows::All => last + 1 - sequence.input.len() as u32,
            };
            for row in first..=last {
                let known = rows[..self.sampled.len()].iter().position(|&sampled| sampled == row);
                let head_row = known.unwrap_or_else(|| {
                    rows.push(row);
                    rows.len() - 1
                });
                self.wanted.push(WantedRow { sequence: index, head_row });
            }
        }
        for (index, sequence) in step.sequences.iter().enumerate() {
            let Some(report) = sequence.prompt_report else { continue };
            let first = last_rows[index] + 1 - sequence.input.len() as u32;
            for (row, &token) in (first..).zip(report.next) {
                let at = self.arrays.given() + self.given.len() * SAMPLE_ROW_WORDS;
                self.words.as_mut()[at..][..SAMPLE_ROW_WORDS]
                    .copy_from_slice(&given_row(token, report.top));
                rows.push(row);
                self.given.push((index, report.top));
            }
        }
        self.head_rows = rows.len();
        let start = self.arrays.rows();
        self.words.as_mut()[start..start + rows.len()].copy_from_slice(&rows);
    }

    /// Replaces what the sampled rows are sampled by: `sequences` are the step's, and those without a `sample` are left out.
    pub(super) fn put_sampled_rows(&mut self, sequences: &[Sequence<'_>]) {
        let sampled = std::mem::take(&mut self.sampled);
        self.reported.clear();
        self.left_out.clear();
        self.edits = 0;
        for rows in sampled.chunk_by(|one, other| one == other) {
            self.put_rows(rows[0], &sequences[rows[0]], rows.len());
        }
    }

    /// The settings of the next `count` sampled rows, which are the last ones of a sequence.
    fn put_rows(&mut self, index: usize, sequence: &Sequence<'_>, count: usize) {
        if count == 0 {
            return;
        }
        let row = sequence.sample.unwrap_or(RowSampling::from(SamplerConfig::GREEDY));
        self.samples_plainly &= row.is_plain();
        let end = sequence.start + sequence.input.len();
        let edits = self.put_edits(&row);
        for back in (0..count).rev() {
            self.put_sampling(&row, edits, end - back, sequence.seq_slot);
            self.sampled.push(index);
            self.reported.push(row.report);
            self.left_out.push(sequence.sample.is_none());
        }
    }

    /// The words by which rows are sampled.
    pub(super) fn sampling_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (arrays, rows) = (self.arrays, self.sampled.len());
        let ranges = [
            arrays.sampling()..arrays.sampling() + rows * SAMPLE_ROW_WORDS,
            arrays.changes()..arrays.changes() + rows * CHANGES_WORDS,
            arrays.edits()..arrays.edits() + self.edits * EDIT_WORDS,
        ];
        ranges.into_iter().filter(|range| !range.is_empty())
    }

    /// Adds a row's edits; returns the number of the first.
    fn put_edits(&mut self, row: &RowSampling<'_>) -> usize {
        let first = self.edits;
        let words = &mut self.words.as_mut()[self.arrays.edits() + first * EDIT_WORDS..];
        for (words, edit) in words.chunks_exact_mut(EDIT_WORDS).zip(row_edits(row)) {
            words.copy_from_slice(&edit);
        }
        self.edits += row.biases.len() + row.forbidden.len();
        first
    }

    /// The settings of the next sampled row, and its changes, whose edits begin with number `first_edit`.
    fn put_sampling(
        &mut self,
        row: &RowSampling<'_>,
        first_edit: usize,
        position: usize,
        slot: usize,
    ) {
        let (arrays, index) = (self.arrays, self.sampled.len());
        let words = self.words.as_mut();
        words[arrays.sampling() + index * SAMPLE_ROW_WORDS..][..SAMPLE_ROW_WORDS]
            .copy_from_slice(&sample_row(row, position, slot));
        if row.changes_logits() {
            words[arrays.changes() + index * CHANGES_WORDS..][..CHANGES_WORDS]
                .copy_from_slice(&row_changes(row, first_edit, slot));
        }
    }

    /// The step's token that each of the first `rows` head rows belongs to.
    pub(super) fn head_row_tokens(&self, rows: usize) -> &[u32] {
        &self.words.as_ref()[self.arrays.rows()..][..rows]
    }

    /// The words that only some steps have, where they have any.
    pub(super) fn rare_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (edits, given) = (self.arrays.edits(), self.arrays.given());
        let adapters = self.arrays.adapter_groups();
        let adapter_words = match self.adapter_groups {
            0 => 0,
            groups => 1 + self.arrays.step_tokens + groups * GROUP_WORDS,
        };
        let ranges = [
            edits..edits + self.edits * EDIT_WORDS,
            given..given + self.given.len() * SAMPLE_ROW_WORDS,
            adapters..adapters + adapter_words,
        ];
        ranges.into_iter().filter(|range| !range.is_empty())
    }

    /// The words that a step needs on the device.
    pub(super) fn device_range(&self) -> std::ops::Range<usize> {
        0..self.arrays.query_tiles()
            + 2 * self.query_tiles.tiles.len()
            + self.query_tiles.single_query_tokens.len()
    }
}

/// The words of a [`SampleRow`] that samples.
pub(super) fn sample_row(
    row: &RowSampling<'_>,
    position: usize,
    slot: usize,
) -> [u32; SAMPLE_ROW_WORDS] {
    let config = &row.config;
    [
        config.inverse_temperature().to_bits(),
        config.top_k,
        config.top_p.to_bits(),
        config.min_score().to_bits(),
        config.seed as u32,
        (config.seed >> 32) as u32,
        position as u32,
        slot as u32,
        row.report.map_or(0, |top| 1 + top),
        NOTHING_GIVEN,
        row.changes_logits().into(),
        row.penalties.is_some().into(),
    ]
}

/// The words of a [`SampleRow`] that only reports a token.
pub(super) fn given_row(token: u32, top: u32) -> [u32; SAMPLE_ROW_WORDS] {
    let mut words = [0; SAMPLE_ROW_WORDS];
    (words[8], words[9]) = (1 + top, token);
    words
}

/// The words of a [`SampleChanges`] whose edits begin with number `first_edit`.
pub(super) fn row_changes(
    row: &RowSampling<'_>,
    first_edit: usize,
    slot: usize,
) -> [u32; CHANGES_WORDS] {
    let penalties = row.penalties.unwrap_or(Penalties::NONE);
    [
        penalties.repetition.to_bits(),
        penalties.presence.to_bits(),
        penalties.frequency.to_bits(),
        first_edit as u32,
        row.biases.len() as u32,
        row.forbidden.len() as u32,
        row.mask.map_or(NO_MASK, |mask| mask_index(slot, mask) as u32),
        0,
    ]
}

/// The words of a row's [`SampleEdit`]s: biases, then forbidden tokens.
pub(super) fn row_edits(row: &RowSampling<'_>) -> impl Iterator<Item = [u32; EDIT_WORDS]> {
    let biases = row.biases.iter().map(|&(token, bias)| [token, bias.to_bits()]);
    biases.chain(row.forbidden.iter().map(|&token| [token, 0]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
