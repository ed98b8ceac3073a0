// The rest of `kernels/sample.cu` after `start_next_kernel()`. `shared.gathered` is a counter that starts at 0.
  const Candidate of_model = load_row(row);
  cluster_wait();  // from here on, other blocks write to this one
  Candidate mine = of_model;
  const auto find_likeliest = [&] { return candidate_of(reduce_row<Max>(exchange, next, rank_of(mine))); };
  Candidate likeliest = find_likeliest();
  const bool reports = settings.report != 0;  // 1 + how many of the most likely tokens
  float total = 0.0f;
  if (reports) {
    total = likeliest.score + log_sum(row, exchange, next, likeliest.score);
    if (settings.report > 1)
      report_top(row, exchange, next, shared.gathered, settings.report - 1, likeliest.score, mine.score, total,
                 p.reports[blockIdx.y]);
  }
  u32 token = settings.given;  // ~0 if it is to be sampled; else only a report is wanted, as for prompt logprobs
  if (settings.given == ~0u) {
    if (settings.changed) {
      adjust_row(row, p, settings, p.changes[blockIdx.y]);
      mine = best_of_thread(row);
      likeliest = find_likeliest();
    }
    token = !is_finite(likeliest.score)            ? ~0u
            : settings.inverse_temperature == 0.0f ? likeliest.token
                                                   : sample_filtered(row, exchange, next, likeliest, mine, settings);
  }
  u32 likelier = 0;
  if (reports && token != ~0u) likelier = count_likelier(row, exchange, next, row.logits[token]);
  if (blockIdx.z > 0 || threadIdx.x > 0) return;
  if (reports && token != ~0u) {
    p.reports[blockIdx.y].logprob = row.logits[token] - total;
    p.reports[blockIdx.y].rank = likelier + 1;
  }
  p.sampled[blockIdx.y] = token;
  if (settings.given != ~0u) return;
  p.last_sampled[settings.seq_slot] = token != ~0u ? token : 0;
  if (settings.counts_history && token != ~0u) {
    u16& history = p.histories[static_cast<u64>(settings.seq_slot) * spec::kVocab + token];
    if ((history & kCount) < kCount) ++history;
  }
}
