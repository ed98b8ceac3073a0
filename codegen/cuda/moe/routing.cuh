// The routing of tokens to experts: the top_k largest logits (the lowest index first among equals) and the softmax over
// just these.
#pragma once
#include "ptx/math.cuh"

// One warp selects the experts of one token. Every lane gets the same result.
template <u32 kExperts, u32 kTopK>
struct TopK {
  u32 ids[kTopK];
  float weights[kTopK];

  static constexpr u32 kEach = ceil_div(kExperts, kWarpSize);

  // Lane l passes in logits[i] the logit of expert i * 32 + l.
  __device__ __forceinline__ void select(const float (&logits)[kEach]) {
    constexpr u32 kSelected = 0;  // less than the key of every float
    u32 keys[kEach];
#pragma unroll
    for (u32 i = 0; i < kEach; ++i) {
      const u32 expert = i * kWarpSize + lane_id();
      keys[i] = expert < kExperts ? order_key(logits[i]) : kSelected;
    }
#pragma unroll
    for (u32 k = 0; k < kTopK; ++k) {
      u32 lane_best = kSelected;
#pragma unroll
      for (u32 i = 0; i < kEach; ++i) lane_best = max(lane_best, keys[i]);
      const u32 best = __reduce_max_sync(~0u, lane_best);
      u32 lowest = kExperts - 1;
#pragma unroll
      for (u32 i = kEach; i > 0; --i) {
        if (keys[i - 1] == best) lowest = min(kExperts - 1, (i - 1) * kWarpSize + lane_id());
      }
      ids[k] = __reduce_min_sync(~0u, lowest);
      weights[k] = key_to_float(best);
#pragma unroll
      for (u32 i = 0; i < kEach; ++i) {
        if (i * kWarpSize + lane_id() == ids[k]) keys[i] = kSelected;
      }
    }
    softmax();
  }

 private:
  __device__ __forceinline__ void softmax() {
    const float largest = weights[0];
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < kTopK; ++k) sum += weights[k] = exp2_fast((weights[k] - largest) * kLog2e);
#pragma unroll
    for (u32 k = 0; k < kTopK; ++k) weights[k] /= sum;
  }
};

// The distinct experts of a few tokens, by ascending id (of a single token: in the order of its weights). Every block
// computes this list itself, which is cheaper than a grid barrier.
template <u32 kExperts, u32 kTopK, u32 kTokens>
struct SharedRouting {
  static constexpr u32 kMaxDistinct = kTokens * kTopK < kExperts ? kTokens * kTopK : kExperts;
  static constexpr u8 kNotSelected = 0xff;

  u32 ids[kTokens][kTopK];
  float inverse_rms[kTokens];  // of each token's row
  float weights[kTokens][kTopK];
  u32 distinct;
  u32 experts[kMaxDistinct];
  u8 rank[kMaxDistinct][kTokens];  // the expert's rank among the token's experts
  u8 routes[kTokens * kTopK];      // routes (token * kTopK + rank), grouped by expert
  u8 start[kMaxDistinct + 1];      // where an expert's routes begin in `routes`

  // All threads take part, and the function ends with a barrier. The logits are also written to `logits_out`,
  // [tokens][kExperts], unless it is null.
  template <u32 kWarps, class Logits>
  __device__ __forceinline__ void build(const Logits& source, u32 tokens, float* logits_out) {
    for (u32 t = warp_id(); t < tokens; t += kWarps) {
      TopK<kExperts, kTopK> top;
      float logits[top.kEach];
      const float row_inverse_rms = source.compute(logits, t);
      top.select(logits);
      if (lane_id() == 0) inverse_rms[t] = row_inverse_rms;
      if (logits_out) {
#pragma unroll
        for (u32 i = 0; i < top.kEach; ++i) {
          const u32 expert = i * kWarpSize + lane_id();
          if (expert < kExperts) logits_out[t * kExperts + expert] = logits[i];
        }
      }
#pragma unroll
      for (u32 k = 0; k < kTopK; ++k) {
        if (lane_id() == k) ids[t][k] = top.ids[k], weights[t][k] = top.weights[k];
      }
    }
    if (kTokens > 1) __syncthreads();
    if (warp_id() == 0) list_experts(tokens);
    __syncthreads();
  }

 private:
  static_assert(kTokens * kTopK < 256, "a byte holds a route");

  __device__ __forceinline__ void list_experts(u32 tokens) {
    if (kTokens == 1) {
      const u32 k = lane_id();
      if (k < kTopK) experts[k] = ids[0][k], rank[k][0] = routes[k] = static_cast<u8>(k);
      if (k <= kTopK) start[k] = static_cast<u8>(k);
      if (k == 0) distinct = kTopK;
      return;
    }
    u32 count = 0, route_count = 0;
    for (u32 base = 0; base < kExperts; base += kWarpSize) {
      const u32 expert = base + lane_id();
      u32 token_mask = 0;
      for (u32 t = 0; t < tokens; ++t) {
#pragma unroll
        for (u32 k = 0; k < kTopK; ++k) {
          if (ids[t][k] == expert) token_mask |= 1u << t;
        }
      }
      const u32 selected = __ballot_sync(~0u, token_mask != 0);
      const u32 route_scan = warp_inclusive_sum(__popc(token_mask));
      if (token_mask != 0) {
        const u32 entry = count + __popc(selected & ((1u << lane_id()) - 1));
        u32 next = route_count + route_scan - __popc(token_mask);
        experts[entry] = expert;
        start[entry] = static_cast<u8>(next);
        for (u32 t = 0; t < tokens; ++t) {
          u8 token_rank = kNotSelected;
#pragma unroll
          for (u32 k = 0; k < kTopK; ++k) {
            if (ids[t][k] == expert) token_rank = static_cast<u8>(k);
          }
          rank[entry][t] = token_rank;
          if (token_rank != kNotSelected) routes[next++] = static_cast<u8>(t * kTopK + token_rank);
        }
      }
      count += __popc(selected);
      route_count += __shfl_sync(~0u, route_scan, kWarpSize - 1);
    }
    if (lane_id() == 0) distinct = count, start[count] = static_cast<u8>(route_count);
  }
};
