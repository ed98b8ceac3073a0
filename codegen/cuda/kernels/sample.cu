// Draws the next token of each row: greedy at temperature 0, else the largest logit / temperature + Gumbel noise
// among the tokens that top-k, top-p and min-p keep (the Gumbel-max trick: exactly a draw from their softmax).
//
// One block a row. The noise depends on seed, position and token alone, so a draw does not depend on the batch.
#include "ptx/launch.cuh"
#include "sample/select.cuh"
#include "scalar.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr float kFixedPoint = 1099511627776.0f;  // 2^40: probabilities as integers, summed without rounding

struct Candidate {
  float score;
  u32 token;

  __device__ __forceinline__ void keep_better(Candidate other) {
    if (other.score > score || (other.score == score && other.token < token)) *this = other;
  }
};

struct Shared {
  Candidate best[kWarps];
  SharedSelect select;
  u64 mass;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// The best token by `score_of(token)` over the block, lowest id first among equals. All threads get it.
template <class Score>
__device__ __forceinline__ Candidate block_best(Candidate (&shared)[kWarps], Score score_of) {
  Candidate best{kMinusInfinity, spec::kVocab};
  for (u32 token = threadIdx.x; token < spec::kVocab; token += spec::kThreads)
    best.keep_better({score_of(token), token});
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2)
    best.keep_better({__shfl_xor_sync(~0u, best.score, step), __shfl_xor_sync(~0u, best.token, step)});
  __syncthreads();
  if (lane_id() == 0) shared[warp_id()] = best;
  __syncthreads();
  for (u32 w = 0; w < kWarps; ++w) best.keep_better(shared[w]);
  best.token = min(best.token, spec::kVocab - 1);  // logits that are not numbers must not lead out of the vocabulary
  return best;
}

// The smallest logit that the filters keep.
__device__ __forceinline__ u32 kept_key(Shared& shared, const float* logits, const SampleRow& row, float largest) {
  const auto key_of = [&](u32 i) { return order_key(logits[i]); };
  u32 kept = 0;
  if (row.top_k > 0 && row.top_k < spec::kVocab)
    kept = threshold_key<spec::kThreads>(shared.select, spec::kVocab, row.top_k, key_of, [](u32) { return u64{1}; });
  if (row.top_p < 1.0f) {
    const float scale = kLog2e / row.temperature;
    const auto weight_of = [&](u32 i) {
      if (key_of(i) < kept) return u64{0};
      return static_cast<u64>(exp2_fast((logits[i] - largest) * scale) * kFixedPoint);
    };
    if (threadIdx.x == 0) shared.mass = 0;
    __syncthreads();
    u64 mass = 0;
    for (u32 i = threadIdx.x; i < spec::kVocab; i += spec::kThreads) mass += weight_of(i);
    atomicAdd(&shared.mass, mass);
    __syncthreads();
    const u64 wanted = max(static_cast<u64>(static_cast<double>(shared.mass) * row.top_p), u64{1});
    kept = max(kept, threshold_key<spec::kThreads>(shared.select, spec::kVocab, wanted, key_of, weight_of));
  }
  if (row.min_p > 0.0f) kept = max(kept, order_key(largest + row.temperature * __logf(row.min_p)));
  return kept;
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, 1) KERNEL_NAME(const __grid_constant__ Sample p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const SampleRow row = p.rows[blockIdx.x];
  const float* logits = p.logits + static_cast<u64>(blockIdx.x) * spec::kVocab;

  Candidate drawn = block_best(shared.best, [&](u32 token) { return logits[token]; });
  if (row.temperature > 0.0f) {
    const u32 kept = kept_key(shared, logits, row, drawn.score);
    const u64 seed = static_cast<u64>(row.seed_high) << 32 | row.seed_low;
    drawn = block_best(shared.best, [&](u32 token) {
      if (order_key(logits[token]) < kept) return kMinusInfinity;
      return logits[token] / row.temperature + gumbel(seed, row.position, token);
    });
  }
  if (threadIdx.x == 0) {
    p.drawn[blockIdx.x] = drawn.token;
    p.sampled[row.slot] = drawn.token;
  }
}
