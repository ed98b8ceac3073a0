//! What the writer of the residual hands to the next norm and to the router, made and checked on the host: in decode steps
//! deferred rows, sums of squares and of logits, in others normed rows.

use half::bf16;
use ossmith_plan::facts::{MAX_DECODE_TOKENS, ROUTER_SUM_BITS, SQUARE_SUM_WIDTH};
use ossmith_plan::{ModelSpec, Weight};

use super::super::forward::Pass;
use super::super::memory::Buffer;
use super::device_values::{read_bf16, read_f32, read_rows, write_rows};
use super::verdict::Difference;
use crate::Result;
use crate::backend::cpu::rms_norm;

/// Units of one logit.
const LOGIT_ONE: f64 = (1_u64 << ROUTER_SUM_BITS) as f64;

/// Which norm of a layer comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextNorm {
    /// The one before attention; after the last layer, the one before the head.
    Attention,
    /// The one before the experts.
    Experts,
}

/// Rows times a norm's scale, rounded to bf16: what a deferred norm reads.
fn deferred(residual: &[f32], scale: &[f32]) -> Vec<u16> {
    let rows = residual.chunks(scale.len());
    rows.flat_map(|row| row.iter().zip(scale).map(|(x, s)| bf16::from_f32(x * s).to_bits()))
        .collect()
}

/// Normed rows of a residual.
fn rms_norm_rows(residual: &[f32], scale: &[f32], eps: f32) -> Vec<f32> {
    let mut rows = vec![0.0; residual.len()];
    for (out, row) in rows.chunks_mut(scale.len()).zip(residual.chunks(scale.len())) {
        rms_norm(row, scale, eps, out);
    }
    rows
}

fn square_sums(residual: &[f32]) -> Vec<f32> {
    residual.chunks(SQUARE_SUM_WIDTH).map(|part| part.iter().map(|x| x * x).sum()).collect()
}

/// `layer` may be the one after the last.
fn scale_of(pass: &Pass, layer: usize, next: NextNorm) -> Result<Vec<f32>> {
    let after_all = layer == pass.model.spec.layers.len();
    let weight = match next {
        NextNorm::Attention if after_all => Weight::FinalNorm,
        NextNorm::Attention => Weight::AttnNorm,
        NextNorm::Experts => Weight::MoeNorm,
    };
    pass.weights.vector(weight, layer)
}

/// Writes what the norm of `layer` needs of a residual.
pub(super) fn write(pass: &Pass, residual: &[f32], layer: usize) -> Result<()> {
    let scale = scale_of(pass, layer, NextNorm::Attention)?;
    let normed = rms_norm_rows(residual, &scale, pass.model.spec.rms_eps);
    write_rows(pass, &pass.workspace.normed, &normed, residual.len() / scale.len())?;
    pass.workspace.deferred_rows.write(0, &deferred(residual, &scale))?;
    pass.workspace.attn_square_sums.write(0, &square_sums(residual))
}

/// Difference of the rows that a layer of a step that norms at once normed for `layer`, against the residual that it wrote.
pub(super) fn normed_difference(pass: &Pass, tokens: usize, layer: usize) -> Result<Difference> {
    let elements = tokens * pass.model.spec.hidden;
    let residual = read_f32(&pass.workspace.residual, elements)?;
    let scale = scale_of(pass, layer, NextNorm::Attention)?;
    let expected = rms_norm_rows(&residual, &scale, pass.model.spec.rms_eps);
    Difference::of(&read_rows(pass, &pass.workspace.normed, elements, tokens)?, &expected)
}

/// Difference of what a kernel of a decode step handed on, against the residual that it wrote.
pub(super) fn difference(
    pass: &Pass,
    tokens: usize,
    layer: usize,
    next: NextNorm,
) -> Result<Difference> {
    let hidden = pass.model.spec.hidden;
    let residual = read_f32(&pass.workspace.residual, tokens * hidden)?;
    let expected: Vec<f32> = deferred(&residual, &scale_of(pass, layer, next)?)
        .into_iter()
        .map(|bits| bf16::from_bits(bits).to_f32())
        .collect();
    let rows =
        Difference::of(&read_bf16(&pass.workspace.deferred_rows, tokens * hidden)?, &expected)?;
    let sums = read_f32(squares_before(pass, next), tokens * hidden / SQUARE_SUM_WIDTH)?;
    Ok(rows.max(Difference::of(&sums, &square_sums(&residual))?))
}

/// Normed rows as the experts of a decode step see them: deferred rows over the rms.
pub(super) fn normed(pass: &Pass, tokens: usize) -> Result<Vec<f32>> {
    let hidden = pass.model.spec.hidden;
    let rows = read_bf16(&pass.workspace.deferred_rows, tokens * hidden)?;
    Ok(rows
        .chunks(hidden)
        .zip(inverse_rms(pass, tokens)?)
        .flat_map(|(row, inverse)| row.iter().map(move |x| x * inverse))
        .collect())
}

/// The router's logits as the experts of a decode step see them: sums in fixed point, over the rms, and the bias.
pub(super) fn logits(pass: &Pass, tokens: usize, layer: usize) -> Result<Vec<f32>> {
    let experts = pass.model.spec.layers[layer].experts;
    let mut sums = vec![0_i64; tokens * experts];
    pass.workspace.router_logit_sums.read(pass.logit_sums_offset(layer), &mut sums)?;
    let bias = pass.weights.vector(Weight::RouterBias, layer)?;
    Ok(sums
        .chunks(experts)
        .zip(inverse_rms(pass, tokens)?)
        .flat_map(|(row, inverse)| {
            row.iter()
                .zip(&bias)
                .map(move |(&sum, bias)| (sum as f64 / LOGIT_ONE) as f32 * inverse + bias)
        })
        .collect())
}

/// Starts a layer's logits at zero, as the embedding does for all layers.
pub(super) fn clear_logits(pass: &Pass, layer: usize) -> Result<()> {
    let zeros = vec![0_i64; MAX_DECODE_TOKENS * pass.model.spec.layers[layer].experts];
    pass.workspace.router_logit_sums.write(pass.logit_sums_offset(layer), &zeros)
}

fn squares_before(pass: &Pass, next: NextNorm) -> &Buffer {
    match next {
        NextNorm::Attention => &pass.workspace.attn_square_sums,
        NextNorm::Experts => &pass.workspace.moe_square_sums,
    }
}

/// One over the rms of each row before the experts.
fn inverse_rms(pass: &Pass, tokens: usize) -> Result<Vec<f32>> {
    let spec: &ModelSpec = &pass.model.spec;
    let squares =
        read_f32(squares_before(pass, NextNorm::Experts), tokens * spec.hidden / SQUARE_SUM_WIDTH)?;
    Ok(squares
        .chunks(spec.hidden / SQUARE_SUM_WIDTH)
        .map(|parts| 1.0 / (parts.iter().sum::<f32>() / spec.hidden as f32 + spec.rms_eps).sqrt())
        .collect())
}
