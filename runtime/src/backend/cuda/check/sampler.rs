//! The device's draws against the host's, on the same logits.

use ossmith_plan::params::NOTHING_SAMPLED;

use crate::sampling::{SamplerConfig, sample};
use crate::{Error, Result};

/// What the sampler's lines are filed under.
pub(super) const PART: &str = "sampler";

/// Settings that use each filter alone and all together.
pub(super) fn settings(row: usize) -> SamplerConfig {
    let seed = 7 + row as u64;
    let drawn = SamplerConfig { temperature: 0.8, seed, ..SamplerConfig::GREEDY };
    match row % 6 {
        0 => SamplerConfig::GREEDY,
        1 => drawn,
        2 => SamplerConfig { top_k: 5, ..drawn },
        3 => SamplerConfig { top_p: 0.7, ..drawn },
        4 => SamplerConfig { min_p: 0.3, ..drawn },
        _ => SamplerConfig { temperature: 1.5, top_k: 50, top_p: 0.9, min_p: 0.02, ..drawn },
    }
}

/// The share of rows whose draw differs from the host's, which from non-finite logits is none.
pub(super) fn disagreement(
    logits: &[f32],
    vocab: usize,
    positions: &[usize],
    settings: &[SamplerConfig],
    drawn: &[u32],
) -> Result<f64> {
    let rows = logits.chunks(vocab).zip(positions).zip(settings).zip(drawn);
    let mut differ = 0;
    for (((row, &position), sampling), &token) in rows {
        let expected = match sample(row, sampling, position) {
            Err(Error::NonFiniteLogits { .. }) => NOTHING_SAMPLED,
            drawn => drawn?,
        };
        differ += usize::from(expected != token);
    }
    Ok(differ as f64 / drawn.len().max(1) as f64)
}
