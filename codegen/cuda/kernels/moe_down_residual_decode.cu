// residual[token] += sum over the token's experts of weight * (down[expert](expert_act[route]) + bias), with the
// deferred RMS norm of the result (tile/norm.cuh).
//
// A block has 16 rows for every selected expert and all tokens, and adds the experts in the order of the list of
// distinct experts, so the sum needs no atomics and does not depend on timing. A column is a route: as many experts as
// have at most eight routes together share one load of expert_act rows, and of each expert's result only its own
// columns are used.
//
// Layouts: expert_act [tokens][top_k][inter] bf16; weight [expert][row tile][tile] of hidden rows by inter, MXFP4;
// residual [tokens][hidden] float; deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float. A call
// computes 2 x hidden x inter flops per route and reads hidden x inter x 17 / 32 bytes per selected expert, once:
// memory bandwidth bounds it. At most kMaxTokens tokens; tokens x top_k is below 256.
#include "epilogue/residual.cuh"
#include "moe/logits.cuh"
#include "moe/routing.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = spec::kHidden / kTileRows;
constexpr u32 kColumns = 8;
constexpr bool kOneToken = spec::kMaxTokens == 1 && spec::kTopK <= kColumns;  // its routes are the columns
using Slice = KSlice<spec::kInter, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Routing = SharedRouting<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

// The experts of the list, up to `end`, whose routes share the columns of one load.
struct RouteColumns {
  u32 end, first_route, routes;

  __device__ __forceinline__ RouteColumns(const Routing& routing, u32 first)
      : end(spec::kTopK), first_route(0), routes(spec::kTopK) {
    if (kOneToken) return;
    end = first + 1, first_route = routing.start[first];
    while (end < routing.distinct && routing.start[end + 1] - first_route <= kColumns) ++end;
    routes = routing.start[end] - first_route;
  }

  // The row of expert_act of this lane's column, or null.
  __device__ __forceinline__ const bf16* row(const MoeDownResidual& p, const Routing& routing) const {
    const u32 column = lane_id() / 4;
    if (column >= routes) return nullptr;
    const u64 route = kOneToken ? column : routing.routes[first_route + column];
    return p.expert_act + route * spec::kInter;
  }

  // The columns that are routes of the expert at `entry`: low() to high() - 1.
  __device__ __forceinline__ u32 low(const Routing& routing, u32 entry) const {
    return kOneToken ? entry : routing.start[entry] - first_route;
  }
  __device__ __forceinline__ u32 high(const Routing& routing, u32 entry) const {
    return kOneToken ? entry + 1 : routing.start[entry + 1] - first_route;
  }

  // Adds those columns of a result, times the weights of their routes, to this warp's partials of their tokens.
  __device__ __forceinline__ void add(SharedPartials<kWarps, spec::kMaxTokens>& partials,
                                      const Accumulators& accumulators, const Routing& routing, u32 entry,
                                      float weight_scale) const {
    auto& warp_partials = partials.partial[0][warp_id()];
    const u32 g = lane_id() / 4;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 column = lane_id() % 4 * 2 + i;
      if (column < low(routing, entry) || column >= high(routing, entry)) continue;
      const u32 route = kOneToken ? column : routing.routes[first_route + column], token = route / spec::kTopK;
      const float weight = routing.weights[token][route % spec::kTopK] * weight_scale;
      warp_partials[g][token] += weight * accumulators.c[i];
      warp_partials[g + 8][token] += weight * accumulators.c[2 + i];
    }
    __syncwarp();
  }
};

// The biases of the selected experts. A warp copies and adds those of every kWarps-th expert of the list.
struct ExpertBiases {
  alignas(16) bf16 of_entry[Routing::kMaxDistinct][kTileRows];

  __device__ __forceinline__ void fetch(const bf16* biases, const Routing& routing, u32 first_row) {
    constexpr u32 kHalf = kTileRows / 2;  // 16 bytes
    if (lane_id() >= 2) return;
    for (u32 entry = warp_id(); entry < routing.distinct; entry += kWarps) {
      const bf16* of_expert = biases + static_cast<u64>(routing.experts[entry]) * spec::kHidden + first_row;
      copy_async(&of_entry[entry][lane_id() * kHalf], of_expert + lane_id() * kHalf, true);
    }
  }

  // Must be called when this warp's copies have arrived.
  __device__ __forceinline__ void add(SharedPartials<kWarps, spec::kMaxTokens>& partials, const Routing& routing,
                                      u32 tokens) const {
    const u32 row = lane_id() % kTileRows;
    for (u32 token = lane_id() / kTileRows; token < tokens; token += kWarpSize / kTileRows) {
      float& sum = partials.partial[0][warp_id()][row][token];
      for (u32 entry = warp_id(); entry < routing.distinct; entry += kWarps)
        sum += routing.weight(entry, token, tokens) * bf16_to_float(of_entry[entry][row]);
    }
  }
};

struct Shared {
  SharedWeightStages<Mxfp4Tile, Slice, kWarps, spec::kStages> stages;
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  Routing routing;
  SharedResidual<spec::kMaxTokens> residual;
  ExpertBiases biases;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDownResidual p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The router's sums and the residual were written two kernels ago and are complete, because the kernel between waited
  // for them before it let this one start. So the experts' weights are requested before expert_act is complete.
  const RouterLogits<spec::kExperts, spec::kHidden> logits{p.router_logit_sums, p.router_square_sums, p.router_bias,
                                                           spec::kRmsEps};
  shared.routing.template build<kWarps>(logits, p.tokens, nullptr);
  const u32 first_row = blockIdx.x * kTileRows;
  shared.biases.fetch(p.bias, shared.routing, first_row);
  shared.residual.fetch_scale(p.next_norm_scale, first_row);
  auto weights = stream<RowTiles::kAll>(shared.stages, shared.routing.distinct, [&](u32 entry) {
    const u64 expert = shared.routing.experts[entry];
    return p.weight + (expert * kRowTiles + blockIdx.x) * Mxfp4Tile::row_tile_bytes(Slice::kKTiles);
  });
  shared.residual.fetch_before<spec::kHidden>(p.residual, first_row, p.tokens);
  shared.partials.store(0, Accumulators{});
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  for (u32 entry = 0; entry < shared.routing.distinct;) {
    const RouteColumns columns(shared.routing, entry);
    load_activations<Slice, spec::kInter>(x, columns.row(p, shared.routing));
    for (; entry < columns.end; ++entry) {
      Accumulators accumulators{};
      weights.multiply(accumulators, x);
      columns.add(shared.partials, accumulators, shared.routing, entry, p.weight_scale);
    }
  }
  copy_wait<0>();
  __syncwarp();
  shared.biases.add(shared.partials, shared.routing, p.tokens);
  __syncthreads();
  const ResidualEpilogue<spec::kHidden> out{p.residual, p.deferred_rows, p.square_sums};
  Pairs::finish(shared.partials, 0, p.tokens, [&](u32 /*j*/, u32 g, u32 token, float low, float high) {
    out.add(shared.residual, first_row, g, token, low, high);
  });
}
