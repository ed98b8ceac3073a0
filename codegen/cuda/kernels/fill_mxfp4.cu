// Seeded random MXFP4 weights, generated on the device in the order of packed weights.
//
// The code and the scale at a checkpoint index are the same as on the host. Padding is zero. `rows` counts the rows of
// all matrices together, which are whole row tiles.
//
// Layouts: out [row tile], each the codes of its tiles followed by their scales (tile/weights.cuh). A call writes 17 /
// 32 bytes per value, padding to whole tiles included, and reads nothing. All matrices together have fewer than 2^32
// values.
#include "ptx/types.cuh"
#include "tile/order.cuh"

constexpr u32 kTileCodeWords = kTileRows * kTileK / 8, kTileScales = kTileRows * 2;

// The eight codes of one k16 step of a lane.
__device__ __forceinline__ u32 code_word(const FillMxfp4& p, u32 row_tile, u32 k_tile, u32 lane, u32 step) {
  Array<u32, 8> codes;
#pragma unroll
  for (u32 element = 0; element < 8; ++element) {
    const u32 row = checkpoint_row(row_tile * kTileRows + tile_row(lane, element / 2), p.order, 0);
    const u32 k = k_tile * kTileK + tile_k(lane, step, element);
    const u32 index = row * p.k + k;
    codes.v[element] = k < p.k ? random_word(p.code_key0, p.code_key1, index / 8) >> (4 * (index % 8)) & 15 : 0;
  }
  return mxfp4_word(codes);
}

// Scale byte `i` of a tile: [g][block][row g, row g + 8].
__device__ __forceinline__ u8 scale_byte(const FillMxfp4& p, u32 row_tile, u32 k_tile, u32 i) {
  const u32 row = checkpoint_row(row_tile * kTileRows + i / 4 + i % 2 * 8, p.order, 0);
  const u32 block = k_tile * 2 + i / 2 % 2, blocks = p.k / 32;
  if (block >= blocks) return kMxfp4ScaleOffset;
  return static_cast<u8>(synthetic_scale(p.scale_key0, p.scale_key1, row * blocks + block, p.scale_base) +
                         kMxfp4ScaleOffset);
}

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ FillMxfp4 p) {
  const u32 k_tiles = ceil_div(p.k, kTileK), row_tiles = p.rows / kTileRows;
  const u64 row_tile_bytes = k_tiles * (kTileCodeWords * 4 + kTileScales);
  for (u32 row_tile = blockIdx.x; row_tile < row_tiles; row_tile += gridDim.x) {
    u32* codes = reinterpret_cast<u32*>(p.out + row_tile * row_tile_bytes);
    u8* scales = reinterpret_cast<u8*>(codes + k_tiles * kTileCodeWords);
    for (u32 i = threadIdx.x; i < k_tiles * kTileCodeWords; i += spec::kThreads)
      codes[i] = code_word(p, row_tile, i / kTileCodeWords, i / 4 % kWarpSize, i % 4);
    for (u32 i = threadIdx.x; i < k_tiles * kTileScales; i += spec::kThreads)
      scales[i] = scale_byte(p, row_tile, i / kTileScales, i % kTileScales);
  }
}
