// The best token of a slice of the vocabulary.
#pragma once
#include "facts.cuh"
#include "ptx/math.cuh"
#include "ptx/memory.cuh"

struct Candidate {
  float score;
  u32 token;

  // Among equal scores the lowest id is kept.
  __device__ __forceinline__ void keep_better(Candidate other) {
    if (other.score > score || (other.score == score && other.token < token)) *this = other;
  }
};

static_assert(sizeof(Candidate) == kCandidateBytes, "the host reserves room for the candidates");

// Tokens first to end - 1.
struct Slice {
  u32 first, end;
};

__device__ __forceinline__ Candidate warp_best(Candidate best) {
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2)
    best.keep_better({__shfl_xor_sync(~0u, best.score, step), __shfl_xor_sync(~0u, best.token, step)});
  return best;
}

// Finds the best token by `score_of(token)`. All threads of the block take part and get the result.
template <u32 kWarps, class Score>
__device__ __forceinline__ Candidate block_best(Candidate (&shared)[kWarps], Slice slice, Score score_of) {
  constexpr u32 kThreads = kWarps * kWarpSize;
  Candidate best{kMinusInfinity, ~0u};
#pragma unroll 8
  for (u32 token = slice.first + threadIdx.x; token < slice.end; token += kThreads)
    best.keep_better({score_of(token), token});
  best = warp_best(best);
  __syncthreads();
  if (lane_id() == 0) shared[warp_id()] = best;
  __syncthreads();
  for (u32 w = 0; w < kWarps; ++w) best.keep_better(shared[w]);
  return best;
}
