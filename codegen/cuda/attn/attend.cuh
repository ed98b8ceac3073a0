// Softmax attention of one token's query heads that share a key/value head, with one sink logit a query head.
//
// Scores are computed transposed, S^T = K Q^T, with keys as rows and the (at most eight) query heads as columns, and
// so are outputs, O^T = V^T P^T. Keys and values go straight from the cache to fragments: lane 4g + c takes 16
// consecutive bytes pairs of a row, and the order of keys within a 64-key page is chosen so that the transposed
// scores of step i are the B fragment of step i.
#pragma once
#include "epilogue/cache.cuh"
#include "ptx/math.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

constexpr u32 kColumnHeads = 8;

// Row fragments of two matrix rows (g and g + 8): kWords 32-bit words each, consecutive in memory.
template <u32 kWords>
struct RowPair {
  u32 low[kWords], high[kWords];

  __device__ __forceinline__ void load(const bf16* row_low, const bf16* row_high) {
    load_row(low, row_low);
    load_row(high, row_high);
  }

  __device__ __forceinline__ FragmentA fragment(u32 step) const {
    return {{low[2 * step], high[2 * step], low[2 * step + 1], high[2 * step + 1]}};
  }

  __device__ __forceinline__ static void load_row(u32 (&words)[kWords], const bf16* row) {
#pragma unroll
    for (u32 i = 0; i < kWords / 4; ++i) {
      const uint4 v = reinterpret_cast<const uint4*>(row)[i];
      words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
    }
  }
};

// A warp's running softmax over the pages it has seen. Scores are in units of log2. In lane 4g + c, index 0 is
// column head 2c and index 1 is head 2c + 1.
template <u32 kHeadDim>
struct Attended {
  static constexpr u32 kSteps = kHeadDim / 16;      // k16 steps over dims; also tiles of 16 output dims
  static constexpr u32 kQuarter = kHeadDim / 4;     // consecutive dims of a row in one lane
  static constexpr u32 kKeySteps = kPageTokens / 16;

  float largest[2] = {kMinusInfinity, kMinusInfinity};
  float denominator[2] = {};
  Sums out[kSteps] = {};  // dims 16d + g and 16d + g + 8

  // The key within a page that stands in fragment row g of step i; row g + 8 holds the key two further on.
  __device__ __forceinline__ static u32 key_of_row(u32 i) {
    const u32 g = lane_id() / 4;
    return g / 2 * 16 + i * 4 + g % 2;
  }

  // `keys` and `values` are this head's page; keys of the page outside [first, last] are not attended.
  __device__ __forceinline__ void attend_page(const bf16* keys, const bf16* values, const u32 (&query)[2 * kSteps],
                                              i32 first, i32 last, float scale_log2e) {
    const u32 g = lane_id() / 4, c = lane_id() % 4;
    // Loads are issued before the first is used, so that a page costs one memory latency; two where registers end.
    constexpr bool kAllAtOnce = kHeadDim <= 64;
    RowPair<2 * kSteps> k[kKeySteps];
    RowPair<2 * kKeySteps> v[kSteps];
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
      const bf16* row = keys + key_of_row(i) * kHeadDim + c * kQuarter;
      k[i].load(row, row + 2 * kHeadDim);
    }
    const auto load_values = [&] {
#pragma unroll
      for (u32 d = 0; d < kSteps; ++d) {
        const bf16* row = values + (d * 16 + g) * kPageTokens + c * 16;
        v[d].load(row, row + 8 * kPageTokens);
      }
    };
    if (kAllAtOnce) load_values();
    issue_loads();
    Sums scores[kKeySteps] = {};
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
#pragma unroll
      for (u32 j = 0; j < kSteps; ++j) mma(scores[i], k[i].fragment(j), query[2 * j], query[2 * j + 1]);
    }
    if (!kAllAtOnce) load_values();
    issue_loads();
    mask_and_scale(scores, first, last, scale_log2e);
    grow(scores);
    u32 low[kKeySteps], high[kKeySteps];
    exponentiate(scores, low, high);
#pragma unroll
    for (u32 d = 0; d < kSteps; ++d) {
#pragma unroll
      for (u32 i = 0; i < kKeySteps; ++i) mma(out[d], v[d].fragment(i), low[i], high[i]);
    }
  }

  // Sums the lanes' shares of the denominators; called once, after the last page.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
#pragma unroll
      for (u32 step = 4; step < kWarpSize; step *= 2) denominator[h] += __shfl_xor_sync(~0u, denominator[h], step);
    }
  }

 private:
  __device__ __forceinline__ static void mask_and_scale(Sums (&scores)[kKeySteps], i32 first, i32 last, float scale) {
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
#pragma unroll
      for (u32 s = 0; s < 4; ++s) {
        const i32 key = static_cast<i32>(key_of_row(i) + s / 2 * 2);
        scores[i].s[s] = key >= first && key <= last ? scores[i].s[s] * scale : kMinusInfinity;
      }
    }
  }

  // Raises the running maxima to the page's and rescales what was summed below them. Every page has a key to attend.
  __device__ __forceinline__ void grow(const Sums (&scores)[kKeySteps]) {
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
      float page = kMinusInfinity;
#pragma unroll
      for (u32 i = 0; i < kKeySteps; ++i) page = fmaxf(page, fmaxf(scores[i].s[h], scores[i].s[2 + h]));
#pragma unroll
      for (u32 step = 4; step < kWarpSize; step *= 2) page = fmaxf(page, __shfl_xor_sync(~0u, page, step));
      const float grown = fmaxf(largest[h], page);
      const float shrink = exp2_fast(largest[h] - grown);
      largest[h] = grown;
      denominator[h] *= shrink;
#pragma unroll
      for (u32 d = 0; d < kSteps; ++d) out[d].s[h] *= shrink, out[d].s[2 + h] *= shrink;
    }
  }

  __device__ __forceinline__ void exponentiate(Sums (&scores)[kKeySteps], u32 (&low)[kKeySteps],
                                               u32 (&high)[kKeySteps]) {
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
#pragma unroll
      for (u32 s = 0; s < 4; ++s) {
        scores[i].s[s] = exp2_fast(scores[i].s[s] - largest[s % 2]);
        denominator[s % 2] += scores[i].s[s];
      }
      low[i] = transpose_8x8(pack_bf16(scores[i].s[0], scores[i].s[1]));
      high[i] = transpose_8x8(pack_bf16(scores[i].s[2], scores[i].s[3]));
    }
  }
};
