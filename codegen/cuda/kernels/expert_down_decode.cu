// residual[token] += sum over the token's experts of weight * (down[expert](hidden[slot]) + bias)
//
// A block owns 16 rows for every chosen expert and all tokens, and adds the experts in ascending order of id, so
// the sum needs no atomics and does not depend on timing. A column is a token; tokens that did not choose the
// expert at hand have weight 0 there.
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kInter, kTileK);
constexpr u32 kDepth = spec::kDepth;  // experts whose weights are on their way
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;
using Weights = StripShare<Mxfp4Tile, kKTiles, kWarps>;

struct Shared {
  SharedSums<kWarps> sums;
  Route route;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

__device__ __forceinline__ const u8* strip(const ExpertDown& p, u32 expert) {
  return p.weight + (static_cast<u64>(expert) * spec::kRowTiles + blockIdx.x) * Mxfp4Tile::strip_bytes(kKTiles);
}

// Activations of column g for the expert at `place`: the hidden row of the token's slot, or null.
__device__ __forceinline__ const bf16* column(const ExpertDown& p, const Route& route, u32 place) {
  const u32 token = lane_id() / 4;
  if (token >= p.tokens || route.rank[place][token] == Route::kNotChosen) return nullptr;
  const u32 slot = token * spec::kTopK + route.rank[place][token];
  return p.hidden + static_cast<u64>(slot) * spec::kInter + lane_id() % 4 * 16;
}

__device__ __forceinline__ Sums multiply(const Weights& weights, const bf16* x) {
  Sums sums{};
#pragma unroll
  for (u32 i = 0; i < Weights::kShare; ++i) {
    if (!Weights::exists(i)) continue;
    const u32 k = Weights::k_tile(i) * kTileK;
    ActivationTile columns;
    columns.clear();
    if (x && k + lane_id() % 4 * 16 < spec::kInter) columns.load(x + k);
    multiply_tile(sums, weights.tiles[i], columns);
  }
  return sums;
}

// The weighted sum of the chosen experts' biases for rows `row` and `row + 8` of a token.
__device__ __forceinline__ FloatPair weighted_bias(const ExpertDown& p, const Route& route, u32 token, u32 row) {
  FloatPair sum{};
#pragma unroll 4
  for (u32 place = 0; place < route.distinct; ++place) {
    const float weight = route.weight(place, token, p.tokens);
    const FloatPair bias = bias_pair(p.bias + static_cast<u64>(route.experts[place]) * spec::kHidden, row);
    sum.low += weight * bias.low, sum.high += weight * bias.high;
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ ExpertDown p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The router's logits are two kernels old and complete: the kernel between waited for them before it let this
  // one start. So the experts' weights can be on their way before that kernel's hidden rows are.
  shared.route.build<kWarps>(p.logits, p.tokens);
  Weights weights[kDepth];
  const auto load = [&](u32 d, u32 place) {
    if (place < shared.route.distinct) weights[d].load(strip(p, shared.route.experts[place]));
  };
#pragma unroll
  for (u32 d = 0; d < kDepth; ++d) load(d, d);
  const u32 first_row = blockIdx.x * kTileRows;
  FloatPair bias[Pairs::kEach], before[Pairs::kEach];
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) {
    bias[j] = weighted_bias(p, shared.route, token, first_row + g);
  });
  wait_for_inputs();
  start_next_kernel();

  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) {
    const float* residual = p.residual + token * spec::kHidden + first_row;
    before[j] = {residual[g], residual[g + 8]};
  });
  Sums total{};
  const u32 first_token = lane_id() % 4 * 2;
  for (u32 first = 0; first < shared.route.distinct; first += kDepth) {
#pragma unroll
    for (u32 d = 0; d < kDepth; ++d) {
      const u32 place = first + d;
      if (place >= shared.route.distinct) break;
      const Sums sums = multiply(weights[d], column(p, shared.route, place));
      load(d, place + kDepth);
      const float weight0 = shared.route.weight(place, first_token, p.tokens);
      const float weight1 = shared.route.weight(place, first_token + 1, p.tokens);
      total.s[0] += weight0 * sums.s[0], total.s[1] += weight1 * sums.s[1];
      total.s[2] += weight0 * sums.s[2], total.s[3] += weight1 * sums.s[3];
    }
  }
  shared.sums.put(total);
  __syncthreads();

  Pairs::finish(shared.sums, p.tokens, [&](u32 j, u32 g, u32 token, float low, float high) {
    float* residual = p.residual + token * spec::kHidden + first_row;
    residual[g] = before[j].low + low * p.weight_scale + bias[j].low;
    residual[g + 8] = before[j].high + high * p.weight_scale + bias[j].high;
  });
}
