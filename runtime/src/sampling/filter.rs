//! Which tokens can be sampled at all: top-k and top-p.

use super::config::SamplerConfig;
use super::scores::Scores;

/// The tokens that top-k and top-p keep, or `None` for all.
pub(super) fn kept(view: &Scores<'_>, config: &SamplerConfig) -> Option<Vec<u32>> {
    let vocab = view.logits.len();
    let top_k = if config.top_k == 0 { vocab } else { vocab.min(config.top_k as usize) };
    if top_k == vocab && config.top_p >= 1.0 {
        return None;
    }
    let mut ranks: Vec<u64> = (0..vocab as u32).map(|id| view.rank(id)).collect();
    if top_k < vocab {
        ranks.select_nth_unstable(top_k);
        ranks.truncate(top_k);
    }
    if config.top_p < 1.0 {
        // The target is rounded as on the device: once to f64, and down to an integer.
        let wanted = (view.mass(&ranks) as f64 * f64::from(config.top_p)) as u64;
        let count = count_to_mass(view, &mut ranks, wanted.max(1));
        ranks.truncate(count);
    }
    Some(ranks.into_iter().map(|rank| rank as u32).collect())
}

/// How many of the most likely tokens have `wanted` mass together; moves them to the front. Halves the remaining range
/// in each round, as quickselect does, so a vocabulary is never sorted.
fn count_to_mass(view: &Scores<'_>, ranks: &mut [u64], mut wanted: u64) -> usize {
    let (mut start, mut end) = (0, ranks.len());
    while end - start > 64 {
        let half = (end - start) / 2;
        ranks[start..end].select_nth_unstable(half);
        let mass = view.mass(&ranks[start..start + half]);
        if mass >= wanted {
            end = start + half;
        } else {
            wanted -= mass;
            start += half;
        }
    }
    ranks[start..end].sort_unstable();
    while start < end {
        let mass = view.mass(&ranks[start..=start]);
        start += 1;
        if mass >= wanted {
            break;
        }
        wanted -= mass;
    }
    start
}
