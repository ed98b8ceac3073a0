//! The steps that are checked: random tokens for one sequence, or for two of different length and position.

use ossmith_plan::Model;

use crate::backend::{Input, LogitRows, PAGE_TOKENS, Sequence};
use crate::sampling::SamplerConfig;

/// Sequences of a step with more than one token.
pub(super) const SEQUENCES: usize = 2;

/// Rows of the head at most: enough for every schedule's unembedding to have a tile that does not fill.
pub(super) const HEAD_ROWS: usize = 300;

/// Rows that one launch of the sampler's own check samples.
pub(super) const SAMPLER_ROWS: usize = 56;

/// A plain stream of random numbers: the checks need variety, not quality.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// About normal, from four uniform random numbers.
    pub(super) fn normal(&mut self) -> f32 {
        let sum: u64 = (0..4).map(|_| self.next() >> 40).sum();
        (sum as f32 / (1 << 24) as f32 - 2.0) * 3f32.sqrt()
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        let high = ossmith_scalar::mix_word((self.0 >> 32) as u32);
        let low = ossmith_scalar::mix_word(self.0 as u32 ^ high);
        u64::from(ossmith_scalar::mix_word(low ^ 0x9e37_79b9)) << 32 | u64::from(low)
    }
}

/// Where the tokens of a step go: one sequence, or two of different length and position.
pub(super) struct Layout {
    pub starts: [usize; SEQUENCES],
    pub counts: [usize; SEQUENCES],
    pub tokens: Vec<u32>,
    pub pages: [Vec<u32>; SEQUENCES],
}

impl Layout {
    pub(super) fn new(model: &Model, tokens: usize, start: usize, random: &mut Random) -> Layout {
        let first = tokens - tokens / 3;
        let all_pages = (start + tokens).div_ceil(PAGE_TOKENS) as u32;
        Layout {
            starts: [start, start / 2],
            counts: [first, tokens - first],
            tokens: (0..tokens).map(|_| random.below(model.spec.vocab) as u32).collect(),
            // Interleaved, so that a page table read wrongly shows.
            pages: [0, 1].map(|slot| (0..all_pages).map(|i| i * SEQUENCES as u32 + slot).collect()),
        }
    }

    pub(super) fn sequences(&self) -> Vec<Sequence<'_>> {
        let mut first = 0;
        let mut sequences = Vec::new();
        for slot in 0..SEQUENCES {
            let count = self.counts[slot];
            if count > 0 {
                sequences.push(Sequence {
                    seq_slot: slot,
                    start: self.starts[slot],
                    input: Input::Tokens(&self.tokens[first..first + count]),
                    pages: &self.pages[slot],
                    sample: Some(settings(slot + self.tokens.len() + self.starts[0]).into()),
                    prompt_report: None,
                    logits: LogitRows::None,
                });
            }
            first += count;
        }
        sequences
    }
}

/// Settings that use each filter alone and all together.
fn settings(row: usize) -> SamplerConfig {
    let seed = 7 + row as u64;
    let sampled = SamplerConfig { temperature: 0.8, seed, ..SamplerConfig::GREEDY };
    match row % 6 {
        0 => SamplerConfig::GREEDY,
        1 => sampled,
        2 => SamplerConfig { top_k: 5, ..sampled },
        3 => SamplerConfig { top_p: 0.7, ..sampled },
        4 => SamplerConfig { min_p: 0.3, ..sampled },
        _ => SamplerConfig { temperature: 1.5, top_k: 50, top_p: 0.9, min_p: 0.02, ..sampled },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_values_have_the_moments_of_a_normal_distribution() {
        let (mut random, count) = (Random(3), 20_000);
        let values: Vec<f64> = (0..count).map(|_| f64::from(random.normal())).collect();
        let mean = values.iter().sum::<f64>() / f64::from(count);
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(count);
        // Four uniform numbers have a variance of a third, and three times that is 1.
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert!(values.iter().all(|x| x.abs() <= 2.0 * 3_f64.sqrt()));
        assert!((0..1000).all(|_| random.below(7) < 7));
    }

    #[test]
    fn rows_use_each_filter_alone_and_all_together() {
        let rows: Vec<SamplerConfig> = (0..6).map(settings).collect();
        assert_eq!(rows[0], SamplerConfig::GREEDY);
        assert!(rows[1..].iter().all(|row| row.temperature > 0.0), "{rows:?}");
        let used = |row: &SamplerConfig| [row.top_k > 0, row.top_p < 1.0, row.min_p > 0.0];
        let used: Vec<[bool; 3]> = rows[1..].iter().map(used).collect();
        let alone = |filter| [0, 1, 2].map(|at| at == filter);
        assert_eq!(used, [[false; 3], alone(0), alone(1), alone(2), [true; 3]]);
        let seeds: std::collections::BTreeSet<u64> =
            (1..30).map(|row| settings(row).seed).collect();
        assert!(seeds.len() > 20, "rows differ in their seeds");
    }
}
