//! What a model takes on a CUDA device, worked out from the plan alone: the same sizes that loading asks for, each
//! rounded as the driver rounds it.

use cudarc::driver::result;
use ossmith_plan::facts::SLIDING_PAGE_TOKENS;
use ossmith_plan::{LayerKind, Model};

use super::cache::BF16_BYTES;
use super::memory::device_error;
use super::page_tables::PageTables;
use super::staging::Arrays;
use super::weights::{layout_bytes, layout_of};
use super::{device, exchange, sampling_state, shadow, workspace};
use crate::Result;
use crate::backend::memory_budget::{PAGES_PER_SNAPSHOT, snapshot_count};
use crate::backend::sliding_pages::{page_count, pages_per_sequence};
use crate::backend::{Limits, MemoryBudget};

/// Allocations of this size and more come in whole blocks of it.
const BLOCK_BYTES: u64 = 2 << 20;
/// Smaller ones share blocks, aligned to this.
const ALIGN_BYTES: u64 = 512;
/// Kernels of all units, and what the driver keeps for launches.
const KERNEL_BYTES: u64 = 64 << 20;
/// A captured step, by layer: node parameters of a handful of launches.
const GRAPH_BYTES_PER_LAYER: u64 = 32 << 10;

/// The budget for these limits on device `ordinal`, with room for `snapshots` sliding-window snapshots.
///
/// # Errors
/// [`crate::Error::DeviceUnavailable`] if the device cannot run the kernels.
pub fn memory_budget(
    model: &'static Model,
    limits: &Limits,
    snapshots: usize,
    ordinal: usize,
) -> Result<MemoryBudget> {
    let (context, info) = device::open(ordinal)?;
    context.bind_to_thread().map_err(device_error("select the device"))?;
    let (free, _) = result::mem_get_info().map_err(device_error("ask for free memory"))?;
    let sizes = sizes(model, limits, snapshots, device::has_clusters(info.compute))?;
    Ok(MemoryBudget { available_bytes: Some(free as u64), ..sizes })
}

/// The budget for these limits, prefixes cached, on a device of this compute capability that is not there: what is
/// available is not known.
///
/// # Errors
/// [`crate::Error::Internal`] if a weight has no layout.
pub fn memory_budget_without_device(
    model: &'static Model,
    limits: &Limits,
    compute: (i32, i32),
) -> Result<MemoryBudget> {
    let snapshots = snapshot_count(&model.spec, limits).unwrap_or(0);
    sizes(model, limits, snapshots, device::has_clusters(compute))
}

/// The budget without a device.
pub(super) fn sizes(
    model: &'static Model,
    limits: &Limits,
    snapshots: usize,
    clusters: bool,
) -> Result<MemoryBudget> {
    let spec = &model.rank_spec();
    let layers = spec.layers.len() as u64;
    let sliding = spec.layers.iter().filter(|layer| layer.window.is_some()).count() as u64;
    let full = layers - sliding;
    let page_of = |kind: LayerKind| (kind.page_tokens() * spec.kv_width() * BF16_BYTES) as u64;
    let (page, sliding_page) = (page_of(LayerKind::Full), page_of(LayerKind::Sliding));
    let window = spec.max_window().min(spec.context).div_ceil(SLIDING_PAGE_TOKENS) as u64;
    // Keys, or values, of a snapshot's layer.
    let snapshot = window * sliding_page;
    let mut of_weights = 0;
    for (info, _) in model.graph.all_weights() {
        of_weights += rounded(layout_bytes(info, layout_of(model, info.weight)?) as u64);
    }
    let table = |kind| rounded((PageTables::entries(kind, spec, limits) * size_of::<u32>()) as u64);
    let tables = table(LayerKind::Sliding) + table(LayerKind::Full);
    let words = rounded((Arrays::new(spec, limits).device_words() * size_of::<u32>()) as u64);
    let sum = |sizes: Vec<usize>| sizes.iter().map(|&bytes| rounded(bytes as u64)).sum::<u64>();
    let between = sum(workspace::sizes(model, limits)?) + sum(exchange::sizes(model, limits)?);
    let of_sliding = 2 * sliding * rounded(page_count(spec, limits) as u64 * sliding_page);
    let kept = limits.max_sequences * pages_per_sequence(spec, limits);
    let windows = of_sliding.min(2 * sliding * rounded(kept as u64 * sliding_page));
    // Keys and values apart.
    let snapshot_buffer = if snapshots == 0 { 0 } else { rounded(snapshots as u64 * snapshot) };
    Ok(MemoryBudget {
        dense_q8_bytes: 0,
        weight_bytes: of_weights,
        shadow_bytes: sum(shadow::sizes(model)?),
        page_bytes: 2 * full * rounded(limits.pages as u64 * page),
        ring_bytes: windows,
        snapshot_bytes: 2 * sliding * snapshot_buffer,
        workspace_bytes: between + tables + words + of_sliding - windows,
        sampling_bytes: sum(sampling_state::sizes(model, limits, clusters)?),
        graph_bytes: KERNEL_BYTES
            // A graph that samples, and one that is sampled later.
            + 2 * workspace::logit_rows(limits) as u64 * layers * GRAPH_BYTES_PER_LAYER,
        available_bytes: None,
        pages: limits.pages as u64,
        bytes_per_page: 2 * page * full
            + 2 * sliding * snapshot * u64::from(snapshots > 0) / PAGES_PER_SNAPSHOT as u64,
        // Every buffer may end in a block of its own, and the last few pages may take a whole snapshot.
        rounding_bytes: 2 * layers * BLOCK_BYTES + 2 * sliding * snapshot,
    })
}

fn rounded(bytes: u64) -> u64 {
    let unit = if bytes >= BLOCK_BYTES / 2 { BLOCK_BYTES } else { ALIGN_BYTES };
    bytes.max(ALIGN_BYTES).next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use ossmith_plan::Shard;

    use super::*;

    /// What an 80 GB card has free once a context is open, rounded down.
    const CARD: u64 = 84_000_000_000;

    /// A line: the model, bytes of its published safetensors, sequences, step tokens, pages, and whether it all fits.
    type Line = (&'static Model, u64, usize, usize, usize, bool);

    #[test]
    fn budgets_of_the_published_models() {
        let (small, large) = (ossmith_models::GPT_OSS_20B, ossmith_models::GPT_OSS_120B);
        let lines: [Line; 7] = [
            (small, 13_761_264_768, 1, 2048, 64, true),
            (small, 13_761_264_768, 64, 2048, 4096, true),
            (small, 13_761_264_768, 256, 2048, 16_384, true),
            (small, 13_761_264_768, 256, 8192, 16_384, true),
            (large, 65_248_815_744, 8, 2048, 4096, true),
            (large, 65_248_815_744, 64, 512, 2048, true),
            (large, 65_248_815_744, 64, 2048, 6144, false),
        ];
        for (model, published, max_sequences, max_step_tokens, pages, fits) in lines {
            let limits = Limits { max_sequences, max_step_tokens, pages };
            let snapshots = snapshot_count(&model.spec, &limits).unwrap_or(0);
            let budget = sizes(model, &limits, snapshots, true).expect("a budget");
            let name = format!("{} with {limits:?}: {budget}", model.spec.name);
            // Packed tiles pad little, and the published files hold the same numbers.
            assert!(budget.weight_bytes.abs_diff(published) * 50 < published, "{name}");
            let budget = MemoryBudget { available_bytes: Some(CARD), ..budget };
            assert_eq!(budget.check().is_ok(), fits, "{name}");
            // The parts, each worked out from the model's published dimensions: 8 heads of 64, bf16, keys and values.
            let layers = model.spec.layers.len() as u64 / 2;
            let page = 2 * 64 * 8 * 64 * 2 * layers;
            let close =
                |bytes: u64, pages: u64| bytes.abs_diff(pages * page) <= layers * 2 * BLOCK_BYTES;
            assert!(close(budget.page_bytes, pages as u64), "{name}");
            assert!(close(budget.snapshot_bytes, 2 * snapshots as u64), "{name}");
            // A window of 128 tokens and a draft of up to 64 lie in pages of 192 tokens, 144 where there are many sequences,
            // whatever the chunk.
            let small_pages = max_sequences as u64 * if max_sequences > 128 { 9 } else { 12 };
            assert!(close(budget.ring_bytes, small_pages / 4), "{name}");
            assert!(budget.ring_bytes < 1_000_000_000, "{name}");
        }
    }

    /// Worked out by hand: a page of one layer is 64 tokens of 8 heads of 64 in bf16, 65,536 bytes, for keys and for values
    /// apart; 12 layers are full and 12 slide over 128 tokens; allocations of 1 MiB and more are whole blocks of 2 MiB.
    #[test]
    fn a_plan_has_exactly_these_bytes() {
        let limits = Limits { max_sequences: 64, max_step_tokens: 2048, pages: 4096 };
        let snapshots = snapshot_count(&ossmith_models::GPT_OSS_20B.spec, &limits);
        // One for 8 pages, and one per sequence.
        assert_eq!(snapshots, Some(4096 / 8 + 64));
        let budget = sizes(ossmith_models::GPT_OSS_20B, &limits, 576, true).expect("a budget");
        // 24 buffers of 4,096 pages: 128 blocks each.
        assert_eq!(budget.page_bytes, 24 * 268_435_456);
        // 24 buffers of twelve pages of 16,384 bytes for each of 64 sequences: 6 blocks each.
        assert_eq!(budget.ring_bytes, 24 * 12_582_912);
        // 24 buffers of eight such pages for each of 576 snapshots: 36 blocks each.
        assert_eq!(budget.snapshot_bytes, 24 * 75_497_472);
        // A page of 12 layers, keys and values, and an eighth of a snapshot of 128 tokens of the other 12.
        assert_eq!(budget.bytes_per_page, 1_572_864 + 393_216);
        assert_eq!(budget.rounding_bytes, 2 * 24 * 2_097_152 + 24 * 131_072);
        let without = sizes(ossmith_models::GPT_OSS_20B, &limits, 0, true).expect("a budget");
        assert_eq!((without.snapshot_bytes, without.bytes_per_page), (0, 1_572_864));
        // The chunks of a step take twice its tokens in pages of the sliding layers, 64 more than the windows, in whole
        // blocks: two more of each buffer. Half the tokens take half of that.
        let half = Limits { max_step_tokens: 1024, ..limits };
        let halved = sizes(ossmith_models::GPT_OSS_20B, &half, 576, true).expect("a budget");
        assert_eq!(halved.ring_bytes, budget.ring_bytes);
        assert!(budget.workspace_bytes - halved.workspace_bytes >= 24 * 2_097_152);
    }

    #[test]
    fn ranks_divide_weights_and_cache() {
        let model = ossmith_models::GPT_OSS_120B;
        let limits = Limits { max_sequences: 64, max_step_tokens: 2048, pages: 6144 };
        let of = |model| memory_budget_without_device(model, &limits, (9, 0)).expect("a budget");
        let whole = of(model);
        // Every rank has room for the embedding, 1.16 GB, and for the router and the biases of down, 27 MB each.
        let replicated = 1_200_000_000;
        for ranks in [2, 4, 8] {
            let budgets: Vec<MemoryBudget> = Shard::all(ranks)
                .map(|shard| of(model.of_rank(shard).expect("a divisible model")))
                .collect();
            for (rank, budget) in budgets.iter().enumerate() {
                let share = replicated + (whole.weight_bytes - replicated) / ranks as u64;
                let off = budget.weight_bytes.abs_diff(share);
                // 45 tiles of inner width: of four ranks the first has 12, which is 7 % more than a quarter.
                assert!(off * 12 < share, "rank {rank} of {ranks}: {budget}");
                assert!(budget.page_bytes.abs_diff(whole.page_bytes / ranks as u64) < 1 << 28);
                // What the whole model does not fit into holds each of two ranks.
                let budget = MemoryBudget { available_bytes: Some(CARD), ..budget.clone() };
                budget.check().unwrap_or_else(|why| panic!("rank {rank} of {ranks}: {why}"));
            }
        }
        assert!(MemoryBudget { available_bytes: Some(CARD), ..whole }.check().is_err());
    }

    #[test]
    fn a_card_of_80_gb_holds_120b_with_a_useful_cache_and_refuses_more_with_numbers() {
        let model = ossmith_models::GPT_OSS_120B;
        let budget = |pages| {
            let limits = Limits { max_sequences: 16, max_step_tokens: 2048, pages };
            let snapshots = snapshot_count(&model.spec, &limits).unwrap_or(0);
            let sizes = sizes(model, &limits, snapshots, true).expect("a budget");
            MemoryBudget { available_bytes: Some(CARD), ..sizes }
        };
        // 16 sequences of 16k tokens each.
        let useful = budget(4096);
        useful.check().expect("it fits");
        let fitting = useful.pages_that_fit(1.0);
        assert!(fitting >= 4096, "{fitting} pages of {useful}");
        budget(fitting).check().unwrap_or_else(|why| panic!("{fitting} pages should fit: {why}"));
        let error = budget(2 * fitting).check().expect_err("too many pages").to_string();
        for part in ["weights 65.", "pages ", "rings ", "of 84.00 GB free", "pages fewer would fit"]
        {
            assert!(error.contains(part), "{error}");
        }
    }
}
