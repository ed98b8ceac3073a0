//! The operations that the kernels need of a vector register. Each instruction set has one implementation.

/// A register of f32 lanes.
///
/// # Safety
/// Every method may only be called on a machine that has the implementer's instruction set, from a function that
/// enables it. Pointers must be readable (or writable) for the number of elements in the method's docs, at any alignment.
pub(super) trait Vector: Copy {
    /// f32 lanes in one register.
    const LANES: usize;
    /// Query heads that fit in the registers at once.
    const HEADS: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// `LANES` values.
    unsafe fn load(at: *const f32) -> Self;
    /// `LANES` values.
    unsafe fn store(self, at: *mut f32);
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self * b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The larger; `self` where either is not a number.
    unsafe fn max(self, b: Self) -> Self;
    /// The smaller; `self` where either is not a number.
    unsafe fn min(self, b: Self) -> Self;
    /// Prefetches the cache line that holds `at`, which need not be readable.
    unsafe fn prefetch(at: *const u8);
    /// The sum of all lanes, in an order that depends on the implementation.
    unsafe fn sum(self) -> f32;
    /// The bits of each lane shifted left by 23: a small integer as an exponent.
    unsafe fn to_exponent(self) -> Self;
    /// `2 * LANES` bf16 from `4 * LANES` bytes: the even elements, then the odd ones.
    unsafe fn bf16_pair(at: *const u8) -> (Self, Self);
    /// `2 * LANES` MXFP4 elements from `LANES` bytes of codes: the even elements, then the odd ones.
    unsafe fn mxfp4_pair(at: *const u8, scale: f32) -> (Self, Self);
    /// `2 * LANES` signed bytes, of which the even elements come first, times their scale.
    unsafe fn q8_pair(at: *const u8, scale: f32) -> (Self, Self);
}
