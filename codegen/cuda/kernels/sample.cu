// Samples the next token of each row: the largest logit at temperature 0, else the largest of score + Gumbel noise
// among the tokens that top-k, top-p and min-p keep (the Gumbel-max trick, which samples exactly from their softmax).
//
// A cluster of blocks holds a row in shared memory and reads it from global memory once, whatever the filters. The
// blocks exchange integers only, so the result is the host's, bit for bit, and depends on neither batch nor timing. The
// settings belong to each row, so one launch, and one graph, serves any mix.
//
// Layouts: logits [rows][vocab] float; sampled [rows] u32; last_sampled [sequence slots] u32. A call reads a row's
// 4 x vocab bytes once, or in every pass where the row does not fit in shared memory.
#include "facts.cuh"
#include "ptx/launch.cuh"
#include "sample/filters.cuh"

struct Shared {
  Exchange exchange;
  SampleRow settings;
};
constexpr u32 kStateBytes = spec::kSharedBytes - spec::kRowBytes;
static_assert(reserves<Shared>(kStateBytes) && kStateBytes % 16 == 0, "the launch reserves another size");
static_assert(spec::kSplits <= kWarpSize, "a lane reads each block's results");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Sample p) {
  extern __shared__ __align__(16) u8 storage[];
  if (blockIdx.z >= kBlocks) return;
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  Exchange& exchange = shared.exchange;
  if (threadIdx.x < kBins) exchange.bins[threadIdx.x] = exchange.totals[0][threadIdx.x] = 0;
  if (threadIdx.x == 0) shared.settings = p.rows[blockIdx.y];
  cluster_arrive();
  NextBuffer next{};
  const SampleRow& settings = shared.settings;
  const Row row{p.logits + static_cast<u64>(blockIdx.y) * spec::kVocab,
                reinterpret_cast<float4*>(storage + kStateBytes), blockIdx.z * kSlice};
  wait_for_inputs();
  start_next_kernel();

  const Candidate mine = load_row(row);
  cluster_wait();  // from here on, other blocks write to this one
  const Candidate likeliest = candidate_of(reduce_row<Max>(exchange, next, rank_of(mine)));
  // As on the host, nothing is sampled if the largest logit is not finite.
  const u32 token = !is_finite(likeliest.score)            ? kNothingSampled
                    : settings.inverse_temperature == 0.0f ? likeliest.token
                                                           : sample_filtered(row, exchange, next, likeliest, mine,
                                                                             settings);
  if (blockIdx.z > 0 || threadIdx.x > 0) return;
  p.sampled[blockIdx.y] = token;
  // The next step, which may already wait for the token, needs one of the vocabulary.
  p.last_sampled[settings.seq_slot] = token != kNothingSampled ? token : 0;
}
