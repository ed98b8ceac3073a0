//! The kernels, written once over [`Vector`]. They are inlined into the entry points of `simd`, which enable an
//! instruction set.
//!
//! Each output element is summed in one order, whatever is computed beside it: each lane of a register sums every
//! `LANES`-th pair of elements over k, and the lanes are added at the end.
//!
//! Safety, for the whole file: the entry points enable the instruction set. Pointers come from slices whose lengths are
//! asserted where they are taken, or from [`Bf16Rows`], [`Mxfp4Rows`] and [`Q8Rows`], which hold rows of `k` elements.
#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::super::floats::LINE_BYTES;
use super::super::scalar::E8M0;
use super::super::weights::{BLOCK, Bf16Rows, Mxfp4Rows, Q8Rows, finite_f16};
use super::vector::Vector;

/// Weight rows that are read a pair of registers at a time.
pub(super) trait Packed {
    /// Where a row starts.
    type Row: Copy;
    /// Row `row`; it must exist.
    fn row(&self, row: usize) -> Self::Row;
    /// Elements `2 * LANES * step ..` of a row: the even ones, then the odd ones; they must exist.
    unsafe fn pair<V: Vector>(row: Self::Row, step: usize) -> (V, V);
    /// Prefetches what [`Packed::pair`] reads of the row that comes `rows` later, if there is one.
    unsafe fn prefetch<V: Vector>(&self, row: Self::Row, step: usize, rows: usize);
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

    #[inline(always)]
    unsafe fn prefetch<V: Vector>(&self, row: Self::Row, step: usize, rows: usize) {
        let at = 4 * V::LANES * step;
        if at.is_multiple_of(LINE_BYTES) {
            V::prefetch(row.wrapping_add(at + rows * 2 * self.stride()));
        }
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

    #[inline(always)]
    unsafe fn prefetch<V: Vector>(&self, (codes, _): Self::Row, step: usize, rows: usize) {
        let at = V::LANES * step;
        if at.is_multiple_of(LINE_BYTES) {
            V::prefetch(codes.wrapping_add(at + rows * self.stride() / 2));
        }
    }

    fn k(&self) -> usize {
        Mxfp4Rows::k(self)
    }
}

impl Packed for Q8Rows<'_> {
    type Row = (*const u8, *const u8);

    #[inline(always)]
    fn row(&self, row: usize) -> Self::Row {
        (self.codes(row).as_ptr(), self.scales(row).as_ptr())
    }

    #[inline(always)]
    unsafe fn pair<V: Vector>((codes, scales): Self::Row, step: usize) -> (V, V) {
        let scale = scales.add(2 * (2 * V::LANES * step / BLOCK));
        V::q8_pair(codes.add(2 * V::LANES * step), finite_f16(*scale, *scale.add(1)))
    }

    #[inline(always)]
    unsafe fn prefetch<V: Vector>(&self, (codes, _): Self::Row, step: usize, rows: usize) {
        let at = 2 * V::LANES * step;
        if at.is_multiple_of(LINE_BYTES) {
            V::prefetch(codes.wrapping_add(at + rows * self.k()));
        }
    }

    fn k(&self) -> usize {
        Q8Rows::k(self)
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

/// See `simd::gemm`.
#[inline(always)]
pub(super) unsafe fn gemm<V: Vector, W: Packed>(
    weights: &W,
    rows: Range<usize>,
    xs: &[&[f32]],
    out: &mut [f32],
) {
    assert!(xs.iter().all(|x| x.len() == weights.k()) && out.len() == xs.len() * rows.len());
    for (index, (xs, out)) in xs.chunks(4).zip(out.chunks_mut(4 * rows.len())).enumerate() {
        // The first activations bring the weights into the cache; the others find them there.
        let sweep = Sweep { weights, rows: rows.clone(), prefetch: index == 0 };
        match *xs {
            [a, b, c, d] => sweep.run::<V, 4>([a, b, c, d].map(<[f32]>::as_ptr), out),
            [a, b, c] => sweep.run::<V, 3>([a, b, c].map(<[f32]>::as_ptr), out),
            [a, b] => sweep.run::<V, 2>([a, b].map(<[f32]>::as_ptr), out),
            [a] => sweep.run::<V, 1>([a.as_ptr()], out),
            _ => {}
        }
    }
}

/// One pass over some weight rows.
struct Sweep<'a, W> {
    weights: &'a W,
    rows: Range<usize>,
    /// Whether the rows come from memory, so that they are prefetched.
    prefetch: bool,
}

impl<W: Packed> Sweep<'_, W> {
    /// All rows times `T` activation rows, in tiles of as many weight rows as the registers hold.
    #[inline(always)]
    unsafe fn run<V: Vector, const T: usize>(&self, xs: [*const f32; T], out: &mut [f32]) {
        let mut row = self.rows.start;
        while row < self.rows.end {
            let left = self.rows.end - row;
            let out = &mut out[row - self.rows.start..];
            row += match (T, V::LANES) {
                (1, _) if left >= 8 => self.tile::<V, 8, T>(row, xs, out),
                (_, 16) if left >= 4 => self.tile::<V, 4, T>(row, xs, out),
                _ if left >= 2 => self.tile::<V, 2, T>(row, xs, out),
                _ => self.tile::<V, 1, T>(row, xs, out),
            };
        }
    }

    /// `R` weight rows times `T` activation rows; returns `R`.
    #[inline(always)]
    unsafe fn tile<V: Vector, const R: usize, const T: usize>(
        &self,
        row: usize,
        xs: [*const f32; T],
        out: &mut [f32],
    ) -> usize {
        let rows: [W::Row; R] = std::array::from_fn(|r| self.weights.row(row + r));
        let mut sums = [[V::splat(0.0); T]; R];
        for step in 0..self.weights.k() / (2 * V::LANES) {
            for r in 0..R {
                if self.prefetch {
                    self.weights.prefetch::<V>(rows[r], step, R);
                }
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
                out[t * self.rows.len() + r] = sum.sum();
            }
        }
        R
    }
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
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
    // Adding 1.5 * 2^23 rounds to an integer in the low bits; 127 more makes it an exponent.
    let magic = V::splat(12_582_912.0 + 127.0);
    let rounded = x.fma(V::splat(std::f32::consts::LOG2_E), magic);
    let integer = rounded.add(V::splat(-(12_582_912.0 + 127.0)));
    // ln 2 in two parts, the first with so few bits that multiplying by it is exact.
    let rest = integer.fma(V::splat(-0.693_359_4), x);
    let rest = integer.fma(V::splat(2.121_944_4e-4), rest);
    // Taylor's series: |rest| <= ln(2) / 2, so the first term left out is below 6e-9.
    let mut sum = V::splat(1.0 / 5040.0);
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = sum.fma(rest, V::splat(1.0 / factorial));
    }
    sum.mul(rounded.to_exponent())
}
