// The Gumbel-max trick over the tokens that the filters keep: the token with the largest score + Gumbel noise, which is
// a sample from their softmax. A score is (logit - largest logit) / temperature, rounded as on the host.
#pragma once
#include "sample/noise.cuh"
#include "sample/select.cuh"

// The `noise_bits` of four consecutive tokens, which share the first step of the first `mix_word` except for the lowest
// bits of the token.
struct NoiseOfFour {
  u32 base, key;

  __device__ __forceinline__ NoiseOfFour(u64 stream, u32 token) : key(static_cast<u32>(stream >> 32)) {
    const u32 word = token ^ static_cast<u32>(stream);
    base = word ^ word >> 16;
  }

  __device__ __forceinline__ u32 operator()(u32 e) const { return mix_word(mix_from_second_step(base ^ e) + key); }

  __device__ __forceinline__ static u32 mix_from_second_step(u32 word) {
    const u32 a = word * 0x85ebca6bu, b = (a ^ a >> 13) * 0xc2b2ae35u;
    return b ^ b >> 16;
  }
};

// What tokens compete by, and which of them do.
struct Contest {
  Scores score_of;
  u64 stream;
  Rank kept;        // lowest rank that top-k and top-p keep
  float min_score;  // lowest score that min-p keeps
};

// The best of this block before its pass: what each thread finds at its most likely token `mine` and at the row's most
// likely token, which is always kept. Returns the sum to beat, and this thread's best in `best`.
__device__ __forceinline__ float first_sums(Exchange& exchange, Candidate& best, const Contest& contest, u32 likeliest,
                                            Candidate mine) {
  const float score = contest.score_of(mine.score);
  const bool competes = mine.token < spec::kVocab && score >= contest.min_score && rank_of(mine) >= contest.kept;
  const u32 token = competes ? mine.token : likeliest;
  best = {(competes ? score : 0.0f) + gumbel_of_bits(noise_bits(contest.stream, token)), token};
  const u32 of_warp = __reduce_max_sync(~0u, order_key(best.score));
  static_assert(kWarps <= kBins, "a bin for each warp");
  if (lane_id() == 0) exchange.bins[warp_id()] = of_warp;  // no select follows
  __syncthreads();
  return key_to_float(__reduce_max_sync(~0u, lane_id() < kWarps ? exchange.bins[lane_id()] : 0));
}

// The token with the largest sum. Most tokens are skipped without a logarithm, because even the upper bound of their
// noise leaves them behind what this warp has found.
__device__ __forceinline__ u32 gumbel_argmax(const Row& row, Exchange& exchange, NextBuffer& next,
                                             const Contest& contest, u32 likeliest, Candidate mine) {
  Candidate best;
  float to_beat = first_sums(exchange, best, contest, likeliest, mine);
  const Scores& score_of = contest.score_of;
  const bool all = contest.kept == 0 && contest.min_score == kMinusInfinity;
  const float least_logit =
      all ? kMinusInfinity : key_to_float(max(key_of_rank(contest.kept), order_key(kMinusInfinity)));
#pragma unroll 1
  for (u32 round = 0; round < kRounds; ++round) {
    const u32 i = round * spec::kThreads + threadIdx.x;
    float4 v = i < kVectors ? row.vector(i) : float4{kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity};
    if (!all) {
      bool competes = false;
#pragma unroll
      for (u32 e = 0; e < 4; ++e)
        competes |= (element(v, e) >= least_logit) & (score_of(element(v, e)) >= contest.min_score);
      if (!__any_sync(~0u, competes)) continue;
    }
    const NoiseOfFour noise_of(contest.stream, row.first + 4 * i);
    bool competes = false;
#pragma unroll
    for (u32 e = 0; e < 4; ++e) competes |= score_of(element(v, e)) + gumbel_bound(noise_of(e)) >= to_beat;
    if (!__any_sync(~0u, competes)) continue;
    if (competes && i < kVectors) {
#pragma unroll 1
      for (u32 token = row.first + 4 * i; token < row.first + 4 * i + 4; ++token) {
        const float logit = row.at(token), score = score_of(logit);
        const u32 bits = noise_bits(contest.stream, token);
        if (!(score + gumbel_bound(bits) >= to_beat)) continue;
        if (score < contest.min_score || rank_of({logit, token}) < contest.kept) continue;
        best.keep_better({score + gumbel_of_bits(bits), token});
      }
    }
    to_beat = fmaxf(to_beat, key_to_float(__reduce_max_sync(~0u, order_key(best.score))));
  }
  return candidate_of(reduce_row<Max>(exchange, next, rank_of(best))).token;
}
