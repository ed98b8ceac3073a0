// attn_output = softmax(q k^T / sqrt(head_dim), sink) v, over the keys that each token sees.
//
// The kernel attends all tokens of the step, or the single-query tokens that attention_tiled.cu does not take. A block
// attends one token and one key/value head with its query heads, over one of gridDim.y KV splits. A warp takes every
// kWarps-th span of its split, through its own multistage buffer in shared memory. Short sequences use
// fewer splits, and the other blocks exit at once. The last block of a head to finish merges the partials in the order
// of the splits, so the result does not depend on timing.
//
// For a token, a key/value head and a span it computes 2 x 32 x 8 x head_dim multiplications and reads 2 x 32 x
// head_dim x 2 bytes. Measured with gpt-oss-20b and 256 tokens of 1,024 keys on an H100 (2026-11-22): 3.0 TB/s in full
// layers and 2.5 TB/s in sliding-window layers, of 3.1 TB/s.
//
// Layouts: queries and attn_output [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh);
// partials [listed token][kv head][split]. kGqaRatio is at most 8.
#include "attn/merge.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using HeadPartial = SoftmaxPartial<spec::kHeadDim>;
using HeadSoftmax = OnlineSoftmax<spec::kHeadDim>;
using HeadMerged = MergedPartials<spec::kHeadDim, spec::kThreads>;
using Span = SharedSpan<spec::kHeadDim>;
constexpr u32 kPage = spec::kWindow != 0 ? kSlidingPageTokens : kPageTokens;
using SpanPages = KeyPages<kSpanKeys, kPage>;
// Tokens whose first blocks prefetch: their blocks may start before the inputs are complete. Later blocks start as
// others exit.
constexpr u32 kEarlyTokens = 32;

union Shared {
  Span spans[kWarps][spec::kStages];
  struct {
    HeadPartial partials[kWarps];
    u32 is_last;
  };
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");
static_assert(spec::kStages >= 2, "one span in use and one being copied");

// The keys that a token at `position` sees, in spans, and the number of blocks that split them.
struct KvRange {
  u32 first_key, last_key, first_span, spans, splits;

  __device__ __forceinline__ explicit KvRange(u32 position) : last_key(position) {
    first_key = spec::kWindow != 0 && position >= spec::kWindow ? position - spec::kWindow + 1 : 0;
    first_span = first_key / kSpanKeys;
    spans = position / kSpanKeys - first_span + 1;
    splits = min(min(gridDim.y, spec::kMaxSplits), ceil_div(spans, kWarps));
  }
};

// A warp's part of the spans, and the progress of their copies. In full layers, spans 2n and 2n + 1 of a sequence are
// the halves of its n-th page; in sliding layers a span is several pages.
struct WarpSpans {
  const Attention& p;
  const u32* table;           // the sequence's pages
  u32 first_page, last_page;  // of the keys that are seen
  u32 first, end, step;       // the warp's spans are first, first + step, ... below end
  u32 fetched = 0;            // spans that are copied or being copied
  SpanPages pages;            // of the next span, looked up one iteration in advance

  __device__ __forceinline__ WarpSpans(const Attention& p, const KvRange& range, u32 seq_slot)
      : p(p),
        table(p.page_table + seq_slot * p.table_stride),
        first_page(range.first_key / kPage),
        last_page(range.last_key / kPage),
        first(range.first_span + blockIdx.y * kWarps + warp_id()),
        end(range.first_span + range.spans),
        step(range.splits * kWarps) {
    look_up();
  }

  __device__ __forceinline__ u32 span(u32 i) const { return first + i * step; }
  __device__ __forceinline__ bool has(u32 i) const { return span(i) < end; }

  // Prefetches the first span into L2. Its keys and values need not be complete yet, because L2 sees every kernel's
  // writes.
  __device__ __forceinline__ void prefetch() const {
    if (!has(0)) return;
    constexpr u32 kLine = 64;  // bf16 elements of 128 bytes
    constexpr u32 kLines = kSpanKeys * spec::kHeadDim / kLine;
    if constexpr (SpanPages::kPages > 1) {
#pragma unroll
      for (u32 i = 0; i < ceil_div(kLines, kWarpSize); ++i) {
        const u32 line = i * kWarpSize + lane_id(), element = line * kLine;
        const u64 offset = head_offset(pages[element / kPageHead % SpanPages::kPages]) + element % kPageHead;
        if (line < kLines) prefetch_line(p.keys + offset), prefetch_line(p.values + offset);
      }
    } else {
      const bf16* keys = p.keys + head_offset(pages[0]) + key() * spec::kHeadDim;
      const bf16* values = p.values + head_offset(pages[0]);
      for (u32 line = lane_id(); line < kLines; line += kWarpSize) prefetch_line(keys + line * kLine);
      for (u32 row = lane_id(); row < spec::kHeadDim; row += kWarpSize) prefetch_line(values + row * kPage);
    }
  }

  // Starts the copy of the next span, if there is one.
  __device__ __forceinline__ void fetch(Span (&stages)[spec::kStages]) {
    if (has(fetched)) {
      Span& stage = stages[fetched % spec::kStages];
      if constexpr (SpanPages::kPages > 1) {
        fetch_pages<kWarpSize, kSpanKeys, spec::kHeadDim, kPage>(stage.keys, stage.values, p.keys, p.values, lane_id(),
                                                                 pages, head_offset);
      } else {
        const u64 head = head_offset(pages[0]);
        stage.fetch(p.keys + head + key() * spec::kHeadDim, p.values + head + key());
      }
      ++fetched;
      look_up();
    }
    copy_commit();
  }

 private:
  static constexpr u32 kPageHead = kPage * spec::kHeadDim;  // elements of a page of one head

  __device__ __forceinline__ void look_up() {
    if (has(fetched)) pages.look_up(table, span(fetched) * kSpanKeys, first_page, last_page);
  }

  // The offset of this head in a page.
  __device__ __forceinline__ static u64 head_offset(u32 page) {
    return (static_cast<u64>(page) * spec::kKvHeads + blockIdx.x) * kPageHead;
  }

  // The next span's first key within its page.
  __device__ __forceinline__ u32 key() const { return span(fetched) * kSpanKeys % kPage; }
};

__device__ __forceinline__ void attend_spans(HeadSoftmax& softmax, WarpSpans& spans, const KvRange& range,
                                             Span (&stages)[spec::kStages], u32 token, u32 position) {
#pragma unroll
  for (u32 i = 0; i + 1 < spec::kStages; ++i) spans.fetch(stages);
  const u32 head = blockIdx.x * spec::kGqaRatio + min(lane_id() / 4, spec::kGqaRatio - 1);
  const bf16* row = spans.p.queries + (token * spec::kQHeads + head) * spec::kHeadDim;
  LaneRow<spec::kHeadDim> query;
  query.load([&](u32 vector) { return row + vector * kVectorElements; });
  for (u32 i = 0; spans.has(i); ++i) {
    spans.fetch(stages);
    copy_wait<spec::kStages - 1>();
    __syncwarp();
    const i32 start = static_cast<i32>(spans.span(i) * kSpanKeys);
    softmax.attend(stages[i % spec::kStages], query, static_cast<i32>(range.first_key) - start,
                   static_cast<i32>(position) - start, spec::kScoreScale * kLog2e);
    __syncwarp();
  }
  softmax.finish();
}

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ Attention p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // Positions, sequence slots, page tables and sinks are constant for the whole step, so they are read before the wait.
  const u32 kv_head = blockIdx.x, split = blockIdx.y;
  const u32 token = p.single_query_tokens ? p.single_query_tokens[blockIdx.z] : blockIdx.z;
  const u32 position = p.positions[token], seq_slot = p.seq_slots[token];
  const KvRange range(position);
  const bool has_spans = split < range.splits;
  WarpSpans spans(p, range, seq_slot);
  if (has_spans && blockIdx.z < kEarlyTokens) spans.prefetch();
  const u32 head = kv_head * spec::kGqaRatio + min(HeadMerged::head(), spec::kGqaRatio - 1);
  const float sink = bf16_to_float(p.sinks[head]);
  wait_for_inputs();
  start_next_kernel();
  if (!has_spans) return;

  HeadSoftmax softmax;
  attend_spans(softmax, spans, range, shared.spans[warp_id()], token, position);
  __syncthreads();
  store_partial(shared.partials[warp_id()], softmax);
  __syncthreads();

  HeadMerged merged;
  merged.merge<kWarps>(shared.partials, kWarps);
  if (spec::kMaxSplits > 1 && range.splits > 1) {
    const u32 token_head = blockIdx.z * spec::kKvHeads + kv_head;
    HeadPartial* partials = static_cast<HeadPartial*>(p.partials) + token_head * gridDim.y;
    merged.store(partials[split]);
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.is_last = arrive(&p.arrival_counters[token_head]) == range.splits - 1;
      if (shared.is_last) p.arrival_counters[token_head] = 0;
    }
    __syncthreads();
    if (!shared.is_last) return;
    merged.merge<spec::kMaxSplits>(partials, range.splits);
  }
  if (HeadMerged::head() >= spec::kGqaRatio) return;
  const float normalizer = merged.normalizer(sink);
#pragma unroll
  for (u32 pair = 0; pair < HeadMerged::kPairs; ++pair) {
    const float2 out = merged.out[pair];
    const u32 position_in_row = row_position(head * spec::kHeadDim + HeadMerged::dim(pair), p.tile_order);
    *reinterpret_cast<u32*>(&p.attn_output[token * spec::kQHeads * spec::kHeadDim + position_in_row]) =
        pack_bf16(out.x * normalizer, out.y * normalizer);
  }
}
