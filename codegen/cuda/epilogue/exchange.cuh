// The sum over ranks of two elements of a token's row, in the epilogue of a kernel: each rank writes its part into the
// mailbox of every other one, as words of value and epoch (scalar.cuh), and reads its own mailbox until each word has
// this exchange's epoch. Parts are added in the order of the ranks, so all ranks get the same bits, in every run.
//
// A block has one row tile and keeps its epoch in a counter of its own, which only its first thread reads and writes.
// All ranks run the same kernels in the same order, so their counters agree. An exchange is never more than one ahead:
// the next one of a row tile needs every rank's part, which a rank writes after it has read those of this one. A block
// writes before it reads, so none waits for ever where all blocks are resident. Where they are not, that rests on
// devices starting blocks in the order of their numbers, which CUDA does not promise.
//
// A unit of several ranks defines RANKS.
#pragma once
#include "facts.cuh"
#include "ptx/memory.cuh"
#include "scalar.cuh"

// What the host writes to this module before its first launch.
struct RankMailboxes {
  u64* mailboxes[kMaxRanks];  // of each rank: [parity][source][token][hidden] words
  u32* epochs;                // this rank's counters, one for each row tile
  u64* report;                // host memory: which rank did not come, plus one, and the epoch
  u32 rank;
};
extern "C" __constant__ RankMailboxes rank_mailboxes;

// The epoch of a row tile's exchange. One thread of its block calls it, once per launch. It may be called before
// `wait_for_inputs`: the counter was last written two kernels ago or earlier, and those are complete.
__device__ __forceinline__ u32 begin_exchange(u32 row_tile) {
  const u32 epoch = next_epoch(load_bypass_l1(rank_mailboxes.epochs + row_tile));
  rank_mailboxes.epochs[row_tile] = epoch;
  return epoch;
}

// Reads a word of this rank's mailbox until it has the epoch. A rank that does not come within the limit ends the
// kernel: the host finds which one in its report.
__device__ __forceinline__ float receive(const u64* place, u32 epoch, u32 source) {
  u64 word = load_system(place);
  if (exchange_epoch(word) != epoch) {
    const u64 begin = global_timer_ns();
    do {
      if (global_timer_ns() - begin > static_cast<u64>(kExchangeLimitMs) * 1000000) {
        store_system(rank_mailboxes.report, (static_cast<u64>(epoch) << 32) | (source + 1));
        __threadfence_system();
        asm volatile("trap;");
      }
      word = load_system(place);
    } while (exchange_epoch(word) != epoch);
  }
  return exchange_value(word);
}

// Replaces this rank's parts of elements `row` and `row + 8` of a token by their sums over all ranks.
template <u32 kRanks, u32 kHidden>
__device__ __forceinline__ void sum_over_ranks(u32 epoch, u32 token, u32 row, float& low, float& high) {
  const u32 rank = rank_mailboxes.rank;
  const u64 low_word = exchange_word(low, epoch), high_word = exchange_word(high, epoch);
  const u32 own = exchange_place(epoch, rank, token, row, kRanks, kExchangeTokens, kHidden);
#pragma unroll
  for (u32 peer = 0; peer < kRanks; ++peer) {
    if (peer == rank) continue;
    store_system(rank_mailboxes.mailboxes[peer] + own, low_word);
    store_system(rank_mailboxes.mailboxes[peer] + own + 8, high_word);
  }
  const u64* mailbox = rank_mailboxes.mailboxes[rank];
  float low_sum = 0.0f, high_sum = 0.0f;
#pragma unroll
  for (u32 source = 0; source < kRanks; ++source) {
    const u64* place = mailbox + exchange_place(epoch, source, token, row, kRanks, kExchangeTokens, kHidden);
    low_sum += source == rank ? low : receive(place, epoch, source);
    high_sum += source == rank ? high : receive(place + 8, epoch, source);
  }
  low = low_sum, high = high_sum;
}
