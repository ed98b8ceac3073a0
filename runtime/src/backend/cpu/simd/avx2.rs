//! AVX2 and FMA registers: eight lanes.
//!
//! Safety, for the whole file: [`Vector`]'s contract covers the instruction set and the pointers; every load and store
//! is unaligned.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use super::super::scalar::E2M1;
use super::vector::Vector;

impl Vector for __m256 {
    const LANES: usize = 8;
    const HEADS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        _mm256_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        _mm256_loadu_ps(at)
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        _mm256_storeu_ps(at, self);
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        _mm256_add_ps(self, b)
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        _mm256_mul_ps(self, b)
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        _mm256_fmadd_ps(self, b, c)
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        _mm256_max_ps(b, self)
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        _mm256_min_ps(b, self)
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let fours = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
        let twos = _mm_add_ps(fours, _mm_movehl_ps(fours, fours));
        _mm_cvtss_f32(_mm_add_ss(twos, _mm_movehdup_ps(twos)))
    }

    #[inline(always)]
    unsafe fn to_exponent(self) -> Self {
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(self)))
    }

    #[inline(always)]
    unsafe fn bf16_pair(at: *const u8) -> (Self, Self) {
        let pairs = _mm256_loadu_si256(at.cast());
        let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd))
    }

    #[inline(always)]
    unsafe fn q8_pair(at: *const u8, scale: f32) -> (Self, Self) {
        let scale = _mm256_set1_ps(scale);
        let even = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()));
        let odd = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(8).cast()));
        (
            _mm256_mul_ps(_mm256_cvtepi32_ps(even), scale),
            _mm256_mul_ps(_mm256_cvtepi32_ps(odd), scale),
        )
    }

    #[inline(always)]
    unsafe fn mxfp4_pair(at: *const u8, scale: f32) -> (Self, Self) {
        let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()));
        let table = _mm256_mul_ps(_mm256_loadu_ps(E2M1.as_ptr()), _mm256_set1_ps(scale));
        (decode(bytes, table), decode(_mm256_srli_epi32::<4>(bytes), table))
    }
}

/// The values of the low four bits of each lane: three choose a magnitude from `table`, the fourth is the sign.
#[inline(always)]
unsafe fn decode(codes: __m256i, table: __m256) -> __m256 {
    let magnitude = _mm256_permutevar8x32_ps(table, codes);
    let sign = _mm256_and_si256(_mm256_slli_epi32::<28>(codes), _mm256_set1_epi32(i32::MIN));
    _mm256_xor_ps(magnitude, _mm256_castsi256_ps(sign))
}
