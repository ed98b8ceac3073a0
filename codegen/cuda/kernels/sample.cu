// Samples the next token of each row: the largest logit at temperature 0, else the largest of score + Gumbel noise
// among the tokens that top-k, top-p and min-p keep (the Gumbel-max trick, which samples exactly from their softmax).
// Before it, biases, penalties, forbidden tokens and a mask may change the logits; the log probabilities and ranks of
// the row as it was may be reported, also of a token that is given instead of sampled.
//
// A cluster of blocks holds a row in shared memory and reads it from global memory once, whatever the filters. The
// blocks exchange integers only, so the result is the host's, bit for bit, and depends on neither batch nor timing. The
// settings belong to each row, so one launch, and one graph, serves any mix.
//
// Layouts: logits [rows][vocab] float; edits, those of a row together; histories [sequence slots][vocab] u16; masks
// [any][ceil(vocab / 32)] u32; sampled [rows] u32; last_sampled [sequence slots] u32; reports [rows][1 + kMaxReported],
// first the token's own, with its rank in place of its id. A call reads a row's 4 x vocab bytes once (twice if it
// reports), or in every pass where the row does not fit in shared memory; penalties read 2 x vocab bytes, a mask vocab / 8.
#include "facts.cuh"
#include "ptx/launch.cuh"
#include "sample/changes.cuh"
#include "sample/filters.cuh"
#include "sample/report.cuh"

struct Shared {
  Exchange exchange;
  SampleRow settings;
  u32 gathered;  // most likely tokens that the row's blocks have found
};
constexpr u32 kStateBytes = spec::kSharedBytes - spec::kRowBytes;
static_assert(reserves<Shared>(kStateBytes) && kStateBytes % 16 == 0, "the launch reserves another size");
static_assert(spec::kScratchStride >= spec::kVocab && spec::kScratchStride % 4 == 0, "a scratch row holds whole vectors");
static_assert(spec::kSplits <= kWarpSize, "a lane reads each block's results");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Sample p) {
  extern __shared__ __align__(16) u8 storage[];
  if (blockIdx.z >= kBlocks) return;
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  Exchange& exchange = shared.exchange;
  if (threadIdx.x < kBins) exchange.bins[threadIdx.x] = exchange.totals[0][threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    shared.settings = p.rows[blockIdx.y];
    shared.gathered = 0;
  }
  cluster_arrive();
  NextBuffer next{};
  const SampleRow& settings = shared.settings;
  const Row row{p.logits + static_cast<u64>(blockIdx.y) * spec::kVocab,
                reinterpret_cast<float4*>(storage + kStateBytes), blockIdx.z * kSlice};
  wait_for_inputs();
  start_next_kernel();

  Candidate mine = load_row(row);
  cluster_wait();  // from here on, other blocks write to this one
  const auto find_likeliest = [&] { return candidate_of(reduce_row<Max>(exchange, next, rank_of(mine))); };
  Candidate likeliest = find_likeliest();
  ReportedToken* report = p.reports + static_cast<u64>(blockIdx.y) * (1 + kMaxReported);
  const bool reports = settings.report > 0;  // 1 + how many of the most likely tokens
  float total = __uint_as_float(0x7fc00000);  // where the largest logit is not finite, nothing has a probability
  if (reports) {
    if (is_finite(likeliest.score)) total = log_sum(row, exchange, next, likeliest.score);
    if (settings.report > 1)
      report_top(row, exchange, next, shared.gathered, settings.report - 1, likeliest.score, mine.score, total,
                 report + 1);
  }
  u32 token = settings.given;
  const bool samples = token == kNothingGiven;
  if (samples) {
    Row sampled_row = row;
    if (settings.changed) {
      sampled_row = change_row(row, p, settings, p.changes[blockIdx.y]);
      mine = best_of_thread(sampled_row);
      likeliest = find_likeliest();
    }
    // As on the host, nothing is sampled if the largest logit is not finite.
    token = !is_finite(likeliest.score)            ? kNothingSampled
            : settings.inverse_temperature == 0.0f ? likeliest.token
                                                   : sample_filtered(sampled_row, exchange, next, likeliest, mine,
                                                                     settings);
  }
  if (reports && token != kNothingSampled) {
    const float logit = canonical(row.logits[token]);
    const u32 likelier = count_likelier(row, exchange, next, logit);
    if (blockIdx.z == 0 && threadIdx.x == 0) report[0] = {likelier + 1, __fsub_rn(logit, total)};
  }
  if (blockIdx.z > 0 || threadIdx.x > 0 || !samples) return;
  p.sampled[blockIdx.y] = token;
  // The next step, which may already wait for the token, needs one of the vocabulary.
  p.last_sampled[settings.seq_slot] = token != kNothingSampled ? token : 0;
  if (settings.counts_history && token != kNothingSampled) {
    u16& history = p.histories[static_cast<u64>(settings.seq_slot) * spec::kVocab + token];
    if ((history & kCount) < kCount) ++history;
  }
}
