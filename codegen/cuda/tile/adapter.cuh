// Low-rank adapters beside a matrix: to y = w x they add b (a x), where `a` is [rank][k] and `b` is [rows][rank].
//
// A block takes a group of up to eight tokens that have the same adapter. Its warps split k of a x, by tensor cores; the
// multiplication by b is so small that each thread has a row of it.
#pragma once
#include "ptx/math.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "scalar.cuh"

// Rows and columns of one tensor-core instruction: ranks, and tokens of a group.
constexpr u32 kAdapterRanks = 16, kAdapterTokens = 8;
// Elements of a row that a warp takes at a time, a quarter of them each lane of four.
constexpr u32 kAdapterChunk = 64, kAdapterPairs = kAdapterChunk / 8;

// What a block's warps have of a x, by rank and token: their parts of the sums, and the sums.
template <u32 kWarps, u32 kMaxRank>
struct SharedAdapter {
  float partials[kWarps][kAdapterRanks * kAdapterTokens];
  alignas(16) float inner[kMaxRank][kAdapterTokens];
};

// A lane's sixteen elements of a row, 16 c from element `first` on, as pairs. Rows are natural or in tile order, in
// which the pairs of a lane are those of its fragments (`tile_position`); beyond the end they are zero.
template <u32 kK>
__device__ __forceinline__ void load_activation_pairs(u32 (&pairs)[kAdapterPairs], const bf16* row, u32 first,
                                                      u32 tile_order) {
  const u32 c = lane_id() % 4;
  if (tile_order) {
#pragma unroll
    for (u32 i = 0; i < kAdapterPairs; ++i)
      pairs[i] = load_bypass_l1(reinterpret_cast<const u32*>(row + first + tile_position(16 * c + 2 * i)));
    return;
  }
  const u32 element = first + 16 * c;
  uint4 low{}, high{};
  if (element < kK) {
    const uint4* from = reinterpret_cast<const uint4*>(row + element);
    low = load_bypass_l1(from), high = load_bypass_l1(from + 1);
  }
  pairs[0] = low.x, pairs[1] = low.y, pairs[2] = low.z, pairs[3] = low.w;
  pairs[4] = high.x, pairs[5] = high.y, pairs[6] = high.z, pairs[7] = high.w;
}

// The same of a row of `a`, which is constant for the step and in natural order.
template <u32 kK>
__device__ __forceinline__ void load_rank_pairs(u32 (&pairs)[kAdapterPairs], const bf16* row, u32 first) {
  const u32 element = first + 16 * (lane_id() % 4);
  uint4 low{}, high{};
  if (element < kK) low = load_stream(row + element), high = load_stream(row + element + 8);
  pairs[0] = low.x, pairs[1] = low.y, pairs[2] = low.z, pairs[3] = low.w;
  pairs[4] = high.x, pairs[5] = high.y, pairs[6] = high.z, pairs[7] = high.w;
}

// inner = a x of the rows of `input` that `tokens` lists. All threads of the block take part; the sums are there for
// all of them when it returns. The order of the additions is the same whatever else is in the step.
template <u32 kK, u32 kWarps, u32 kMaxRank>
__device__ __forceinline__ void shrink(SharedAdapter<kWarps, kMaxRank>& shared, const AdapterMatrices& matrices,
                                       const bf16* input, const u32* tokens, u32 count, u32 tile_order) {
  static_assert(kK % 16 == 0, "a lane has all of its elements, or none");
  const u32 g = lane_id() / 4, c = lane_id() % 4;
  // Columns that no token has repeat the last one's; nothing reads them.
  const bf16* x = input + static_cast<u64>(tokens[min(g, count - 1)]) * kK;
  for (u32 rank = 0; rank < matrices.rank; rank += kAdapterRanks) {
    const bf16* a = matrices.a + static_cast<u64>(rank + g) * kK;
    Accumulators sums{};
#pragma unroll 2
    for (u32 first = warp_id() * kAdapterChunk; first < kK; first += kWarps * kAdapterChunk) {
      u32 low[kAdapterPairs], high[kAdapterPairs], columns[kAdapterPairs];
      load_rank_pairs<kK>(low, a, first);
      load_rank_pairs<kK>(high, a + 8 * kK, first);
      load_activation_pairs<kK>(columns, x, first, tile_order);
#pragma unroll
      for (u32 i = 0; i < kAdapterPairs; i += 2)
        mma(sums, {low[i], high[i], low[i + 1], high[i + 1]}, columns[i], columns[i + 1]);
    }
    float* partials = shared.partials[warp_id()];
    partials[g * kAdapterTokens + 2 * c] = sums.c[0], partials[g * kAdapterTokens + 2 * c + 1] = sums.c[1];
    partials[(g + 8) * kAdapterTokens + 2 * c] = sums.c[2], partials[(g + 8) * kAdapterTokens + 2 * c + 1] = sums.c[3];
    __syncthreads();
    if (threadIdx.x < kAdapterRanks * kAdapterTokens) {
      float sum = 0.0f;
#pragma unroll
      for (u32 warp = 0; warp < kWarps; ++warp) sum += shared.partials[warp][threadIdx.x];
      shared.inner[rank + threadIdx.x / kAdapterTokens][threadIdx.x % kAdapterTokens] = sum;
    }
    __syncthreads();
  }
}

// sums = row `row` of b, times the inner sums of each token.
template <u32 kWarps, u32 kMaxRank>
__device__ __forceinline__ void expand(float (&sums)[kAdapterTokens], const SharedAdapter<kWarps, kMaxRank>& shared,
                                       const AdapterMatrices& matrices, u32 row) {
#pragma unroll
  for (u32 t = 0; t < kAdapterTokens; ++t) sums[t] = 0.0f;
  const bf16* b = matrices.b + static_cast<u64>(row) * matrices.rank;
  for (u32 rank = 0; rank < matrices.rank; rank += 8) {
    const uint4 v = load_stream(b + rank);
    const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
      const float factor = i % 2 ? bf16_high(pairs[i / 2]) : bf16_low(pairs[i / 2]);
      const float4* inner = reinterpret_cast<const float4*>(shared.inner[rank + i]);
      const float4 first = inner[0], second = inner[1];
      sums[0] += factor * first.x, sums[1] += factor * first.y, sums[2] += factor * first.z, sums[3] += factor * first.w;
      sums[4] += factor * second.x, sums[5] += factor * second.y, sums[6] += factor * second.z,
          sums[7] += factor * second.w;
    }
  }
}

// Adds to a bf16 element that the kernel before wrote.
__device__ __forceinline__ void add_bf16(bf16* address, float value) {
  bf16 before;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(before) : "l"(address) : "memory");
  *address = to_bf16(bf16_to_float(before) + value);
}
