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

    use crate::sampling::{LogitChanges, Penalties, TokenHistory};

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

    /// The token that is sampled though its bounds exclude it, greedily or by temperature; none if all is well. Logits may be
    /// minus infinity, of tokens that are not sampled.
    fn missing(
        lower: &[f32],
        upper: &[f32],
        exact: &[f32],
        noise: &[f32],
        inverse: f32,
    ) -> Option<usize> {
        let likeliest = best(exact);
        if exact[likeliest] == f32::NEG_INFINITY {
            return None; // nothing is sampled
        }
        let allowed = || (0..exact.len()).filter(|&at| exact[at] > f32::NEG_INFINITY);
        let most = |of: &dyn Fn(usize) -> f32| allowed().map(of).fold(f32::NEG_INFINITY, f32::max);
        let magnitude = most(&|at| lower[at].abs().max(upper[at].abs()));
        let unit = 1.0 / (1 << 20) as f32;
        if upper[likeliest] < most(&|at| lower[at]) - magnitude * unit {
            return Some(likeliest);
        }
        let scores: Vec<f32> = exact
            .iter()
            .zip(noise)
            .map(|(logit, noise)| (logit - exact[likeliest]) * inverse + noise)
            .collect();
        let least =
            most(&|at| lower[at] * inverse + noise[at]) - (magnitude * inverse + 64.0) * unit;
        let token = best(&scores);
        (inverse > 0.0 && upper[token] * inverse + noise[token] < least).then_some(token)
    }

    /// What a request changes of one token.
    #[derive(Clone, Debug)]
    struct OfToken {
        /// 1: biased; 2: in the prompt; 3: forbidden; 4: outside the mask; else nothing of these.
        kind: u8,
        bias: f32,
        /// How often it was generated.
        count: usize,
    }

    fn of_token() -> impl Strategy<Value = OfToken> {
        let bias = prop_oneof![-100.0_f32..100.0, -1e-3_f32..1e-3];
        (0_u8..8, bias, prop_oneof![3 => Just(0_usize), 1 => 1_usize..5])
            .prop_map(|(kind, bias, count)| OfToken { kind, bias, count })
    }

    fn penalties() -> impl Strategy<Value = Penalties> {
        let repetition = prop_oneof![Just(1.0_f32), 0.01_f32..10.0];
        (repetition, -2.0_f32..2.0, -2.0_f32..2.0).prop_map(|(repetition, presence, frequency)| {
            Penalties { repetition, presence, frequency }
        })
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
            of_tokens in prop::collection::vec(of_token(), 40),
            penalties in penalties(),
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
            let lower: Vec<f32> = bounds.iter().map(|(a, e)| a - e).collect();
            let upper: Vec<f32> = bounds.iter().map(|(a, e)| a + e).collect();
            prop_assert_eq!(missing(&lower, &upper, &exact, &noise, inverse), None);

            // Biases, penalties, forbidden tokens and a mask change each logit by a function that never decreases, so that
            // changed bounds are bounds of the changed logit.
            let named = |kind: u8| (0..exact.len() as u32).zip(&of_tokens).filter(move |(_, of)| of.kind == kind);
            let biases: Vec<(u32, f32)> = named(1).map(|(token, of)| (token, of.bias)).collect();
            let prompt: Vec<u32> = named(2).map(|(token, _)| token).collect();
            let generated: Vec<u32> = (0..exact.len() as u32)
                .zip(&of_tokens)
                .flat_map(|(token, of)| std::iter::repeat_n(token, of.count))
                .collect();
            let forbidden: Vec<u32> = named(3).map(|(token, _)| token).collect();
            let mask: Vec<u32> = of_tokens
                .chunks(32)
                .map(|of| of.iter().rev().fold(0, |word, of| word << 1 | u32::from(of.kind != 4)))
                .collect();
            let history = TokenHistory::new(&prompt, &generated);
            let changes = LogitChanges {
                biases: &biases,
                penalties: Some((penalties, &history)),
                forbidden: &forbidden,
                mask: Some(&mask),
            };
            let changed = |row: &[f32]| {
                let mut row = row.to_vec();
                changes.apply(&mut row);
                row
            };
            let [lower, upper, exact] = [&lower, &upper, &exact].map(|row| changed(row));
            for ((low, high), logit) in lower.iter().zip(&upper).zip(&exact) {
                prop_assert!(low <= logit && logit <= high, "{low} {logit} {high}");
            }
            prop_assert_eq!(missing(&lower, &upper, &exact, &noise, inverse), None);
        }
    }
}
