// Keys and values in shared memory, and how lanes read their rows as tensor-core fragments.
//
// Lane 4g + c takes 16-byte units c, c + 4, ... of a row: a unit is the fragment words of two steps, in an order of
// dims (of keys) that a product's other operand follows.
#pragma once
#include "epilogue/cache.cuh"
#include "ptx/memory.cuh"

constexpr u32 kUnit = 8;  // elements of 16 bytes
// Keys attended at once: half a page.
constexpr u32 kSpanKeys = kPageTokens / 2;

// Where a unit of a row of kRow elements stands. Units of odd rows are swapped in fours where a row is 128 bytes or
// more, so that the eight lanes that read at a time (two rows, four units) meet all banks.
template <u32 kRow>
__device__ __forceinline__ u32 unit_place(u32 row, u32 unit) {
  return row * kRow + (kRow >= 8 * kUnit ? unit ^ row % 2 * 4 : unit) * kUnit;
}

// Starts the copy of kRows rows of kRow elements by kThreads threads, of which this is `thread`; `copy` copies 16
// bytes. Rows begin kStride elements apart in global memory.
template <u32 kThreads, u32 kRows, u32 kRow, u32 kStride, class Copy>
__device__ __forceinline__ void fetch_rows(bf16* shared, const bf16* global, u32 thread, Copy copy) {
  constexpr u32 kRowUnits = kRow / kUnit, kUnits = kRows * kRowUnits;
  static_assert(kUnits % kThreads == 0, "every thread copies as many units");
#pragma unroll
  for (u32 i = 0; i < kUnits / kThreads; ++i) {
    const u32 index = i * kThreads + thread, row = index / kRowUnits, unit = index % kRowUnits;
    const u32 from = kStride == kRow ? index * kUnit : row * kStride + unit * kUnit;
    copy(shared + unit_place<kRow>(row, unit), global + from);
  }
}

// A lane's share of a row of kRow elements: words 2j and 2j + 1 belong to step j.
template <u32 kRow>
struct LaneRow {
  static constexpr u32 kWords = kRow / 8;
  u32 words[kWords];

  template <class Address>
  __device__ __forceinline__ void load(Address address) {
#pragma unroll
    for (u32 i = 0; i < kWords / 4; ++i) {
      const uint4 v = *reinterpret_cast<const uint4*>(address(4 * i + lane_id() % 4));
      words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
    }
  }
};
