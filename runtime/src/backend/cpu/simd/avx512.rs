//! AVX-512 (F) registers: sixteen lanes.
//!
//! Safety, for the whole file: [`Vector`]'s contract covers the instruction set and the pointers; every load and store
//! is unaligned.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use super::super::scalar::E2M1;
use super::vector::Vector;

impl Vector for __m512 {
    const LANES: usize = 16;
    const HEADS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        _mm512_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        _mm512_loadu_ps(at)
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        _mm512_storeu_ps(at, self);
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        _mm512_add_ps(self, b)
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        _mm512_mul_ps(self, b)
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        _mm512_fmadd_ps(self, b, c)
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        _mm512_max_ps(b, self)
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        _mm512_min_ps(b, self)
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        _mm512_reduce_add_ps(self)
    }

    #[inline(always)]
    unsafe fn to_exponent(self) -> Self {
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self)))
    }

    #[inline(always)]
    unsafe fn bf16_pair(at: *const u8) -> (Self, Self) {
        let pairs = _mm512_loadu_si512(at.cast());
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd))
    }

    #[inline(always)]
    unsafe fn q8_pair(at: *const u8, scale: f32) -> (Self, Self) {
        let scale = _mm512_set1_ps(scale);
        let even = _mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()));
        let odd = _mm512_cvtepi8_epi32(_mm_loadu_si128(at.add(16).cast()));
        (
            _mm512_mul_ps(_mm512_cvtepi32_ps(even), scale),
            _mm512_mul_ps(_mm512_cvtepi32_ps(odd), scale),
        )
    }

    #[inline(always)]
    unsafe fn mxfp4_pair(at: *const u8, scale: f32) -> (Self, Self) {
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
        let table = _mm512_mul_ps(_mm512_loadu_ps(E2M1.as_ptr()), _mm512_set1_ps(scale));
        // The permutation uses only the low four bits of an index.
        let even = _mm512_permutexvar_ps(bytes, table);
        let odd = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), table);
        (even, odd)
    }
}
