// Draws the next token of each row: greedy at temperature 0, else the largest logit / temperature + Gumbel noise
// among the tokens that top-k, top-p and min-p keep (the Gumbel-max trick: exactly a draw from their softmax).
//
// Rows without filters are split among gridDim.x blocks, the last of which to finish compares their candidates;
// filters need the whole row, which one block takes. The noise depends on seed, position and token alone, so a draw
// depends on neither batch nor timing.
//
// Layouts: logits [rows][vocab] float; candidates [rows][gridDim.x]; drawn [rows] u32; sampled [slots] u32. A call
// reads a row's 4 x vocab bytes once, or, with filters, twice (the largest logit, the draw), four times more for top-k
// and five for top-p, and takes one Gumbel number for each kept token.
#include "ptx/launch.cuh"
#include "sample/candidate.cuh"
#include "sample/select.cuh"
#include "scalar.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr float kFixedPoint = 1099511627776.0f;  // 2^40: probabilities as integers, summed without rounding

struct Shared {
  Candidate best[kWarps];
  SharedSelect select;
  u64 mass;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

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

// A draw by this block alone.
__device__ __forceinline__ Candidate draw_filtered(Shared& shared, const float* logits, const SampleRow& row,
                                                   u64 seed) {
  const Slice all{0, spec::kVocab};
  const Candidate largest = block_best<kWarps>(shared.best, all, [&](u32 token) { return logits[token]; });
  const u32 kept = kept_key(shared, logits, row, largest.score);
  return block_best<kWarps>(shared.best, all, [&](u32 token) {
    if (order_key(logits[token]) < kept) return kMinusInfinity;
    return logits[token] / row.temperature + gumbel(seed, row.position, token);
  });
}

// The best of this block's slice.
__device__ __forceinline__ Candidate draw_slice(Shared& shared, const float* logits, const SampleRow& row, u64 seed) {
  const u32 width = ceil_div(spec::kVocab, gridDim.x), first = min(blockIdx.x * width, spec::kVocab);
  const Slice slice{first, min(first + width, spec::kVocab)};
  if (row.temperature == 0.0f) return block_best<kWarps>(shared.best, slice, [&](u32 token) { return logits[token]; });
  const float inverse = 1.0f / row.temperature;
  return block_best<kWarps>(shared.best, slice, [&](u32 token) {
    return logits[token] * inverse + gumbel(seed, row.position, token);
  });
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Sample p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  const SampleRow row = p.rows[blockIdx.y];
  wait_for_inputs();
  start_next_kernel();
  const float* logits = p.logits + static_cast<u64>(blockIdx.y) * spec::kVocab;
  const u64 seed = static_cast<u64>(row.seed_high) << 32 | row.seed_low;
  const bool filtered = row.temperature > 0.0f && (row.top_k > 0 || row.top_p < 1.0f || row.min_p > 0.0f);
  if (filtered && blockIdx.x > 0) return;

  Candidate drawn = filtered ? draw_filtered(shared, logits, row, seed) : draw_slice(shared, logits, row, seed);
  if (warp_id() != 0) return;
  if (!filtered) {
    Candidate* candidates = static_cast<Candidate*>(p.candidates) + blockIdx.y * gridDim.x;
    u32 earlier = 0;
    if (lane_id() == 0) candidates[blockIdx.x] = drawn, earlier = arrive(&p.tickets[blockIdx.y]);
    if (__shfl_sync(~0u, earlier, 0) != gridDim.x - 1) return;
    for (u32 i = lane_id(); i < gridDim.x; i += kWarpSize) drawn.keep_better(candidates[i]);
    drawn = warp_best(drawn);
  }
  if (lane_id() != 0) return;
  if (!filtered) p.tickets[blockIdx.y] = 0;
  // Logits that are not numbers must not lead out of the vocabulary.
  drawn.token = min(drawn.token, spec::kVocab - 1);
  p.drawn[blockIdx.y] = drawn.token;
  p.sampled[row.slot] = drawn.token;
}
