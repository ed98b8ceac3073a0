// Softmax attention of consecutive tokens of one sequence over pages in shared memory.
//
// The query heads of a token that share a key/value head are eight rows of a tensor-core tile (those past the group are
// computed in vain), so a row tile of 16 is two tokens; a warp has kRowTiles of them, and every fragment of keys and
// values that it loads serves them all. Lane 4g + c takes 16-byte units c, c + 4, ... of a row of keys or values; the
// order of dims in a score and of keys in a span are chosen so that a unit is the B fragments of two steps, and so that
// the scores of two key tiles are the A fragment of one step over keys.
#pragma once
#include "attn/span.cuh"
#include "ptx/math.cuh"
#include "ptx/mma.cuh"

// A page of one head's keys and values.
template <u32 kHeadDim>
struct SharedPage {
  alignas(16) bf16 keys[kPageTokens * kHeadDim];
  alignas(16) bf16 values[kHeadDim * kPageTokens];

  // Starts the copy of a page by the block's kThreads threads.
  template <u32 kThreads>
  __device__ __forceinline__ void fetch(const bf16* page_keys, const bf16* page_values) {
    const auto copy = [](bf16* shared, const bf16* global) { copy_async(shared, global, true); };
    fetch_rows<kThreads, kPageTokens, kHeadDim, kHeadDim>(keys, page_keys, threadIdx.x, copy);
    fetch_rows<kThreads, kHeadDim, kPageTokens, kPageTokens>(values, page_values, threadIdx.x, copy);
  }
};

// What a warp's first token sees of a span: keys from `first` to `last`, counted from the span's start. Each later
// token sees one further on at both ends.
struct Sight {
  i32 first, last;

  // Whether all of `tokens` tokens see the whole span.
  __device__ __forceinline__ bool whole(i32 tokens) const {
    return last >= static_cast<i32>(kSpanKeys) - 1 && first + tokens <= 1;
  }
};

// A warp's running softmax, a span at a time: `score`, `bound`, `add`. Index 0 of a pair is the row tile's first token,
// index 1 its second; in lane 4g + c both are of query head g.
//
// What exponents are taken from need not be the largest score: a weight may be up to 2^kSlack. So after the first spans
// there is hardly anything to rescale, and lanes need not tell each other what they have seen.
template <u32 kHeadDim, u32 kRowTiles>
struct TileAttended {
  static constexpr u32 kTokens = 2 * kRowTiles;
  static constexpr u32 kDimSteps = kHeadDim / 16, kDimTiles = kHeadDim / 8;
  static constexpr u32 kKeySteps = kSpanKeys / 16, kKeyTiles = kSpanKeys / 8;
  static constexpr float kSlack = 8.0f;
  using Page = SharedPage<kHeadDim>;
  using Scores = Sums[kRowTiles][kKeyTiles];

  FragmentA query[kRowTiles][kDimSteps];
  Sums out[kRowTiles][kDimTiles] = {};
  float base[kRowTiles][2];         // what exponents are taken from, an unscaled score
  float denominator[kRowTiles][2];  // this lane's share

  // The sink is one more logit in the denominator, with no value: softmax begins with it, so that there is always
  // something to take exponents from. `scale` is what scores are multiplied by.
  __device__ __forceinline__ explicit TileAttended(float sink, float scale) {
    constexpr float kLowest = -1e30f;
    const float first = fmaxf(sink / scale, kLowest);
    const float share = lane_id() % 4 == 0 ? exp2_fast((sink - first * scale) * kLog2e) : 0.0f;
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) base[m][t] = first, denominator[m][t] = share;
    }
  }

  // `row(t)` is the address of this lane's query head of the warp's token t.
  template <class Row>
  __device__ __forceinline__ void load_queries(Row row) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
      LaneRow<kHeadDim> low, high;
      low.load([&](u32 unit) { return row(2 * m) + unit * kUnit; });
      high.load([&](u32 unit) { return row(2 * m + 1) + unit * kUnit; });
#pragma unroll
      for (u32 j = 0; j < kDimSteps; ++j) {
        query[m][j] = {{low.words[2 * j], high.words[2 * j], low.words[2 * j + 1], high.words[2 * j + 1]}};
      }
    }
  }

  // Two tiles of keys at a time, so that at least four sums are under way.
  __device__ __forceinline__ void score(const Page& page, u32 span, Scores& scores) const {
#pragma unroll
    for (u32 i = 0; i < kKeySteps; ++i) {
      LaneRow<kHeadDim> keys[2];
#pragma unroll
      for (u32 e = 0; e < 2; ++e) {
        const u32 row = span * kSpanKeys + key_of(i, e, lane_id() / 4);
        keys[e].load([&](u32 unit) { return page.keys + unit_place<kHeadDim>(row, unit); });
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

  // Takes away what tokens do not see, and sees to it that no weight will be above 2^kSlack.
  __device__ __forceinline__ void bound(Scores& scores, Sight sight, float scale_log2e) {
    if (!sight.whole(kTokens)) mask(scores, sight);
    float most[kRowTiles][2];
    bool above = false;
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) {
        most[m][t] = kMinusInfinity;
#pragma unroll
        for (u32 tile = 0; tile < kKeyTiles; ++tile)
          most[m][t] = fmaxf(most[m][t], fmaxf(scores[m][tile].s[2 * t], scores[m][tile].s[2 * t + 1]));
        above |= most[m][t] > base[m][t] + kSlack / scale_log2e;
      }
    }
    if (__any_sync(~0u, above)) rebase(most, scale_log2e);
  }

  // Adds the weighted values of a span whose scores are bounded.
  __device__ __forceinline__ void add(const Page& page, u32 span, const Scores& scores, float scale_log2e) {
    FragmentA weights[kRowTiles][kKeySteps];
    exponentiate(scores, weights, scale_log2e);
#pragma unroll
    for (u32 d = 0; d < kDimTiles; d += 2) {
      LaneRow<kSpanKeys> values[2];
#pragma unroll
      for (u32 e = 0; e < 2; ++e) {
        const u32 row = (d + e) * 8 + lane_id() / 4;
        values[e].load(
            [&](u32 unit) { return page.values + unit_place<kPageTokens>(row, span * (kSpanKeys / kUnit) + unit); });
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

  // Sums the lanes' shares of the denominators; called once, after the last page.
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

  // The key within a span that stands in column n of key tile 2i + e.
  __device__ __forceinline__ static u32 key_of(u32 i, u32 e, u32 n) { return n / 2 * 8 + i * 4 + e * 2 + n % 2; }

  __device__ __forceinline__ static void mask(Scores& scores, Sight sight) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
        for (u32 s = 0; s < 4; ++s) {
          const i32 key = static_cast<i32>(key_of(tile / 2, tile % 2, lane_id() % 4 * 2 + s % 2));
          const i32 token = static_cast<i32>(2 * m + s / 2);
          if (key < sight.first + token || key > sight.last + token) scores[m][tile].s[s] = kMinusInfinity;
        }
      }
    }
  }

  // Takes exponents from the largest scores so far from now on, and rescales what was summed. `most` is of this lane.
  __device__ __forceinline__ void rebase(const float (&most)[kRowTiles][2], float scale_log2e) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (u32 t = 0; t < 2; ++t) {
        const float raised = fmaxf(base[m][t], quad_max(most[m][t]));
        const float shrink = exp2_fast((base[m][t] - raised) * scale_log2e);
        base[m][t] = raised;
        denominator[m][t] *= shrink;
#pragma unroll
        for (u32 d = 0; d < kDimTiles; ++d) out[m][d].s[2 * t] *= shrink, out[m][d].s[2 * t + 1] *= shrink;
      }
    }
  }

  __device__ __forceinline__ void exponentiate(const Scores& scores, FragmentA (&weights)[kRowTiles][kKeySteps],
                                               float scale_log2e) {
#pragma unroll
    for (u32 m = 0; m < kRowTiles; ++m) {
      const float below[2] = {-base[m][0] * scale_log2e, -base[m][1] * scale_log2e};
#pragma unroll
      for (u32 tile = 0; tile < kKeyTiles; ++tile) {
        float weight[4];
#pragma unroll
        for (u32 s = 0; s < 4; ++s) {
          weight[s] = exp2_fast(scores[m][tile].s[s] * scale_log2e + below[s / 2]);
          denominator[m][s / 2] += weight[s];
        }
        weights[m][tile / 2].a[tile % 2 * 2] = pack_bf16(weight[0], weight[1]);
        weights[m][tile / 2].a[tile % 2 * 2 + 1] = pack_bf16(weight[2], weight[3]);
      }
    }
  }
};
