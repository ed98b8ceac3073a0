// logits[row] = unembedding(normed[row]), in fp32.
//
// The largest product of a step: each warp streams whole strips by itself, with no barrier after the activations
// are in shared memory, and always has kDepth k tiles of weights on their way.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kHidden, kTileK);
constexpr u32 kDepth = spec::kDepth;

struct Shared {
  SharedRows<spec::kMaxTokens, kKTiles> x;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// The k tiles of this warp's strips, one strip after another.
struct Stream {
  const u8* weights;
  u32 strip, k_tile;

  __device__ __forceinline__ bool done() const { return strip >= spec::kRowTiles; }

  __device__ __forceinline__ void next(Bf16Tile& tile) {
    if (done()) return;
    tile.load(weights + static_cast<u64>(strip) * Bf16Tile::strip_bytes(kKTiles), k_tile, kKTiles);
    if (++k_tile == kKTiles) k_tile = 0, strip += gridDim.x * kWarps;
  }
};

__device__ __forceinline__ void store(const Unembed& p, u32 strip, const Sums& sums) {
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    const u32 row = strip * kTileRows + lane_id() / 4 + i / 2 * 8, column = lane_id() % 4 * 2 + i % 2;
    if (row < spec::kVocab && column < p.rows) p.logits[static_cast<u64>(column) * spec::kVocab + row] = sums.s[i];
  }
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  u32 strip = blockIdx.x * kWarps + warp_id();
  Stream stream{p.weight, strip, 0};
  Bf16Tile tiles[kDepth];
#pragma unroll
  for (u32 i = 0; i < kDepth; ++i) stream.next(tiles[i]);
  wait_for_inputs();
  start_next_kernel();
  copy_rows<spec::kHidden, kKTiles * kTileK, kWarps>(shared.x.rows[0], shared.x.kStride, p.normed, p.rows);

  u32 k_tile = 0;
  Sums sums{};
  while (strip < spec::kRowTiles) {
#pragma unroll
    for (u32 i = 0; i < kDepth; ++i) {
      if (strip >= spec::kRowTiles) break;
      ActivationTile columns;
      columns.load(shared.x.column(k_tile));
      multiply_tile(sums, tiles[i], columns);
      stream.next(tiles[i]);
      if (++k_tile == kKTiles) {
        store(p, strip, sums);
        sums = Sums{};
        k_tile = 0, strip += gridDim.x * kWarps;
      }
    }
  }
}
