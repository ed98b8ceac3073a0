// One layer's key/value cache in pages: keys as [page][kv head][token][dim], values transposed as [page][kv
// head][dim][token], so that attention loads both as matrix fragments with 16-byte loads. A page has kPageTokens
// tokens, and in a sliding-window layer kSlidingPageTokens. A page table maps (sequence slot, position / tokens of a
// page) to a page. In a sliding-window layer only the blocks of the step and of the windows before it have a page.
#pragma once
#include "facts.cuh"

struct KvCache {
  bf16* keys;
  bf16* values;
  const u32* page_table;  // [seq_slot][table_stride]
  u32 table_stride;
  u32 page_bits;  // log2 of the tokens of a page

  __device__ __forceinline__ u32 page(u32 seq_slot, u32 position) const {
    return page_table[seq_slot * table_stride + (position >> page_bits)];
  }
};
