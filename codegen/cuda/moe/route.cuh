// The router's choice: the top_k largest logits (lowest index first among equals) and the softmax over just these.
#pragma once
#include "ptx/math.cuh"

// One warp chooses for one token; every lane gets the same answer.
template <u32 kExperts, u32 kTopK>
struct Choice {
  u32 ids[kTopK];
  float weights[kTopK];

  static constexpr u32 kEach = ceil_div(kExperts, kWarpSize);

  // `logits` are those of experts i * 32 + lane.
  __device__ __forceinline__ void choose(const float (&logits)[kEach]) {
    constexpr u32 kTaken = 0;  // below every float's key
    u32 keys[kEach];
#pragma unroll
    for (u32 i = 0; i < kEach; ++i) {
      const u32 expert = i * kWarpSize + lane_id();
      keys[i] = expert < kExperts ? order_key(logits[i]) : kTaken;
    }
#pragma unroll
    for (u32 k = 0; k < kTopK; ++k) {
      u32 mine = kTaken;
#pragma unroll
      for (u32 i = 0; i < kEach; ++i) mine = max(mine, keys[i]);
      const u32 best = __reduce_max_sync(~0u, mine);
      u32 lowest = kExperts - 1;
#pragma unroll
      for (u32 i = kEach; i > 0; --i) {
        if (keys[i - 1] == best) lowest = min(kExperts - 1, (i - 1) * kWarpSize + lane_id());
      }
      ids[k] = __reduce_min_sync(~0u, lowest);
      weights[k] = float_of_key(best);
#pragma unroll
      for (u32 i = 0; i < kEach; ++i) {
        if (i * kWarpSize + lane_id() == ids[k]) keys[i] = kTaken;
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

// The distinct experts of a few tokens, by ascending id (of a single token: in its own order), made by every block
// for itself: cheaper than a barrier.
template <u32 kExperts, u32 kTopK, u32 kTokens>
struct SharedRoute {
  static constexpr u32 kMaxDistinct = kTokens * kTopK < kExperts ? kTokens * kTopK : kExperts;
  static constexpr u8 kNotChosen = 0xff;

  u32 ids[kTokens][kTopK];
  float inverse[kTokens];  // one over each row's rms
  float weights[kTokens][kTopK];
  u32 distinct;
  u32 experts[kMaxDistinct];
  u8 rank[kMaxDistinct][kTokens];  // which of the token's choices this expert is
  u8 slots[kTokens * kTopK];       // slots (token * kTopK + choice) in the order of the list
  u8 start[kMaxDistinct + 1];      // where an expert's slots begin in `slots`

  // All threads take part; ends with a barrier. The logits also go to `kept`, [tokens][kExperts], unless it is null.
  template <u32 kWarps, class Logits>
  __device__ __forceinline__ void build(const Logits& source, u32 tokens, float* kept) {
    for (u32 t = warp_id(); t < tokens; t += kWarps) {
      Choice<kExperts, kTopK> choice;
      float logits[choice.kEach];
      const float inverse_of_row = source.make(logits, t);
      choice.choose(logits);
      if (lane_id() == 0) inverse[t] = inverse_of_row;
      if (kept) {
#pragma unroll
        for (u32 i = 0; i < choice.kEach; ++i) {
          const u32 expert = i * kWarpSize + lane_id();
          if (expert < kExperts) kept[t * kExperts + expert] = logits[i];
        }
      }
#pragma unroll
      for (u32 k = 0; k < kTopK; ++k) {
        if (lane_id() == k) ids[t][k] = choice.ids[k], weights[t][k] = choice.weights[k];
      }
    }
    if (kTokens > 1) __syncthreads();
    if (warp_id() == 0) list(tokens);
    __syncthreads();
  }

  // The token's weight for the expert at this place in the list; 0 if it did not choose it.
  __device__ __forceinline__ float weight(u32 place, u32 token, u32 tokens) const {
    if (token >= tokens) return 0.0f;
    const u8 k = rank[place][token];
    return k == kNotChosen ? 0.0f : weights[token][k];
  }

 private:
  static_assert(kTokens * kTopK < 256, "a byte names a slot");

  __device__ __forceinline__ void list(u32 tokens) {
    if (kTokens == 1) {
      const u32 k = lane_id();
      if (k < kTopK) experts[k] = ids[0][k], rank[k][0] = slots[k] = static_cast<u8>(k);
      if (k <= kTopK) start[k] = static_cast<u8>(k);
      if (k == 0) distinct = kTopK;
      return;
    }
    u32 count = 0, listed = 0;
    for (u32 base = 0; base < kExperts; base += kWarpSize) {
      const u32 expert = base + lane_id();
      u32 choosers = 0;
      for (u32 t = 0; t < tokens; ++t) {
#pragma unroll
        for (u32 k = 0; k < kTopK; ++k) {
          if (ids[t][k] == expert) choosers |= 1u << t;
        }
      }
      const u32 chosen = __ballot_sync(~0u, choosers != 0);
      const u32 listed_here = warp_sum_to_here(__popc(choosers));
      if (choosers != 0) {
        const u32 place = count + __popc(chosen & ((1u << lane_id()) - 1));
        u32 next = listed + listed_here - __popc(choosers);
        experts[place] = expert;
        start[place] = static_cast<u8>(next);
        for (u32 t = 0; t < tokens; ++t) {
          u8 k_of_token = kNotChosen;
#pragma unroll
          for (u32 k = 0; k < kTopK; ++k) {
            if (ids[t][k] == expert) k_of_token = static_cast<u8>(k);
          }
          rank[place][t] = k_of_token;
          if (k_of_token != kNotChosen) slots[next++] = static_cast<u8>(t * kTopK + k_of_token);
        }
      }
      count += __popc(chosen);
      listed += __shfl_sync(~0u, listed_here, kWarpSize - 1);
    }
    if (lane_id() == 0) distinct = count, start[count] = static_cast<u8>(listed);
  }
};
