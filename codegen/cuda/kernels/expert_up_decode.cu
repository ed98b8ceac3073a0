// hidden[slot] = swiglu(gate_up[expert of slot](normed[token]) + bias), in bf16.
//
// The work is a list of units: a strip (8 gates and their 8 ups) of one expert that the step's tokens chose, so an
// expert's weights are read once however many tokens chose it. Blocks go round the list with kDepth units of
// weights on their way; while a few threads finish a unit, the others multiply the next.
#include "epilogue/swiglu.cuh"
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kHidden, kTileK);
constexpr u32 kDepth = spec::kDepth;
static_assert(kDepth % 2 == 0, "units alternate between two sets of partial sums");
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

struct Shared {
  SharedRows<spec::kMaxTokens, kKTiles> x;
  SharedSums<kWarps> sums[2];
  Route route;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

struct Unit {
  u32 place, strip;

  __device__ __forceinline__ explicit Unit(u32 index)
      : place(index / spec::kRowTiles), strip(index % spec::kRowTiles) {}

  __device__ __forceinline__ const u8* weights(const ExpertUp& p, const Route& route) const {
    const u64 strip_of_expert = static_cast<u64>(route.experts[place]) * spec::kRowTiles + strip;
    return p.weight + strip_of_expert * Mxfp4Tile::strip_bytes(kKTiles);
  }

  // The gate's and the up's bias of this thread's pairs, packed.
  __device__ __forceinline__ void load_bias(u32 (&bias)[Pairs::kEach], const ExpertUp& p, const Route& route) const {
    const u32* pairs = reinterpret_cast<const u32*>(p.bias) + static_cast<u64>(route.experts[place]) * spec::kInter;
    Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) { bias[j] = pairs[strip * 8 + g]; });
  }

  __device__ __forceinline__ void store(const ExpertUp& p, const Route& route, const SharedSums<kWarps>& sums,
                                        const u32 (&bias)[Pairs::kEach]) const {
    Pairs::finish(sums, p.tokens, [&](u32 j, u32 g, u32 token, float gate, float up) {
      const u8 k = route.rank[place][token];
      if (k == Route::kNotChosen) return;
      p.hidden[(token * spec::kTopK + k) * spec::kInter + strip * 8 + g] =
          to_bf16(biased_swiglu(gate, up, bias[j], p.weight_scale, spec::kSwigluLimit, spec::kSwigluAlpha));
    });
  }
};

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ ExpertUp p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  shared.route.build<kWarps>(p.logits, p.tokens);

  const u32 units = shared.route.distinct * spec::kRowTiles;
  StripShare<Mxfp4Tile, kKTiles, kWarps> weights[kDepth];
  u32 bias[kDepth][Pairs::kEach];
  const auto load = [&](u32 d, u32 unit) {
    if (unit >= units) return;
    weights[d].load(Unit(unit).weights(p, shared.route));
    Unit(unit).load_bias(bias[d], p, shared.route);
  };
#pragma unroll
  for (u32 d = 0; d < kDepth; ++d) load(d, blockIdx.x + d * gridDim.x);
  copy_rows<spec::kHidden, kKTiles * kTileK, kWarps>(shared.x.rows[0], shared.x.kStride, p.normed, p.tokens);

  for (u32 first = blockIdx.x; first < units; first += kDepth * gridDim.x) {
#pragma unroll
    for (u32 d = 0; d < kDepth; ++d) {
      const u32 unit = first + d * gridDim.x;
      if (unit >= units) break;
      SharedSums<kWarps>& sums = shared.sums[d % 2];
      sums.put(weights[d].multiply(shared.x));
      u32 bias_of_unit[Pairs::kEach];
#pragma unroll
      for (u32 j = 0; j < Pairs::kEach; ++j) bias_of_unit[j] = bias[d][j];
      load(d, unit + kDepth * gridDim.x);
      __syncthreads();
      Unit(unit).store(p, shared.route, sums, bias_of_unit);
    }
  }
}
