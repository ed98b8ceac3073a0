// Joins softmax parts over different keys: first a block's warps, then the blocks that split one head's keys.
// A part is (largest score, denominator, unnormalised output); parts without keys have largest = -infinity.
#pragma once
#include "attn/attend.cuh"
#include "ptx/memory.cuh"

template <u32 kHeadDim>
struct Part {
  alignas(8) float out[kColumnHeads][kHeadDim];
  float largest[kColumnHeads];
  float denominator[kColumnHeads];
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

// Parts joined, as a block holds them: a few threads a head, each with some pairs of its dims.
template <u32 kHeadDim, u32 kThreads>
struct Joined {
  static constexpr u32 kThreadsPerHead = kThreads / kColumnHeads;
  static constexpr u32 kPairs = kHeadDim / 2 / kThreadsPerHead;
  static_assert(kPairs * 2 * kThreadsPerHead == kHeadDim, "a thread holds whole pairs of dims");

  float largest, denominator;
  float2 out[kPairs];

  __device__ __forceinline__ static u32 head() { return threadIdx.x / kThreadsPerHead; }
  __device__ __forceinline__ static u32 dim(u32 pair) { return (threadIdx.x % kThreadsPerHead * kPairs + pair) * 2; }

  // Joins the first `count` of at most kMost parts, in their order. All loads are on their way before the first use.
  template <u32 kMost>
  __device__ __forceinline__ void join(const Part<kHeadDim>* parts, u32 count) {
    float part_largest[kMost], part_denominator[kMost];
    float2 part_out[kMost][kPairs];
#pragma unroll
    for (u32 i = 0; i < kMost; ++i) {
      part_largest[i] = kMinusInfinity, part_denominator[i] = 0.0f;
      if (i < count) part_largest[i] = parts[i].largest[head()], part_denominator[i] = parts[i].denominator[head()];
#pragma unroll
      for (u32 p = 0; p < kPairs; ++p) {
        part_out[i][p] = make_float2(0.0f, 0.0f);
        if (i < count) part_out[i][p] = *reinterpret_cast<const float2*>(&parts[i].out[head()][dim(p)]);
      }
    }
    issue_loads();
    largest = kMinusInfinity, denominator = 0.0f;
#pragma unroll
    for (u32 p = 0; p < kPairs; ++p) out[p] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (u32 i = 0; i < kMost; ++i) largest = fmaxf(largest, part_largest[i]);
#pragma unroll
    for (u32 i = 0; i < kMost; ++i) {
      const float scale = part_scale(part_largest[i], largest);
      denominator += part_denominator[i] * scale;
#pragma unroll
      for (u32 p = 0; p < kPairs; ++p) out[p].x += part_out[i][p].x * scale, out[p].y += part_out[i][p].y * scale;
    }
  }

  __device__ __forceinline__ void put(Part<kHeadDim>& part) const {
    if (dim(0) == 0) part.largest[head()] = largest, part.denominator[head()] = denominator;
#pragma unroll
    for (u32 p = 0; p < kPairs; ++p) *reinterpret_cast<float2*>(&part.out[head()][dim(p)]) = out[p];
  }

  // What the outputs are multiplied by. The sink is one more logit in the denominator, with no value: it is added
  // exactly once, here.
  __device__ __forceinline__ float normalizer(float sink) const {
    const float sink_log2 = sink * kLog2e;
    const float common = fmaxf(largest, sink_log2);
    const float scale = part_scale(largest, common);
    return scale / (denominator * scale + exp2_fast(sink_log2 - common));
  }
};
