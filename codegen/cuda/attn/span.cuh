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

// The pages of kKeys consecutive keys, which lie in a page of kPage tokens or fill several: lane l knows the one with
// number l % kPages.
template <u32 kKeys, u32 kPage>
struct KeyPages {
  static constexpr u32 kPages = ceil_div(kKeys, kPage);
  u32 page;

  // Of the keys from `first_key` on, pages `first` to `last` of the sequence have what is seen. The others may belong
  // to another sequence, whose values need not be finite, so one of these stands for them.
  __device__ __forceinline__ void look_up(const u32* table, u32 first_key, u32 first, u32 last) {
    const u32 index = first_key / kPage + lane_id() % kPages;
    page = table[kPages == 1 ? index : min(max(index, first), last)];
  }

  // Page number `n` of the keys. All lanes of a warp call it together.
  __device__ __forceinline__ u32 operator[](u32 n) const { return kPages == 1 ? page : __shfl_sync(~0u, page, n); }
};

// Copies kKeys keys and values of one head from pages that are smaller. `head(page)` is the offset of the head in a
// page.
template <u32 kThreads, u32 kKeys, u32 kHeadDim, u32 kPage, class Head>
__device__ __forceinline__ void fetch_pages(bf16* keys, bf16* values, const bf16* cached_keys,
                                            const bf16* cached_values, u32 thread,
                                            const KeyPages<kKeys, kPage>& pages, Head head) {
  constexpr u32 kKeyVectors = kHeadDim / kVectorElements, kTokenVectors = kKeys / kVectorElements;
  static_assert(kKeys * kKeyVectors % kThreads == 0 && kThreads % kKeyVectors == 0 && kThreads % kTokenVectors == 0,
                "every thread copies as many vectors, of one column");
  const u32 dims = thread % kKeyVectors * kVectorElements;
#pragma unroll
  for (u32 i = 0; i < kKeys * kKeyVectors / kThreads; ++i) {
    const u32 key = i * (kThreads / kKeyVectors) + thread / kKeyVectors;
    const bf16* from = cached_keys + head(pages[key / kPage]) + key % kPage * kHeadDim + dims;
    copy_async(keys + swizzled_offset<kHeadDim>(key, thread % kKeyVectors), from, true);
  }
  const u32 tokens = thread % kTokenVectors * kVectorElements;
  const bf16* from = cached_values + head(pages[tokens / kPage]) + tokens % kPage;
#pragma unroll
  for (u32 i = 0; i < kHeadDim * kTokenVectors / kThreads; ++i) {
    const u32 dim = i * (kThreads / kTokenVectors) + thread / kTokenVectors;
    copy_async(values + swizzled_offset<kKeys>(dim, thread % kTokenVectors), from + dim * kPage, true);
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
