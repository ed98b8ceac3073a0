// residual[token] += sum over the token's experts of weight * (down[expert](expert_act[route]) + bias), with what the
// next norm needs of it (tile/norm.cuh).
//
// A block owns 16 rows for every chosen expert and all tokens, and adds the experts in the order of the route's
// list, so the sum needs no atomics and does not depend on timing. A column is a slot: as many experts as have at
// most eight slots together share one load of hidden rows, and of each product only the expert's own columns count.
//
// Layouts: expert_act [tokens][top_k][inter] bf16; weight [expert][strip][tile] of hidden rows by inter, MXFP4;
// residual [tokens][hidden] float; deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float. A call
// computes 2 x hidden x inter flops a slot and reads hidden x inter x 17 / 32 bytes an expert that was chosen, once:
// memory bounds it. At most kMaxTokens tokens; tokens x top_k is below 256.
#include "epilogue/residual.cuh"
#include "moe/logits.cuh"
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = spec::kHidden / kTileRows;
constexpr u32 kColumns = 8;
constexpr bool kOneToken = spec::kMaxTokens == 1 && spec::kTopK <= kColumns;  // whose choices are the columns
using Slice = Share<spec::kInter, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

// Experts of the route's list, up to `end`, whose slots fill the columns of one load.
struct Group {
  u32 end, first_slot, slots;

  __device__ __forceinline__ Group(const Route& route, u32 first)
      : end(spec::kTopK), first_slot(0), slots(spec::kTopK) {
    if (kOneToken) return;
    end = first + 1, first_slot = route.start[first];
    while (end < route.distinct && route.start[end + 1] - first_slot <= kColumns) ++end;
    slots = route.start[end] - first_slot;
  }

  // The hidden row of this lane's column, or null.
  __device__ __forceinline__ const bf16* row(const MoeDown& p, const Route& route) const {
    const u32 column = lane_id() / 4;
    if (column >= slots) return nullptr;
    const u64 slot = kOneToken ? column : route.slots[first_slot + column];
    return p.expert_act + slot * spec::kInter;
  }

  // The columns that are slots of the expert at `place`: the first, and the one after the last.
  __device__ __forceinline__ u32 low(const Route& route, u32 place) const {
    return kOneToken ? place : route.start[place] - first_slot;
  }
  __device__ __forceinline__ u32 high(const Route& route, u32 place) const {
    return kOneToken ? place + 1 : route.start[place + 1] - first_slot;
  }

  // Adds those columns of a product, each times its slot's weight, to this warp's sums of its token.
  __device__ __forceinline__ void add(SharedSums<kWarps, spec::kMaxTokens>& sums, const Sums& product,
                                      const Route& route, u32 place, float weight_scale) const {
    auto& of_warp = sums.partial[0][warp_id()];
    const u32 g = lane_id() / 4;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 column = lane_id() % 4 * 2 + i;
      if (column < low(route, place) || column >= high(route, place)) continue;
      const u32 slot = kOneToken ? column : route.slots[first_slot + column], token = slot / spec::kTopK;
      const float weight = route.weights[token][slot % spec::kTopK] * weight_scale;
      of_warp[g][token] += weight * product.s[i];
      of_warp[g + 8][token] += weight * product.s[2 + i];
    }
    __syncwarp();
  }
};

// The chosen experts' biases: those of every kWarps-th expert of the list are a warp's to fetch and to add.
struct BiasShare {
  alignas(16) bf16 of_place[Route::kMaxDistinct][kTileRows];

  __device__ __forceinline__ void fetch(const bf16* biases, const Route& route, u32 first_row) {
    constexpr u32 kHalf = kTileRows / 2;  // 16 bytes
    if (lane_id() >= 2) return;
    for (u32 place = warp_id(); place < route.distinct; place += kWarps) {
      const bf16* of_expert = biases + static_cast<u64>(route.experts[place]) * spec::kHidden + first_row;
      copy_async(&of_place[place][lane_id() * kHalf], of_expert + lane_id() * kHalf, true);
    }
  }

  // To be called when this warp's copies are here.
  __device__ __forceinline__ void add(SharedSums<kWarps, spec::kMaxTokens>& sums, const Route& route,
                                      u32 tokens) const {
    const u32 row = lane_id() % kTileRows;
    for (u32 token = lane_id() / kTileRows; token < tokens; token += kWarpSize / kTileRows) {
      float& sum = sums.partial[0][warp_id()][row][token];
      for (u32 place = warp_id(); place < route.distinct; place += kWarps)
        sum += route.weight(place, token, tokens) * bf16_to_float(of_place[place][row]);
    }
  }
};

struct Shared {
  SharedTiles<Mxfp4Tile, Slice, kWarps, spec::kStages> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  Route route;
  SharedResidual<spec::kMaxTokens> residual;
  BiasShare biases;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDown p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The router's sums and the residual are two kernels old and complete: the kernel between waited for them before it
  // let this one start. So the experts' weights can be on their way before that kernel's hidden rows are.
  const SummedLogits<spec::kExperts, spec::kHidden> logits{p.router_logit_sums, p.router_square_sums, p.router_bias,
                                                           spec::kRmsEps};
  shared.route.template build<kWarps>(logits, p.tokens, nullptr);
  const u32 first_row = blockIdx.x * kTileRows;
  shared.biases.fetch(p.bias, shared.route, first_row);
  shared.residual.fetch_scale(p.next_norm_scale, first_row);
  auto weights = stream<Strips::kAll>(shared.ring, shared.route.distinct, [&](u32 place) {
    const u64 expert = shared.route.experts[place];
    return p.weight + (expert * kStrips + blockIdx.x) * Mxfp4Tile::strip_bytes(Slice::kKTiles);
  });
  shared.residual.fetch_before<spec::kHidden>(p.residual, first_row, p.tokens);
  shared.sums.put(0, Sums{});
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  for (u32 place = 0; place < shared.route.distinct;) {
    const Group group(shared.route, place);
    load_activations<Slice, spec::kInter>(x, group.row(p, shared.route));
    for (; place < group.end; ++place) {
      Sums product{};
      weights.multiply(product, x);
      group.add(shared.sums, product, shared.route, place, p.weight_scale);
    }
  }
  copy_wait<0>();
  __syncwarp();
  shared.biases.add(shared.sums, shared.route, p.tokens);
  __syncthreads();
  const ResidualOut<spec::kHidden> out{p.residual, p.deferred_rows, p.square_sums};
  Pairs::finish(shared.sums, 0, p.tokens, [&](u32 /*j*/, u32 g, u32 token, float low, float high) {
    out.add(shared.residual, first_row, g, token, low, high);
  });
}
