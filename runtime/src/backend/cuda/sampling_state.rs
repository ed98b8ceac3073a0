//! What sampling keeps on the device between steps: the history of each sequence slot, its masks, and what is reported.
//!
//! Masks are copied on a stream of their own, beside the steps. Sampling waits for the copies that were begun before it.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::Model;
use ossmith_plan::facts::MAX_REPORTED;
use ossmith_plan::params::{HistoryEntry, PhaseKernel, Ptr, ReportedToken, WriteHistory};

use super::kernels::{Extent, Kernels};
use super::memory::{Buffer, Pinned, device_error};
use super::workspace;
use crate::backend::{Limits, MASKS_PER_SLOT};
use crate::sampling::{TokenHistory, TokenLogprobs};
use crate::{Error, Result};

/// Words of a [`ReportedToken`].
const REPORTED_WORDS: usize = size_of::<ReportedToken>() / size_of::<u32>();
/// Words of the report of one row.
pub(super) const REPORT_WORDS: usize = (1 + MAX_REPORTED) * REPORTED_WORDS;
/// Words of a [`HistoryEntry`].
const ENTRY_WORDS: usize = size_of::<HistoryEntry>() / size_of::<u32>();

/// One buffer a value: on the device, or just its size.
#[derive(Debug)]
pub(super) struct SamplingBuffers<B = Buffer> {
    /// `[sequence slots][vocab]` of 16 bits.
    pub histories: B,
    /// A history's tokens with their words, on their way into `histories`.
    pub history_entries: B,
    /// `[sequence slots][MASKS_PER_SLOT][words of the vocabulary]`.
    pub masks: B,
    /// `[rows][1 + MAX_REPORTED]`: those of the sampled rows, then those of the rows that are only reported.
    pub reports: B,
    /// `[sampled rows]` changed rows, where rows do not fit in shared memory.
    pub scratch: B,
}

/// Bytes of each buffer.
pub(super) fn sizes(model: &Model, limits: &Limits, clusters: bool) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    SamplingBuffers::build(model, limits, clusters, |bytes, _| {
        sizes.push(bytes);
        Ok(())
    })?;
    Ok(sizes)
}

impl<B> SamplingBuffers<B> {
    fn build(
        model: &Model,
        limits: &Limits,
        clusters: bool,
        mut place: impl FnMut(usize, &'static str) -> Result<B>,
    ) -> Result<SamplingBuffers<B>> {
        let (vocab, slots) = (model.spec.vocab, limits.max_sequences);
        let rows = workspace::logit_rows(limits);
        let reports = rows + limits.max_step_tokens;
        // The kernel reads words of four tokens at a time.
        let history = (slots * vocab).next_multiple_of(4) * size_of::<u16>();
        Ok(SamplingBuffers {
            histories: place(history, "histories of sequences")?,
            history_entries: place(vocab * size_of::<HistoryEntry>(), "a history's tokens")?,
            masks: place(slots * MASKS_PER_SLOT * mask_words(vocab) * 4, "masks")?,
            reports: place(reports * REPORT_WORDS * 4, "reports of rows")?,
            scratch: place(rows * scratch_row(model, clusters) * 4, "changed logits")?,
        })
    }
}

/// Words of a mask.
fn mask_words(vocab: usize) -> usize {
    vocab.div_ceil(u32::BITS as usize)
}

/// Elements of a row of changed logits: 0 where the sampling kernel keeps them in shared memory.
fn scratch_row(model: &Model, clusters: bool) -> usize {
    let mut kernels = model.schedules.iter().flat_map(|one| one.phases()).flat_map(|p| p.kernels);
    let sample = kernels.find_map(|kernel| match kernel {
        PhaseKernel::Sample(kernel) => Some(kernel.info),
        _ => None,
    });
    sample.map_or(0, |info| {
        let row = model.spec.sliced_vocab(info.cluster as usize);
        let slice_bytes = row / info.cluster as usize * size_of::<f32>();
        let in_shared = clusters && slice_bytes <= info.shared_bytes as usize;
        if in_shared { 0 } else { row }
    })
}

/// The buffers, and the copies of masks to them.
#[derive(Debug)]
pub(super) struct SamplingState {
    pub buffers: SamplingBuffers,
    vocab: usize,
    /// Every mask as it was last given, in the order of the device's.
    mask_source: Pinned,
    copies: Arc<CudaStream>,
    /// By mask, the number of the first step whose sampling waits for its last copy; `None` before.
    read_by: Vec<Option<u64>>,
    /// By mask, the number of the last step that names it.
    named_by: Vec<u64>,
    /// Whether a mask was given since the stream last waited for copies.
    copying: bool,
    /// Histories that were given since the last step.
    histories: Vec<(usize, Vec<u32>)>,
}

impl SamplingState {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        model: &Model,
        limits: &Limits,
        clusters: bool,
    ) -> Result<SamplingState> {
        let place = |bytes, what| Buffer::zeroed(context, bytes, what);
        let vocab = model.spec.vocab;
        let masks = limits.max_sequences * MASKS_PER_SLOT;
        Ok(SamplingState {
            buffers: SamplingBuffers::build(model, limits, clusters, place)?,
            vocab,
            mask_source: Pinned::zeroed(context, masks * mask_words(vocab))?,
            copies: context.new_stream().map_err(device_error("make a stream"))?,
            read_by: vec![None; masks],
            named_by: vec![0; masks],
            copying: false,
            histories: Vec::new(),
        })
    }

    /// Whether a mask of a sequence slot was ever given.
    pub(super) fn has_mask(&self, seq_slot: usize, mask: usize) -> bool {
        self.read_by[mask_index(seq_slot, mask)].is_some()
    }

    /// Begins to copy a mask. `read_by` and `collected` are the numbers of the next step that will be sampled and of the
    /// last that was collected.
    pub(super) fn set_mask(
        &mut self,
        seq_slot: usize,
        mask: usize,
        words: &[u32],
        read_by: u64,
        collected: u64,
    ) -> Result<()> {
        let index = mask_index(seq_slot, mask);
        if self.named_by[index] > collected {
            return Err(Error::Internal(format!(
                "mask {mask} of sequence slot {seq_slot} was given again while a step reads it"
            )));
        }
        // A step that was collected has waited for the copies that were begun before its sampling.
        if self.read_by[index].is_some_and(|step| step > collected) {
            self.copies.synchronize().map_err(device_error("copy a mask"))?;
        }
        let first = index * words.len();
        self.mask_source.words_mut()[first..][..words.len()].copy_from_slice(words);
        let target = self.buffers.masks.at(first * size_of::<u32>());
        self.mask_source.copy_to(&self.copies, first..first + words.len(), target)?;
        (self.read_by[index], self.copying) = (Some(read_by), true);
        Ok(())
    }

    /// Waits for the copies of masks; what they found no longer matters.
    pub(super) fn wait(&self) {
        let _ = self.copies.synchronize();
    }

    /// Records that step number `step` reads a mask.
    pub(super) fn name_mask(&mut self, seq_slot: usize, mask: usize, step: u64) {
        self.named_by[mask_index(seq_slot, mask)] = step;
    }

    /// Takes over the history of a sequence slot for the next step.
    pub(super) fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) {
        let words = history.words().flat_map(|(token, word)| [token, word.into()]).collect();
        self.histories.retain(|(slot, _)| *slot != seq_slot);
        self.histories.push((seq_slot, words));
    }

    /// Makes the stream wait for the copies of masks that were begun.
    pub(super) fn join_copies(&mut self, stream: &CudaStream) -> Result<()> {
        if std::mem::take(&mut self.copying) {
            let copied = self.copies.record_event(None);
            let copied = copied.map_err(device_error("mark the end of a copy"))?;
            stream.wait(&copied).map_err(device_error("wait for masks"))?;
        }
        Ok(())
    }

    /// Makes room for the histories of the next step, which locks host memory.
    pub(super) fn reserve_histories(
        &self,
        context: &Arc<CudaContext>,
        staged: &mut StagedHistories,
    ) -> Result<()> {
        staged.reserve(context, self.histories.iter().map(|(_, words)| words.len()).sum())
    }

    /// Makes the stream wait for masks and write histories, before a step. The histories' words are moved to `staged`,
    /// which must live until the step is done.
    pub(super) fn prepare(
        &mut self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        kernels: &Kernels,
        model: &Model,
        staged: &mut StagedHistories,
    ) -> Result<()> {
        self.join_copies(stream)?;
        let ranges = staged.fill(context, &self.histories)?;
        let entries = self.buffers.history_entries.ptr();
        for ((seq_slot, words), range) in self.histories.drain(..).zip(ranges) {
            if !range.is_empty() {
                staged.words()?.copy_to(stream, range, entries)?;
            }
            let history = self.buffers.histories.at(seq_slot * self.vocab * size_of::<u16>());
            let count = (words.len() / ENTRY_WORDS) as u32;
            let params = WriteHistory { history, entries, count, vocab: self.vocab as u32 };
            let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
            kernels.launch(stream, &model.tools.write_history, extent, &params)?;
        }
        Ok(())
    }

    /// Where the reports from row `row` on begin.
    pub(super) fn reports(&self, row: usize) -> Ptr {
        self.buffers.reports.at(row * REPORT_WORDS * size_of::<u32>())
    }
}

/// The number of a mask among all.
pub(super) fn mask_index(seq_slot: usize, mask: usize) -> usize {
    seq_slot * MASKS_PER_SLOT + mask
}

/// Histories on their way to the device, in page-locked memory that grows to what one step needs.
#[derive(Debug, Default)]
pub(super) struct StagedHistories(Option<Pinned>);

impl StagedHistories {
    /// Makes room for so many words, if there are any.
    fn reserve(&mut self, context: &Arc<CudaContext>, words: usize) -> Result<()> {
        if words > 0 && self.0.as_ref().is_none_or(|pinned| pinned.words().len() < words) {
            self.0 = Some(Pinned::zeroed(context, words.next_power_of_two())?);
        }
        Ok(())
    }

    /// Takes over the words of histories; returns where those of each lie.
    fn fill(
        &mut self,
        context: &Arc<CudaContext>,
        histories: &[(usize, Vec<u32>)],
    ) -> Result<Vec<std::ops::Range<usize>>> {
        let mut ranges = Vec::with_capacity(histories.len());
        let total: usize = histories.iter().map(|(_, words)| words.len()).sum();
        if total == 0 {
            return Ok(vec![0..0; histories.len()]);
        }
        self.reserve(context, total)?;
        let mut first = 0;
        for (_, words) in histories {
            let end = first + words.len();
            if let Some(pinned) = &mut self.0 {
                pinned.words_mut()[first..end].copy_from_slice(words);
            }
            ranges.push(first..end);
            first = end;
        }
        Ok(ranges)
    }

    fn words(&self) -> Result<&Pinned> {
        self.0.as_ref().ok_or_else(|| Error::Internal("no history was staged".to_owned()))
    }
}

/// Reads the report of a row that lists `top` tokens.
pub(super) fn read_report(words: &[u32], top: u32) -> TokenLogprobs {
    let mut entries = words.chunks_exact(REPORTED_WORDS);
    let entry = |words: &[u32]| (words[0], f32::from_bits(words[1]));
    let (rank, logprob) = entries.next().map_or((0, f32::NAN), entry);
    TokenLogprobs { logprob, rank, top: entries.take(top as usize).map(entry).collect() }
}
