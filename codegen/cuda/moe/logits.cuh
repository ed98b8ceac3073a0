// The router of a small step, without a kernel: whoever makes 16 elements of the experts' scaled rows adds their
// share of every logit, and whoever chooses experts divides by the rms and adds the bias.
//
// Shares are added as integers, so the sums do not depend on the order in which blocks come.
#pragma once
#include "ptx/memory.cuh"
#include "tile/norm.cuh"
#include "tile/weights.cuh"

// Sums count in units of 2^-28. A share is held to 2^22, far beyond any model's, so that the sum of up to 2^12 of them
// cannot overflow.
constexpr float kLogitOne = 0x1p28f;
constexpr float kMostShare = 0x1p22f;

// The router's weights for 16 elements of a row, and those elements of every token's row.
template <u32 kExperts, u32 kHidden, u32 kTokens>
struct SharedRouterPart {
  static constexpr u32 kPairs = ceil_div(kExperts, kTileRows) * 8;  // experts e and e + 8 of a tile share a lane
  static_assert(kHidden / kTileRows <= 1u << 12, "more shares than a sum holds");

  uint4 weights[kTileSteps][kPairs];
  alignas(8) bf16 rows[kTokens][kTileRows];

  // Starts to copy the weights of elements 16 * part and on, as part of this thread's next group of copies.
  template <u32 kThreads>
  __device__ __forceinline__ void fetch(const u8* router, u32 part) {
    constexpr u32 kStripBytes = Bf16Tile::strip_bytes(ceil_div(kHidden, kTileK));
    constexpr u32 kQuarters = kTileK / kTileRows;  // of a tile, one a lane of four
    const u8* tile = router + part / kQuarters * Bf16Tile::kBytes + part % kQuarters * 16;
    for (u32 i = threadIdx.x; i < kTileSteps * kPairs; i += kThreads) {
      const u32 step = i / kPairs, pair = i % kPairs;
      copy_stream(&weights[step][pair], tile + pair / 8 * kStripBytes + (step * kWarpSize + pair % 8 * 4) * 16);
    }
  }

  // Adds the elements' share to `sums`, [tokens][kExperts]. After a barrier: all copies and rows are here.
  template <u32 kThreads>
  __device__ __forceinline__ void add(i64* sums, u32 tokens) const {
    for (u32 i = threadIdx.x; i < kPairs * tokens; i += kThreads) {
      const u32 token = i / kPairs, pair = i % kPairs, expert = pair / 8 * kTileRows + pair % 8;
      float low = 0.0f, high = 0.0f;
#pragma unroll
      for (u32 step = 0; step < kTileSteps; ++step) {
        const uint4 w = weights[step][pair];
        const uint2 x = *reinterpret_cast<const uint2*>(&rows[token][4 * step]);
        low += dot(w.x, x.x) + dot(w.z, x.y);
        high += dot(w.y, x.x) + dot(w.w, x.y);
      }
      i64* of_token = sums + token * kExperts;
      if (expert < kExperts) add_share(of_token + expert, low);
      if (expert + 8 < kExperts) add_share(of_token + expert + 8, high);
    }
  }

 private:
  __device__ __forceinline__ static float dot(u32 a, u32 b) {
    return bf16_low(a) * bf16_low(b) + bf16_high(a) * bf16_high(b);
  }

  __device__ __forceinline__ static void add_share(i64* sum, float share) {
    add_relaxed(sum, __float2ll_rn(fminf(fmaxf(share, -kMostShare), kMostShare) * kLogitOne));
  }
};

// A small step's logits as phase C left them.
template <u32 kExperts, u32 kHidden>
struct SummedLogits {
  static constexpr u32 kEach = ceil_div(kExperts, kWarpSize);

  const i64* sums;       // [tokens][kExperts]
  const float* squares;  // [tokens][kHidden / 16]
  const bf16* bias;
  float eps;

  // One warp makes a token's logits, those of experts i * 32 + lane; returns one over the row's rms.
  __device__ __forceinline__ float make(float (&logits)[kEach], u32 token) const {
    float biases[kEach];
#pragma unroll
    for (u32 i = 0; i < kEach; ++i) {
      const u32 expert = i * kWarpSize + lane_id();
      const bool exists = kExperts % kWarpSize == 0 || expert < kExperts;
      logits[i] = exists ? static_cast<float>(load_past_l1(sums + token * kExperts + expert)) : 0.0f;
      biases[i] = exists ? bf16_to_float(bias[expert]) : 0.0f;
    }
    const float inverse = inverse_rms<kHidden>(squares + static_cast<u64>(token) * (kHidden / kSquaresWidth), eps);
#pragma unroll
    for (u32 i = 0; i < kEach; ++i) logits[i] = logits[i] * (inverse / kLogitOne) + biases[i];
    return inverse;
  }
};
