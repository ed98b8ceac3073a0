// Joins softmax parts over different keys: first a block's warps, then the blocks that split one head's keys.
// A part is (largest score, denominator, unnormalised output); parts without keys have largest = -infinity.
#pragma once
#include "attn/attend.cuh"
#include "ptx/memory.cuh"

template <u32 kHeadDim>
struct Part {
  float largest[kColumnHeads];
  float denominator[kColumnHeads];
  float out[kColumnHeads][kHeadDim];
};

// The factor that brings a part to a common maximum.
__device__ __forceinline__ float part_scale(float largest, float common) {
  return largest == kMinusInfinity ? 0.0f : exp2_fast(largest - common);
}

template <u32 kHeadDim>
__device__ __forceinline__ void put_part(Part<kHeadDim>& part, const Attended<kHeadDim>& attended) {
  const u32 g = lane_id() / 4, c = lane_id() % 4;
#pragma unroll
  for (u32 h = 0; h < 2; ++h) {
    const u32 head = 2 * c + h;
    if (g == 0) part.largest[head] = attended.largest[h], part.denominator[head] = attended.denominator[h];
#pragma unroll
    for (u32 d = 0; d < Attended<kHeadDim>::kSteps; ++d) {
      part.out[head][d * 16 + g] = attended.out[d].s[h];
      part.out[head][d * 16 + g + 8] = attended.out[d].s[2 + h];
    }
  }
}

// One (head, dim) of several parts joined, not yet divided by the denominator.
struct Joined {
  float largest, denominator, out;
};

template <u32 kHeadDim>
__device__ __forceinline__ Joined join(const Part<kHeadDim>* parts, u32 count, u32 head, u32 dim) {
  Joined joined{kMinusInfinity, 0.0f, 0.0f};
  for (u32 i = 0; i < count; ++i) joined.largest = fmaxf(joined.largest, parts[i].largest[head]);
  for (u32 i = 0; i < count; ++i) {
    const float scale = part_scale(parts[i].largest[head], joined.largest);
    joined.denominator += parts[i].denominator[head] * scale;
    joined.out += parts[i].out[head][dim] * scale;
  }
  return joined;
}

// The sink is one more logit in the denominator, with no value: it is added exactly once, here.
__device__ __forceinline__ float with_sink(const Joined& joined, float sink) {
  const float sink_log2 = sink * kLog2e;
  const float common = fmaxf(joined.largest, sink_log2);
  const float scale = part_scale(joined.largest, common);
  return joined.out * scale / (joined.denominator * scale + exp2_fast(sink_log2 - common));
}
