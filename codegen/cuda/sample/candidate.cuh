// A token with the score by which it competes, and its rank among all tokens.
#pragma once
#include "ptx/math.cuh"

struct Candidate {
  float score;
  u32 token;

  // Among equal scores the lowest id is kept.
  __device__ __forceinline__ void keep_better(Candidate other) {
    if (other.score > score || (other.score == score && other.token < token)) *this = other;
  }
};

// A number that is larger for a better token; among equal scores the lowest id is better. A set of best tokens is
// described by the lowest rank in it, and 0 describes the set of all tokens.
using Rank = u64;

__device__ __forceinline__ Rank rank_of(u32 key, u32 token) { return static_cast<u64>(key) << 32 | ~token; }
__device__ __forceinline__ Rank rank_of(Candidate one) { return rank_of(order_key(one.score), one.token); }
__device__ __forceinline__ u32 key_of_rank(Rank rank) { return static_cast<u32>(rank >> 32); }

__device__ __forceinline__ Candidate candidate_of(Rank rank) {
  return {key_to_float(key_of_rank(rank)), ~static_cast<u32>(rank)};
}
