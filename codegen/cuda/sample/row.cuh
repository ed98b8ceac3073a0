// A row of logits, split over the blocks of a cluster: each block keeps a slice of the vocabulary in its shared memory
// and passes over it as often as it needs. Without clusters one block passes over the whole row in global memory.
//
// A thread always visits the same tokens, in vectors of four. Every value is canonical: NaN counts as minus infinity,
// and minus zero as zero.
#pragma once
#include "ptx/cluster.cuh"
#include "ptx/math.cuh"
#include "sample/candidate.cuh"

constexpr u32 kBlocks = kHasClusters ? spec::kSplits : 1;               // of a row; blockIdx.z is the block's rank
constexpr u32 kVectors = ceil_div(ceil_div(spec::kVocab, kBlocks), 4);  // of four tokens, in a slice
constexpr u32 kSlice = 4 * kVectors;
constexpr u32 kRounds = ceil_div(kVectors, spec::kThreads);  // in which the block's threads visit the slice
constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr bool kRowInShared = kHasClusters && spec::kRowBytes > 0;
static_assert(!kRowInShared || kVectors * 16 == spec::kRowBytes, "the launch reserves another size for the slice");

__device__ __forceinline__ float canonical(float v) { return fmaxf(v + 0.0f, kMinusInfinity); }

// The `order_key` of a canonical value.
__device__ __forceinline__ u32 canonical_key(float v) {
  const int bits = static_cast<int>(__float_as_uint(v));
  return static_cast<u32>(bits) ^ (static_cast<u32>(bits >> 31) | 0x80000000u);
}

__device__ __forceinline__ float& element(float4& v, u32 e) { return e == 0 ? v.x : e == 1 ? v.y : e == 2 ? v.z : v.w; }
__device__ __forceinline__ float largest_of(const float4& v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

// The vector of logits that begins at `token`. Values beyond the vocabulary are minus infinity, so that they come after
// every token.
__device__ __forceinline__ float4 canonical(float4 v, u32 token) {
#pragma unroll
  for (u32 e = 0; e < 4; ++e) {
    const u32 bounded = spec::kVocab % 4 == 0 ? token : token + e;  // one comparison where vectors end together
    element(v, e) = bounded < spec::kVocab ? canonical(element(v, e)) : kMinusInfinity;
  }
  return v;
}

__device__ __forceinline__ float4 load_logits(const float* logits, u32 token) {
  float4 v{};
  if constexpr (spec::kVocab % 4 == 0) {
    if (token < spec::kVocab) v = *reinterpret_cast<const float4*>(logits + token);
  } else {
#pragma unroll
    for (u32 e = 0; e < 4; ++e)
      if (token + e < spec::kVocab) element(v, e) = logits[token + e];
  }
  return canonical(v, token);
}

struct Row {
  const float* logits;  // of the whole row, in global memory
  float4* values;       // of the slice, in shared memory
  u32 first;            // token of the slice

  __device__ __forceinline__ float4 vector(u32 i) const {
    return kRowInShared ? values[i] : load_logits(logits, first + 4 * i);
  }

  // The value of a token of this block's slice.
  __device__ __forceinline__ float at(u32 token) const {
    if constexpr (kRowInShared) return reinterpret_cast<const float*>(values)[token - first];
    return token < spec::kVocab ? canonical(logits[token]) : kMinusInfinity;
  }

  // The value of any token of the row. It is called by all blocks of the row between two of their barriers.
  __device__ __forceinline__ float at_any(u32 token) const {
    if constexpr (kRowInShared)
      return load_distributed_shared(reinterpret_cast<const float*>(values) + token % kSlice, token / kSlice);
    return canonical(logits[token]);
  }
};

// Calls `visit(values, first token)` for each vector of this thread.
template <class Visit>
__device__ __forceinline__ void each_vector(const Row& row, Visit visit) {
#pragma unroll 1
  for (u32 i = threadIdx.x; i < kVectors; i += spec::kThreads) visit(row.vector(i), row.first + 4 * i);
}

// Keeps the largest value of a thread, with the first token of its vector.
__device__ __forceinline__ void keep_largest(Candidate& best, const float4& v, u32 token) {
  const float largest = largest_of(v);
  if (largest > best.score) best = {largest, token};  // a thread visits ids in ascending order
}

// Completes what `keep_largest` kept: the token within its vector.
__device__ __forceinline__ Candidate within_vector(const Row& row, Candidate best) {
  if (best.token == ~0u) return best;
  const float4 v = row.vector((best.token - row.first) / 4);
  const u32 element_of_best = v.x == best.score ? 0 : v.y == best.score ? 1 : v.z == best.score ? 2 : 3;
  return {best.score, best.token + element_of_best};
}

constexpr u32 kParts = 4;  // of a load: each is made canonical while the next ones are in flight
constexpr u32 kPartRounds = ceil_div(kRounds, kParts);

template <u32 kPart>
__device__ __forceinline__ void finish_parts(const Row& row, Candidate& best) {
  if constexpr (kPart < kParts) {
    copy_wait<kParts - 1 - kPart>();
#pragma unroll 1
    for (u32 round = kPart * kPartRounds; round < (kPart + 1) * kPartRounds; ++round) {
      const u32 i = round * spec::kThreads + threadIdx.x;
      if (i >= kVectors) break;
      const float4 v = canonical(row.values[i], row.first + 4 * i);
      row.values[i] = v;
      keep_largest(best, v, row.first + 4 * i);
    }
    finish_parts<kPart + 1>(row, best);
  }
}

// Fills the slice and returns this thread's best token; its id is ~0 if all its values are minus infinity.
__device__ __forceinline__ Candidate load_row(const Row& row) {
  Candidate best{kMinusInfinity, ~0u};
  if constexpr (kRowInShared && spec::kVocab % 4 == 0) {
#pragma unroll
    for (u32 round = 0; round < kParts * kPartRounds; ++round) {
      const u32 i = round * spec::kThreads + threadIdx.x, token = row.first + 4 * i;
      if (i < kVectors) copy_async(&row.values[i], row.logits + token, token < spec::kVocab);
      if ((round + 1) % kPartRounds == 0) copy_commit();
    }
    finish_parts<0>(row, best);
  } else {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < kVectors; i += spec::kThreads) {
      const float4 v = load_logits(row.logits, row.first + 4 * i);
      if constexpr (kRowInShared) row.values[i] = v;
      keep_largest(best, v, row.first + 4 * i);
    }
  }
  return within_vector(row, best);
}

// This thread's best token of a row whose values have changed, as `load_row` returns it.
__device__ __forceinline__ Candidate best_of_thread(const Row& row) {
  Candidate best{kMinusInfinity, ~0u};
  each_vector(row, [&](const float4& v, u32 first) { keep_largest(best, v, first); });
  return within_vector(row, best);
}
