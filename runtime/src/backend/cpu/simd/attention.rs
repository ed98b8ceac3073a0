//! Attention over cache tiles, written once over [`Vector`] and inlined into the entry points of `simd`.
//!
//! Tokens that share their keys are processed together, one span of tiles at a time: first the span's keys with all
//! queries, then its values with all weights. The softmax is online: its sums are rescaled when a maximum grows (Milakov &
//! Gimelshein 2018, "Online normalizer calculation for softmax"). The borders of spans depend on the position in the
//! sequence alone, and a token adds keys in order of position, so its bits do not depend on the other tokens of the step.
//!
//! Safety, for the whole file: the entry points enable the instruction set. Pointers come from slices that hold whole
//! tiles, whole heads and whole rows of scores, as [`attend`] asserts or lays them out.
#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::super::cache::TILE;
use super::super::floats::Floats;
use super::super::view::AttentionView;
use super::kernels::exp;
use super::vector::Vector;

/// Tiles of a span. Its values stay in a core's first-level cache (32 KB for heads of 64).
const SPAN: usize = 8;
/// Floats of a head's scores, later weights, over a span.
const SCORES: usize = SPAN * TILE;

/// One token of a task, at every query head.
struct Token<'a> {
    view: AttentionView<'a>,
    /// `[gqa_ratio, SCORES]`.
    scores: &'a mut [f32],
    /// Weights added up so far, lane by lane, `[gqa_ratio, TILE]`.
    sums: &'a mut [f32],
    /// The largest score so far, `[gqa_ratio]`.
    largest: &'a mut [f32],
    /// `[gqa_ratio, head_dim]`.
    out: &'a mut [f32],
}

impl Token<'_> {
    /// The tiles of a span that the token attends to, at least in part.
    fn visible_tiles(&self, span: usize) -> Range<usize> {
        let tiles = self.view.tile_range();
        tiles.start.max(span)..tiles.end.min(span + SPAN)
    }
}

/// Calls `kernel(head, …)` for all query heads: for as many at once as the registers hold.
macro_rules! for_heads {
    ($vector:ty, $token:expr, $kernel:ident($argument:expr)) => {{
        let (mut head, heads) = (0, $token.largest.len());
        while head < heads {
            head += match heads - head {
                left if left >= 4 && <$vector>::HEADS >= 4 => {
                    $kernel::<$vector, 4>($token, head, $argument)
                }
                left if left >= 2 => $kernel::<$vector, 2>($token, head, $argument),
                _ => $kernel::<$vector, 1>($token, head, $argument),
            };
        }
    }};
}

/// See `simd::attend`.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector>(
    views: &[AttentionView<'_>],
    memory: &mut Floats,
    outs: &mut [&mut [f32]],
) {
    let mut tokens = lay_out::<V>(views, memory, outs);
    let first = views.iter().map(|view| view.tile_range().start).min().unwrap_or(0);
    let end = views.iter().map(|view| view.tile_range().end).max().unwrap_or(0);
    for span in (first / SPAN * SPAN..end).step_by(SPAN) {
        for token in &mut tokens {
            for_heads!(V, token, score_keys(token.visible_tiles(span)));
        }
        for token in &mut tokens {
            softmax::<V>(token, token.visible_tiles(span));
            for_heads!(V, token, weigh_values(token.visible_tiles(span)));
        }
    }
    for token in &mut tokens {
        finish::<V>(token);
    }
}

/// Assigns every token its part of the working memory, initialised for the first key.
fn lay_out<'a, V: Vector>(
    views: &[AttentionView<'a>],
    memory: &'a mut Floats,
    outs: &'a mut [&mut [f32]],
) -> Vec<Token<'a>> {
    let gqa_ratio = views.first().map_or(0, |view| view.sinks.len());
    // Whole tiles, so that every row begins at a cache line.
    let size = gqa_ratio * (SCORES + TILE) + gqa_ratio.next_multiple_of(TILE);
    let parts = memory.first(views.len() * size).chunks_exact_mut(size.max(1));
    let token = |((view, out), part): ((&AttentionView<'a>, &'a mut &mut [f32]), &'a mut [f32])| {
        assert!(view.head_dim.is_multiple_of(2 * V::LANES) && view.sinks.len() == gqa_ratio);
        assert!(view.queries.len() == gqa_ratio * view.head_dim && out.len() == view.queries.len());
        let (scores, rest) = part.split_at_mut(gqa_ratio * SCORES);
        let (sums, rest) = rest.split_at_mut(gqa_ratio * TILE);
        let largest = &mut rest[..gqa_ratio];
        sums.fill(0.0);
        out.fill(0.0);
        largest.copy_from_slice(view.sinks);
        Token { view: *view, scores, sums, largest, out }
    };
    views.iter().zip(outs).zip(parts).map(token).collect()
}

/// Scores of `H` query heads over some tiles of a span; returns `H`.
#[inline(always)]
unsafe fn score_keys<V: Vector, const H: usize>(
    token: &mut Token<'_>,
    head: usize,
    tiles: Range<usize>,
) -> usize {
    let mut tile = tiles.start;
    while tile < tiles.end {
        // Four registers of keys share each query element; at the end of the visible tiles, those of one tile.
        tile += match (tiles.end - tile) * TILE / V::LANES {
            4.. => key_scores::<V, H, 4>(token, head, tile),
            _ if V::LANES == TILE => key_scores::<V, H, 1>(token, head, tile),
            _ => key_scores::<V, H, 2>(token, head, tile),
        };
    }
    H
}

/// `score = scale * query · key` for `H` query heads and `R` registers of transposed keys; returns the number of tiles.
#[inline(always)]
unsafe fn key_scores<V: Vector, const H: usize, const R: usize>(
    token: &mut Token<'_>,
    head: usize,
    tile: usize,
) -> usize {
    let view = token.view;
    let queries: [*const f32; H] =
        std::array::from_fn(|h| view.queries[(head + h) * view.head_dim..].as_ptr());
    let keys: [*const f32; R] = std::array::from_fn(|r| {
        view.tile(tile + r * V::LANES / TILE).0[r * V::LANES % TILE..].as_ptr()
    });
    let mut sums = [[V::splat(0.0); R]; H];
    for dim in 0..view.head_dim {
        let mut key = [V::splat(0.0); R];
        for (key, keys) in key.iter_mut().zip(keys) {
            *key = V::load(keys.add(dim * TILE));
        }
        for (sums, query) in sums.iter_mut().zip(queries) {
            let query = V::splat(*query.add(dim));
            for (sum, key) in sums.iter_mut().zip(key) {
                *sum = key.fma(query, *sum);
            }
        }
    }
    for (h, sums) in sums.into_iter().enumerate() {
        let from = (head + h) * SCORES + tile % SPAN * TILE;
        let scores = token.scores[from..from + R * V::LANES].chunks_exact_mut(V::LANES);
        for (sum, scores) in sums.into_iter().zip(scores) {
            sum.mul(V::splat(view.scale)).store(scores.as_mut_ptr());
        }
    }
    R * V::LANES / TILE
}

/// Replaces the scores of some tiles of a span by `exp(score - largest)` and sums them. Where the largest score has
/// grown, the earlier sums are rescaled.
#[inline(always)]
unsafe fn softmax<V: Vector>(token: &mut Token<'_>, tiles: Range<usize>) {
    if tiles.is_empty() {
        return;
    }
    let (view, width) = (token.view, token.view.head_dim);
    let start = tiles.start % SPAN * TILE;
    let shown = visible(&view, &tiles);
    for (head, largest) in token.largest.iter_mut().enumerate() {
        let scores = &mut token.scores[head * SCORES + start..][..tiles.len() * TILE];
        scores[..shown.start].fill(f32::NEG_INFINITY);
        scores[shown.end..].fill(f32::NEG_INFINITY);
        let sums = &mut token.sums[head * TILE..(head + 1) * TILE];
        let grown = max::<V>(scores, *largest);
        if grown > *largest {
            let shrink = (*largest - grown).exp();
            scale::<V>(sums, shrink);
            scale::<V>(&mut token.out[head * width..(head + 1) * width], shrink);
            *largest = grown;
        }
        let minus = V::splat(-*largest);
        for scores in scores.chunks_exact_mut(TILE) {
            for lanes in (0..TILE).step_by(V::LANES) {
                let (score, sum) = (scores.as_mut_ptr().add(lanes), sums.as_mut_ptr().add(lanes));
                let weights = exp(V::load(score).add(minus));
                weights.store(score);
                V::load(sum).add(weights).store(sum);
            }
        }
    }
}

/// The keys of some tiles that a token attends to, counted from the first key of the first tile.
fn visible(view: &AttentionView<'_>, tiles: &Range<usize>) -> Range<usize> {
    let (first, end) = (tiles.start * TILE, tiles.end * TILE);
    view.first.max(first) - first..(view.last + 1).min(end) - first
}

/// The largest of `scores` and `least`; NaN is ignored.
#[inline(always)]
unsafe fn max<V: Vector>(scores: &[f32], least: f32) -> f32 {
    let mut largest = V::splat(least);
    for scores in scores.chunks_exact(V::LANES) {
        largest = largest.max(V::load(scores.as_ptr()));
    }
    let mut lanes = [least; TILE];
    largest.store(lanes.as_mut_ptr());
    lanes.into_iter().fold(least, f32::max)
}

/// `x *= factor`, for whole registers.
#[inline(always)]
unsafe fn scale<V: Vector>(x: &mut [f32], factor: f32) {
    for x in x.chunks_exact_mut(V::LANES) {
        V::load(x.as_ptr()).mul(V::splat(factor)).store(x.as_mut_ptr());
    }
}

/// `out += Σ weight[key] * value[key]` over the visible keys of some tiles of a span, for `H` query heads; returns `H`.
#[inline(always)]
unsafe fn weigh_values<V: Vector, const H: usize>(
    token: &mut Token<'_>,
    head: usize,
    tiles: Range<usize>,
) -> usize {
    let (mut dim, width) = (0, token.view.head_dim);
    while dim < width {
        dim += match (width - dim) / V::LANES {
            4.. => weighted_values::<V, H, 4>(token, head, tiles.clone(), dim),
            _ => weighted_values::<V, H, 2>(token, head, tiles.clone(), dim),
        };
    }
    H
}

/// The same for `R` registers of dimensions from `dim` on; returns the number of dimensions.
#[inline(always)]
unsafe fn weighted_values<V: Vector, const H: usize, const R: usize>(
    token: &mut Token<'_>,
    head: usize,
    tiles: Range<usize>,
    dim: usize,
) -> usize {
    let (view, width) = (token.view, token.view.head_dim);
    let weights: [&[f32]; H] =
        std::array::from_fn(|h| &token.scores[(head + h) * SCORES..(head + h + 1) * SCORES]);
    let outs = &mut token.out[head * width..(head + H) * width];
    let mut sums = [[V::splat(0.0); R]; H];
    for (sums, out) in sums.iter_mut().zip(outs.chunks_exact(width)) {
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = V::load(out.as_ptr().add(dim + r * V::LANES));
        }
    }
    for tile in tiles {
        let values = view.tile(tile).1.as_ptr().add(dim);
        for lane in visible(&view, &(tile..tile + 1)) {
            let mut value = [V::splat(0.0); R];
            for (r, value) in value.iter_mut().enumerate() {
                *value = V::load(values.add(lane * width + r * V::LANES));
            }
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = V::splat(*weights.get_unchecked(tile % SPAN * TILE + lane));
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = value.fma(weight, *sum);
                }
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(outs.chunks_exact_mut(width)) {
        for (r, sum) in sums.into_iter().enumerate() {
            sum.store(out.as_mut_ptr().add(dim + r * V::LANES));
        }
    }
    R * V::LANES
}

/// Divides by the sum of the weights, including the sink's weight.
#[inline(always)]
unsafe fn finish<V: Vector>(token: &mut Token<'_>) {
    let heads = token.out.chunks_exact_mut(token.view.head_dim).zip(token.view.sinks);
    for ((out, sink), (sums, largest)) in
        heads.zip(token.sums.chunks_exact(TILE).zip(&*token.largest))
    {
        let mut sum = V::splat(0.0);
        for lanes in sums.chunks_exact(V::LANES) {
            sum = sum.add(V::load(lanes.as_ptr()));
        }
        scale::<V>(out, 1.0 / (sum.sum() + (sink - largest).exp()));
    }
}
