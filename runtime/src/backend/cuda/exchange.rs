//! What a rank on a device has for the others: its mailbox of decode steps, its parts of larger sums, its columns of
//! logits, and counters (`codegen/cuda/epilogue/exchange.cuh`). All start as zeros and are never reset. Kernels find them
//! through the addresses of [`Exchange::words`], which each module that exchanges holds.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use ossmith_plan::facts::{MAX_DECODE_TOKENS, MAX_RANKS, SQUARE_SUM_WIDTH};
use ossmith_plan::params::{PhaseKernel, Ptr};
use ossmith_plan::{Axis, Model, Shard};

use super::CudaBackend;
use super::memory::{Buffer, Pinned, device_error};
use super::workspace::logit_rows;
use crate::Result;
use crate::backend::Limits;

/// One buffer a value: on the device, or just its size.
#[derive(Debug)]
pub(super) struct ExchangeBuffers<B = Buffer> {
    /// `[parity][source][token][hidden]` words of value and epoch.
    pub mailbox: B,
    /// `[block][source]`: the last meeting that a source has come to.
    pub arrivals: B,
    /// `[tokens][hidden]`: this rank's part of attention's sums; zero between steps.
    pub attn_part: B,
    /// `[tokens][hidden]`: this rank's part of the experts' sums.
    pub moe_part: B,
    /// `[rows][columns]`: this rank's columns of logits.
    pub logits: B,
    /// The epoch of each row tile's exchange.
    pub epochs: B,
    /// The number of each block's last meeting.
    pub meetings: B,
}

/// Bytes of each buffer; none where there is one rank.
pub(super) fn sizes(model: &Model, limits: &Limits) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    if model.shard.of > 1 {
        ExchangeBuffers::build(model, limits, |bytes, _| {
            sizes.push(bytes);
            Ok(())
        })?;
    }
    Ok(sizes)
}

impl<B> ExchangeBuffers<B> {
    fn build(
        model: &Model,
        limits: &Limits,
        mut place: impl FnMut(usize, &'static str) -> Result<B>,
    ) -> Result<ExchangeBuffers<B>> {
        const WORD: usize = size_of::<u64>();
        let (spec, ranks) = (&model.rank_spec(), model.shard.of);
        let tokens = limits.max_step_tokens.max(limits.max_sequences);
        let (part, blocks) = (tokens * spec.hidden * 4, meeting_blocks(model));
        Ok(ExchangeBuffers {
            mailbox: place(2 * ranks * MAX_DECODE_TOKENS * spec.hidden * WORD, "a mailbox")?,
            arrivals: place(blocks * MAX_RANKS * WORD, "arrivals of ranks")?,
            attn_part: place(part, "a rank's part of attention")?,
            moe_part: place(part, "a rank's part of the experts")?,
            logits: place(logit_rows(limits) * spec.vocab * 4, "a rank's logits")?,
            epochs: place(spec.hidden.div_ceil(SQUARE_SUM_WIDTH) * 4, "epochs of sums")?,
            meetings: place(blocks * WORD, "meetings of ranks")?,
        })
    }
}

/// The most blocks of a kernel that meets other ranks.
fn meeting_blocks(model: &Model) -> usize {
    let kernels = model.schedules.iter().flat_map(|one| one.phases()).flat_map(|p| p.kernels);
    let blocks = kernels.filter_map(|kernel| match kernel {
        PhaseKernel::AllReduceRmsNorm(kernel) => Some(kernel.info.grid.x),
        PhaseKernel::JoinLogits(kernel) => Some(kernel.info.grid.x),
        _ => None,
    });
    let count = |axis| if let Axis::Fixed(blocks) = axis { blocks as usize } else { 0 };
    blocks.map(count).max().unwrap_or(0)
}

/// What one rank shares with the others.
#[derive(Debug)]
pub(super) struct Exchange {
    pub buffers: ExchangeBuffers,
    shard: Shard,
    /// Two words that a kernel writes when a rank does not come.
    report: Pinned,
}

/// Where a rank's buffers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    mailbox: Ptr,
    arrivals: Ptr,
    parts: [Ptr; 2],
    logits: Ptr,
}

/// A rank that did not come to an exchange in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    /// Which.
    pub rank: usize,
    /// The number of the exchange, counted since the model was loaded.
    pub number: u32,
    /// The row tile or block that waited.
    pub place: u32,
    /// Whether blocks met, as they do in batches, in prompts and before sampling; else words were exchanged, as in decode
    /// steps.
    pub is_meeting: bool,
}

impl std::fmt::Display for Absence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Absence { number, place, is_meeting, .. } = self;
        match is_meeting {
            true => write!(f, "it did not come to meeting {number} of block {place}"),
            false => write!(f, "its part of sum {number} of row tile {place} did not come"),
        }
    }
}

impl Exchange {
    /// `None` where there is one rank.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        model: &Model,
        limits: &Limits,
    ) -> Result<Option<Exchange>> {
        if model.shard == Shard::WHOLE {
            return Ok(None);
        }
        let place = |bytes, what| Buffer::zeroed(context, bytes, what);
        let buffers = ExchangeBuffers::build(model, limits, place)?;
        let report = Pinned::zeroed(context, 4)?;
        Ok(Some(Exchange { buffers, shard: model.shard, report }))
    }

    pub(super) fn addresses(&self) -> Addresses {
        let ExchangeBuffers { mailbox, arrivals, attn_part, moe_part, logits, .. } = &self.buffers;
        Addresses {
            mailbox: mailbox.ptr(),
            arrivals: arrivals.ptr(),
            parts: [attn_part.ptr(), moe_part.ptr()],
            logits: logits.ptr(),
        }
    }

    /// `RankMailboxes` of `epilogue/exchange.cuh`, by the addresses of all ranks in order.
    pub(super) fn words(&self, all: &[Addresses]) -> Vec<u64> {
        let ExchangeBuffers { epochs, meetings, .. } = &self.buffers;
        rank_words(all, [epochs.ptr(), meetings.ptr(), self.report.ptr()], self.shard.rank)
    }

    /// Which rank a kernel has waited for beyond the limit, if there is one.
    pub(super) fn absence(&self) -> Option<Absence> {
        let word = |index| self.report.volatile(index);
        read_absence([word(0), word(1), word(2), word(3)])
    }
}

impl CudaBackend {
    /// Where the other ranks find what this one has for them; `None` where there is one rank.
    pub(super) fn addresses(&self) -> Option<Addresses> {
        self.pass.exchange.as_ref().map(Exchange::addresses)
    }

    /// Tells the kernels where all ranks are, in order, before the first step.
    pub(super) fn connect(&mut self, all: &[Addresses]) -> Result<()> {
        let Some(exchange) = &self.pass.exchange else { return Ok(()) };
        let words = exchange.words(all);
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        self.pass.kernels.set_mailboxes(&self.context, words)
    }

    /// Which rank a kernel of this one has waited for beyond the limit, if there is one.
    pub(super) fn absence(&self) -> Option<Absence> {
        self.pass.exchange.as_ref().and_then(Exchange::absence)
    }
}

fn rank_words(all: &[Addresses], own: [Ptr; 3], rank: usize) -> Vec<u64> {
    let mut words = Vec::new();
    let mut push = |address: &dyn Fn(&Addresses) -> Ptr| {
        words.extend((0..MAX_RANKS).map(|rank| all.get(rank).map_or(0, address)));
    };
    push(&|of| of.mailbox);
    push(&|of| of.arrivals);
    push(&|of| of.parts[0]);
    push(&|of| of.parts[1]);
    push(&|of| of.logits);
    words.extend(own);
    // The rank is 32 bits, and the struct is padded to 64.
    words.push(rank as u64);
    words
}

/// What `report_absence` of `epilogue/exchange.cuh` has written.
fn read_absence([source, number, place, is_meeting]: [u32; 4]) -> Option<Absence> {
    let rank = source.checked_sub(1)? as usize;
    Some(Absence { rank, number, place, is_meeting: is_meeting != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_where_kernels_look_for_them() {
        let of = |n: Ptr| Addresses {
            mailbox: 10 + n,
            arrivals: 20 + n,
            parts: [30 + n, 40 + n],
            logits: 50 + n,
        };
        let words = rank_words(&[of(0), of(1)], [1, 2, 3], 1);
        let mut expected = Vec::new();
        for first in [10, 20, 30, 40, 50] {
            expected.extend([first, first + 1, 0, 0, 0, 0, 0, 0]);
        }
        expected.extend([1, 2, 3, 1]);
        assert_eq!(words, expected);
    }

    #[test]
    fn a_report_names_the_rank_that_did_not_come() {
        assert_eq!(read_absence([0; 4]), None);
        let absence = read_absence([2, 37, 12, 0]).expect("rank 1");
        assert_eq!(absence.rank, 1);
        assert_eq!(absence.to_string(), "its part of sum 37 of row tile 12 did not come");
        let absence = read_absence([1, 5, 3, 1]).expect("rank 0");
        assert_eq!(
            (absence.rank, absence.to_string()),
            (0, "it did not come to meeting 5 of block 3".to_owned())
        );
    }
}
