// The router of decode steps, without a kernel of its own. The block that writes 16 elements of the deferred rows adds
// their contribution to every logit; the block that selects experts divides by the rms and adds the bias.
//
// Contributions are added as fixed-point integers, so the sums do not depend on the order in which blocks finish.
#pragma once
#include "ptx/memory.cuh"
#include "tile/norm.cuh"
#include "tile/weights.cuh"

// The fixed-point unit of the sums is 2^-kRouterSumBits. A contribution is clamped to 2^22, far beyond those of real
// models, so that the sum of up to 2^12 contributions cannot overflow.
constexpr float kFixedPointOne = 1u << kRouterSumBits;
constexpr float kMaxContribution = 0x1p22f;
static_assert(kRouterSumBits + 22 + 12 < 63, "a sum fits into 64 bits");

// The router's weights for 16 elements of a row, and those elements of every token's row.
template <u32 kExperts, u32 kHidden, u32 kTokens>
struct SharedRouterSlice {
  static constexpr u32 kPairs = ceil_div(kExperts, kTileRows) * 8;  // experts e and e + 8 of a tile are in one lane
  static_assert(kHidden / kTileRows <= 1u << 12, "a sum holds at most 2^12 contributions");

  uint4 weights[kTileSteps][kPairs];
  alignas(8) bf16 rows[kTokens][kTileRows];

  // Copies the weights of elements 16 * slice to 16 * slice + 15, in this thread's next group of copies.
  template <u32 kThreads>
  __device__ __forceinline__ void fetch(const u8* router, u32 slice) {
    constexpr u32 kRowTileBytes = Bf16Tile::row_tile_bytes(ceil_div(kHidden, kTileK));
    constexpr u32 kQuarters = kTileK / kTileRows;  // quarters of a tile, one for each of four lanes
    const u8* tile = router + slice / kQuarters * Bf16Tile::kBytes + slice % kQuarters * 16;
    for (u32 i = threadIdx.x; i < kTileSteps * kPairs; i += kThreads) {
      const u32 step = i / kPairs, pair = i % kPairs;
      copy_stream(&weights[step][pair], tile + pair / 8 * kRowTileBytes + (step * kWarpSize + pair % 8 * 4) * 16);
    }
  }

  // Adds the contribution of the elements to `sums`, [tokens][kExperts]. It is called after a barrier, when all copies
  // and rows are in shared memory.
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
      i64* token_sums = sums + token * kExperts;
      if (expert < kExperts) add_contribution(token_sums + expert, low);
      if (expert + 8 < kExperts) add_contribution(token_sums + expert + 8, high);
    }
  }

 private:
  __device__ __forceinline__ static float dot(u32 a, u32 b) {
    return bf16_low(a) * bf16_low(b) + bf16_high(a) * bf16_high(b);
  }

  __device__ __forceinline__ static void add_contribution(i64* sum, float contribution) {
    add_relaxed(sum, __float2ll_rn(fminf(fmaxf(contribution, -kMaxContribution), kMaxContribution) * kFixedPointOne));
  }
};

// The router's logits as attn_out_residual_decode leaves them: fixed-point sums that are not normed and have no bias
// yet.
template <u32 kExperts, u32 kHidden>
struct RouterLogits {
  static constexpr u32 kEach = ceil_div(kExperts, kWarpSize);

  const i64* sums;           // [tokens][kExperts]
  const float* square_sums;  // [tokens][kHidden / 16]
  const bf16* bias;
  float eps;

  // Computes a token's logits with one warp, of experts i * 32 + lane, and returns one over the row's rms.
  __device__ __forceinline__ float compute(float (&logits)[kEach], u32 token) const {
    float biases[kEach];
#pragma unroll
    for (u32 i = 0; i < kEach; ++i) {
      const u32 expert = i * kWarpSize + lane_id();
      const bool exists = kExperts % kWarpSize == 0 || expert < kExperts;
      logits[i] = exists ? static_cast<float>(load_bypass_l1(sums + token * kExperts + expert)) : 0.0f;
      biases[i] = exists ? bf16_to_float(bias[expert]) : 0.0f;
    }
    const float inverse =
        inverse_rms<kHidden>(square_sums + static_cast<u64>(token) * (kHidden / kSquareSumWidth), eps);
#pragma unroll
    for (u32 i = 0; i < kEach; ++i) logits[i] = logits[i] * (inverse / kFixedPointOne) + biases[i];
    return inverse;
  }
};
