// A sample from the tokens that top-k, top-p and min-p keep.
//
// top-p keeps the best tokens that have a share of the mass together. Whether one token is among them depends only on
// the mass of all better ones, so top-p works by rejection: a sample is taken from all tokens that top-k keeps, and if
// top-p does not keep it, everything that is not better is dropped and another sample is taken. The first one is accepted
// with a probability of at least `top_p`. Since the noise of each token is fixed, the accepted token is the one that
// sampling from the kept tokens alone gives.
#pragma once
#include "sample/gumbel_argmax.cuh"

// Masses of the tokens that have a rank of at least `kept` and of at least `better`.
struct Masses {
  u64 kept, better;
};

__device__ __forceinline__ Masses masses(const Row& row, Exchange& exchange, NextBuffer& next, const Scores& score_of,
                                         Rank kept, Rank better) {
  u64 sums[2] = {0, 0};
  each_vector(row, [&](float4 v, u32 first) {
#pragma unroll
    for (u32 e = 0; e < 4; ++e) {
      const u64 weight = weight_of_score(score_of(element(v, e)));
      const Rank rank = rank_of(canonical_key(element(v, e)), first + e);
      sums[0] += rank >= kept ? weight : 0;
      sums[1] += rank >= better ? weight : 0;
    }
  });
  reduce_row<Sum>(exchange, next, sums);
  return {sums[0], sums[1]};
}

// Samples from a row whose largest logit is finite. `likeliest` is the row's most likely token, `mine` this thread's.
__device__ __forceinline__ u32 sample_filtered(const Row& row, Exchange& exchange, NextBuffer& next,
                                               Candidate likeliest, Candidate mine, const SampleRow& settings) {
  const u64 seed = static_cast<u64>(settings.seed_high) << 32 | settings.seed_low;
  Contest contest{{likeliest.score, settings.inverse_temperature},
                  noise_stream(seed, settings.position),
                  0,
                  settings.min_score};
  if (settings.top_k > 0 && settings.top_k < spec::kVocab)
    contest.kept = keep_best(row, exchange, next, settings.top_k, likeliest.score, mine.score);
  u64 wanted = 0;
#pragma unroll 1
  for (;;) {
    const u32 token = gumbel_argmax(row, exchange, next, contest, likeliest.token, mine);
    if (settings.top_p >= 1.0f) return token;
    const Rank better = rank_of({row.at_any(token), token}) + 1;
    const Masses mass = masses(row, exchange, next, contest.score_of, contest.kept, better);
    // The share is rounded as on the host: once to double, and down to an integer.
    if (wanted == 0) wanted = max(static_cast<u64>(static_cast<double>(mass.kept) * settings.top_p), u64{1});
    if (mass.better < wanted) return token;
    contest.kept = better;
  }
}
