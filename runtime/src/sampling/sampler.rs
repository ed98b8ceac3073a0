//! The host's sampler: it offers what the filters keep to a [`GumbelArgmax`].

use ossmith_scalar::noise_stream;

use super::changes::LogitChanges;
use super::config::SamplerConfig;
use super::filter::kept;
use super::gumbel_argmax::GumbelArgmax;
use super::scores::{BLOCK, Scores, peak};
use crate::{Error, Result};

/// Samples the token that will stand at `position`.
///
/// # Errors
/// [`Error::InvalidRequest`] for settings out of range; [`Error::NonFiniteLogits`] if no logit is a finite number.
pub(crate) fn sample(logits: &[f32], config: &SamplerConfig, position: usize) -> Result<u32> {
    config.check()?;
    let peaks: Vec<f32> = logits.chunks(BLOCK).map(peak).collect();
    let largest = peak(&peaks);
    if !largest.is_finite() {
        return Err(Error::NonFiniteLogits { position });
    }
    if config.temperature == 0.0 {
        let block = peaks.iter().position(|&peak| peak == largest).unwrap_or(0);
        let within = logits[block * BLOCK..].iter().position(|&logit| logit == largest);
        return Ok((block * BLOCK + within.unwrap_or(0)) as u32);
    }
    let view = Scores { logits, largest, inverse: config.inverse_temperature() };
    let floor = config.min_score();
    let mut argmax = GumbelArgmax::new(noise_stream(config.seed, position as u32));
    let kept = kept(&view, config);
    match &kept {
        Some(ids) => ids.iter().for_each(|&id| argmax.offer(id, view.score(id), floor)),
        None => argmax.offer_all(&view, &peaks, floor),
    }
    Ok(argmax.token)
}

/// Samples the token that will stand at `position` from a row after changes of it.
///
/// # Errors
/// Those of [`sample`].
pub(crate) fn sample_changed(
    logits: &[f32],
    changes: &LogitChanges<'_>,
    config: &SamplerConfig,
    position: usize,
) -> Result<u32> {
    if changes.is_empty() {
        return sample(logits, config, position);
    }
    let mut changed = logits.to_vec();
    changes.apply(&mut changed);
    sample(&changed, config, position)
}

#[cfg(test)]
mod tests {
    use ossmith_scalar::{gumbel_of_bits, noise_bits};

    use super::*;

    const SAMPLED: SamplerConfig = SamplerConfig { temperature: 1.0, ..SamplerConfig::GREEDY };

    fn counts(logits: &[f32], config: SamplerConfig, samples: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for position in 0..samples {
            counts[sample(logits, &config, position).expect("valid settings") as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_ignores_nan() {
        let token =
            |logits: &[f32]| sample(logits, &SamplerConfig::GREEDY, 7).expect("finite logits");
        assert_eq!(token(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(token(&[f32::NAN, -2.0, f32::NEG_INFINITY]), 1);
        for position in 0..20 {
            let sampled = sample(&[f32::NAN, 1.0, f32::NAN], &SAMPLED, position);
            assert_eq!(sampled.expect("one finite logit"), 1);
        }
        let coldest = SamplerConfig { temperature: f32::from_bits(1), ..SAMPLED };
        assert_eq!(sample(&[1.0, 3.0, 2.0], &coldest, 0).expect("finite logits"), 1);
        let mut wide = vec![-1.0; 1000];
        wide[777] = 0.5;
        assert_eq!(token(&wide), 777);
    }

    #[test]
    fn samples_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let logits = [0.3, -1.0, 1.7, 0.0, -4.0, 1.6];
            let weights: Vec<f64> = logits.map(|l| f64::from(l / temperature).exp()).to_vec();
            let total: f64 = weights.iter().sum();
            let samples = 20_000;
            let counts = counts(&logits, SamplerConfig { temperature, ..SAMPLED }, samples);
            let chi_square: f64 = counts
                .iter()
                .zip(&weights)
                .map(|(&count, weight)| {
                    let expected = weight / total * samples as f64;
                    (count as f64 - expected).powi(2) / expected
                })
                .sum();
            // 5 degrees of freedom: a fair sampler exceeds 25 for one in seven thousand seeds.
            assert!(chi_square < 25.0, "temperature {temperature}: chi square {chi_square}");
        }
    }

    #[test]
    fn filters_keep_exactly_the_documented_tokens() {
        // Probabilities 0.4, 0.3, 0.15, 0.1, 0.05, in the order 3, 0, 4, 1, 2.
        let logits: Vec<f32> = [0.3f32, 0.1, 0.05, 0.4, 0.15].map(f32::ln).to_vec();
        let all = SAMPLED;
        for (config, kept) in [
            (all, vec![0, 1, 2, 3, 4]),
            (SamplerConfig { top_k: 1, ..all }, vec![3]),
            (SamplerConfig { top_k: 3, ..all }, vec![0, 3, 4]),
            (SamplerConfig { top_k: 99, ..all }, vec![0, 1, 2, 3, 4]),
            (SamplerConfig { top_p: 0.39, ..all }, vec![3]),
            (SamplerConfig { top_p: 0.69, ..all }, vec![0, 3]),
            (SamplerConfig { top_p: 0.8, ..all }, vec![0, 3, 4]),
            // top-p applies to what top-k kept: 0.4 / 0.7 is enough for 0.55.
            (SamplerConfig { top_k: 2, top_p: 0.55, ..all }, vec![3]),
            (SamplerConfig { min_p: 0.3, ..all }, vec![0, 3, 4]),
            (SamplerConfig { min_p: 1.0, ..all }, vec![3]),
            (SamplerConfig { top_k: 4, min_p: 0.2, ..all }, vec![0, 1, 3, 4]),
        ] {
            let counts = counts(&logits, config, 2000);
            let seen: Vec<usize> = (0..counts.len()).filter(|&id| counts[id] > 0).collect();
            assert_eq!(seen, kept, "{config:?}");
        }
    }

    #[test]
    fn equal_logits_are_kept_from_the_lowest_id() {
        let counts = self::counts(&[1.0; 40], SamplerConfig { top_k: 3, ..SAMPLED }, 500);
        assert!(
            counts[..3].iter().all(|&count| count > 100) && counts[3..].iter().sum::<usize>() == 0
        );
        let zeros = self::counts(&[-0.0, 0.0], SamplerConfig { top_k: 1, ..SAMPLED }, 50);
        assert_eq!(zeros, [50, 0]);
    }

    #[test]
    fn top_p_finds_large_sets() {
        let counts = counts(&[0.0; 5000], SamplerConfig { top_p: 0.5, ..SAMPLED }, 4000);
        assert_eq!(counts[2500..].iter().sum::<usize>(), 0);
        assert!(counts[..2500].iter().filter(|&&count| count > 0).count() > 1800);
    }

    #[test]
    fn skipped_blocks_change_no_sample() {
        let even = |id: u32| ((id * 37) % 101) as f32 * 0.08;
        // One token, or some of its block's, far above thousands of equals, some of which are sampled all the same.
        let peaked = |depth: f32| move |id: u32| if id == 1500 { depth } else { (id % 3) as f32 };
        let close = |id: u32| if id / 64 == 20 { 9.0 - (id % 5) as f32 } else { f32::NAN };
        let rows: [&dyn Fn(u32) -> f32; 5] =
            [&even, &peaked(4.0), &peaked(9.0), &peaked(40.0), &close];
        for (row, logit) in rows.iter().enumerate() {
            let logits: Vec<f32> = (0..3001).map(logit).collect();
            let largest = peak(&logits);
            for position in 0..400 {
                let stream = noise_stream(3, position as u32);
                let noise = |id: u32| gumbel_of_bits(noise_bits(stream, id));
                let slow = (0..3001)
                    .map(|id| (logits[id as usize] - largest + noise(id), id))
                    .fold((f32::NEG_INFINITY, 0), |a, b| if b.0 > a.0 { b } else { a });
                let config = SamplerConfig { seed: 3, ..SAMPLED };
                let token = sample(&logits, &config, position).expect("finite logits");
                assert_eq!(token, slow.1, "row {row}, position {position}");
            }
        }
    }

    #[test]
    fn samples_depend_on_seed_and_position_only() {
        let logits = [0.0; 64];
        let run = |seed| -> Vec<u32> {
            let config = SamplerConfig { seed, ..SAMPLED };
            (0..64).map(|p| sample(&logits, &config, p).expect("finite logits")).collect()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert_ne!(run(1), run(1 << 32 | 1));
    }

    #[test]
    fn logits_without_a_finite_number_are_refused() {
        let error =
            sample(&[f32::NAN], &SamplerConfig::GREEDY, 5).expect_err("no logits").to_string();
        assert!(error.contains("position 5"), "{error}");
    }
}
