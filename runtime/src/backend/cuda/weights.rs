//! A model's weights in device memory, packed as its plan asks, or made there from a seed.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::params::{FillBf16, FillMxfp4, Ptr};
use ossmith_plan::{
    DType, Model, RowOrder, Shard, Slice, TILE_K, TILE_ROWS, Weight, WeightInfo, WeightLayout,
    facts,
};

use super::kernels::{Extent, Kernels};
use super::memory::{Buffer, RowCopy, device_error};
use super::pack::{PackedMxfp4, pack_bf16, pack_mxfp4};
use crate::backend::Progress;
use crate::checkpoint::synthetic::{Synthetic, TensorPart, scale_base, stream, uniform};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::{Error, Result};

/// One weight on the device.
#[derive(Debug)]
struct Placed {
    buffer: Buffer,
    weight_scale: f32,
}

/// What is kept in host memory of a weight that has left the device: nothing, or its bytes.
#[derive(Debug)]
struct Released {
    bytes: usize,
    content: Vec<u8>,
    weight_scale: f32,
}

/// Every weight that has left the device, by weight, then layer.
#[derive(Debug)]
pub(super) struct ReleasedWeights(Vec<Vec<Released>>);

/// Every weight of every layer.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    /// By weight, then layer; weights that exist once have one entry.
    placed: Vec<Vec<Placed>>,
}

impl DeviceWeights {
    /// Uploads what this rank of a model has of a checkpoint, tensor by tensor; synthetic ones are made on the device.
    pub(super) fn load(
        context: &Arc<CudaContext>,
        cuda_stream: &CudaStream,
        kernels: &Kernels,
        model: &'static Model,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<DeviceWeights> {
        let layers = model.spec.layers.len();
        let copies = |weight: Weight| if weight.per_layer() { layers } else { 1 };
        let total: u64 = model.graph.all_weights().map(|(info, _)| info.bytes() as u64).sum();
        let whole = model.whole_graph();
        let local = model.shard.local(&model.spec);
        let local = local.map_err(|why| Error::invalid_option("ranks", why.to_string()))?;
        let mut done = 0;
        let mut place = |weight: Weight, layer: usize| {
            let info = model.graph.weight(weight, layer);
            let layout = layout_of(model, weight)?;
            let what = format!("{weight:?} of layer {layer}");
            let buffer = Buffer::zeroed(context, layout_bytes(info, layout), &what)?;
            let stored = whole.weight(weight, layer);
            let slice = local.slice(&model.spec, stored);
            let (_, rows, k) = stored.matrices();
            let weight_scale = match (checkpoint.synthetic_kind(), slice) {
                // Another rank adds this bias: here it is zero, as the buffer is.
                (_, None) => 1.0,
                (Some(kind), Some(slice))
                    if model.shard == Shard::WHOLE || slice.is_whole(rows, k) =>
                {
                    fill(kernels, cuda_stream, model, &buffer, info, layout, kind, layer)?;
                    1.0
                }
                (Some(kind), Some(slice)) if layout != WeightLayout::RowMajor => {
                    let all = Buffer::zeroed(context, layout_bytes(stored, layout), &what)?;
                    fill(kernels, cuda_stream, model, &all, stored, layout, kind, layer)?;
                    for copy in tile_copies(stored, layout, &slice) {
                        buffer.copy_rows_from(cuda_stream, &all, &copy)?;
                    }
                    cuda_stream.synchronize().map_err(device_error("make weights"))?;
                    1.0
                }
                (_, Some(slice)) => {
                    let loaded = checkpoint.load(weight, layer)?;
                    let packed = pack(stored, layout, &loaded.as_tensor(), &slice);
                    packed.and_then(|packed| packed.upload(&buffer)).map_err(|e| named(e, &what))?
                }
            };
            done += info.bytes() as u64;
            progress(Progress { stage: "load weights", done, total });
            Ok(Placed { buffer, weight_scale })
        };
        let mut placed = Vec::with_capacity(Weight::ALL.len());
        for weight in Weight::ALL {
            placed.push(
                (0..copies(weight)).map(|layer| place(weight, layer)).collect::<Result<_>>()?,
            );
        }
        cuda_stream.synchronize().map_err(device_error("make weights"))?;
        Ok(DeviceWeights { placed })
    }

    /// Writes these weights and layers of a checkpoint over those that are placed. All are packed once before anything is
    /// written, so that wrong values change nothing.
    pub(super) fn replace(
        &mut self,
        model: &Model,
        checkpoint: &Checkpoint,
        changed: &[(Weight, usize)],
    ) -> Result<()> {
        let local = model.shard.local(&model.spec);
        let local = local.map_err(|why| Error::invalid_option("ranks", why.to_string()))?;
        for writes in [false, true] {
            for &(weight, layer) in changed {
                let layout = layout_of(model, weight)?;
                let stored = model.whole_graph().weight(weight, layer);
                let Some(slice) = local.slice(&model.spec, stored) else { continue };
                let loaded = checkpoint.load(weight, layer)?;
                let packed = pack(stored, layout, &loaded.as_tensor(), &slice)
                    .map_err(|error| named(error, &format!("{weight:?} of layer {layer}")))?;
                if writes {
                    let placed = &mut self.placed[weight as usize][layer];
                    placed.weight_scale = packed.upload(&placed.buffer)?;
                }
            }
        }
        Ok(())
    }

    /// What [`DeviceWeights::restore`] needs: the bytes of all weights, if they are `kept`.
    pub(super) fn released(&self, kept: bool) -> Result<ReleasedWeights> {
        let mut released = Vec::with_capacity(self.placed.len());
        for layers in &self.placed {
            let release = |placed: &Placed| {
                let bytes = placed.buffer.bytes();
                let mut content = Vec::new();
                if kept {
                    content.try_reserve_exact(bytes).map_err(|_| no_room(bytes))?;
                    content.resize(bytes, 0_u8);
                    placed.buffer.read(0, &mut content)?;
                }
                Ok(Released { bytes, content, weight_scale: placed.weight_scale })
            };
            released.push(layers.iter().map(release).collect::<Result<_>>()?);
        }
        Ok(ReleasedWeights(released))
    }

    /// Frees all weights. They cannot be used afterwards.
    pub(super) fn clear(&mut self) {
        self.placed.clear();
    }

    /// Places weights again: with the bytes that were kept, or zero.
    pub(super) fn restore(
        &mut self,
        context: &Arc<CudaContext>,
        released: &ReleasedWeights,
    ) -> Result<()> {
        let mut placed = Vec::with_capacity(released.0.len());
        for layers in &released.0 {
            let restore = |released: &Released| {
                let buffer = Buffer::zeroed(context, released.bytes, "a weight")?;
                buffer.write(0, &released.content)?;
                Ok(Placed { buffer, weight_scale: released.weight_scale })
            };
            placed.push(layers.iter().map(restore).collect::<Result<_>>()?);
        }
        self.placed = placed;
        Ok(())
    }

    fn place(&self, weight: Weight, layer: usize) -> &Placed {
        &self.placed[weight as usize][if weight.per_layer() { layer } else { 0 }]
    }

    /// Device address of a weight; `layer` is ignored for weights that exist once.
    pub(super) fn ptr(&self, weight: Weight, layer: usize) -> Ptr {
        self.place(weight, layer).buffer.ptr()
    }

    /// A vector of bf16 numbers, read back.
    pub(super) fn vector(&self, weight: Weight, layer: usize) -> Result<Vec<f32>> {
        let buffer = &self.place(weight, layer).buffer;
        let mut bits = vec![0_u16; buffer.bytes() / 2];
        buffer.read(0, &mut bits)?;
        Ok(bits.into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect())
    }

    /// The power of two that kernels multiply an MXFP4 GEMM's result with.
    pub(super) fn scale(&self, weight: Weight, layer: usize) -> f32 {
        self.place(weight, layer).weight_scale
    }
}

fn no_room(bytes: usize) -> Error {
    Error::OutOfMemory {
        needed_bytes: bytes as u64,
        available_bytes: None,
        problem: "the host has no room for a weight of a sleeping engine; sleep at level 2".into(),
    }
}

fn named(error: Error, what: &str) -> Error {
    match error {
        Error::Weight { problem, .. } => Error::Weight { weight: what.to_owned(), problem },
        other => other,
    }
}

/// How the plan lays a weight out.
pub(super) fn layout_of(model: &Model, weight: Weight) -> Result<WeightLayout> {
    let found = model.layouts.iter().find(|(listed, _)| *listed == weight);
    let missing = || Error::Internal(format!("the plan gives {weight:?} no layout"));
    found.map(|(_, layout)| *layout).ok_or_else(missing)
}

/// (matrices, rows, k) of a weight; a vector is one row.
fn dimensions(info: &WeightInfo) -> (usize, usize, usize) {
    match *info.shape {
        [matrices, rows, k] => (matrices, rows, k),
        [rows, k] => (1, rows, k),
        _ => (1, 1, info.elements()),
    }
}

/// Bytes of one layer's weight in its layout.
pub(super) fn layout_bytes(info: &WeightInfo, layout: WeightLayout) -> usize {
    let (matrices, rows, k) = dimensions(info);
    match layout {
        WeightLayout::RowMajor => info.bytes(),
        tiled => tiled.tiled_bytes(matrices, rows, k),
    }
}

/// The copies by which the tiles of a slice become a rank's packed weight, from those of the whole stored weight.
fn tile_copies(stored: &WeightInfo, layout: WeightLayout, slice: &Slice) -> Vec<RowCopy> {
    let (matrices, rows, k) = stored.matrices();
    // What follows one after another in a row tile, each by its bytes of one tile.
    let parts: &[usize] = match layout {
        WeightLayout::Mxfp4Tiles(_) => &[TILE_ROWS * TILE_K / 2, TILE_ROWS * 2],
        _ => &[TILE_ROWS * TILE_K * 2],
    };
    let tile_bytes: usize = parts.iter().sum();
    let (all, own) = (k.div_ceil(TILE_K), slice.k.len().div_ceil(TILE_K));
    let (source_pitch, pitch) = (all * tile_bytes, own * tile_bytes);
    let (mut copies, mut row_tile) = (Vec::new(), 0);
    for matrix in 0..matrices {
        for range in &slice.rows {
            let first = matrix * rows.div_ceil(TILE_ROWS) + range.start / TILE_ROWS;
            let count = range.len().div_ceil(TILE_ROWS);
            let (mut source_at, mut at) = (0, 0);
            for bytes in parts {
                copies.push(RowCopy {
                    source: first * source_pitch + source_at + slice.k.start / TILE_K * bytes,
                    source_pitch,
                    target: row_tile * pitch + at,
                    target_pitch: pitch,
                    bytes: own * bytes,
                    rows: count,
                });
                (source_at, at) = (source_at + all * bytes, at + own * bytes);
            }
            row_tile += count;
        }
    }
    copies
}

/// A weight as its buffer is to hold it.
enum Packed<'a> {
    /// As it is stored, part after part.
    Stored(Vec<&'a [u8]>),
    Bf16(Vec<u8>),
    Mxfp4(PackedMxfp4),
}

impl Packed<'_> {
    /// Fills the weight's buffer, and returns the weight's scale.
    fn upload(&self, buffer: &Buffer) -> Result<f32> {
        match self {
            Packed::Stored(parts) => {
                let mut offset = 0;
                for part in parts {
                    buffer.write(offset, part)?;
                    offset += part.len();
                }
                Ok(1.0)
            }
            Packed::Bf16(bytes) => buffer.write(0, bytes).map(|()| 1.0),
            Packed::Mxfp4(packed) => buffer.write(0, &packed.bytes).map(|()| packed.weight_scale),
        }
    }
}

/// Packs a slice of a stored weight of this shape.
fn pack<'a>(
    info: &WeightInfo,
    layout: WeightLayout,
    tensor: &Tensor<'a>,
    slice: &Slice,
) -> Result<Packed<'a>> {
    let (matrices, rows, k) = info.matrices();
    match (layout, tensor) {
        (WeightLayout::RowMajor, Tensor::Bf16 { .. }) => {
            Ok(Packed::Stored(tensor.runs([matrices, rows, k], slice)))
        }
        (WeightLayout::Bf16Tiles(order), Tensor::Bf16 { .. }) => {
            Ok(Packed::Bf16(pack_bf16(tensor, k, slice, order)))
        }
        (WeightLayout::Mxfp4Tiles(order), Tensor::Mxfp4 { .. }) => {
            pack_mxfp4(tensor, matrices, [rows, k], slice, order).map(Packed::Mxfp4)
        }
        _ => Err(Error::Internal(format!("layout {layout:?} does not fit {:?}", info.weight))),
    }
}

/// The number that the fill kernels know a row order by.
fn order_number(layout: WeightLayout) -> u32 {
    let number = match layout {
        WeightLayout::Bf16Tiles(order) | WeightLayout::Mxfp4Tiles(order) => match order {
            RowOrder::Natural => facts::NATURAL_ROWS,
            RowOrder::RopePairs { .. } => facts::ROPE_PAIR_ROWS,
            RowOrder::GateUpPairs => facts::GATE_UP_PAIR_ROWS,
        },
        WeightLayout::RowMajor => facts::ROW_MAJOR,
    };
    number as u32
}

#[allow(
    clippy::too_many_arguments,
    reason = "one call site; a struct would only rename the arguments"
)]
fn fill(
    kernels: &Kernels,
    cuda_stream: &CudaStream,
    model: &Model,
    buffer: &Buffer,
    info: &WeightInfo,
    layout: WeightLayout,
    kind: Synthetic,
    layer: usize,
) -> Result<()> {
    let (matrices, rows, k) = dimensions(info);
    let (rows, k) = ((matrices * rows) as u32, k as u32);
    let order = order_number(layout);
    let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
    let (elements, first_index) = kind.elements(info, layer);
    if info.dtype == DType::Mxfp4 {
        let scales = stream(kind.seed, info.weight, layer, TensorPart::Scales);
        let params = FillMxfp4 {
            out: buffer.ptr(),
            code_key0: elements.key0,
            code_key1: elements.key1,
            scale_key0: scales.key0,
            scale_key1: scales.key1,
            scale_base: scale_base(k as usize),
            rows,
            k,
            order,
        };
        return kernels.launch(cuda_stream, &model.tools.fill_mxfp4, extent, &params);
    }
    let values = uniform(info.weight, k as usize);
    let params = FillBf16 {
        out: buffer.ptr(),
        key0: elements.key0,
        key1: elements.key1,
        offset: values.offset,
        spread: values.spread,
        scale: values.scale,
        rows,
        k,
        order,
        head_dim: model.spec.head_dim as u32,
        first_index,
    };
    kernels.launch(cuda_stream, &model.tools.fill_bf16, extent, &params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    /// What a rank copies from the packed whole is what packing its slice gives.
    #[test]
    fn tiles_of_a_slice_are_copied_from_the_whole() {
        let whole = ossmith_models::NANO;
        let checkpoint = Checkpoint::synthetic(whole, 3);
        for shard in Shard::all(2) {
            let local = shard.local(&whole.spec).expect("a divisible model");
            for weight in
                [Weight::Qkv, Weight::AttnOut, Weight::GateUp, Weight::Down, Weight::Unembedding]
            {
                let info = whole.graph.weight(weight, 0);
                let (matrices, rows, k) = info.matrices();
                let slice = local.slice(&whole.spec, info).expect("a part");
                let layout = layout_of(whole, weight).expect("a layout");
                let loaded = checkpoint.load(weight, 0).expect("a tensor");
                let pack = |slice: &Slice| match layout {
                    WeightLayout::Bf16Tiles(order) => {
                        pack_bf16(&loaded.as_tensor(), k, slice, order)
                    }
                    WeightLayout::Mxfp4Tiles(order) => {
                        let tensor = loaded.as_tensor();
                        let packed = pack_mxfp4(&tensor, matrices, [rows, k], slice, order);
                        packed.expect("good scales").bytes
                    }
                    WeightLayout::RowMajor => panic!("{weight:?} has no tiles"),
                };
                let (all, own) = (pack(&Slice::whole(rows, k)), pack(&slice));
                let mut copied = vec![0; own.len()];
                for copy in tile_copies(info, layout, &slice) {
                    for row in 0..copy.rows {
                        let source = &all[copy.source + row * copy.source_pitch..][..copy.bytes];
                        copied[copy.target + row * copy.target_pitch..][..copy.bytes]
                            .copy_from_slice(source);
                    }
                }
                assert!(copied == own, "{weight:?} of rank {}", shard.rank);
            }
        }
    }
}
