// attn_output = softmax(q k^T / sqrt(head_dim), sink) v for tokens that follow one another, over the keys that each
// sees.
//
// A block attends up to kTileTokens consecutive tokens of one sequence and one key/value head with its group of query
// heads. Pages of keys and values come through a ring in shared memory, once for the whole tile; every warp has
// 2 kRowTiles of the tokens. For a token and a page it computes 2 x 64 x 8 x head_dim multiplications, and reads
// 2 x 64 x head_dim x 2 bytes of the cache a tile. gpt-oss-20b, 8,192 tokens on an H100 (2026-11-22): 24 ms in all full
// layers, 113 clocks of a multiprocessor a token and page, of which tensor cores need 47.
//
// Layouts: queries and attn_output [tokens][q_heads][head_dim] bf16; keys and values in pages (epilogue/cache.cuh);
// tiles [tile] pairs of u32, first token and count. kGqaRatio is at most 8.
#include "attn/tiled.cuh"
#include "ptx/launch.cuh"
#include "tile/order.cuh"

using Tile = TileAttended<spec::kHeadDim, spec::kRowTiles>;
using Page = SharedPage<spec::kHeadDim>;
static_assert(spec::kTileTokens == spec::kThreads / kWarpSize * Tile::kTokens, "warps share the tokens");
static_assert(spec::kStages >= 3, "a page in use, the next, and one on its way");
static_assert(spec::kStages * sizeof(Page) <= spec::kSharedBytes, "the launch reserves too little shared memory");

constexpr u32 kPageElements = kPageTokens * spec::kHeadDim;
constexpr i32 kFromTheStart = -(1 << 24);  // positions are fewer
static_assert(kPageTokens == 2 * kSpanKeys, "pages are attended in halves");

// The tile's pages, and how far their copies are.
struct Pages {
  const AttentionTiled& p;
  Page* ring;
  const u32* table;  // of the sequence
  u32 next, end;     // indices into it
  u32 page;          // the page of `next`, looked up a round ahead

  __device__ __forceinline__ Pages(const AttentionTiled& p, Page* ring, u32 slot, u32 first, u32 end)
      : p(p), ring(ring), table(p.page_table + slot * p.table_stride), next(first), end(end), page(table[first]) {}

  __device__ __forceinline__ const Page& at(u32 index) const { return ring[index % spec::kStages]; }

  // Waits for a page, whose predecessor may still be in use, and has the place of the one before that filled.
  __device__ __forceinline__ const Page& await(u32 index) {
    copy_wait<spec::kStages - 3>();
    __syncthreads();
    fetch();
    return at(index);
  }

  // Starts the next copy, if there is one.
  __device__ __forceinline__ void fetch() {
    if (next < end) {
      const u64 offset = (static_cast<u64>(page) * spec::kKvHeads + blockIdx.x) * kPageElements;
      ring[next % spec::kStages].fetch<spec::kThreads>(p.keys + offset, p.values + offset);
      if (++next < end) page = table[next];
    }
    copy_commit();
  }
};

// Attends what a warp's tokens, of which `position` is the first, see of the pages from `first` to before `end`. A
// span's scores are computed beside the weights and values of the one before, so that tensor cores need not wait for
// exponentials. After the last page, the first half of a stale one is scored in vain.
__device__ __forceinline__ void attend_pages(Tile& tile, Pages& pages, u32 first, u32 end, i32 position) {
  constexpr float kScale = spec::kScoreScale * kLog2e;
  constexpr i32 kSpan = kSpanKeys;
  Tile::Scores even, odd;
  tile.score(pages.await(first), 0, even);
#pragma unroll 1
  for (u32 index = first; index < end; ++index) {
    const Page& page = pages.at(index);
    const i32 last = position - static_cast<i32>(index * kPageTokens);
    const i32 begin = spec::kWindow != 0 ? last - static_cast<i32>(spec::kWindow) + 1 : kFromTheStart;
    tile.bound(even, {begin, last}, kScale);
    tile.score(page, 1, odd);
    tile.add(page, 0, even, kScale);
    tile.bound(odd, {begin - kSpan, last - kSpan}, kScale);
    tile.score(pages.await(index + 1), 0, even);
    tile.add(page, 1, odd, kScale);
  }
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttentionTiled p) {
  extern __shared__ __align__(16) u8 storage[];
  // Tiles, positions, slots, page tables and sinks are constant for the whole step, so they need not be waited for.
  const u32 first_token = p.query_tiles[2 * blockIdx.y], count = p.query_tiles[2 * blockIdx.y + 1];
  const u32 first_position = p.positions[first_token], slot = p.seq_slots[first_token];
  const u32 first_key = spec::kWindow != 0 && first_position >= spec::kWindow ? first_position - spec::kWindow + 1 : 0;
  const u32 first_page = first_key / kPageTokens, end_page = (first_position + count - 1) / kPageTokens + 1;
  Pages pages(p, reinterpret_cast<Page*>(storage), slot, first_page, end_page);
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
  attend_pages(tile, pages, first_page, end_page, static_cast<i32>(first_position + first_of_warp));
  tile.finish();

#pragma unroll
  for (u32 t = 0; t < Tile::kTokens; ++t) {
    if (first_of_warp + t >= count || g >= spec::kGqaRatio) continue;
    const u64 token = first_token + first_of_warp + t;
    bf16* row = p.attn_output + token * spec::kQHeads * spec::kHeadDim;
    const float normalizer = 1.0f / tile.denominator[t / 2][t % 2];
#pragma unroll
    for (u32 d = 0; d < Tile::kDimTiles; ++d) {
      const float* sums = tile.out[t / 2][d].s + t % 2 * 2;
      const u32 place = row_place(head * spec::kHeadDim + d * 8 + 2 * c, p.tile_order);
      *reinterpret_cast<u32*>(row + place) = pack_bf16(sums[0] * normalizer, sums[1] * normalizer);
    }
  }
}
