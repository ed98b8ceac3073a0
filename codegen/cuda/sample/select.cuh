// Finds the n best tokens of a row without sorting, by a radix select: the key of the worst of them is found four bits
// at a time, by counting the keys that continue with each of the 16 digits. A thread counts in bytes of its registers,
// so no data leads to contention for a bin.
#pragma once
#include "sample/candidate.cuh"
#include "sample/reduce.cuh"

constexpr u32 kDigitBits = 4;
constexpr u32 kIdBits = 20;
static_assert(kBins == 1u << kDigitBits, "a bin for each digit");
static_assert(spec::kVocab <= 1u << kIdBits, "ids have more bits");

// What is selected: among the elements with a value from `least` to `most`, the `wanted` largest keys. The bits of
// these keys above the lowest `bits` are those of `prefix`.
struct Search {
  float least, most;
  u32 prefix, bits, wanted;
};

struct Selected {
  u32 key;     // the largest key that enough elements reach
  u32 needed;  // elements with this key that are needed
  u32 of_key;  // elements that have this key
};

// `key_of(value, token)` returns an element's key.
template <class Key>
__device__ __forceinline__ Selected select_key(const Row& row, Exchange& exchange, NextBuffer& next,
                                               const Search& search, Key key_of) {
  constexpr u32 kMaxByte = 252;  // elements that a thread counts in a byte: a multiple of 4
  constexpr u32 kStride = kMaxByte / 4 * spec::kThreads;
  Selected selected{search.prefix, search.wanted, 0};
  const auto counts = [&](float v) { return (v >= search.least) & (v <= search.most); };
#pragma unroll 1
  for (u32 shift = search.bits; shift > 0;) {
    shift -= kDigitBits;
    u32* totals = exchange.totals[next.totals];
    next.totals = next.totals == 2 ? 0 : next.totals + 1;
    if (threadIdx.x < kBins) exchange.totals[next.totals][threadIdx.x] = 0;
    const u32 known = selected.key << kDigitBits;
#pragma unroll 1
    for (u32 first = 0; first < kVectors; first += kStride) {
      u64 low = 0, high = 0;
#pragma unroll 1
      for (u32 i = first + threadIdx.x; i < min(first + kStride, kVectors); i += spec::kThreads) {
        float4 v = row.vector(i);
        if (!(counts(v.x) | counts(v.y) | counts(v.z) | counts(v.w))) continue;  // the common case
#pragma unroll
        for (u32 e = 0; e < 4; ++e) {
          // The key's digits down to this one minus the known ones: a single digit if the known ones are the same.
          const u32 digits = (key_of(element(v, e), row.first + 4 * i + e) >> shift) - known;
          if (counts(element(v, e)) && digits < kBins) {
            const u64 one = u64{1} << (digits & 7) * 8;
            low += digits < 8 ? one : 0;
            high += digits < 8 ? 0 : one;
          }
        }
      }
      // Bytes are widened to halves, so that the counts of a warp fit.
      const u32 words[4] = {static_cast<u32>(low), static_cast<u32>(low >> 32), static_cast<u32>(high),
                            static_cast<u32>(high >> 32)};
#pragma unroll
      for (u32 w = 0; w < 4; ++w) {
        if (!__any_sync(~0u, words[w] != 0)) continue;
        const u32 even = __reduce_add_sync(~0u, words[w] & 0x00ff00ff);
        const u32 odd = __reduce_add_sync(~0u, words[w] >> 8 & 0x00ff00ff);
        const u32 pair = lane_id() & 1 ? odd : even, count = lane_id() & 2 ? pair >> 16 : pair & 0xffff;
        if (lane_id() < 4 && count > 0) atomicAdd(&exchange.bins[4 * w + lane_id()], count);
      }
    }
    __syncthreads();
    if (threadIdx.x < kBins) {
      const u32 count = exchange.bins[threadIdx.x];
      exchange.bins[threadIdx.x] = 0;
      if (count > 0)
        for (u32 block = 0; block < kBlocks; ++block) add_distributed_shared(&totals[threadIdx.x], block, count);
    }
    row_barrier();
    const u32 bin = lane_id() % kBins, count = totals[bin];
    u32 reached = count;  // elements with this digit or a larger one
#pragma unroll
    for (u32 step = 1; step < kBins; step *= 2) {
      const u32 above = __shfl_down_sync(~0u, reached, step, kBins);
      if (bin + step < kBins) reached += above;
    }
    const u32 enough = __ballot_sync(~0u, reached >= selected.needed) & ((1u << kBins) - 1);
    const u32 digit = enough == 0 ? 0 : 31 - __clz(enough);
    selected.of_key = __shfl_sync(~0u, count, digit);
    selected.needed -= __shfl_sync(~0u, reached, digit) - selected.of_key;
    selected.key = known | digit;
    if (selected.needed == selected.of_key) {
      selected.key <<= shift;
      break;
    }
  }
  return selected;
}

// A key that at least `count` tokens reach, found without a pass: each of as many warps or threads has a token that is
// at least as good as the worst of their best ones. `best` is the key of this thread's best token.
__device__ __forceinline__ u32 lower_bound(Exchange& exchange, NextBuffer& next, u32 count, u32 best) {
  if (count > kBlocks * spec::kThreads) return order_key(kMinusInfinity);
  const u64 of_warp = __reduce_max_sync(~0u, best);
  const u64 least = reduce_row<MaxOfHalves>(exchange, next, ~(of_warp << 32 | best));
  return ~static_cast<u32>(count <= kBlocks * kWarps ? least >> 32 : least);
}

// The set of the `count` best tokens. If it reaches minus infinity it may hold more of those, which no sample is taken
// from, unless `exactly` is set. `largest` is the largest logit of the row, and `best` that of this thread.
__device__ __forceinline__ Rank keep_best(const Row& row, Exchange& exchange, NextBuffer& next, u32 count,
                                          float largest, float best, bool exactly = false) {
  constexpr u32 kIds = (1u << kIdBits) - 1;
  const u32 least = lower_bound(exchange, next, count, order_key(best)), most = order_key(largest);
  const u32 bits = ceil_div(32 - __clz((most ^ least) | 1), kDigitBits) * kDigitBits;
  Search search{key_to_float(least), largest, bits < 32 ? most >> bits : 0, bits, count};
  u32 key = 0;
  // First the key of the worst one; then, if more tokens have this key than are needed, the highest id that is kept.
#pragma unroll 1
  for (bool by_id = false;; by_id = true) {
    const Selected selected = select_key(row, exchange, next, search, [&](float v, u32 token) {
      return by_id ? ~token & kIds : canonical_key(v);
    });
    if (by_id) return rank_of(key, ~selected.key & kIds);
    key = max(selected.key, least);  // tokens below it were not counted
    const bool all_of_key = key == order_key(kMinusInfinity) && !exactly;
    if (selected.needed == selected.of_key || all_of_key) return rank_of(key, ~0u);
    search = {key_to_float(key), key_to_float(key), 0, kIdBits, selected.needed};
  }
}
