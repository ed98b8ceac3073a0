// hidden[slot] = swiglu(gate_up[expert of slot](normed[token]) + bias), in bf16.
//
// A block owns one strip (8 gates and their 8 ups) of every expert that the step's tokens chose, several experts
// at a time, so that an expert's weights are read once however many tokens chose it.
#include "epilogue/swiglu.cuh"
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kHidden, kTileK);
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

struct Shared {
  SharedRows<spec::kMaxTokens, kKTiles> x;
  SharedSums<kWarps> sums[spec::kExpertBatch];
  Route route;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

__device__ __forceinline__ const u8* strip(const ExpertUp& p, u32 expert) {
  return p.weight + (static_cast<u64>(expert) * spec::kRowTiles + blockIdx.x) * Mxfp4Tile::strip_bytes(kKTiles);
}

__device__ __forceinline__ void store(const ExpertUp& p, const Route& route, const SharedSums<kWarps>& sums,
                                      u32 place) {
  const u32 expert = route.experts[place], first_pair = blockIdx.x * 8;
  for_each_row_pair(sums, p.tokens, [&](u32 g, u32 token, float gate, float up) {
    const u8 k = route.rank[place][token];
    if (k == Route::kNotChosen) return;
    const u32 pair = first_pair + g;
    p.hidden[(token * spec::kTopK + k) * spec::kInter + pair] = to_bf16(biased_swiglu(
        gate, up, p.bias + (static_cast<u64>(expert) * spec::kInter + pair) * 2, p.weight_scale, spec::kSwigluLimit,
        spec::kSwigluAlpha));
  });
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ ExpertUp p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  shared.route.build<kWarps>(p.logits, p.tokens);

  StripShare<Mxfp4Tile, kKTiles, kWarps> weights[spec::kExpertBatch];
  for (u32 first = 0; first < shared.route.distinct; first += spec::kExpertBatch) {
    const u32 count = min(spec::kExpertBatch, shared.route.distinct - first);
#pragma unroll
    for (u32 i = 0; i < spec::kExpertBatch; ++i)
      if (i < count) weights[i].load(strip(p, shared.route.experts[first + i]));
    if (first == 0)
      copy_rows<spec::kHidden, kKTiles * kTileK, kWarps>(shared.x.rows[0], shared.x.kStride, p.normed, p.tokens);
#pragma unroll
    for (u32 i = 0; i < spec::kExpertBatch; ++i)
      if (i < count) shared.sums[i].put(weights[i].multiply(shared.x));
    __syncthreads();
    for (u32 i = 0; i < count; ++i) store(p, shared.route, shared.sums[i], first + i);
    __syncthreads();
  }
}
