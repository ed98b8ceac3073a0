// q, k, v = rope(qkv(rmsnorm(residual)) + bias); keys and values go to the cache.
//
// A strip is 8 rotary pairs of one head. `input` holds scaled rows: their products are divided by the rms at the end.
//
// Layouts: input [tokens][hidden] bf16, scaled, and square_sums [tokens][hidden / 16] float; weight [strip][tile] of
// (q_heads + 2 kv_heads) x head_dim rows by hidden, bf16; queries [tokens][q_heads][head_dim] bf16; keys and values in
// pages (epilogue/cache.cuh). A call computes 2 x rows x hidden flops a token and reads 2 x rows x hidden bytes of
// weights, once: memory bounds it. At most kMaxTokens tokens.
#include "epilogue/qkv.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = (spec::kQHeads + 2 * spec::kKvHeads) * spec::kHeadDim / kTileRows;
using Slice = Share<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Pair = QkvPair<spec::kHeadDim, spec::kQHeads, spec::kKvHeads>;

struct Shared {
  SharedTiles<Bf16Tile, Slice, kWarps, spec::kStages> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  SharedInverse<spec::kMaxTokens> inverse;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// The pairs of a strip that this thread finishes: what they read that is constant for the step, fetched ahead, and then
// what is done to them.
struct StripEpilogue {
  static constexpr u32 kStripsPerHead = spec::kHeadDim / kTileRows;
  QkvOut out;
  u32 tokens;
  QkvConstants constants[Pairs::kEach];
  Pair pairs[Pairs::kEach];

  __device__ __forceinline__ void fetch(u32 strip) {
    if (strip >= kStrips) return;
    Pairs::visit(tokens, [&](u32 j, u32 g, u32 token) {
      constants[j] = Pair::fetch(out, strip / kStripsPerHead, strip % kStripsPerHead * 8 + g, token);
    });
  }

  __device__ __forceinline__ void prepare(u32 strip) {
    Pairs::visit(tokens, [&](u32 j, u32 g, u32 token) {
      const u32 dim = strip % kStripsPerHead * 8 + g;
      pairs[j] = Pair(out, constants[j], strip / kStripsPerHead, dim, token, spec::kInvFreq[dim], spec::kConcentration);
    });
  }
};

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ QkvRope p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  StripEpilogue epilogue{
      {p.queries, {p.keys, p.values, p.page_table, p.table_stride}, p.positions, p.seq_slots, p.bias}, p.tokens};
  epilogue.fetch(blockIdx.x);
  auto weights =
      stream(shared.ring, kStrips, [&](u32 strip) { return p.weight + strip * Bf16Tile::strip_bytes(Slice::kKTiles); });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, column_row(p.input, spec::kHidden, p.tokens));
  shared.inverse.template load<spec::kHidden, kWarps>(p.square_sums, nullptr, p.tokens, spec::kRmsEps);
  u32 turn = 0;
  for (u32 strip = blockIdx.x; strip < kStrips; strip += gridDim.x, turn ^= 1) {
    epilogue.prepare(strip);
    epilogue.fetch(strip + gridDim.x);
    Sums sums{};
    weights.multiply(sums, x);
    shared.sums.put(turn, sums);
    __syncthreads();
    Pairs::finish(shared.sums, turn, p.tokens, [&](u32 j, u32 /*g*/, u32 token, float low, float high) {
      const float inverse = shared.inverse.of_token[token];
      epilogue.pairs[j].store(low * inverse, high * inverse);
    });
  }
}
