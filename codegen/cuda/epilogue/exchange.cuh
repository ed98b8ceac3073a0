// The sum over ranks of two elements of a token's row, in the epilogue of a kernel: each rank writes its part into the
// mailbox of every other one, as words of value and epoch (scalar.cuh), and reads its own mailbox until each word has
// this exchange's epoch. Parts are added in the order of the ranks, so all ranks get the same bits, in every run.
//
// A block has one row tile and keeps its epoch in a counter of its own, which only its first thread reads and writes.
// All ranks run the same kernels in the same order, so their counters agree. An exchange is never more than one ahead:
// the next one of a row tile needs every rank's part, which a rank writes after it has read those of this one. A block
// writes before it reads, so none waits for ever, because all blocks are resident: a schedule whose blocks are not is
// left out (codegen/src/assemble.rs).
//
// Rows of batches and prompts, and logits, are too many for words. Their kernels leave a rank's part in its own memory,
// and the next kernel meets the other ranks, by which it knows that their parts are complete, and reads them from there.
//
// A unit of several ranks defines RANKS.
#pragma once
#include "facts.cuh"
#include "ptx/memory.cuh"
#include "scalar.cuh"

// What the host writes to this module before its first launch.
struct RankMailboxes {
  u64* mailboxes[kMaxRanks];          // of each rank: [parity][source][token][hidden] words
  u64* arrivals[kMaxRanks];           // of each rank: [block][source], the last meeting that a source has come to
  const float* parts[2][kMaxRanks];   // of each rank: its parts of attention's and of the experts' sums, [token][hidden]
  const float* logits[kMaxRanks];     // of each rank: its columns of logits, [row][column]
  u32* epochs;                        // this rank's counters, one for each row tile
  u64* meetings;                      // this rank's counters, one for each block
  u64* report;                        // host memory: which rank did not come, and to what
  u32 rank;
};
extern "C" {
__constant__ RankMailboxes rank_mailboxes;
}

// The epoch of a row tile's exchange. One thread of its block calls it, once per launch. It may be called before
// `wait_for_inputs`: the counter was last written two kernels ago or earlier, and those are complete.
__device__ __forceinline__ u32 begin_exchange(u32 row_tile) {
  const u32 epoch = next_epoch(load_bypass_l1(rank_mailboxes.epochs + row_tile));
  rank_mailboxes.epochs[row_tile] = epoch;
  return epoch;
}

// Ends the kernel because a rank has not come: the host finds which one, and to which epoch or meeting of which row tile
// or block, in its report.
__device__ __forceinline__ void report_absence(u32 source, u32 number, u32 place, u32 is_meeting) {
  store_system(rank_mailboxes.report + 1, (static_cast<u64>(is_meeting) << 32) | place);
  __threadfence_system();
  store_system(rank_mailboxes.report, (static_cast<u64>(number) << 32) | (source + 1));
  __threadfence_system();
  asm volatile("trap;");
}

__device__ __forceinline__ bool is_late(u64 begin_ns) {
  return global_timer_ns() - begin_ns > static_cast<u64>(kExchangeLimitMs) * 1000000;
}

// Reads a word of this rank's mailbox until it has the epoch. A rank that does not come within the limit ends the
// kernel.
__device__ __forceinline__ float receive(const u64* place, u32 epoch, u32 source) {
  u64 word = load_system(place);
  if (exchange_epoch(word) != epoch) {
    const u64 begin = global_timer_ns();
    do {
      if (is_late(begin)) report_absence(source, epoch, blockIdx.x, 0);
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

// Waits until the block of this number of every rank has come here, and so until all that every rank did before this
// kernel is complete and can be read. It is called after `wait_for_inputs`, by all threads of a block, and by the same
// blocks on every rank, which are all resident.
template <u32 kRanks>
__device__ __forceinline__ void meet_ranks() {
  const u32 rank = rank_mailboxes.rank, peer = threadIdx.x;
  if (peer < kWarpSize) {
    const u64 meeting = load_bypass_l1(rank_mailboxes.meetings + blockIdx.x) + 1;
    __syncwarp();
    if (peer == 0) rank_mailboxes.meetings[blockIdx.x] = meeting;
    if (peer < kRanks && peer != rank) {
      __threadfence_system();
      store_system(rank_mailboxes.arrivals[peer] + blockIdx.x * kMaxRanks + rank, meeting);
      const u64* arrival = rank_mailboxes.arrivals[rank] + blockIdx.x * kMaxRanks + peer;
      const u64 begin = global_timer_ns();
      // A rank may be one meeting ahead.
      while (load_system(arrival) < meeting) {
        if (is_late(begin)) report_absence(peer, static_cast<u32>(meeting), blockIdx.x, 1);
      }
      __threadfence_system();
    }
  }
  __syncthreads();
}
