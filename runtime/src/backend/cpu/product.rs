//! Matrix products: rows of packed weights times rows of f32 activations.
//!
//! Every output element is one weight row times one activation row, summed in an order that depends on the
//! instruction set alone, so that a token's results have the same bits in any batch. Weights are read once for
//! each chunk of rows and all its activation rows; chunks are what threads share.

use std::ops::Range;

use rayon::prelude::*;

use super::floats::Floats;
use super::isa::Isa;
use super::simd;
use super::weights::Rows;

/// Multiply-adds below which handing work to other threads costs more than it saves.
const SERIAL_WORK: usize = 1 << 16;
/// Bytes of weights that a chunk should not pass, to stay in a core's cache while token tiles go over it.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunk rows are a multiple of this, so that kernels meet whole row tiles.
const CHUNK_ROWS: usize = 8;

/// Some weight rows, and the activation rows that they multiply.
pub(super) struct Product<'a> {
    /// The weights.
    pub(super) weights: Rows<'a>,
    /// One a weight row, or empty.
    pub(super) bias: Vec<f32>,
    /// Output column of the first weight row.
    pub(super) column: usize,
    /// (input row, output row) pairs.
    pub(super) pairs: Vec<(u32, u32)>,
}

/// Working memory of [`run`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    packed: Floats,
    results: Vec<f32>,
    /// Results over different rows, before they are spread.
    pub(super) distinct: Vec<f32>,
}

/// One thread's share: some rows of one product.
struct Task<'a> {
    product: usize,
    rows: Range<usize>,
    /// `[pairs, rows]`.
    results: &'a mut [f32],
}

/// `out[output row][column + i] = weights[i] · x[input row] + bias[i]` for every product; `x` is `[_, k]`, `out`
/// `[_, width]`.
pub(super) fn run(
    isa: Isa,
    products: &[Product<'_>],
    x: &[f32],
    out: &mut [f32],
    width: usize,
    scratch: &mut Scratch,
) {
    let Some(k) = products.first().map(|product| product.weights.k()) else { return };
    let sizes = products.iter().map(|product| product.weights.rows() * product.pairs.len());
    let total: usize = sizes.sum();
    let parallel = total * k > SERIAL_WORK;
    let packed = scratch.packed.first(x.len());
    simd::pack(isa, x, packed);
    if scratch.results.len() < total {
        scratch.results.resize(total, 0.0);
    }
    let (packed, results) = (&*packed, &mut scratch.results[..total]);
    let compute = |task: Task<'_>| {
        let product = &products[task.product];
        let row = |&(input, _): &(u32, u32)| &packed[input as usize * k..(input as usize + 1) * k];
        let xs: Vec<&[f32]> = product.pairs.iter().map(row).collect();
        simd::products(isa, &product.weights, task.rows, &xs, task.results);
    };
    let tasks = split(products, results);
    if parallel {
        tasks.into_par_iter().for_each(compute);
    } else {
        tasks.into_iter().for_each(compute);
    }
    scatter(products, results, out, width, parallel);
}

/// Rows of one task of a product.
fn chunk_rows(product: &Product<'_>) -> usize {
    let rows = product.weights.rows();
    let row_bytes = match product.weights {
        Rows::Bf16(_) => 2 * product.weights.k(),
        Rows::Mxfp4(_) => product.weights.k() * 17 / 32,
    };
    let shared = rows.div_ceil(4 * rayon::current_num_threads());
    let cached = CHUNK_BYTES / row_bytes;
    shared.min(cached).next_multiple_of(CHUNK_ROWS)
}

fn split<'a>(products: &[Product<'_>], mut results: &'a mut [f32]) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    for (index, product) in products.iter().enumerate() {
        let (rows, step) = (product.weights.rows(), chunk_rows(product));
        for start in (0..rows).step_by(step) {
            let rows = start..rows.min(start + step);
            let (own, rest) = results.split_at_mut(rows.len() * product.pairs.len());
            results = rest;
            tasks.push(Task { product: index, rows, results: own });
        }
    }
    tasks
}

/// Moves the tasks' results to their places and adds the bias.
fn scatter(
    products: &[Product<'_>],
    results: &[f32],
    out: &mut [f32],
    width: usize,
    parallel: bool,
) {
    let mut starts = vec![0; products.len()];
    let mut sources: Vec<(u32, u32, u32)> = Vec::new();
    let mut start = 0;
    for (index, product) in products.iter().enumerate() {
        starts[index] = start;
        start += product.weights.rows() * product.pairs.len();
        let places = product.pairs.iter().enumerate();
        sources.extend(places.map(|(pair, &(_, row))| (row, index as u32, pair as u32)));
    }
    sources.sort_unstable();
    let fill = |(row, out): (usize, &mut [f32])| {
        let from = sources.partition_point(|source| (source.0 as usize) < row);
        for &(_, index, pair) in sources[from..].iter().take_while(|s| s.0 as usize == row) {
            let product = &products[index as usize];
            gather(product, &results[starts[index as usize]..], pair as usize, out);
        }
    };
    if parallel {
        out.par_chunks_mut(width).enumerate().for_each(fill);
    } else {
        out.chunks_mut(width).enumerate().for_each(fill);
    }
}

/// Collects one output row of a product from its chunks.
fn gather(product: &Product<'_>, mut results: &[f32], pair: usize, out: &mut [f32]) {
    let (rows, step) = (product.weights.rows(), chunk_rows(product));
    let out = &mut out[product.column..product.column + rows];
    for chunk in out.chunks_mut(step) {
        chunk.copy_from_slice(&results[pair * chunk.len()..(pair + 1) * chunk.len()]);
        results = &results[chunk.len() * product.pairs.len()..];
    }
    for (out, bias) in out.iter_mut().zip(&product.bias) {
        *out += bias;
    }
}
