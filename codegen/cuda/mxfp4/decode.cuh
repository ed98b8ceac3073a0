// MXFP4 (OCP Microscaling Formats 1.0): E2M1 codes with one E8M0 scale per 32 codes, decoded into the A fragments of
// mma.m16n8k16.
//
// With E2M1's sign at bit 15 of a bf16 and its three magnitude bits at bits 8 to 6, the bf16 has the code's value times
// 2^-126; this includes the code for 0.5, which becomes a subnormal. One multiplication restores the value exactly and
// applies the block scale: for the scale 2^(e - 127) the packer stores the byte e + kMxfp4ScaleOffset, which is the
// exponent field of 2^126 * 2^(e - 127).
#pragma once
#include "ptx/math.cuh"
#include "ptx/mma.cuh"

namespace mxfp4 {

constexpr u32 kLanes = 0x81C081C0u;

// The factors of a lane's two rows (g in the low byte, g + 8 in the next), each in both bf16 halves.
struct Factors {
  u32 row_g, row_g8;
};

__device__ __forceinline__ Factors factors(u32 scale_bytes) {
  return {__byte_perm(scale_bytes, 0, 0x4040) << 7, __byte_perm(scale_bytes, 0, 0x4141) << 7};
}

// Decodes a lane's eight codes of one k16 step. Three pairs are extracted by a shift or rotation and a mask, the fourth
// from the bits between them.
__device__ __forceinline__ FragmentA decode(u32 word, Factors f) {
  const u32 pair0 = word & kLanes;
  const u32 pair1 = (word << 4) & kLanes;
  const u32 pair2 = __funnelshift_r(word, word, 6) & kLanes;
  const u32 pair3 = ((word << 6) & 0x80C080C0u) | ((word >> 2) & 0x01000100u);
  return {{mul_bf16x2(pair0, f.row_g), mul_bf16x2(pair1, f.row_g8), mul_bf16x2(pair2, f.row_g),
           mul_bf16x2(pair3, f.row_g8)}};
}

}  // namespace mxfp4
