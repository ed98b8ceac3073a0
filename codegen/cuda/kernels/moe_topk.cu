// The experts of each token and their weights, from the router's logits.
//
// A warp computes one token. Layouts: logits [tokens][experts] float; route_experts [tokens][top_k] u32 and
// route_weights [tokens][top_k] float: the top_k largest logits, the lowest expert first among equals, and the softmax
// over these (moe/routing.cuh). A call reads 4 x experts bytes per token and writes 8 x top_k bytes. top_k is at most
// 32: lane k writes the expert of rank k.
#include "moe/routing.cuh"
#include "ptx/launch.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads) KERNEL_NAME(const __grid_constant__ MoeTopk p) {
  wait_for_inputs();
  start_next_kernel();
  const u32 token = blockIdx.x * (spec::kThreads / kWarpSize) + warp_id();
  if (token >= p.tokens) return;
  TopK<spec::kExperts, spec::kTopK> top;
  float logits[top.kEach];
#pragma unroll
  for (u32 i = 0; i < top.kEach; ++i) {
    const u32 expert = i * kWarpSize + lane_id();
    logits[i] = expert < spec::kExperts ? p.logits[static_cast<u64>(token) * spec::kExperts + expert] : 0.0f;
  }
  top.select(logits);
#pragma unroll
  for (u32 k = 0; k < spec::kTopK; ++k) {
    if (lane_id() == k) {
      p.route_experts[token * spec::kTopK + k] = top.ids[k];
      p.route_weights[token * spec::kTopK + k] = top.weights[k];
    }
  }
}
