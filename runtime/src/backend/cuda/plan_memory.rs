//! What a model takes on a CUDA device, worked out from the plan alone: the same sizes that loading asks for, each
//! rounded as the driver rounds it.

use cudarc::driver::result;
use ossmith_plan::{LayerKind, Model, ModelSpec, Weight, WeightLayout};

use super::cache::{BF16_BYTES, ring_pages};
use super::memory::device_error;
use super::staging::Arrays;
use super::{device, workspace};
use crate::backend::memory::MemoryPlan;
use crate::backend::{Limits, PAGE_TOKENS};
use crate::{Error, Result};

/// Allocations of this size and more come in whole blocks of it.
const BLOCK_BYTES: u64 = 2 << 20;
/// Smaller ones share blocks, aligned to this.
const ALIGN_BYTES: u64 = 512;
/// Kernels of all units, and what the driver keeps for launches.
const KERNEL_BYTES: u64 = 64 << 20;
/// A captured step, by layer: node parameters of a handful of launches.
const GRAPH_BYTES_A_LAYER: u64 = 32 << 10;

/// The plan for these limits on device `ordinal`, with room for `tails` tails.
///
/// # Errors
/// [`crate::Error::Device`] if the device cannot run the kernels.
pub fn plan_memory(
    model: &'static Model,
    limits: &Limits,
    tails: usize,
    ordinal: usize,
) -> Result<MemoryPlan> {
    let (context, _) = device::open(ordinal)?;
    context.bind_to_thread().map_err(device_error("select the device"))?;
    let (free, _) = result::mem_get_info().map_err(device_error("ask for free memory"))?;
    Ok(MemoryPlan { available: Some(free as u64), ..sizes(model, limits, tails)? })
}

/// The plan without a device.
pub(super) fn sizes(model: &'static Model, limits: &Limits, tails: usize) -> Result<MemoryPlan> {
    let spec = &model.spec;
    let layers = spec.layers.len() as u64;
    let sliding = spec.layers.iter().filter(|kind| **kind == LayerKind::Sliding).count() as u64;
    let full = layers - sliding;
    let page = (PAGE_TOKENS * spec.kv_width() * BF16_BYTES) as u64;
    let window = spec.window.min(spec.context).div_ceil(PAGE_TOKENS) as u64;
    let mut of_weights = 0;
    for weight in Weight::ALL {
        let copies = if weight.per_layer() { layers } else { 1 };
        of_weights += copies * rounded(weight_bytes(model, weight)? as u64);
    }
    let stride = spec.context.div_ceil(PAGE_TOKENS);
    let tables = 2 * rounded((limits.max_sequences * stride * size_of::<u32>()) as u64);
    let words = rounded((Arrays::new(limits, stride).device_words() * size_of::<u32>()) as u64);
    let between: u64 =
        workspace::sizes(spec, limits)?.iter().map(|&bytes| rounded(bytes as u64)).sum();
    // Keys and values apart.
    let tail_buffer = if tails == 0 { 0 } else { rounded(tails as u64 * window * page) };
    Ok(MemoryPlan {
        weights: of_weights,
        pages: 2 * full * rounded(limits.pages as u64 * page),
        rings: 2 * sliding * rounded(ring_bytes(spec, limits, page)),
        tails: 2 * sliding * tail_buffer,
        workspace: between + tables + words,
        graphs: KERNEL_BYTES + limits.max_sequences as u64 * layers * GRAPH_BYTES_A_LAYER,
        available: None,
        page: 2 * page * (full + sliding * window * tails as u64 / limits.pages.max(1) as u64),
    })
}

/// Bytes of one layer's weight as its layout has it.
fn weight_bytes(model: &Model, weight: Weight) -> Result<usize> {
    let info = model.graph.weight(weight);
    let layout = model.layouts.iter().find(|(listed, _)| *listed == weight);
    match layout.map(|(_, layout)| *layout) {
        None => Err(Error::Internal(format!("the plan gives {weight:?} no layout"))),
        Some(WeightLayout::RowMajor) => Ok(info.bytes()),
        Some(tiled) => Ok(match *info.shape {
            [matrices, rows, k] => tiled.tiled_bytes(matrices, rows, k),
            [rows, k] => tiled.tiled_bytes(1, rows, k),
            _ => tiled.tiled_bytes(1, 1, info.elements()),
        }),
    }
}

fn ring_bytes(spec: &ModelSpec, limits: &Limits, page: u64) -> u64 {
    (limits.max_sequences * ring_pages(spec, limits)) as u64 * page
}

fn rounded(bytes: u64) -> u64 {
    let unit = if bytes >= BLOCK_BYTES / 2 { BLOCK_BYTES } else { ALIGN_BYTES };
    bytes.max(ALIGN_BYTES).next_multiple_of(unit)
}
