//! Vector kernels, and the choice among them and their scalar twins.
//!
//! `kernels` and `attention` are written once over `vector::Vector`; `avx2` and `avx512` implement that. The entry
//! points here enable an instruction set, so that everything is inlined into code that has it.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod kernels;
#[cfg(target_arch = "x86_64")]
mod vector;

use std::ops::Range;

use super::floats::Floats;
use super::isa::{Isa, Kind};
use super::scalar;
use super::view::AttentionView;
use super::weights::Rows;

/// Reorders activation rows as the GEMM kernels of this instruction set read them.
pub(super) fn pack(isa: Isa, x: &[f32], packed: &mut [f32]) {
    match isa.kind() {
        Kind::Scalar => packed.copy_from_slice(x),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => kernels::pack(8, x, packed),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => kernels::pack(16, x, packed),
    }
}

/// How many elements [`pack`] reorders together: the even ones of each so many come first. 1 where the order is natural.
pub(super) fn pair_elements(isa: Isa) -> usize {
    match isa.kind() {
        Kind::Scalar => 1,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => 16,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => 32,
    }
}

/// `out[t][i] = weights[rows.start + i] · xs[t]`, with packed `xs`; `out` is `[xs, rows]`.
pub(super) fn gemm(
    isa: Isa,
    weights: &Rows<'_>,
    rows: Range<usize>,
    xs: &[&[f32]],
    out: &mut [f32],
) {
    match isa.kind() {
        Kind::Scalar => {
            for (x, out) in xs.iter().zip(out.chunks_exact_mut(rows.len())) {
                for (out, row) in out.iter_mut().zip(rows.clone()) {
                    *out = scalar::dot(weights, row, x);
                }
            }
        }
        // SAFETY: `Isa` has this kind only where the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { entry::avx2::gemm(weights, rows, xs, out) },
        // SAFETY: `Isa` has this kind only where the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { entry::avx512::gemm(weights, rows, xs, out) },
    }
}

/// Attention of tokens that share a key/value head of one sequence. `scores` is working memory.
pub(super) fn attend(
    isa: Isa,
    views: &[AttentionView<'_>],
    scores: &mut Floats,
    outs: &mut [&mut [f32]],
) {
    match isa.kind() {
        Kind::Scalar => {
            for (view, out) in views.iter().zip(outs) {
                scalar::attend(view, scores, out);
            }
        }
        // SAFETY: `Isa` has this kind only where the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { entry::avx2::attend(views, scores, outs) },
        // SAFETY: `Isa` has this kind only where the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { entry::avx512::attend(views, scores, outs) },
    }
}

/// `out = x · rsqrt(mean(x²) + eps) · scale`.
pub(super) fn rms_norm(isa: Isa, x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    match isa.kind() {
        Kind::Scalar => scalar::rms_norm(x, scale, eps, out),
        // SAFETY: `Isa` has this kind only where the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { entry::avx2::rms_norm(x, scale, eps, out) },
        // SAFETY: `Isa` has this kind only where the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { entry::avx512::rms_norm(x, scale, eps, out) },
    }
}

/// The kernels, compiled once for each instruction set.
#[cfg(target_arch = "x86_64")]
mod entry {
    macro_rules! entry_points {
        ($name:ident, $vector:ident, $features:literal) => {
            pub(super) mod $name {
                use std::arch::x86_64::$vector;
                use std::ops::Range;

                use super::super::super::floats::Floats;
                use super::super::super::view::AttentionView;
                use super::super::super::weights::Rows;
                use super::super::{attention, kernels};

                #[target_feature(enable = $features)]
                pub(in super::super) fn gemm(
                    weights: &Rows<'_>,
                    rows: Range<usize>,
                    xs: &[&[f32]],
                    out: &mut [f32],
                ) {
                    match weights {
                        // SAFETY: this function enables what the vector needs.
                        Rows::Bf16(weights) => unsafe {
                            kernels::gemm::<$vector, _>(weights, rows, xs, out);
                        },
                        // SAFETY: this function enables what the vector needs.
                        Rows::Mxfp4(weights) => unsafe {
                            kernels::gemm::<$vector, _>(weights, rows, xs, out);
                        },
                        // SAFETY: this function enables what the vector needs.
                        Rows::Q8(weights) => unsafe {
                            kernels::gemm::<$vector, _>(weights, rows, xs, out);
                        },
                    }
                }

                #[target_feature(enable = $features)]
                pub(in super::super) fn attend(
                    views: &[AttentionView<'_>],
                    scores: &mut Floats,
                    outs: &mut [&mut [f32]],
                ) {
                    // SAFETY: this function enables what the vector needs.
                    unsafe { attention::attend::<$vector>(views, scores, outs) }
                }

                #[target_feature(enable = $features)]
                pub(in super::super) fn rms_norm(
                    x: &[f32],
                    scale: &[f32],
                    eps: f32,
                    out: &mut [f32],
                ) {
                    // SAFETY: this function enables what the vector needs.
                    unsafe { kernels::rms_norm::<$vector>(x, scale, eps, out) }
                }
            }
        };
    }

    entry_points!(avx2, __m256, "avx2,fma");
    entry_points!(avx512, __m512, "avx512f,avx2,fma");
}
