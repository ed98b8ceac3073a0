//! The kernels, written once over [`Vector`]. They are inlined into the entry points of `simd`, which enable an
//! instruction set.
//!
//! Sums run in one order for each output element, whatever is computed beside it: one register sums a product's
//! every `LANES`-th pair of elements over k, and is added up at the end; attention adds keys in order of position.
//!
//! Safety, for the whole file: the entry points give the instruction set. Pointers come from slices whose lengths are
//! asserted where they are taken, or from [`Bf16Rows`] and [`Mxfp4Rows`], which hold whole rows.
#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::super::attention::View;
use super::super::cache::TILE;
use super::super::scalar::E8M0;
use super::super::weights::{BLOCK, Bf16Rows, Mxfp4Rows};
use super::vector::Vector;

/// Weight rows that are read a pair of registers at a time.
pub(super) trait Packed {
    /// Where a row starts.
    type Row: Copy;
    /// Row `row`; it must exist.
    fn row(&self, row: usize) -> Self::Row;
    /// Elements `2 * LANES * step ..` of a row: the even ones, then the odd ones; they must exist.
    unsafe fn pair<V: Vector>(row: Self::Row, step: usize) -> (V, V);
    /// Elements in a row.
    fn k(&self) -> usize;
}

impl Packed for Bf16Rows<'_> {
    type Row = *const u8;

    #[inline(always)]
    fn row(&self, row: usize) -> Self::Row {
        Bf16Rows::row(self, row).as_ptr()
    }

    #[inline(always)]
    unsafe fn pair<V: Vector>(row: Self::Row, step: usize) -> (V, V) {
        V::bf16_pair(row.add(4 * V::LANES * step))
    }

    fn k(&self) -> usize {
        Bf16Rows::k(self)
    }
}

impl Packed for Mxfp4Rows<'_> {
    type Row = (*const u8, *const u8);

    #[inline(always)]
    fn row(&self, row: usize) -> Self::Row {
        (self.codes(row).as_ptr(), self.scales(row).as_ptr())
    }

    #[inline(always)]
    unsafe fn pair<V: Vector>((codes, scales): Self::Row, step: usize) -> (V, V) {
        let scale = E8M0[usize::from(*scales.add(2 * V::LANES * step / BLOCK))];
        V::mxfp4_pair(codes.add(V::LANES * step), scale)
    }

    fn k(&self) -> usize {
        Mxfp4Rows::k(self)
    }
}

/// Reorders each `2 * LANES` elements to the even ones, then the odd ones, as [`Packed::pair`] yields weights.
pub(super) fn pack(lanes: usize, x: &[f32], packed: &mut [f32]) {
    for (x, packed) in x.chunks_exact(2 * lanes).zip(packed.chunks_exact_mut(2 * lanes)) {
        let (even, odd) = packed.split_at_mut(lanes);
        for ((x, even), odd) in x.as_chunks::<2>().0.iter().zip(even).zip(odd) {
            (*even, *odd) = (x[0], x[1]);
        }
    }
}

/// See `simd::products`.
#[inline(always)]
pub(super) unsafe fn products<V: Vector, W: Packed>(
    weights: &W,
    rows: Range<usize>,
    xs: &[&[f32]],
    out: &mut [f32],
) {
    assert!(xs.iter().all(|x| x.len() == weights.k()) && out.len() == xs.len() * rows.len());
    for (xs, out) in xs.chunks(4).zip(out.chunks_mut(4 * rows.len())) {
        let rows = rows.clone();
        match *xs {
            [a, b, c, d] => sweep::<V, W, 4>(weights, rows, [a, b, c, d].map(<[f32]>::as_ptr), out),
            [a, b, c] => sweep::<V, W, 3>(weights, rows, [a, b, c].map(<[f32]>::as_ptr), out),
            [a, b] => sweep::<V, W, 2>(weights, rows, [a, b].map(<[f32]>::as_ptr), out),
            [a] => sweep::<V, W, 1>(weights, rows, [a.as_ptr()], out),
            _ => {}
        }
    }
}

/// All rows times `T` activation rows, in tiles of as many weight rows as the registers hold.
#[inline(always)]
unsafe fn sweep<V: Vector, W: Packed, const T: usize>(
    weights: &W,
    rows: Range<usize>,
    xs: [*const f32; T],
    out: &mut [f32],
) {
    let (mut row, start) = (rows.start, rows.start);
    while row < rows.end {
        let left = rows.end - row;
        let out = &mut out[row - start..];
        row += match (T, V::LANES) {
            (1, _) if left >= 8 => tile::<V, W, 8, T>(weights, row, xs, out, rows.len()),
            (_, 16) if left >= 4 => tile::<V, W, 4, T>(weights, row, xs, out, rows.len()),
            _ if left >= 2 => tile::<V, W, 2, T>(weights, row, xs, out, rows.len()),
            _ => tile::<V, W, 1, T>(weights, row, xs, out, rows.len()),
        };
    }
}

/// `R` weight rows times `T` activation rows; gives `R`.
#[inline(always)]
unsafe fn tile<V: Vector, W: Packed, const R: usize, const T: usize>(
    weights: &W,
    row: usize,
    xs: [*const f32; T],
    out: &mut [f32],
    stride: usize,
) -> usize {
    let rows: [W::Row; R] = std::array::from_fn(|r| weights.row(row + r));
    let mut sums = [[V::splat(0.0); T]; R];
    for step in 0..weights.k() / (2 * V::LANES) {
        for r in 0..R {
            let (even, odd) = W::pair::<V>(rows[r], step);
            for t in 0..T {
                let x = xs[t].add(2 * V::LANES * step);
                sums[r][t] = even.fma(V::load(x), sums[r][t]);
                sums[r][t] = odd.fma(V::load(x.add(V::LANES)), sums[r][t]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            out[t * stride + r] = sum.sum();
        }
    }
    R
}

/// See `simd::rms_norm`.
#[inline(always)]
pub(super) unsafe fn rms_norm<V: Vector>(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == scale.len() && x.len() == out.len() && x.len().is_multiple_of(V::LANES));
    let steps = (0..x.len()).step_by(V::LANES);
    let mut squares = V::splat(0.0);
    for at in steps.clone() {
        let x = V::load(x.as_ptr().add(at));
        squares = x.fma(x, squares);
    }
    let inverse = V::splat(1.0 / (squares.sum() / x.len() as f32 + eps).sqrt());
    for at in steps {
        let scaled = V::load(x.as_ptr().add(at)).mul(inverse);
        scaled.mul(V::load(scale.as_ptr().add(at))).store(out.as_mut_ptr().add(at));
    }
}

/// `e^x` within two units in the last place for `-87 <= x <= 88`; beyond, the value at the bound.
#[inline(always)]
unsafe fn exp<V: Vector>(x: V) -> V {
    let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
    // Adding 1.5 * 2^23 rounds to an integer in the low bits; 127 more makes it an exponent.
    let magic = V::splat(12_582_912.0 + 127.0);
    let rounded = x.fma(V::splat(std::f32::consts::LOG2_E), magic);
    let integer = rounded.add(V::splat(-(12_582_912.0 + 127.0)));
    // ln 2 in two parts, the first with few enough bits that its product is exact.
    let rest = integer.fma(V::splat(-0.693_359_4), x);
    let rest = integer.fma(V::splat(2.121_944_4e-4), rest);
    // Taylor's series: |rest| <= ln(2) / 2, so the first term left out is below 6e-9.
    let mut sum = V::splat(1.0 / 5040.0);
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = sum.fma(rest, V::splat(1.0 / factorial));
    }
    sum.mul(rounded.to_exponent())
}

/// See `simd::attend`.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector>(view: &View<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let (group, padded) = (view.sinks.len(), view.tiles.len() * TILE);
    assert!(view.queries.len() == group * view.head_dim && out.len() == view.queries.len());
    assert!(view.head_dim.is_multiple_of(2 * V::LANES));
    scores.clear();
    scores.resize(group * padded, 0.0);
    let mut head = 0;
    while head < group {
        let width = view.head_dim;
        let scores = &mut scores[head * padded..];
        let out = &mut out[head * width..];
        head += match group - head {
            left if left >= 4 && V::HEADS >= 4 => heads::<V, 4>(view, head, scores, out),
            left if left >= 2 => heads::<V, 2>(view, head, scores, out),
            _ => heads::<V, 1>(view, head, scores, out),
        };
    }
}

/// `H` query heads; gives `H`.
#[inline(always)]
unsafe fn heads<V: Vector, const H: usize>(
    view: &View<'_>,
    head: usize,
    scores: &mut [f32],
    out: &mut [f32],
) -> usize {
    let (width, padded) = (view.head_dim, view.tiles.len() * TILE);
    let queries: [*const f32; H] =
        std::array::from_fn(|h| view.queries[(head + h) * width..].as_ptr());
    for (index, &at) in view.tiles.iter().enumerate() {
        let keys = view.storage[at..at + width * TILE].as_ptr();
        for lanes in (0..TILE).step_by(V::LANES) {
            key_scores::<V, H>(
                view,
                queries,
                keys.add(lanes),
                &mut scores[index * TILE + lanes..],
                padded,
            );
        }
    }
    let visible = view.keys.start % TILE..view.keys.start % TILE + view.keys.len();
    let mut inverses = [0.0; H];
    for (h, inverse) in inverses.iter_mut().enumerate() {
        let scores = &mut scores[h * padded..(h + 1) * padded];
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        *inverse = 1.0 / softmax::<V>(scores, view.sinks[head + h]);
    }
    for dims in (0..width).step_by(2 * V::LANES) {
        weigh_values::<V, H>(view, scores, padded, dims, inverses, out);
    }
    H
}

/// `scores[h][lane] = scale * query[h] · key[lane]` for `LANES` transposed keys.
#[inline(always)]
unsafe fn key_scores<V: Vector, const H: usize>(
    view: &View<'_>,
    queries: [*const f32; H],
    keys: *const f32,
    scores: &mut [f32],
    padded: usize,
) {
    // Two sums a head, over even and odd dimensions, hide the latency of the additions.
    let mut sums = [[V::splat(0.0); 2]; H];
    for dim in (0..view.head_dim).step_by(2) {
        let (even, odd) = (V::load(keys.add(dim * TILE)), V::load(keys.add((dim + 1) * TILE)));
        for h in 0..H {
            sums[h][0] = even.fma(V::splat(*queries[h].add(dim)), sums[h][0]);
            sums[h][1] = odd.fma(V::splat(*queries[h].add(dim + 1)), sums[h][1]);
        }
    }
    for (h, [even, odd]) in sums.into_iter().enumerate() {
        let scores = &mut scores[h * padded..h * padded + V::LANES];
        even.add(odd).mul(V::splat(view.scale)).store(scores.as_mut_ptr());
    }
}

/// Replaces scores by `exp(score - max)` and gives their sum, the sink's share included.
#[inline(always)]
unsafe fn softmax<V: Vector>(scores: &mut [f32], sink: f32) -> f32 {
    let largest = scores.iter().fold(sink, |a, &b| if b > a { b } else { a });
    let minus = V::splat(-largest);
    let mut sums = V::splat(0.0);
    for scores in scores.chunks_exact_mut(V::LANES) {
        let weights = exp(V::load(scores.as_ptr()).add(minus));
        weights.store(scores.as_mut_ptr());
        sums = sums.add(weights);
    }
    sums.sum() + (sink - largest).exp()
}

/// `out[h][dims..] = inverse[h] * Σ weight[h][key] * value[key][dims..]` for `2 * LANES` dimensions.
#[inline(always)]
unsafe fn weigh_values<V: Vector, const H: usize>(
    view: &View<'_>,
    scores: &[f32],
    padded: usize,
    dims: usize,
    inverses: [f32; H],
    out: &mut [f32],
) {
    let (width, first) = (view.head_dim, view.keys.start / TILE * TILE);
    assert!(scores.len() >= H * padded && padded == view.tiles.len() * TILE);
    let mut sums = [[V::splat(0.0); 2]; H];
    for (index, &at) in view.tiles.iter().enumerate() {
        let values = view.storage[at + width * TILE..at + 2 * width * TILE].as_ptr();
        let positions = first + index * TILE..first + (index + 1) * TILE;
        for position in positions.start.max(view.keys.start)..positions.end.min(view.keys.end) {
            let value = values.add((position - positions.start) * width + dims);
            let (low, high) = (V::load(value), V::load(value.add(V::LANES)));
            for (h, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*scores.get_unchecked(h * padded + position - first));
                sums[0] = low.fma(weight, sums[0]);
                sums[1] = high.fma(weight, sums[1]);
            }
        }
    }
    for (h, [low, high]) in sums.into_iter().enumerate() {
        let out = &mut out[h * width + dims..h * width + dims + 2 * V::LANES];
        low.mul(V::splat(inverses[h])).store(out.as_mut_ptr());
        high.mul(V::splat(inverses[h])).store(out.as_mut_ptr().add(V::LANES));
    }
}
