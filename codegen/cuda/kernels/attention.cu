// attn_output = softmax(q k^T / sqrt(head_dim), sink) v, over the keys that each token sees.
//
// Of all tokens of the step, or of those that no tile takes (attention_tiled.cu).
// A block attends one token and one key/value head with its group of query heads, over one of gridDim.y splits of
// the spans (half pages); a warp takes every kWarps-th of them, through a ring of its own in shared memory. Short
// sequences use fewer splits: the rest leave at once. The last block of a head to finish joins the parts, in split
// order, so the result does not depend on timing.
//
// For a token, a key/value head and a span it computes 2 x 32 x 8 x head_dim multiplications and reads
// 2 x 32 x head_dim x 2 bytes. gpt-oss-20b, 256 tokens of 1,024 keys on an H100 (2026-11-22): 3.0 TB/s in full layers,
// 2.5 in sliding ones, of 3.1.
//
// Layouts: queries and attn_output [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh);
// partials [token of these][kv head][split]. kGqaRatio is at most 8.
#include "attn/merge.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using HeadPart = Part<spec::kHeadDim>;
using HeadAttended = Attended<spec::kHeadDim>;
using HeadJoined = Joined<spec::kHeadDim, spec::kThreads>;
using Span = SharedSpan<spec::kHeadDim>;
constexpr u32 kPageSpans = kPageTokens / kSpanKeys;
// Tokens whose blocks may be there before their inputs are. Later blocks come as others leave.
constexpr u32 kEarlyTokens = 32;

union Shared {
  Span spans[kWarps][spec::kStages];
  struct {
    HeadPart parts[kWarps];
    u32 is_last;
  };
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");
static_assert(spec::kStages >= 2, "a span in use and one on its way");

// The spans that a token at `position` sees, and how many blocks share them.
struct Seen {
  u32 first_key, first_span, spans, splits;

  __device__ __forceinline__ explicit Seen(u32 position) {
    first_key = spec::kWindow != 0 && position >= spec::kWindow ? position - spec::kWindow + 1 : 0;
    first_span = first_key / kSpanKeys;
    spans = position / kSpanKeys - first_span + 1;
    splits = min(min(gridDim.y, spec::kMaxSplits), ceil_div(spans, kWarps));
  }
};

// A warp's share of the spans, and how far their copies are. Spans 2n and 2n + 1 of a sequence are the halves of its
// n-th page.
struct Share {
  const Attention& p;
  const u32* table;      // the sequence's pages
  u32 first, end, step;  // the warp's spans are first, first + step, ... before end
  u32 fetched = 0;       // how many of them are here or on their way
  u32 page;              // of the next, looked up a round ahead

  __device__ __forceinline__ Share(const Attention& p, const Seen& seen, u32 slot)
      : p(p),
        table(p.page_table + slot * p.table_stride),
        first(seen.first_span + blockIdx.y * kWarps + warp_id()),
        end(seen.first_span + seen.spans),
        step(seen.splits * kWarps) {
    look_up();
  }

  __device__ __forceinline__ u32 span(u32 i) const { return first + i * step; }
  __device__ __forceinline__ bool has(u32 i) const { return span(i) < end; }

  // Brings the first span into L2, where every kernel's writes meet: it need not be complete yet.
  __device__ __forceinline__ void prefetch() const {
    if (!has(0)) return;
    constexpr u32 kLine = 64;  // elements of 128 bytes
    const bf16* keys = p.keys + page_offset() + key() * spec::kHeadDim;
    const bf16* values = p.values + page_offset();
    for (u32 line = lane_id(); line < spec::kHeadDim / 2; line += kWarpSize) prefetch_line(keys + line * kLine);
    for (u32 row = lane_id(); row < spec::kHeadDim; row += kWarpSize) prefetch_line(values + row * kPageTokens);
  }

  // Starts the next copy, if there is one.
  __device__ __forceinline__ void fetch(Span (&ring)[spec::kStages]) {
    if (has(fetched)) {
      ring[fetched % spec::kStages].fetch<spec::kWindow == 0>(p.keys + page_offset() + key() * spec::kHeadDim,
                                                              p.values + page_offset() + key());
      ++fetched;
      look_up();
    }
    copy_commit();
  }

 private:
  __device__ __forceinline__ void look_up() {
    if (has(fetched)) page = table[span(fetched) / kPageSpans];
  }

  // Where this head begins in the next span's page.
  __device__ __forceinline__ u64 page_offset() const {
    return (static_cast<u64>(page) * spec::kKvHeads + blockIdx.x) * kPageTokens * spec::kHeadDim;
  }

  // The next span's first key within its page.
  __device__ __forceinline__ u32 key() const { return span(fetched) % kPageSpans * kSpanKeys; }
};

__device__ __forceinline__ void attend_share(HeadAttended& attended, Share& share, const Seen& seen,
                                             Span (&ring)[spec::kStages], u32 token, u32 position) {
#pragma unroll
  for (u32 i = 0; i + 1 < spec::kStages; ++i) share.fetch(ring);
  const u32 head = blockIdx.x * spec::kGqaRatio + min(lane_id() / 4, spec::kGqaRatio - 1);
  const bf16* row = share.p.queries + (token * spec::kQHeads + head) * spec::kHeadDim;
  LaneRow<spec::kHeadDim> query;
  query.load([&](u32 unit) { return row + unit * kUnit; });
  for (u32 i = 0; share.has(i); ++i) {
    share.fetch(ring);
    copy_wait<spec::kStages - 1>();
    __syncwarp();
    const i32 start = static_cast<i32>(share.span(i) * kSpanKeys);
    attended.attend(ring[i % spec::kStages], query, static_cast<i32>(seen.first_key) - start,
                    static_cast<i32>(position) - start, spec::kScoreScale * kLog2e);
    __syncwarp();
  }
  attended.finish();
}

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Attention p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // Positions, slots, page tables and sinks are constant for the whole step, so they need not be waited for.
  const u32 kv_head = blockIdx.x, split = blockIdx.y;
  const u32 token = p.single_query_tokens ? p.single_query_tokens[blockIdx.z] : blockIdx.z;
  const u32 position = p.positions[token], slot = p.seq_slots[token];
  const Seen seen(position);
  const bool has_share = split < seen.splits;
  Share share(p, seen, slot);
  if (has_share && blockIdx.z < kEarlyTokens) share.prefetch();
  const u32 head = kv_head * spec::kGqaRatio + min(HeadJoined::head(), spec::kGqaRatio - 1);
  const float sink = bf16_to_float(p.sinks[head]);
  wait_for_inputs();
  start_next_kernel();
  if (!has_share) return;

  HeadAttended attended;
  attend_share(attended, share, seen, shared.spans[warp_id()], token, position);
  __syncthreads();
  put_part(shared.parts[warp_id()], attended);
  __syncthreads();

  HeadJoined joined;
  joined.join<kWarps>(shared.parts, kWarps);
  if (spec::kMaxSplits > 1 && seen.splits > 1) {
    const u32 token_head = blockIdx.z * spec::kKvHeads + kv_head;
    HeadPart* parts = static_cast<HeadPart*>(p.partials) + token_head * gridDim.y;
    joined.put(parts[split]);
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.is_last = arrive(&p.arrival_counters[token_head]) == seen.splits - 1;
      if (shared.is_last) p.arrival_counters[token_head] = 0;
    }
    __syncthreads();
    if (!shared.is_last) return;
    joined.join<spec::kMaxSplits>(parts, seen.splits);
  }
  if (HeadJoined::head() >= spec::kGqaRatio) return;
  const float normalizer = joined.normalizer(sink);
#pragma unroll
  for (u32 pair = 0; pair < HeadJoined::kPairs; ++pair) {
    const float2 out = joined.out[pair];
    const u32 place = row_place(head * spec::kHeadDim + HeadJoined::dim(pair), p.tile_order);
    *reinterpret_cast<u32*>(&p.attn_output[token * spec::kQHeads * spec::kHeadDim + place]) =
        pack_bf16(out.x * normalizer, out.y * normalizer);
  }
}
