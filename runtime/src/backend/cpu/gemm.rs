//! GEMMs: rows of packed weights times rows of f32 activations.
//!
//! Every output element is one weight row times one activation row, summed in an order that depends on the
//! instruction set alone, so that a token's results have the same bits in any batch. Weights are read once for
//! each chunk of rows and all its activation rows; a thread computes one chunk at a time.

use std::ops::Range;

use rayon::prelude::*;

use super::floats::Floats;
use super::isa::Isa;
use super::simd;
use super::weights::Rows;

/// Multiply-adds below which distributing the work over threads costs more than it saves.
const SERIAL_WORK: usize = 1 << 16;
/// Upper bound on the weight bytes of a chunk, so that it stays in a core's cache while its token tiles are computed.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunk rows are a multiple of this, so that kernels get whole row tiles.
const CHUNK_ROWS: usize = 8;

/// Some weight rows, and the activation rows that they are multiplied with.
pub(super) struct Gemm<'a> {
    /// The weights.
    pub(super) weights: Rows<'a>,
    /// One element per weight row, or empty.
    pub(super) bias: Vec<f32>,
    /// Output column of the first weight row.
    pub(super) column: usize,
    /// Pairs of an input row and an output row.
    pub(super) pairs: Vec<(u32, u32)>,
}

/// Working memory of [`run`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    packed: Floats,
    results: Vec<f32>,
    /// Results of the distinct rows, before they are copied to all rows.
    pub(super) distinct: Vec<f32>,
}

/// Some rows of one GEMM, computed by one thread.
struct Task<'a> {
    gemm: usize,
    rows: Range<usize>,
    /// `[pairs, rows]`.
    results: &'a mut [f32],
}

/// `out[output row][column + i] = weights[i] · x[input row] + bias[i]` for every GEMM; `x` is `[_, k]`,
/// `out` is `[_, width]`.
pub(super) fn run(
    isa: Isa,
    gemms: &[Gemm<'_>],
    x: &[f32],
    out: &mut [f32],
    width: usize,
    scratch: &mut Scratch,
) {
    let Some(k) = gemms.first().map(|gemm| gemm.weights.k()) else { return };
    let sizes = gemms.iter().map(|gemm| gemm.weights.rows() * gemm.pairs.len());
    let total: usize = sizes.sum();
    let parallel = total * k > SERIAL_WORK;
    let packed = scratch.packed.first(x.len());
    simd::pack(isa, x, packed);
    if scratch.results.len() < total {
        scratch.results.resize(total, 0.0);
    }
    let (packed, results) = (&*packed, &mut scratch.results[..total]);
    let compute = |task: Task<'_>| {
        let gemm = &gemms[task.gemm];
        let row = |&(input, _): &(u32, u32)| &packed[input as usize * k..(input as usize + 1) * k];
        let xs: Vec<&[f32]> = gemm.pairs.iter().map(row).collect();
        simd::gemm(isa, &gemm.weights, task.rows, &xs, task.results);
    };
    let tasks = split(gemms, results);
    if parallel {
        tasks.into_par_iter().for_each(compute);
    } else {
        tasks.into_iter().for_each(compute);
    }
    scatter(gemms, results, out, width, parallel);
}

/// Rows of one task of a GEMM.
fn chunk_rows(gemm: &Gemm<'_>) -> usize {
    let rows = gemm.weights.rows();
    let row_bytes = match gemm.weights {
        Rows::Bf16(_) => 2 * gemm.weights.k(),
        Rows::Mxfp4(_) => gemm.weights.k() * 17 / 32,
        Rows::Q8(_) => gemm.weights.k() * 34 / 32,
    };
    let shared = rows.div_ceil(4 * rayon::current_num_threads());
    let cached = CHUNK_BYTES / row_bytes;
    shared.min(cached).next_multiple_of(CHUNK_ROWS)
}

fn split<'a>(gemms: &[Gemm<'_>], mut results: &'a mut [f32]) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    for (index, gemm) in gemms.iter().enumerate() {
        let (rows, step) = (gemm.weights.rows(), chunk_rows(gemm));
        for start in (0..rows).step_by(step) {
            let rows = start..rows.min(start + step);
            let (own, rest) = results.split_at_mut(rows.len() * gemm.pairs.len());
            results = rest;
            tasks.push(Task { gemm: index, rows, results: own });
        }
    }
    tasks
}

/// Copies the tasks' results to the output rows and adds the bias.
fn scatter(gemms: &[Gemm<'_>], results: &[f32], out: &mut [f32], width: usize, parallel: bool) {
    let mut starts = vec![0; gemms.len()];
    let mut sources: Vec<(u32, u32, u32)> = Vec::new();
    let mut start = 0;
    for (index, gemm) in gemms.iter().enumerate() {
        starts[index] = start;
        start += gemm.weights.rows() * gemm.pairs.len();
        let pairs = gemm.pairs.iter().enumerate();
        sources.extend(pairs.map(|(pair, &(_, row))| (row, index as u32, pair as u32)));
    }
    sources.sort_unstable();
    let fill = |(row, out): (usize, &mut [f32])| {
        let from = sources.partition_point(|source| (source.0 as usize) < row);
        for &(_, index, pair) in sources[from..].iter().take_while(|s| s.0 as usize == row) {
            let gemm = &gemms[index as usize];
            gather(gemm, &results[starts[index as usize]..], pair as usize, out);
        }
    };
    if parallel {
        out.par_chunks_mut(width).enumerate().for_each(fill);
    } else {
        out.chunks_mut(width).enumerate().for_each(fill);
    }
}

/// Collects one output row of a GEMM from its chunks.
fn gather(gemm: &Gemm<'_>, mut results: &[f32], pair: usize, out: &mut [f32]) {
    let (rows, step) = (gemm.weights.rows(), chunk_rows(gemm));
    let out = &mut out[gemm.column..gemm.column + rows];
    for chunk in out.chunks_mut(step) {
        chunk.copy_from_slice(&results[pair * chunk.len()..(pair + 1) * chunk.len()]);
        results = &results[chunk.len() * gemm.pairs.len()..];
    }
    for (out, bias) in out.iter_mut().zip(&gemm.bias) {
        *out += bias;
    }
}
