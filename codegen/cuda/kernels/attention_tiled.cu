// attn_output = softmax(q k^T / sqrt(head_dim), sink) v for consecutive tokens, over the keys that each token sees.
//
// A block attends a query tile of up to kTileTokens consecutive tokens of one sequence, and one key/value head with its
// query heads. Pages of keys and values (in sliding layers several small ones at once) pass through a multistage buffer
// in shared memory once for the whole tile; every warp has 2 kRowTiles of the tokens. For a token and a page it
// computes 2 x 64 x 8 x head_dim multiplications, and per query tile and page it reads 2 x 64 x head_dim x 2 bytes of
// the cache. Measured with gpt-oss-20b and 8,192 tokens on an H100 (2026-11-22): 24 ms in all full layers, 113 clocks
// of an SM per token and page, of which the tensor cores need 47.
//
// Layouts: queries and attn_output [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh);
// query_tiles [tile] pairs of u32, first token and count. kGqaRatio is at most 8.
#include "attn/tiled.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"

using Tile = TiledOnlineSoftmax<spec::kHeadDim, spec::kRowTiles>;
using Page = SharedPage<spec::kHeadDim>;
static_assert(spec::kTileTokens == spec::kThreads / kWarpSize * Tile::kTokens, "the warps' tokens are the query tile");
static_assert(spec::kStages >= 3, "one page in use, the next, and one being copied");
static_assert(reserves<Page[spec::kStages]>(spec::kSharedBytes), "the launch reserves another size of shared memory");

constexpr u32 kCachePage = spec::kWindow != 0 ? kSlidingPageTokens : kPageTokens;
using CachePages = KeyPages<kPageTokens, kCachePage>;
constexpr i32 kNoLowerBound = -(1 << 24);  // less than any position relative to a page

// The query tile's pages, and the progress of their copies.
struct Pages {
  const AttentionTiled& p;
  Page* stages;
  const u32* table;               // page table of the sequence
  u32 first_cached, last_cached;  // indices into the table of what the tile sees
  u32 next, end;                  // pages in shared memory
  CachePages cached;              // of the next one, looked up one iteration in advance

  __device__ __forceinline__ Pages(const AttentionTiled& p, Page* stages, u32 seq_slot, u32 first_key, u32 last_key)
      : p(p),
        stages(stages),
        table(p.page_table + seq_slot * p.table_stride),
        first_cached(first_key / kCachePage),
        last_cached(last_key / kCachePage),
        next(first_key / kPageTokens),
        end(last_key / kPageTokens + 1) {
    look_up();
  }

  __device__ __forceinline__ const Page& at(u32 index) const { return stages[index % spec::kStages]; }

  // Waits for a page, whose predecessor may still be in use, and starts the copy to the stage of the page before that.
  __device__ __forceinline__ const Page& await(u32 index) {
    copy_wait<spec::kStages - 3>();
    __syncthreads();
    fetch();
    return at(index);
  }

  // Starts the copy of the next page, if there is one.
  __device__ __forceinline__ void fetch() {
    if (next < end) {
      Page& stage = stages[next % spec::kStages];
      if constexpr (CachePages::kPages > 1) {
        fetch_pages<spec::kThreads, kPageTokens, spec::kHeadDim, kCachePage>(stage.keys, stage.values, p.keys, p.values,
                                                                             threadIdx.x, cached, head_offset);
      } else {
        const u64 offset = head_offset(cached[0]);
        stage.fetch<spec::kThreads>(p.keys + offset, p.values + offset);
      }
      if (++next < end) look_up();
    }
    copy_commit();
  }

 private:
  __device__ __forceinline__ void look_up() { cached.look_up(table, next * kPageTokens, first_cached, last_cached); }

  // The offset of this head in a page of the cache.
  __device__ __forceinline__ static u64 head_offset(u32 page) {
    return (static_cast<u64>(page) * spec::kKvHeads + blockIdx.x) * kCachePage * spec::kHeadDim;
  }
};

// Attends pages `first` to `end` - 1 with a warp's tokens, the first of which is at `position`. The scores of a span
// are computed beside the weights and values of the span before it, so that the tensor cores do not wait for
// exponentials. After the last page, the scores of the first half of a stale page are computed and ignored.
__device__ __forceinline__ void attend_pages(Tile& tile, Pages& pages, u32 first, u32 end, i32 position) {
  constexpr float kScale = spec::kScoreScale * kLog2e;
  constexpr i32 kSpan = kSpanKeys;
  Tile::Scores even, odd;
  tile.score(pages.await(first), 0, even);
#pragma unroll 1
  for (u32 index = first; index < end; ++index) {
    const Page& page = pages.at(index);
    const i32 last = position - static_cast<i32>(index * kPageTokens);
    const i32 begin = spec::kWindow != 0 ? last - static_cast<i32>(spec::kWindow) + 1 : kNoLowerBound;
    tile.rescale_if_exceeded(even, {begin, last}, kScale);
    tile.score(page, 1, odd);
    tile.add(page, 0, even, kScale);
    tile.rescale_if_exceeded(odd, {begin - kSpan, last - kSpan}, kScale);
    tile.score(pages.await(index + 1), 0, even);
    tile.add(page, 1, odd, kScale);
  }
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttentionTiled p) {
  extern __shared__ __align__(16) u8 storage[];
  // Query tiles, positions, sequence slots, page tables and sinks are constant for the whole step, so they are read
  // before the wait.
  const u32 first_token = p.query_tiles[2 * blockIdx.y], count = p.query_tiles[2 * blockIdx.y + 1];
  const u32 first_position = p.positions[first_token], seq_slot = p.seq_slots[first_token];
  const u32 first_key = spec::kWindow != 0 && first_position >= spec::kWindow ? first_position - spec::kWindow + 1 : 0;
  const u32 last_key = first_position + count - 1;
  Pages pages(p, reinterpret_cast<Page*>(storage), seq_slot, first_key, last_key);
  const u32 g = lane_id() / 4, c = lane_id() % 4;
  const u32 head = blockIdx.x * spec::kGqaRatio + min(g, spec::kGqaRatio - 1);
  Tile tile(bf16_to_float(p.sinks[head]), spec::kScoreScale);
  wait_for_inputs();
  start_next_kernel();

#pragma unroll
  for (u32 stage = 0; stage + 2 < spec::kStages; ++stage) pages.fetch();
  const u32 first_of_warp = warp_id() * Tile::kTokens;
  tile.load_queries([&](u32 t) {
    const u32 token = first_token + min(first_of_warp + t, count - 1);
    return p.queries + (static_cast<u64>(token) * spec::kQHeads + head) * spec::kHeadDim;
  });
  attend_pages(tile, pages, first_key / kPageTokens, last_key / kPageTokens + 1,
               static_cast<i32>(first_position + first_of_warp));
  tile.finish();

#pragma unroll
  for (u32 t = 0; t < Tile::kTokens; ++t) {
    if (first_of_warp + t >= count || g >= spec::kGqaRatio) continue;
    const u64 token = first_token + first_of_warp + t;
    bf16* row = p.attn_output + token * spec::kQHeads * spec::kHeadDim;
    const float normalizer = 1.0f / tile.denominator[t / 2][t % 2];
#pragma unroll
    for (u32 d = 0; d < Tile::kDimTiles; ++d) {
      const float* values = tile.out[t / 2][d].c + t % 2 * 2;
      const u32 position_in_row = row_position(head * spec::kHeadDim + d * 8 + 2 * c, p.tile_order);
      *reinterpret_cast<u32*>(row + position_in_row) = pack_bf16(values[0] * normalizer, values[1] * normalizer);
    }
  }
}
