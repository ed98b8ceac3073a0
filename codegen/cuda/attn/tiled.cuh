// Softmax attention of consecutive tokens of one sequence over pages in shared memory.
//
// The query heads of a token that share a key/value head are eight rows of a tensor-core tile (rows beyond the
// GQA ratio are computed and ignored). So a row tile of 16 is two tokens. A warp has kRowTiles row tiles, and every
// fragment of keys and values that it loads serves all of them. Lane 4g + c takes the 16-byte vectors c, c + 4, ... of
// a row of keys or values. The order of dims in a score and of keys in a span is chosen so that a vector is the B
// fragments of two steps, and that the scores of two key tiles are the A fragment of one step over keys.
#pragma once
#include "attn/span.cuh"
#include "ptx/math.cuh"
#include "ptx/mma.cuh"

// kPageTokens of one head's keys and values: a page of a full layer, or several of a sliding layer.
template <u32 kHeadDim>
struct SharedPage {
  alignas(16) bf16 keys[kPageTokens * kHeadDim];
  alignas(16) bf16 values[kHeadDim * kPageTokens];

  // Copies a page with the block's kThreads threads.
  template <u32 kThreads>
  __device__ __forceinline__ void fetch(const bf16* page_keys, const bf16* page_values) {
    const auto copy = [](bf16* shared, const bf16* global) { copy_async(shared, global, true); };
    fetch_rows<kThreads, kPageTokens, kHeadDim, kHeadDim>(keys, page_keys, threadIdx.x, copy);
    fetch_rows<kThreads, kHeadDim, kPageTokens, kPageTokens>(values, page_values, threadIdx.x, copy);
  }
};

// The mask bounds of a warp's first token in a span: it sees keys `first` to `last`, relative to the span's start. For
// each later token both bounds are one higher.
struct MaskBounds {
  i32 first, last;

  // Whether all of `tokens` tokens see the whole span, so that nothing is masked.
  __device__ __forceinline__ bool unmasked(i32 tokens) const {
    return last >= static_cast<i32>(kSpanKeys) - 1 && first + tokens <= 1;
  }
};

// A warp's online softmax, one span at a time: `score`, `rescale_if_exceeded`, `add`. Index 0 of a pair is the row
// tile's first token, index 1 its second; in lane 4g + c both are of query head g.
//
// Rescaling is conditional: the reference that exponents are relative to need not be the largest score, and a weight
// may be up to 2^kSlack. So after the first spans almost nothing is rescaled, and lanes need not exchange their maxima.
template <u32 kHeadDim, u32 kRowTiles>
struct TiledOnlineSoftmax {
  static constexpr u32 kTokens = 2 * kRowTiles;
  static constexpr u32 kDimSteps = kHeadDim / 16, kDimTiles = kHeadDim / 8;
  static constexpr u32 kKeySteps = kSpanKeys / 16, kKeyTiles = kSpanKeys / 8;
  static constexpr float kSlack = 8.0f;
  using Page = SharedPage<kHeadDim>;
  using Scores = Accumulators[kRowTiles][kKeyTiles];

  FragmentA query[kRowTiles][kDimSteps];
  Accumulators out[kRowTiles][kDimTiles] = {};
  float reference[kRowTiles][2];    // the score, unscaled, that exponents are relative to
  float denominator[kRowTiles][2];  // this lane's part

  // The sink is one more logit in the denominator, without a value. The softmax starts with it, so that there is always
  // a reference. Scores are multiplied by `scale`.
  __device__ __forceinline__ explicit TiledOnlineSoftmax(float sink, float scale) {
    constexpr float kLowest = -1e30f;
    const float first = fmaxf(sink / scale, kLowest);
    const float sink_weight = lane_id() % 4 == 0 ? exp2_fast((sink - first * scale) * kLog2e) : 0.0f;
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) reference[m][t] = first, denominator[m][t] = sink_weight;
    }
  }

  // `row(t)` is the address of this lane's query head of the warp's token t.
  template <class Row>
  __device__ __forceinline__ void load_queries(Row row) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
      LaneRow<kHeadDim> low, high;
      low.load([&](u32 vector) { return row(2 * m) + vector * kVectorElements; });
      high.load([&](u32 vector) { return row(2 * m + 1) + vector * kVectorElements; });
#pragma unroll
      for (u32 j = 0; j < kDimSteps; ++j) {
        query[m][j] = {{low.words[2 * j], high.words[2 * j], low.words[2 * j + 1], high.words[2 * j + 1]}};
      }
    }
  }

  // Computes the scores of a span, two key tiles at a time, so that at least four accumulators are independent.
  __device__ __forceinline__ void score(const Page& page, u32 span, Scores& scores) const {
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
      LaneRow<kHeadDim> keys[2];
#pragma unroll
      for (u32 e = 0; e < 2; ++e) {
        const u32 row = span * kSpanKeys + key_of(i, e, lane_id() / 4);
        keys[e].load([&](u32 vector) { return page.keys + swizzled_offset<kHeadDim>(row, vector); });
#pragma unroll
        for (u32 m = 0; m < kRowTiles; ++m) scores[m][2 * i + e] = {};
      }
#pragma unroll
      for (u32 j = 0; j < kDimSteps; ++j) {
#pragma unroll
        for (u32 e = 0; e < 2; ++e) {
#pragma unroll
          for (u32 m = 0; m < kRowTiles; ++m)
            mma(scores[m][2 * i + e], query[m][j], keys[e].words[2 * j], keys[e].words[2 * j + 1]);
        }
      }
    }
  }

  // Masks the scores, and rescales if a weight would exceed 2^kSlack.
  __device__ __forceinline__ void rescale_if_exceeded(Scores& scores, MaskBounds bounds, float scale_log2e) {
    if (!bounds.unmasked(kTokens)) mask(scores, bounds);
    float tile_max[kRowTiles][2];
    bool above = false;
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) {
        tile_max[m][t] = kMinusInfinity;
#pragma unroll
        for (u32 tile = 0; tile < kKeyTiles; ++tile)
          tile_max[m][t] = fmaxf(tile_max[m][t], fmaxf(scores[m][tile].c[2 * t], scores[m][tile].c[2 * t + 1]));
        above |= tile_max[m][t] > reference[m][t] + kSlack / scale_log2e;
      }
    }
    if (__any_sync(~0u, above)) rescale(tile_max, scale_log2e);
  }

  // Adds the weighted values of a span after `rescale_if_exceeded`.
  __device__ __forceinline__ void add(const Page& page, u32 span, const Scores& scores, float scale_log2e) {
    FragmentA weights[kRowTiles][kKeySteps];
    exponentiate(scores, weights, scale_log2e);
#pragma unroll
    for (u32 d = 0; d < kDimTiles; d += 2) {
      LaneRow<kSpanKeys> values[2];
#pragma unroll
      for (u32 e = 0; e < 2; ++e) {
        const u32 row = (d + e) * 8 + lane_id() / 4;
        values[e].load([&](u32 vector) {
          return page.values + swizzled_offset<kPageTokens>(row, span * (kSpanKeys / kVectorElements) + vector);
        });
      }
#pragma unroll
      for (u32 i = 0; i < kKeySteps; ++i) {
#pragma unroll
        for (u32 e = 0; e < 2; ++e) {
#pragma unroll
          for (u32 m = 0; m < kRowTiles; ++m)
            mma(out[m][d + e], weights[m][i], values[e].words[2 * i], values[e].words[2 * i + 1]);
        }
      }
    }
  }

  // Adds up the denominators over lanes. It is called once, after the last page.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) denominator[m][t] = quad_sum(denominator[m][t]);
    }
  }

 private:
  __device__ __forceinline__ static float quad_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
  }

  __device__ __forceinline__ static float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
  }

  // The key within a span that column n of key tile 2i + e holds.
  __device__ __forceinline__ static u32 key_of(u32 i, u32 e, u32 n) { return n / 2 * 8 + i * 4 + e * 2 + n % 2; }

  __device__ __forceinline__ static void mask(Scores& scores, MaskBounds bounds) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
        for (u32 s = 0; s < 4; ++s) {
          const i32 key = static_cast<i32>(key_of(tile / 2, tile % 2, lane_id() % 4 * 2 + s % 2));
          const i32 token = static_cast<i32>(2 * m + s / 2);
          if (key < bounds.first + token || key > bounds.last + token) scores[m][tile].c[s] = kMinusInfinity;
        }
      }
    }
  }

  // Raises the reference to the largest score so far and rescales outputs and denominators. `tile_max` is this lane's
  // maximum.
  __device__ __forceinline__ void rescale(const float (&tile_max)[kRowTiles][2], float scale_log2e) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) {
        const float raised = fmaxf(reference[m][t], quad_max(tile_max[m][t]));
        const float factor = exp2_fast((reference[m][t] - raised) * scale_log2e);
        reference[m][t] = raised;
        denominator[m][t] *= factor;
#pragma unroll
        for (u32 d = 0; d < kDimTiles; ++d) out[m][d].c[2 * t] *= factor, out[m][d].c[2 * t + 1] *= factor;
      }
    }
  }

  __device__ __forceinline__ void exponentiate(const Scores& scores, FragmentA (&weights)[kRowTiles][kKeySteps],
                                               float scale_log2e) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
      const float offset[2] = {-reference[m][0] * scale_log2e, -reference[m][1] * scale_log2e};
#pragma unroll
      for (u32 tile = 0; tile < kKeyTiles; ++tile) {
        float weight[4];
#pragma unroll
        for (u32 s = 0; s < 4; ++s) {
          weight[s] = exp2_fast(scores[m][tile].c[s] * scale_log2e + offset[s / 2]);
          denominator[m][s / 2] += weight[s];
        }
        weights[m][tile / 2].a[tile % 2 * 2] = pack_bf16(weight[0], weight[1]);
        weights[m][tile / 2].a[tile % 2 * 2 + 1] = pack_bf16(weight[2], weight[3]);
      }
    }
  }
};
