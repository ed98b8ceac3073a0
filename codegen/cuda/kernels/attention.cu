// heads = softmax(q k^T / sqrt(head_dim), sink) v, over the keys that each token sees.
//
// Of all tokens of the step, or of those that no tile takes (attention_tile.cu).
// A block attends one token and one key/value head with its group of query heads, over one of gridDim.y splits of
// the pages; a warp takes every kWarps-th page. Short sequences use fewer splits: the rest leave at once. The last
// block of a head to finish joins the parts, in split order, so the result does not depend on timing.
#include "attn/merge.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using HeadPart = Part<spec::kHeadDim>;
using HeadAttended = Attended<spec::kHeadDim>;

using HeadJoined = Joined<spec::kHeadDim, spec::kThreads>;

struct Shared {
  HeadPart parts[kWarps];
  u32 is_last;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// The pages that a token at `position` sees, and how many blocks share them.
struct Span {
  u32 first_key, first_page, pages, splits;

  __device__ __forceinline__ explicit Span(u32 position) {
    first_key = spec::kWindow != 0 && position >= spec::kWindow ? position - spec::kWindow + 1 : 0;
    first_page = first_key / kPageTokens;
    pages = position / kPageTokens - first_page + 1;
    splits = min(gridDim.y, ceil_div(pages, kWarps));
  }
};

// Where this block's head lies in the page that holds `page_start`.
__device__ __forceinline__ u64 page_offset(const Attention& p, u32 slot, u32 page_start) {
  const Cache cache{p.keys, p.values, p.page_table, p.table_stride};
  const u64 page_head = static_cast<u64>(cache.page(slot, page_start)) * spec::kKvHeads + blockIdx.x;
  return page_head * kPageTokens * spec::kHeadDim;
}

// Brings a page of this block's head into L2, where every kernel's writes meet: it need not be complete yet.
__device__ __forceinline__ void prefetch_page(const Attention& p, u64 offset) {
  constexpr u32 kLine = 64;  // elements of 128 bytes
  for (u32 line = lane_id(); line < spec::kHeadDim; line += kWarpSize) {
    prefetch_line(p.keys + offset + line * kLine);
    prefetch_line(p.values + offset + line * kLine);
  }
}

// `offset` is where the warp's first page lies.
__device__ __forceinline__ void attend_share(HeadAttended& attended, const Attention& p, const Span& span, u32 token,
                                             u32 slot, u32 position, u64 offset) {
  const u32 kv_head = blockIdx.x;
  const u32 g = lane_id() / 4, c = lane_id() % 4;
  const u32 head = kv_head * spec::kGroup + min(g, spec::kGroup - 1);
  u32 query[2 * HeadAttended::kSteps];
  RowPair<2 * HeadAttended::kSteps>::load_row(
      query, p.queries + (token * spec::kQHeads + head) * spec::kHeadDim + c * HeadAttended::kQuarter);

  const u32 stride = span.splits * kWarps;
  for (u32 i = blockIdx.y * kWarps + warp_id(); i < span.pages; i += stride) {
    const u32 page_start = (span.first_page + i) * kPageTokens;
    u64 next = 0;
    if (i + stride < span.pages) prefetch_page(p, next = page_offset(p, slot, page_start + stride * kPageTokens));
    attended.attend_page(p.keys + offset, p.values + offset, query,
                         static_cast<i32>(span.first_key) - static_cast<i32>(page_start),
                         static_cast<i32>(position - page_start), spec::kScoreScale * kLog2e);
    offset = next;
  }
  attended.finish();
}

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Attention p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // Positions, slots, page tables and sinks are constant for the whole step, so they need not be waited for.
  const u32 kv_head = blockIdx.x, split = blockIdx.y;
  const u32 token = p.alone ? p.alone[blockIdx.z] : blockIdx.z;
  const u32 position = p.positions[token], slot = p.slots[token];
  const Span span(position);
  const bool has_share = split < span.splits;
  const u32 first_page = split * kWarps + warp_id();
  u64 offset = 0;
  if (has_share && first_page < span.pages)
    prefetch_page(p, offset = page_offset(p, slot, (span.first_page + first_page) * kPageTokens));
  const u32 head = kv_head * spec::kGroup + min(HeadJoined::head(), spec::kGroup - 1);
  const float sink = bf16_to_float(p.sinks[head]);
  wait_for_inputs();
  start_next_kernel();
  if (!has_share) return;

  HeadAttended attended;
  attend_share(attended, p, span, token, slot, position, offset);
  put_part(shared.parts[warp_id()], attended);
  __syncthreads();

  HeadJoined joined;
  joined.join<kWarps>(shared.parts, kWarps);
  if (spec::kMostSplits > 1 && span.splits > 1) {
    const u32 token_head = blockIdx.z * spec::kKvHeads + kv_head;
    HeadPart* parts = static_cast<HeadPart*>(p.parts) + token_head * gridDim.y;
    joined.put(parts[split]);
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.is_last = arrive(&p.tickets[token_head]) == span.splits - 1;
      if (shared.is_last) p.tickets[token_head] = 0;
    }
    __syncthreads();
    if (!shared.is_last) return;
    joined.join<spec::kMostSplits>(parts, span.splits);
  }
  if (HeadJoined::head() >= spec::kGroup) return;
  const float normalizer = joined.normalizer(sink);
#pragma unroll
  for (u32 pair = 0; pair < HeadJoined::kPairs; ++pair) {
    const float2 out = joined.out[pair];
    const u32 place = row_place(head * spec::kHeadDim + HeadJoined::dim(pair), p.tile_order);
    *reinterpret_cast<u32*>(&p.heads[token * spec::kQHeads * spec::kHeadDim + place]) =
        pack_bf16(out.x * normalizer, out.y * normalizer);
  }
}
