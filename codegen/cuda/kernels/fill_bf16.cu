// Seeded random bf16 weights, generated on the device in the order of packed weights.
//
// The value at a checkpoint index is the same as on the host; `first_index` is that of the first element. Padding is zero.
//
// Layouts: out [row tile][tile] as in tile/weights.cuh, or [rows][k] if order is kRowMajor. A call writes 2 bytes per
// element, padding to whole tiles included, and reads nothing. A matrix has fewer than 2^32 elements.
#include "ptx/types.cuh"
#include "tile/order.cuh"

constexpr u32 kTileElements = kTileRows * kTileK;

// The checkpoint element at `position` of the output, if there is one.
struct Source {
  u32 row, k;

  __device__ __forceinline__ Source(const FillBf16& p, u32 position) {
    if (p.order == kRowMajor) {
      row = position / p.k, k = position % p.k;
      return;
    }
    const u32 k_tiles = ceil_div(p.k, kTileK);
    const u32 tile = position / kTileElements, in_tile = position % kTileElements;
    const u32 step = in_tile / 256, lane = in_tile / 8 % kWarpSize, element = in_tile % 8;
    row = checkpoint_row(tile / k_tiles * kTileRows + tile_row(lane, element / 2), p.order, p.head_dim);
    k = tile % k_tiles * kTileK + tile_k(lane, step, element);
  }
};

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ FillBf16 p) {
  const u32 tiles = ceil_div(p.rows, kTileRows) * ceil_div(p.k, kTileK);
  const u32 elements = p.order == kRowMajor ? p.rows * p.k : tiles * kTileElements;
  for (u32 i = blockIdx.x * spec::kThreads + threadIdx.x; i < elements; i += gridDim.x * spec::kThreads) {
    const Source source(p, i);
    const bool exists = source.row < p.rows && source.k < p.k;
    const u32 index = p.first_index + source.row * p.k + source.k;
    p.out[i] = exists ? static_cast<bf16>(synthetic_bf16(p.key0, p.key1, index, p.offset, p.spread, p.scale)) : bf16{0};
  }
}
