// What is reported of a row: how likely tokens are by the logits as the model computed them.
#pragma once
#include "sample/select.cuh"
#include "scalar.cuh"

// The logarithm of the sum of exponentials. The sum is one of integers, as the host's is.
__device__ __forceinline__ float log_sum(const Row& row, Exchange& exchange, NextBuffer& next, float largest) {
  u64 sum = 0;
  each_vector(row, [&](float4 v, u32) {
#pragma unroll
    for (u32 e = 0; e < 4; ++e) sum += weight_of_score(__fsub_rn(element(v, e), largest));
  });
  constexpr float kWeightUnit = 9.094947e-13f;  // 2^-40
  return largest + natural_log(__fmul_rn(static_cast<float>(reduce_row<Sum>(exchange, next, sum)), kWeightUnit));
}

// Writes the `count` most likely tokens, best first. `largest` is the largest logit of the row, `best` that of this
// thread, and `total` the logarithm of the sum of exponentials. A thread that has one of them writes its rank into the
// report, at a place that the row's first block counts; that block then orders them.
__device__ __forceinline__ void report_top(const Row& row, Exchange& exchange, NextBuffer& next, u32& gathered,
                                           u32 count, float largest, float best, float total, ReportedToken* top) {
  const Rank least = keep_best(row, exchange, next, count, largest, best, true);
  static_assert(sizeof(ReportedToken) == sizeof(Rank) && kMaxReported <= kWarpSize, "a lane orders each rank");
  Rank* ranks = reinterpret_cast<Rank*>(top);
  const float least_logit = key_to_float(key_of_rank(least));
  each_vector(row, [&](float4 v, u32 first) {
    if (largest_of(v) < least_logit) return;
#pragma unroll 1
    for (u32 token = first; token < first + 4; ++token) {
      const Rank rank = rank_of({row.at(token), token});
      if (rank < least || token >= spec::kVocab) continue;
      const u32 place = add_distributed_shared(&gathered, 0, 1);
      if (place < kMaxReported) ranks[place] = rank;
    }
  });
  row_barrier();
  if (blockIdx.z > 0 || warp_id() > 0) return;
  const Rank rank = lane_id() < count ? load_bypass_l1(&ranks[lane_id()]) : 0;
  u32 better = 0;
  for (u32 i = 0; i < count; ++i) better += __shfl_sync(~0u, rank, i) > rank;
  const Candidate token = candidate_of(rank);
  if (lane_id() < count) top[better] = {token.token, __fsub_rn(token.score, total)};
}

// How many tokens have a larger logit than this one, by the logits in global memory.
__device__ __forceinline__ u32 count_likelier(const Row& row, Exchange& exchange, NextBuffer& next, float logit) {
  u64 likelier = 0;
#pragma unroll 4
  for (u32 i = threadIdx.x; i < kVectors; i += spec::kThreads) {
    float4 v = load_logits(row.logits, row.first + 4 * i);
#pragma unroll
    for (u32 e = 0; e < 4; ++e) likelier += element(v, e) > logit;
  }
  return static_cast<u32>(reduce_row<Sum>(exchange, next, likelier));
}
