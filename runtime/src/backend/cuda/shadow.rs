//! The 8-bit shadow of the unembedding: it is made from the packed weight when that is loaded, and decode steps whose rows are
//! sampled greedily or by temperature alone read it instead ([`super::forward`]).
//!
//! Their tokens are those of the whole unembedding, always: the shadow gives every logit within a bound that holds whatever
//! the roundings are, and the row tiles that can hold the token by these bounds are computed as the unembedding does.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::facts::MAX_DECODE_TOKENS;
use ossmith_plan::params::{MakeShadow, ShadowLowerBound, ShadowRowBound, ShadowTileBound};
use ossmith_plan::{Model, TILE_ROWS, Weight, shadow_bytes};

use super::kernels::{Extent, Kernels};
use super::memory::{Buffer, device_error};
use super::weights::DeviceWeights;
use crate::Result;

/// The shadow, and what passes between the kernels that read it: on the device, or just its size.
#[derive(Debug)]
pub(super) struct Shadow<B = Buffer> {
    /// Codes and scales in tiles.
    pub codes: B,
    /// How far each row may lie from the unembedding's.
    pub row_bounds: B,
    /// `[MAX_DECODE_TOKENS][row tiles]`.
    pub tile_bounds: B,
    /// `[MAX_DECODE_TOKENS]`, zero between steps.
    pub lower_bounds: B,
    /// Row tiles whose logits are computed.
    pub candidates: B,
    /// How many they are, and an arrival counter; both zero between steps.
    pub counters: B,
}

/// Bytes of each buffer; none where the model's schedules read no shadow.
pub(super) fn sizes(model: &Model) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    Shadow::build(model, |bytes, _| {
        sizes.push(bytes);
        Ok(())
    })?;
    Ok(sizes)
}

impl Shadow {
    /// Makes the shadow of the unembedding, if a schedule of the model reads it.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        kernels: &Kernels,
        model: &Model,
        weights: &DeviceWeights,
    ) -> Result<Option<Shadow>> {
        let make = |bytes, what| Buffer::zeroed(context, bytes, what);
        let Some(shadow) = Shadow::build(model, make)? else { return Ok(None) };
        shadow.fill(stream, kernels, model, weights)?;
        Ok(Some(shadow))
    }

    /// Makes the codes and their bounds from the unembedding that is placed now.
    pub(super) fn fill(
        &self,
        stream: &CudaStream,
        kernels: &Kernels,
        model: &Model,
        weights: &DeviceWeights,
    ) -> Result<()> {
        let (_, rows, k) = model.graph.weight(Weight::Unembedding, 0).matrices();
        let params = MakeShadow {
            weight: weights.ptr(Weight::Unembedding, 0),
            shadow: self.codes.ptr(),
            row_bounds: self.row_bounds.ptr(),
            rows: rows as u32,
            k: k as u32,
        };
        let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
        kernels.launch(stream, &model.tools.make_shadow, extent, &params)?;
        stream.synchronize().map_err(device_error("make the shadow of the unembedding"))
    }
}

impl<B> Shadow<B> {
    fn build(
        model: &Model,
        mut place: impl FnMut(usize, &'static str) -> Result<B>,
    ) -> Result<Option<Shadow<B>>> {
        if !model.has_shadow_head() {
            return Ok(None);
        }
        let (_, rows, k) = model.graph.weight(Weight::Unembedding, 0).matrices();
        let tiles = rows.div_ceil(TILE_ROWS);
        let of_rows = MAX_DECODE_TOKENS * size_of::<ShadowLowerBound>();
        let of_tiles = MAX_DECODE_TOKENS * tiles * size_of::<ShadowTileBound>();
        Ok(Some(Shadow {
            codes: place(shadow_bytes(rows, k), "the shadow of the unembedding")?,
            row_bounds: place(rows * size_of::<ShadowRowBound>(), "bounds of its rows")?,
            tile_bounds: place(of_tiles, "bounds of its row tiles")?,
            lower_bounds: place(of_rows, "bounds of rows of logits")?,
            candidates: place(tiles * size_of::<u32>(), "row tiles to compute")?,
            counters: place(2 * size_of::<u32>(), "a count of row tiles")?,
        }))
    }
}

/// What the kernels compute, on the host: the bounds hold, and the candidates have the token, whatever the rows are.
#[cfg(test)]
mod tests {
    use half::bf16;
    use ossmith_scalar::{
        SHADOW_STEPS, gumbel_of_bits, noise_bits, noise_stream, shadow_code, shadow_high_digit,
        shadow_low_digit, shadow_scale, steps_of_activation,
    };
    use proptest::prelude::*;

    /// Elements that share a scale.
    const BLOCK: usize = 64;
    /// As `kRounding` of 128 elements: eight tensor-core instructions and 64 other roundings.
    const ROUNDING: f32 = 72.0 / (1 << 20) as f32;
    const ROUND_UP: f32 = 1.001;
    /// More than the norm of the elements whose squares are less than any float.
    const LEAST: f32 = 1e-17;

    fn norm(values: impl Iterator<Item = f32>) -> f32 {
        values.map(|v| v * v).sum::<f32>().sqrt() * ROUND_UP + LEAST
    }

    /// A row of the shadow: codes, a scale for each block, and its bounds.
    struct Row {
        codes: Vec<i32>,
        scales: Vec<f32>,
        error: f32,
        norm: f32,
    }

    fn shadow(weights: &[f32]) -> Row {
        let (mut codes, mut scales, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for block in weights.chunks(BLOCK) {
            let scale = shadow_scale(block.iter().fold(0.0, |most, w| w.abs().max(most)));
            scales.push(scale);
            for &weight in block {
                let code = shadow_code(weight, scale);
                codes.push(code);
                left_out.push(weight - code as f32 * scale);
            }
        }
        let error = norm(left_out.into_iter());
        Row { codes, scales, norm: norm(weights.iter().copied()) + error, error }
    }

    /// (approximate logit, bound) of every row.
    fn bounds(rows: &[Row], activations: &[f32]) -> Vec<(f32, f32)> {
        let most = activations.iter().fold(0.0_f32, |most, x| x.abs().max(most));
        let usable = most > 1e-30;
        let step = if usable { most * (1.0 / SHADOW_STEPS) } else { 0.0 };
        let inverse = if usable { SHADOW_STEPS / most } else { 0.0 };
        let steps: Vec<i32> =
            activations.iter().map(|&x| steps_of_activation(x, inverse)).collect();
        let length = norm(activations.iter().copied());
        let rest = activations.iter().zip(&steps).map(|(x, &n)| (-(n as f32)).mul_add(step, *x));
        let left_out = norm(rest) + ROUNDING * length;
        let of_row = |row: &Row| {
            let blocks = row.codes.chunks(BLOCK).zip(steps.chunks(BLOCK)).zip(&row.scales);
            let sum = blocks.fold(0.0_f32, |sum, ((codes, steps), &scale)| {
                let dot = |digit: fn(i32) -> i32| -> i32 {
                    codes.iter().zip(steps).map(|(code, &n)| code * digit(n)).sum()
                };
                let exact = 256 * dot(shadow_high_digit) + dot(shadow_low_digit);
                (exact as f32).mul_add(scale, sum)
            });
            (sum * step, length.mul_add(row.error, left_out * row.norm))
        };
        rows.iter().map(of_row).collect()
    }

    /// Logits as an unembedding may compute them: sums of 16 at a time, each rounded.
    fn logits(weights: &[Vec<f32>], activations: &[f32]) -> Vec<f32> {
        let of_row = |row: &Vec<f32>| {
            let parts = row.chunks(16).zip(activations.chunks(16));
            parts
                .fold(0.0_f32, |sum, (w, x)| sum + w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>())
        };
        weights.iter().map(of_row).collect()
    }

    /// The token with the largest sum; of equal ones the first.
    fn best(sums: &[f32]) -> usize {
        (0..sums.len()).fold(0, |best, at| if sums[at] > sums[best] { at } else { best })
    }

    fn rounded(value: f32) -> f32 {
        bf16::from_f32(value).to_f32()
    }

    fn element() -> impl Strategy<Value = f32> {
        prop_oneof![
            8 => -1.0_f32..1.0,
            1 => Just(0.0),
            1 => -1000.0_f32..1000.0,
            1 => (-1.0_f32..1.0).prop_map(|x| x * 1e-6),
        ]
        .prop_map(rounded)
    }

    proptest! {
        #[test]
        fn the_token_is_among_the_candidates(
            base in prop::collection::vec(element(), 128),
            // Rows that differ from one another in a few elements, by the last bit or by more, or not at all.
            changes in prop::collection::vec((0_usize..128, -3_i32..4, element(), 0_u8..8), 40),
            activations in prop::collection::vec(element(), 128),
            sparse in prop_oneof![3 => Just(128_usize), 1 => 1_usize..3],
            // The last so small that no square of an element is a float.
            size in prop_oneof![3 => Just(1.0_f32), 1 => Just(1e-15), 1 => Just(1e-25)],
            temperature in prop_oneof![Just(0.0_f32), Just(1.0), Just(0.1), 0.01_f32..100.0],
            seed in any::<u64>(),
        ) {
            let weights: Vec<Vec<f32>> = changes
                .iter()
                .map(|&(at, units, other, kind)| {
                    let mut row = base.clone();
                    match kind {
                        0 => row.iter_mut().for_each(|w| *w = rounded(*w * other)),
                        1 | 2 => row[at] = other,
                        // The last bits of one element: worse than what eight bits resolve.
                        _ => row[at] = f32::from_bits((row[at].to_bits() as i32 + (units << 16)) as u32),
                    }
                    if row[at].is_finite() { row } else { base.clone() }
                })
                .collect();
            let mut activations = activations;
            activations[sparse..].fill(0.0);
            activations.iter_mut().for_each(|x| *x = rounded(*x * size));
            let rows: Vec<Row> = weights.iter().map(|row| shadow(row)).collect();
            let (bounds, exact) = (bounds(&rows, &activations), logits(&weights, &activations));
            for ((approximate, bound), logit) in bounds.iter().zip(&exact) {
                prop_assert!((approximate - logit).abs() <= *bound, "{approximate} {logit} {bound}");
            }
            let inverse = if temperature == 0.0 { 0.0 } else { temperature.recip() };
            let stream = noise_stream(seed, 7);
            let noise: Vec<f32> =
                (0..exact.len()).map(|at| gumbel_of_bits(noise_bits(stream, at as u32))).collect();
            let largest = exact[best(&exact)];
            let lowest = bounds.iter().map(|(a, e)| a - e).fold(f32::NEG_INFINITY, f32::max);
            let likeliest = best(&exact);
            prop_assert!(bounds[likeliest].0 + bounds[likeliest].1 >= lowest);
            if inverse > 0.0 {
                let sums: Vec<f32> =
                    exact.iter().zip(&noise).map(|(l, g)| (l - largest) * inverse + g).collect();
                let magnitude = bounds.iter().map(|(a, e)| a.abs() + e).fold(0.0, f32::max);
                let slack = (magnitude * inverse + 64.0) / (1 << 20) as f32;
                let lower = bounds.iter().zip(&noise).map(|((a, e), g)| (a - e) * inverse + g);
                let least = lower.fold(f32::NEG_INFINITY, f32::max) - slack;
                let token = best(&sums);
                prop_assert!((bounds[token].0 + bounds[token].1) * inverse + noise[token] >= least);
            }
        }
    }
}
