// Softmax attention of one token's query heads that share a key/value head, with one sink logit per query head.
//
// Scores are computed transposed, S^T = K Q^T, with keys as rows and the (at most eight) query heads as columns, and so
// are outputs, O^T = V^T P^T. The order of keys within a span is chosen so that the transposed scores of step i are the
// B fragment of step i.
#pragma once
#include "attn/span.cuh"
#include "ptx/math.cuh"
#include "ptx/mma.cuh"

static_assert(kColumnHeads == 8, "query heads are the columns of mma.m16n8k16");

// A span of one head's keys and values. A warp copies its own.
template <u32 kHeadDim>
struct SharedSpan {
  alignas(16) bf16 keys[kSpanKeys * kHeadDim];
  alignas(16) bf16 values[kHeadDim * kSpanKeys];

  // Of a page of a full layer, which is two spans. Another warp reads the other half of the page, which shares the
  // 128-byte lines of its rows of values.
  __device__ __forceinline__ void fetch(const bf16* span_keys, const bf16* span_values) {
    const auto copy = [](bf16* shared, const bf16* global) { copy_async_whole_line(shared, global); };
    fetch_rows<kWarpSize, kSpanKeys, kHeadDim, kHeadDim>(keys, span_keys, lane_id(), copy);
    fetch_rows<kWarpSize, kHeadDim, kSpanKeys, kPageTokens>(values, span_values, lane_id(), copy);
  }
};

// Two rows of a matrix in shared memory, whose rows have kRow elements.
template <u32 kRow>
struct RowPair {
  LaneRow<kRow> low, high;

  __device__ __forceinline__ RowPair(const bf16* matrix, u32 row_low, u32 row_high) {
    low.load([&](u32 vector) { return matrix + swizzled_offset<kRow>(row_low, vector); });
    high.load([&](u32 vector) { return matrix + swizzled_offset<kRow>(row_high, vector); });
  }

  __device__ __forceinline__ FragmentA fragment(u32 step) const {
    return {{low.words[2 * step], high.words[2 * step], low.words[2 * step + 1], high.words[2 * step + 1]}};
  }
};

// A warp's online softmax over its spans. Scores are in units of log2. In lane 4g + c, index 0 is column head 2c and
// index 1 is column head 2c + 1.
template <u32 kHeadDim>
struct OnlineSoftmax {
  static constexpr u32 kSteps = kHeadDim / 16;  // k16 steps over dims, and tiles of 16 output dims
  static constexpr u32 kKeySteps = kSpanKeys / 16;

  float row_max[2] = {kMinusInfinity, kMinusInfinity};
  float denominator[2] = {};
  Accumulators out[kSteps] = {};  // dims 16d + g and 16d + g + 8

  // Adds a span. Keys outside [first, last] are masked.
  __device__ __forceinline__ void attend(const SharedSpan<kHeadDim>& span, const LaneRow<kHeadDim>& query, i32 first,
                                         i32 last, float scale_log2e) {
    Accumulators scores[kKeySteps] = {};
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
      const RowPair<kHeadDim> keys(span.keys, key_of_row(i), key_of_row(i) + 2);
#pragma unroll
      for (u32 j = 0; j < kSteps; ++j) mma(scores[i], keys.fragment(j), query.words[2 * j], query.words[2 * j + 1]);
    }
    mask_and_scale(scores, first, last, scale_log2e);
    rescale(scores);
    u32 low[kKeySteps], high[kKeySteps];
    exponentiate(scores, low, high);
#pragma unroll
    for (u32 d = 0; d < kSteps; ++d) {
      const u32 row = d * 16 + lane_id() / 4;
      const RowPair<kSpanKeys> values(span.values, row, row + 8);
#pragma unroll
      for (u32 i = 0; i < kKeySteps; ++i) mma(out[d], values.fragment(i), low[i], high[i]);
    }
  }

  // Adds up the denominators over lanes. It is called once, after the last span.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
#pragma unroll
      for (u32 step = 4; step < kWarpSize; step *= 2) denominator[h] += __shfl_xor_sync(~0u, denominator[h], step);
    }
  }

 private:
  // The key within a span that row g of step i's fragment holds. Row g + 8 holds the key two further on.
  __device__ __forceinline__ static u32 key_of_row(u32 i) {
    const u32 g = lane_id() / 4;
    return g / 2 * 8 + i * 4 + g % 2;
  }

  __device__ __forceinline__ static void mask_and_scale(Accumulators (&scores)[kKeySteps], i32 first, i32 last,
                                                        float scale) {
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
#pragma unroll
      for (u32 s = 0; s < 4; ++s) {
        const i32 key = static_cast<i32>(key_of_row(i) + s / 2 * 2);
        scores[i].c[s] = key >= first && key <= last ? scores[i].c[s] * scale : kMinusInfinity;
      }
    }
  }

  // Raises the running maxima to the span's and rescales the outputs and denominators so far. Every span has at least
  // one key that is not masked.
  __device__ __forceinline__ void rescale(const Accumulators (&scores)[kKeySteps]) {
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
      float span_max = kMinusInfinity;
#pragma unroll
      for (u32 i = 0; i < kKeySteps; ++i) span_max = fmaxf(span_max, fmaxf(scores[i].c[h], scores[i].c[2 + h]));
#pragma unroll
      for (u32 step = 4; step < kWarpSize; step *= 2) span_max = fmaxf(span_max, __shfl_xor_sync(~0u, span_max, step));
      const float new_max = fmaxf(row_max[h], span_max);
      const float factor = exp2_fast(row_max[h] - new_max);
      row_max[h] = new_max;
      denominator[h] *= factor;
#pragma unroll
      for (u32 d = 0; d < kSteps; ++d) out[d].c[h] *= factor, out[d].c[2 + h] *= factor;
    }
  }

  __device__ __forceinline__ void exponentiate(Accumulators (&scores)[kKeySteps], u32 (&low)[kKeySteps],
                                               u32 (&high)[kKeySteps]) {
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
#pragma unroll
      for (u32 s = 0; s < 4; ++s) {
        scores[i].c[s] = exp2_fast(scores[i].c[s] - row_max[s % 2]);
        denominator[s % 2] += scores[i].c[s];
      }
      low[i] = transpose_8x8(pack_bf16(scores[i].c[0], scores[i].c[1]));
      high[i] = transpose_8x8(pack_bf16(scores[i].c[2], scores[i].c[3]));
    }
  }
};
