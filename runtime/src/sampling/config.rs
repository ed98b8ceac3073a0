//! The settings that a backend applies by itself when it samples, on the device or on the host.

use crate::{Error, Result};

/// The settings that a backend applies when it samples. Filters apply in the order top-k, top-p, min-p, to the logits
/// divided by `temperature`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Divides the logits; 0 means greedy (the lowest id among equal logits).
    pub temperature: f32,
    /// Keep only this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens with at least this much probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens whose probability is below this fraction of the most likely token's; 0 keeps all.
    pub min_p: f32,
    /// Seed of the noise. The token at a position depends only on seed, position and logits.
    pub seed: u64,
}

impl SamplerConfig {
    /// Always the most likely token.
    pub const GREEDY: SamplerConfig =
        SamplerConfig { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Refuses settings that are out of range.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] with the setting and its range.
    pub fn check(&self) -> Result<()> {
        let settings = [
            ("temperature", self.temperature, self.temperature >= 0.0, "a finite number from 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
        ];
        match settings.iter().find(|(_, value, good, _)| !good || !value.is_finite()) {
            Some((name, value, _, range)) => {
                Err(Error::invalid_request(name, format!("{name} is {value}; it must be {range}")))
            }
            None => Ok(()),
        }
    }

    /// What logits are multiplied by; 0 stands for greedy sampling. It is bounded, because infinity times the most likely
    /// token's difference of 0 is not a number.
    pub(crate) fn inverse_temperature(&self) -> f32 {
        if self.temperature == 0.0 { 0.0 } else { self.temperature.recip().min(f32::MAX) }
    }

    /// The lowest score that min-p keeps. A score is the logarithm of a token's probability as a fraction of the most
    /// likely token's.
    pub(crate) fn min_score(&self) -> f32 {
        if self.min_p > 0.0 { self.min_p.ln() } else { f32::NEG_INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: SamplerConfig = SamplerConfig { temperature: 1.0, ..SamplerConfig::GREEDY };

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        for (config, name) in [
            (SamplerConfig { temperature: -1.0, ..SAMPLED }, "temperature"),
            (SamplerConfig { temperature: f32::NAN, ..SAMPLED }, "temperature"),
            (SamplerConfig { temperature: f32::INFINITY, ..SAMPLED }, "temperature"),
            (SamplerConfig { top_p: 0.0, ..SAMPLED }, "top_p"),
            (SamplerConfig { top_p: 1.5, ..SAMPLED }, "top_p"),
            (SamplerConfig { min_p: -0.1, ..SAMPLED }, "min_p"),
        ] {
            let error = config.check().expect_err("out of range").to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
