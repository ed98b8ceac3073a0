// Keys and values in shared memory, and how lanes load their rows as tensor-core fragments.
//
// Lane 4g + c takes the 16-byte vectors c, c + 4, ... of a row. A vector holds the fragment words of two steps; the
// other operand uses the same order of dims (or keys).
#pragma once
#include "epilogue/cache.cuh"
#include "ptx/memory.cuh"

constexpr u32 kVectorElements = 8;  // bf16 elements of a 16-byte vector
static_assert(kPageTokens == 2 * kSpanKeys, "a page is two spans");

// The offset of a vector of a row of kRow elements. If a row has 128 bytes or more, the vectors of odd rows are swapped
// in groups of four, so that the eight lanes that load together (two rows, four vectors) use all banks.
template <u32 kRow>
__device__ __forceinline__ u32 swizzled_offset(u32 row, u32 vector) {
  return row * kRow + (kRow >= 8 * kVectorElements ? vector ^ row % 2 * 4 : vector) * kVectorElements;
}

// Copies kRows rows of kRow elements with kThreads threads, of which this is `thread`; `copy` copies 16 bytes. In
// global memory rows begin kStride elements apart.
template <u32 kThreads, u32 kRows, u32 kRow, u32 kStride, class Copy>
__device__ __forceinline__ void fetch_rows(bf16* shared, const bf16* global, u32 thread, Copy copy) {
  constexpr u32 kRowVectors = kRow / kVectorElements, kVectors = kRows * kRowVectors;
  static_assert(kVectors % kThreads == 0, "every thread copies as many units");
#pragma unroll
  for (u32 i = 0; i < kVectors / kThreads; ++i) {
    const u32 index = i * kThreads + thread, row = index / kRowVectors, vector = index % kRowVectors;
    const u32 from = kStride == kRow ? index * kVectorElements : row * kStride + vector * kVectorElements;
    copy(shared + swizzled_offset<kRow>(row, vector), global + from);
  }
}

// A lane's part of a row of kRow elements: words 2j and 2j + 1 belong to step j.
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
