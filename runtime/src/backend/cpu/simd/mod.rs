//! Vector kernels, and the choice among them and their scalar twins.

use std::ops::Range;

use super::attention::View;
use super::isa::Isa;
use super::scalar;
use super::weights::Rows;

/// Reorders activation rows as the products of this instruction set read them.
pub(super) fn pack(isa: Isa, x: &[f32], packed: &mut [f32]) {
    match isa.kind() {
        _ => packed.copy_from_slice(x),
    }
}

/// `out[t][i] = weights[rows.start + i] · xs[t]`, with packed `xs`; `out` is `[xs, rows]`.
pub(super) fn products(
    isa: Isa,
    weights: &Rows<'_>,
    rows: Range<usize>,
    xs: &[&[f32]],
    out: &mut [f32],
) {
    match isa.kind() {
        _ => {
            for (x, out) in xs.iter().zip(out.chunks_exact_mut(rows.len())) {
                for (out, row) in out.iter_mut().zip(rows.clone()) {
                    *out = scalar::product(weights, row, x);
                }
            }
        }
    }
}

/// Attention of one task, if this instruction set has a kernel for its shape.
pub(super) fn attend(
    _isa: Isa,
    _view: &View<'_>,
    _scores: &mut Vec<f32>,
    _out: &mut [f32],
) -> bool {
    false
}

/// `out = x · rsqrt(mean(x²) + eps) · scale`.
pub(super) fn rms_norm(_isa: Isa, x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    scalar::rms_norm(x, scale, eps, out);
}

/// The clamped SwiGLU.
pub(super) fn swiglu(_isa: Isa, x: &[f32], limit: f32, out: &mut [f32]) {
    scalar::swiglu(x, limit, out);
}
