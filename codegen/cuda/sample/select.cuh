// The tokens that top-k and top-p keep, without sorting: a radix select over order-preserving keys. Weights are
// integers, so the result does not depend on the order in which threads add them.
#pragma once
#include "ptx/math.cuh"

constexpr u32 kRadixBits = 8;
constexpr u32 kBins = 1u << kRadixBits;

// The tokens with larger keys than `key`, and those with this key and ids up to `last`.
struct Kept {
  u32 key, last;

  __device__ __forceinline__ bool contains(u32 other_key, u32 id) const {
    return other_key > key || (other_key == key && id <= last);
  }
};

struct SharedSelect {
  u64 bins[kBins];
  u64 remaining;
  u32 prefix;
};

// Finds the largest key such that the weights of all elements with that key or larger ones sum to at least `wanted` (at
// least 1), or 0 if all weights together do not. `weight_of(i)` is an integer and `key_of(i)` the key of element i.
template <u32 kThreads, class Key, class Weight>
__device__ __forceinline__ u32 threshold_key(SharedSelect& shared, u32 count, u64 wanted, Key key_of,
                                             Weight weight_of) {
  if (threadIdx.x == 0) shared.prefix = 0, shared.remaining = wanted;
  for (u32 shift = 32; shift > 0;) {
    const u32 above = shift;
    shift -= kRadixBits;
    for (u32 bin = threadIdx.x; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
    __syncthreads();
    const u32 prefix = shared.prefix;
    for (u32 i = threadIdx.x; i < count; i += kThreads) {
      const u32 key = key_of(i);
      const bool in_prefix = above == 32 || key >> above == prefix >> above;
      if (in_prefix) atomicAdd(&shared.bins[key >> shift & (kBins - 1)], weight_of(i));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      u32 bin = kBins - 1;
      while (bin > 0 && shared.bins[bin] < shared.remaining) shared.remaining -= shared.bins[bin--];
      shared.prefix = prefix | bin << shift;
    }
    __syncthreads();
  }
  return shared.prefix;
}

// Keeps the best elements of `within`, the largest keys and lowest ids first, until their weights sum to at least
// `wanted`. `key_of(id)` is an element's key and `weight_of(key)` an integer.
template <u32 kThreads, class Key, class Weight>
__device__ __forceinline__ Kept keep_best(SharedSelect& shared, u32 count, Kept within, u64 wanted, Key key_of,
                                          Weight weight_of) {
  const u32 key = threshold_key<kThreads>(shared, count, wanted, key_of, [&](u32 id) {
    const u32 of_id = key_of(id);
    return within.contains(of_id, id) ? weight_of(of_id) : u64{0};
  });
  // Of the elements with the last key, whose weights are equal, only as many are kept as are needed.
  const u64 of_key = shared.bins[key & (kBins - 1)], needed = shared.remaining;
  const u32 last = key == within.key ? within.last : ~0u;
  if (of_key < needed + weight_of(key)) return {key, last};
  __syncthreads();  // all threads have read `bins` before the next select clears it
  const u32 inverse = threshold_key<kThreads>(
      shared, count, needed, [](u32 id) { return ~id; },
      [&](u32 id) { return key_of(id) == key && id <= last ? weight_of(key) : u64{0}; });
  return {key, ~inverse};
}
