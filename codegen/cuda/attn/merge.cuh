// Merges softmax partials over disjoint keys (KV splits): first those of a block's warps, then those of the blocks that
// split one head's keys. A partial is the largest score, the denominator and the output before normalisation. A partial
// without keys has row_max = -infinity.
#pragma once
#include "attn/attend.cuh"
#include "ptx/memory.cuh"

template <u32 kHeadDim>
struct SoftmaxPartial {
  alignas(8) float out[kColumnHeads][kHeadDim];
  float row_max[kColumnHeads];
  float denominator[kColumnHeads];
};

// The factor that rescales a partial to a common maximum.
__device__ __forceinline__ float partial_scale(float row_max, float common) {
  return row_max == kMinusInfinity ? 0.0f : exp2_fast(row_max - common);
}

template <u32 kHeadDim>
__device__ __forceinline__ void store_partial(SoftmaxPartial<kHeadDim>& partial,
                                              const OnlineSoftmax<kHeadDim>& softmax) {
  const u32 g = lane_id() / 4, c = lane_id() % 4;
#pragma unroll
  for (u32 h = 0; h < 2; ++h) {
    const u32 head = 2 * c + h;
    if (g == 0) partial.row_max[head] = softmax.row_max[h], partial.denominator[head] = softmax.denominator[h];
#pragma unroll
    for (u32 d = 0; d < OnlineSoftmax<kHeadDim>::kSteps; ++d) {
      partial.out[head][d * 16 + g] = softmax.out[d].c[h];
      partial.out[head][d * 16 + g + 8] = softmax.out[d].c[2 + h];
    }
  }
}

// Merged partials, as a block holds them: a few threads per head, each with some pairs of its dims.
template <u32 kHeadDim, u32 kThreads>
struct MergedPartials {
  static constexpr u32 kThreadsPerHead = kThreads / kColumnHeads;
  static constexpr u32 kPairs = kHeadDim / 2 / kThreadsPerHead;
  static_assert(kPairs * 2 * kThreadsPerHead == kHeadDim, "a thread holds whole pairs of dims");

  float row_max, denominator;
  float2 out[kPairs];

  __device__ __forceinline__ static u32 head() { return threadIdx.x / kThreadsPerHead; }
  __device__ __forceinline__ static u32 dim(u32 pair) { return (threadIdx.x % kThreadsPerHead * kPairs + pair) * 2; }

  // Merges the first `count` of at most kMaxPartials partials, in their order. All loads are issued before the first
  // use.
  template <u32 kMaxPartials>
  __device__ __forceinline__ void merge(const SoftmaxPartial<kHeadDim>* partials, u32 count) {
    float partial_max[kMaxPartials], partial_denominator[kMaxPartials];
    float2 partial_out[kMaxPartials][kPairs];
#pragma unroll
    for (u32 i = 0; i < kMaxPartials; ++i) {
      partial_max[i] = kMinusInfinity, partial_denominator[i] = 0.0f;
      if (i < count)
        partial_max[i] = partials[i].row_max[head()], partial_denominator[i] = partials[i].denominator[head()];
#pragma unroll
      for (u32 p = 0; p < kPairs; ++p) {
        partial_out[i][p] = make_float2(0.0f, 0.0f);
        if (i < count) partial_out[i][p] = *reinterpret_cast<const float2*>(&partials[i].out[head()][dim(p)]);
      }
    }
    issue_loads();
    row_max = kMinusInfinity, denominator = 0.0f;
#pragma unroll
    for (u32 p = 0; p < kPairs; ++p) out[p] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (u32 i = 0; i < kMaxPartials; ++i) row_max = fmaxf(row_max, partial_max[i]);
#pragma unroll
    for (u32 i = 0; i < kMaxPartials; ++i) {
      const float scale = partial_scale(partial_max[i], row_max);
      denominator += partial_denominator[i] * scale;
#pragma unroll
      for (u32 p = 0; p < kPairs; ++p) out[p].x += partial_out[i][p].x * scale, out[p].y += partial_out[i][p].y * scale;
    }
  }

  __device__ __forceinline__ void store(SoftmaxPartial<kHeadDim>& partial) const {
    if (dim(0) == 0) partial.row_max[head()] = row_max, partial.denominator[head()] = denominator;
#pragma unroll
    for (u32 p = 0; p < kPairs; ++p) *reinterpret_cast<float2*>(&partial.out[head()][dim(p)]) = out[p];
  }

  // The factor that normalises the outputs. The sink is one more logit in the denominator, without a value; it is added
  // exactly once, here.
  __device__ __forceinline__ float normalizer(float sink) const {
    const float sink_log2 = sink * kLog2e;
    const float common = fmaxf(row_max, sink_log2);
    const float scale = partial_scale(row_max, common);
    return scale / (denominator * scale + exp2_fast(sink_log2 - common));
  }
};
