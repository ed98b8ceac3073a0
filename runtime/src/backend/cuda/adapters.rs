//! Adapters on the device: the low-rank matrices of attention's projections, and a table of where they are. A step lists which
//! of its tokens have which adapter ([`super::staging`]), and two kernels of each layer add what that one adds: to queries, keys
//! and values after the layer's own, and to the residual before the output projection's own ([`super::forward`]).
//!
//! Matrices are in bf16, as the model's dense weights. An adapter stays on the device while something else holds it and its
//! place is not needed, so that the next request with it finds it there.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use half::bf16;
use ossmith_plan::facts::ADAPTER_RANK_TILE;
use ossmith_plan::params::{AdapterMatrices, Ptr};
use ossmith_plan::{ModelSpec, Weight};

use super::CudaBackend;
use super::memory::{Buffer, device_error};
use crate::backend::Backend;
use crate::checkpoint::AdapterPart;
use crate::{Adapter, Error, Result};

/// Matrices of a layer: those of queries, keys, values, and the output projection.
const OF_LAYER: usize = 4;
/// Which of them is the output projection's.
const ATTN_OUT: usize = 3;
/// Bytes that matrices are aligned to.
const ALIGNMENT: usize = 256;

/// The adapters that a device has.
#[derive(Debug)]
pub(super) struct DeviceAdapters {
    layers: usize,
    /// First rows of queries, keys and values, and what follows.
    first_rows: [usize; 4],
    /// `[place][layer][OF_LAYER]`, made for the first adapter.
    table: Option<Buffer>,
    /// The adapter of each sequence slot.
    slots: Vec<Option<Arc<Adapter>>>,
    /// As many as there are slots, so that there is one for each adapter that a step can have.
    places: Vec<Option<Placed>>,
}

#[derive(Debug)]
struct Placed {
    adapter: Arc<Adapter>,
    /// Kept as long as the table names it.
    _matrices: Buffer,
}

impl DeviceAdapters {
    pub(super) fn new(spec: &ModelSpec, slots: usize) -> DeviceAdapters {
        let (q, kv) = (spec.q_width(), spec.kv_width());
        DeviceAdapters {
            layers: spec.layers.len(),
            first_rows: [0, q, q + kv, q + 2 * kv],
            table: None,
            slots: vec![None; slots],
            places: (0..slots).map(|_| None).collect(),
        }
    }

    /// Sets the adapter of a sequence slot, and places it if it is not there yet.
    pub(super) fn set(
        &mut self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        seq_slot: usize,
        adapter: Option<Arc<Adapter>>,
    ) -> Result<()> {
        let slots = self.slots.len();
        let slot = self.slots.get_mut(seq_slot).ok_or_else(|| {
            Error::Internal(format!("an adapter for slot {seq_slot} of a backend with {slots}"))
        })?;
        *slot = None;
        for place in &mut self.places {
            // Nothing else holds it any more: it was unloaded.
            if place.as_ref().is_some_and(|placed| Arc::strong_count(&placed.adapter) == 1) {
                *place = None;
            }
        }
        let placed =
            adapter.as_ref().map_or(Ok(()), |adapter| self.place(context, stream, adapter));
        if placed.is_ok() {
            self.slots[seq_slot] = adapter;
        }
        placed
    }

    /// Where the adapter of a sequence slot is listed.
    pub(super) fn place_of(&self, seq_slot: usize) -> Option<usize> {
        self.slots[seq_slot].as_ref().and_then(|adapter| self.find(adapter))
    }

    /// The table's entries of a layer's queries, and of its output projection, in the first place; and how far the next
    /// place's are behind them, in entries.
    pub(super) fn matrices(&self, layer: usize) -> Result<(Ptr, Ptr, u32)> {
        let missing = || Error::Internal("a step has adapters, and none is placed".into());
        let table = self.table.as_ref().ok_or_else(missing)?;
        let at = |entry: usize| table.at((layer * OF_LAYER + entry) * size_of::<AdapterMatrices>());
        Ok((at(0), at(ATTN_OUT), (self.layers * OF_LAYER) as u32))
    }

    /// Frees all memory; the slots keep their adapters.
    pub(super) fn release(&mut self) {
        self.table = None;
        self.places.iter_mut().for_each(|place| *place = None);
    }

    /// Places the adapters of all slots again.
    pub(super) fn restore(
        &mut self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
    ) -> Result<()> {
        let adapters: Vec<_> = self.slots.iter().flatten().cloned().collect();
        adapters.iter().try_for_each(|adapter| self.place(context, stream, adapter))
    }

    fn find(&self, adapter: &Adapter) -> Option<usize> {
        let has = |place: &Option<Placed>| {
            place.as_ref().is_some_and(|placed| placed.adapter.id() == adapter.id())
        };
        self.places.iter().position(has)
    }

    /// Copies an adapter's matrices to the device, unless they are there.
    fn place(
        &mut self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        adapter: &Arc<Adapter>,
    ) -> Result<()> {
        if self.find(adapter).is_some() {
            return Ok(());
        }
        // Steps in flight may read the place that is taken now.
        stream.synchronize().map_err(device_error("finish a step"))?;
        let used = |placed: &Placed| {
            self.slots.iter().flatten().any(|adapter| adapter.id() == placed.adapter.id())
        };
        let free = self.places.iter().position(Option::is_none);
        let unused =
            || self.places.iter().position(|place| place.as_ref().is_some_and(|p| !used(p)));
        let place = free.or_else(unused).ok_or_else(|| {
            Error::Internal(format!("{} places have no room for an adapter", self.places.len()))
        })?;
        self.places[place] = None;
        if self.table.is_none() {
            let entries = self.places.len() * self.layers * OF_LAYER;
            let bytes = entries * size_of::<AdapterMatrices>();
            self.table = Some(Buffer::zeroed(context, bytes, "the table of adapters")?);
        }
        let packed = Packed::new(adapter, self.layers, &self.first_rows)?;
        let what = format!("adapter {}", adapter.name());
        let matrices = Buffer::zeroed(context, packed.values.len() * size_of::<u16>(), &what)?;
        matrices.write(0, &packed.values)?;
        let words: Vec<u32> =
            packed.entries.iter().flat_map(|entry| entry.words(matrices.ptr())).collect();
        if let Some(table) = &self.table {
            table.write(place * size_of_val(&words[..]), &words)?;
        }
        self.places[place] = Some(Placed { adapter: Arc::clone(adapter), _matrices: matrices });
        Ok(())
    }
}

impl CudaBackend {
    /// Gives each sequence slot one of `count` adapters of attention with random values, in turns: what timings run on.
    ///
    /// # Errors
    /// Device errors.
    pub fn give_random_adapters(&mut self, count: usize, rank: usize) -> Result<()> {
        let spec = &self.pass.model.spec;
        let mut state = 1_u32;
        let mut value = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let adapters: Vec<Arc<Adapter>> = (0..count)
            .map(|number| {
                Arc::new(Adapter::of_attention(&format!("random {number}"), spec, rank, &mut value))
            })
            .collect();
        for seq_slot in 0..self.limits.max_sequences {
            self.set_adapter(seq_slot, adapters.get(seq_slot % count.max(1)).cloned())?;
        }
        Ok(())
    }
}

/// An adapter's matrices as they lie on the device.
struct Packed {
    /// Bits of bf16.
    values: Vec<u16>,
    /// `[layer][OF_LAYER]`.
    entries: Vec<PackedEntry>,
}

/// Where the two matrices of one projection are, in values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PackedEntry {
    a: usize,
    b: usize,
    /// 0 for none.
    rank: usize,
}

impl PackedEntry {
    /// As [`AdapterMatrices`], for values that begin at this address.
    fn words(self, first: Ptr) -> [u32; size_of::<AdapterMatrices>() / size_of::<u32>()] {
        let at = |value: usize| match self.rank {
            0 => 0,
            _ => first + (value * size_of::<u16>()) as Ptr,
        };
        let (a, b) = (at(self.a), at(self.b));
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32, self.rank as u32, 0]
    }
}

impl Packed {
    fn new(adapter: &Adapter, layers: usize, first_rows: &[usize; 4]) -> Result<Packed> {
        let mut packed = Packed { values: Vec::new(), entries: Vec::new() };
        for layer in 0..layers {
            let mut entries = [PackedEntry::default(); OF_LAYER];
            for part in adapter.parts(Weight::Qkv, layer) {
                let of_part = |rows: &[usize]| {
                    rows[0] == part.first_row && rows[1] == part.first_row + part.rows()
                };
                let which = first_rows.windows(2).position(of_part).ok_or_else(|| {
                    let (name, rows) = (adapter.name(), part.rows());
                    let first = part.first_row;
                    Error::Internal(format!(
                        "adapter {name} has {rows} rows from {first} on of layer {layer}"
                    ))
                })?;
                entries[which] = packed.add(part);
            }
            for part in adapter.parts(Weight::AttnOut, layer) {
                entries[ATTN_OUT] = packed.add(part);
            }
            packed.entries.extend(entries);
        }
        Ok(packed)
    }

    /// Puts a pair of matrices behind the others, with ranks of zeros up to a whole tile.
    fn add(&mut self, part: &AdapterPart) -> PackedEntry {
        let rank = part.rank.next_multiple_of(ADAPTER_RANK_TILE);
        let bits = |value: &f32| bf16::from_f32(*value).to_bits();
        let a = self.aligned();
        self.values.extend(part.a.iter().map(bits));
        self.values.resize(a + rank * (part.a.len() / part.rank), 0);
        let b = self.aligned();
        for row in part.b.chunks_exact(part.rank) {
            self.values.extend(row.iter().map(bits));
            self.values.resize(self.values.len() + rank - part.rank, 0);
        }
        PackedEntry { a, b, rank }
    }

    /// The end of the values, filled up to where matrices may begin.
    fn aligned(&mut self) -> usize {
        let end = self.values.len().next_multiple_of(ALIGNMENT / size_of::<u16>());
        self.values.resize(end, 0);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_filled_up_to_whole_tiles_of_ranks() {
        let part = AdapterPart {
            matrix: 0,
            first_row: 0,
            rank: 3,
            a: (1..=12).map(|value| value as f32).collect(),
            b: (1..=6).map(|value| -value as f32).collect(),
        };
        let mut packed = Packed { values: vec![7], entries: Vec::new() };
        let entry = packed.add(&part);
        assert_eq!(entry, PackedEntry { a: 128, b: 256, rank: 16 });
        let at = |value: usize| bf16::from_bits(packed.values[value]).to_f32();
        let a: Vec<f32> = (0..16 * 4).map(|i| at(entry.a + i)).collect();
        assert_eq!(a[..12], part.a[..]);
        assert!(a[12..].iter().all(|&value| value == 0.0));
        for row in 0..2 {
            let b: Vec<f32> = (0..16).map(|i| at(entry.b + row * 16 + i)).collect();
            assert_eq!(b[..3], part.b[row * 3..row * 3 + 3]);
            assert!(b[3..].iter().all(|&value| value == 0.0));
        }
        assert_eq!(packed.values.len(), entry.b + 2 * 16);
        let words = entry.words(1 << 33);
        assert_eq!(words, [256, 2, 512, 2, 16, 0]);
        assert_eq!(PackedEntry::default().words(1 << 33), [0; 6]);
    }
}
