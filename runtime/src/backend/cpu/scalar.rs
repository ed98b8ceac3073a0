//! Every op in plain f32, one formula after another: the oracle of the vector code and of the GPU kernels.
//! Functions of single elements (rotation, activation) come from `ossmith_scalar`, which the GPU shares.
//! Formulas: openai/gpt-oss `torch/model.py`; OCP Microscaling Formats 1.0 for MXFP4.

use super::cache::TILE;
use super::floats::Floats;
use super::view::AttentionView;
use super::weights::{BLOCK, Bf16Rows, Mxfp4Rows, Q8Rows, Rows, bf16, finite_f16};

/// The sixteen E2M1 codes: sign, two bits of exponent, one of mantissa.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The 256 E8M0 scales, `2^(code - 127)`; 255 is not a number.
pub(super) const E8M0: [f32; 256] = {
    let mut scales = [f32::NAN; 256];
    let mut code = 1;
    while code < 255 {
        scales[code] = f32::from_bits((code as u32) << 23);
        code += 1;
    }
    // 2^-127 is below f32's normal range.
    scales[0] = f32::from_bits(1 << 22);
    scales
};

/// `weights[row] · x`, for a row in either form.
pub(super) fn dot(weights: &Rows<'_>, row: usize, x: &[f32]) -> f32 {
    match weights {
        Rows::Bf16(rows) => bf16_dot(rows, row, x),
        Rows::Mxfp4(rows) => mxfp4_dot(rows, row, x),
        Rows::Q8(rows) => q8_dot(rows, row, x),
    }
}

fn bf16_dot(rows: &Bf16Rows<'_>, row: usize, x: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (pair, x) in rows.row(row).chunks_exact(2).zip(x) {
        sum += bf16(pair[0], pair[1]) * x;
    }
    sum
}

fn mxfp4_dot(rows: &Mxfp4Rows<'_>, row: usize, x: &[f32]) -> f32 {
    let blocks = rows.codes(row).chunks_exact(BLOCK / 2).zip(rows.scales(row));
    let mut sum = 0.0;
    for ((codes, &scale), x) in blocks.zip(x.chunks_exact(BLOCK)) {
        let scale = E8M0[usize::from(scale)];
        for (byte, x) in codes.iter().zip(x.chunks_exact(2)) {
            sum += E2M1[usize::from(byte & 15)] * scale * x[0];
            sum += E2M1[usize::from(byte >> 4)] * scale * x[1];
        }
    }
    sum
}

fn q8_dot(rows: &Q8Rows<'_>, row: usize, x: &[f32]) -> f32 {
    let blocks = rows.codes(row).chunks_exact(BLOCK).zip(rows.scales(row).chunks_exact(2));
    let mut sum = 0.0;
    for ((codes, scale), x) in blocks.zip(x.chunks_exact(BLOCK)) {
        let scale = finite_f16(scale[0], scale[1]);
        for (&code, x) in codes.iter().zip(x) {
            sum += f32::from(code as i8) * scale * x;
        }
    }
    sum
}

/// `out = x · rsqrt(mean(x²) + eps) · scale`.
pub(in crate::backend) fn rms_norm(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let inverse = 1.0 / (mean_square + eps).sqrt();
    for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
        *out = x * inverse * scale;
    }
}

/// Rotates one head in place: element `i` pairs with `i + head_dim / 2`.
pub(super) fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        [*a, *b] = ossmith_scalar::rotate(*a, *b, *cos, *sin);
    }
}

/// `out += x`.
pub(super) fn add_to(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// The `ids.len()` largest logits, best first and the lowest id first among equals, and the softmax over just these.
pub(super) fn top_k(logits: &[f32], ids: &mut [u32], weights: &mut [f32]) {
    for rank in 0..ids.len() {
        let mut best: Option<usize> = None;
        for (id, &logit) in logits.iter().enumerate() {
            let taken = ids[..rank].contains(&(id as u32));
            if !taken && best.is_none_or(|best| logit > logits[best]) {
                best = Some(id);
            }
        }
        ids[rank] = best.unwrap_or(0) as u32;
    }
    let largest = ids.first().map_or(0.0, |&id| logits[id as usize]);
    let mut sum = 0.0;
    for (weight, &id) in weights.iter_mut().zip(ids.iter()) {
        *weight = (logits[id as usize] - largest).exp();
        sum += *weight;
    }
    for weight in weights {
        *weight /= sum;
    }
}

/// `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`, `out = g · sigmoid(alpha g) · (u + 1)`;
/// gates and ups alternate in `x`.
pub(super) fn swiglu(x: &[f32], limit: f32, alpha: f32, out: &mut [f32]) {
    for (out, pair) in out.iter_mut().zip(x.chunks_exact(2)) {
        *out = ossmith_scalar::swiglu(pair[0], pair[1], limit, alpha);
    }
}

/// `out = Σ weight[route] · x[route]`, in the order of the routes.
pub(super) fn combine(x: &[f32], weights: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (x, weight) in x.chunks_exact(out.len()).zip(weights) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += weight * x;
        }
    }
}

/// One query head's attention. `scores` holds `q · k / sqrt(head_dim)` of the visible keys and is overwritten by
/// their weights; the sink takes part in the maximum and in the sum, and has no value.
pub(super) fn softmax_with_sink(scores: &mut [f32], sink: f32) {
    let largest = scores.iter().fold(sink, |a, &b| a.max(b));
    let mut sum = (sink - largest).exp();
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// Attention of all query heads of one key/value head, over cache tiles (see `cache`).
pub(super) fn attend(view: &AttentionView<'_>, scores: &mut Floats, out: &mut [f32]) {
    let head_dim = view.head_dim;
    let scores = scores.first(view.last + 1 - view.first);
    let heads = view.queries.chunks_exact(head_dim).zip(view.sinks);
    for ((query, &sink), out) in heads.zip(out.chunks_exact_mut(head_dim)) {
        for (position, score) in (view.first..=view.last).zip(&mut *scores) {
            let (keys, lane) = view.key_tile(position);
            let column = keys.iter().skip(lane).step_by(TILE);
            let dot: f32 = query.iter().zip(column).map(|(q, k)| q * k).sum();
            *score = dot * view.scale;
        }
        softmax_with_sink(scores, sink);
        out.fill(0.0);
        for (position, weight) in (view.first..=view.last).zip(scores.iter()) {
            for (out, value) in out.iter_mut().zip(view.value(position)) {
                *out += weight * value;
            }
        }
    }
}
