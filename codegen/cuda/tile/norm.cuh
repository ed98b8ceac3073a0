// RMS norm: x * rsqrt(mean(x^2) + eps) * scale in fp32, then one rounding to bf16.
#pragma once
#include "ptx/math.cuh"

template <u32 kWarps, u32 kTokens>
struct SharedNorm {
  float squares[kTokens][kWarps];
};

// Norms `tokens` (at most kTokens) fp32 rows of kWidth elements into bf16 rows of `stride` elements, and fills
// the rest of each row up to kPaddedWidth with zeros. All threads of the block take part; ends with a barrier.
template <u32 kWidth, u32 kPaddedWidth, u32 kWarps, u32 kTokens>
__device__ __forceinline__ void rmsnorm_rows(bf16* out, u32 stride, const float* x, const bf16* scale, float eps,
                                             u32 tokens, SharedNorm<kWarps, kTokens>& shared) {
  static_assert(kWidth % 4 == 0 && kPaddedWidth % 4 == 0, "rows are read four elements at a time");
  constexpr u32 kThreads = kWarps * kWarpSize;
  for (u32 t = 0; t < tokens; ++t) {
    const float4* row = reinterpret_cast<const float4*>(x + t * kWidth);
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < kWidth / 4; i += kThreads) {
      const float4 v = row[i];
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    squares = warp_sum(squares);
    if (lane_id() == 0) shared.squares[t][warp_id()] = squares;
  }
  __syncthreads();
  for (u32 t = 0; t < tokens; ++t) {
    float squares = 0.0f;
#pragma unroll
    for (u32 w = 0; w < kWarps; ++w) squares += shared.squares[t][w];
    const float inverse = rsqrtf(squares / kWidth + eps);
    const float4* row = reinterpret_cast<const float4*>(x + t * kWidth);
    for (u32 i = threadIdx.x; i < kPaddedWidth / 4; i += kThreads) {
      uint2 packed = make_uint2(0, 0);
      if (i < kWidth / 4) {
        const float4 v = row[i];
        const uint2 s = reinterpret_cast<const uint2*>(scale)[i];
        packed.x = pack_bf16(v.x * inverse * bf16_low(s.x), v.y * inverse * bf16_high(s.x));
        packed.y = pack_bf16(v.z * inverse * bf16_low(s.y), v.w * inverse * bf16_high(s.y));
      }
      *reinterpret_cast<uint2*>(out + t * stride + i * 4) = packed;
    }
  }
  __syncthreads();
}

// Copies `tokens` bf16 rows of kWidth elements into rows of `stride`, zero-filled up to kPaddedWidth. Ends with a barrier.
template <u32 kWidth, u32 kPaddedWidth, u32 kWarps>
__device__ __forceinline__ void copy_rows(bf16* out, u32 stride, const bf16* x, u32 tokens) {
  static_assert(kWidth % 8 == 0 && kPaddedWidth % 8 == 0, "rows are copied eight elements at a time");
  for (u32 t = 0; t < tokens; ++t)
    for (u32 i = threadIdx.x; i < kPaddedWidth / 8; i += kWarps * kWarpSize)
      *reinterpret_cast<uint4*>(out + t * stride + i * 8) =
          i < kWidth / 8 ? reinterpret_cast<const uint4*>(x + t * kWidth)[i] : make_uint4(0, 0, 0, 0);
  __syncthreads();
}
