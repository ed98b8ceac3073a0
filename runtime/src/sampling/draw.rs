//! The host's sampler: what the filters keep enters a [`Race`].

use ossmith_scalar::noise_stream;

use super::Sampling;
use super::filter::kept;
use super::race::Race;
use super::scores::{BLOCK, Scores, peak};
use crate::{Error, Result};

/// The draw at `position`, the position that the drawn token will have.
///
/// # Errors
/// [`Error::Request`] for settings out of range; [`Error::Device`] if no logit is a finite number.
pub(crate) fn draw(logits: &[f32], sampling: &Sampling, position: usize) -> Result<u32> {
    sampling.check()?;
    let peaks: Vec<f32> = logits.chunks(BLOCK).map(peak).collect();
    let largest = peak(&peaks);
    if !largest.is_finite() {
        return Err(Error::Device(format!(
            "the largest logit at position {position} is {largest}: weights or kernels are damaged"
        )));
    }
    if sampling.temperature == 0.0 {
        let block = peaks.iter().position(|&peak| peak == largest).unwrap_or(0);
        let within = logits[block * BLOCK..].iter().position(|&logit| logit == largest);
        return Ok((block * BLOCK + within.unwrap_or(0)) as u32);
    }
    // Bounded, since infinity times the best one's difference of 0 is not a number.
    let inverse = sampling.temperature.recip().min(f32::MAX);
    let view = Scores { logits, largest, inverse };
    // A score is the logarithm of a token's probability as a share of the best one's.
    let floor = if sampling.min_p > 0.0 { sampling.min_p.ln() } else { f32::NEG_INFINITY };
    let mut race = Race::new(noise_stream(sampling.seed, position as u32));
    let kept = kept(&view, sampling);
    match &kept {
        Some(ids) => ids.iter().for_each(|&id| race.enter(id, view.score(id), floor)),
        None => race.enter_all(&view, &peaks, floor),
    }
    Ok(race.winner)
}

#[cfg(test)]
mod tests {
    use ossmith_scalar::{gumbel_of_bits, noise_bits};

    use super::*;

    const SAMPLED: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

    fn counts(logits: &[f32], sampling: Sampling, draws: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for position in 0..draws {
            counts[draw(logits, &sampling, position).expect("good settings") as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_ignores_what_is_no_number() {
        let token = |logits: &[f32]| draw(logits, &Sampling::GREEDY, 7).expect("finite logits");
        assert_eq!(token(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(token(&[f32::NAN, -2.0, f32::NEG_INFINITY]), 1);
        for position in 0..20 {
            let drawn = draw(&[f32::NAN, 1.0, f32::NAN], &SAMPLED, position);
            assert_eq!(drawn.expect("one finite logit"), 1);
        }
        let coldest = Sampling { temperature: f32::from_bits(1), ..SAMPLED };
        assert_eq!(draw(&[1.0, 3.0, 2.0], &coldest, 0).expect("finite logits"), 1);
        let mut wide = vec![-1.0; 1000];
        wide[777] = 0.5;
        assert_eq!(token(&wide), 777);
    }

    #[test]
    fn draws_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let logits = [0.3, -1.0, 1.7, 0.0, -4.0, 1.6];
            let weights: Vec<f64> = logits.map(|l| f64::from(l / temperature).exp()).to_vec();
            let total: f64 = weights.iter().sum();
            let draws = 20_000;
            let counts = counts(&logits, Sampling { temperature, ..SAMPLED }, draws);
            let chi_square: f64 = counts
                .iter()
                .zip(&weights)
                .map(|(&count, weight)| {
                    let expected = weight / total * draws as f64;
                    (count as f64 - expected).powi(2) / expected
                })
                .sum();
            // 5 degrees of freedom: a fair sampler passes 25 once in seven thousand seeds.
            assert!(chi_square < 25.0, "temperature {temperature}: chi square {chi_square}");
        }
    }

    #[test]
    fn filters_keep_exactly_what_they_say() {
        // Probabilities 0.4, 0.3, 0.15, 0.1, 0.05, in the order 3, 0, 4, 1, 2.
        let logits: Vec<f32> = [0.3f32, 0.1, 0.05, 0.4, 0.15].map(f32::ln).to_vec();
        let all = SAMPLED;
        for (sampling, kept) in [
            (all, vec![0, 1, 2, 3, 4]),
            (Sampling { top_k: 1, ..all }, vec![3]),
            (Sampling { top_k: 3, ..all }, vec![0, 3, 4]),
            (Sampling { top_k: 99, ..all }, vec![0, 1, 2, 3, 4]),
            (Sampling { top_p: 0.39, ..all }, vec![3]),
            (Sampling { top_p: 0.69, ..all }, vec![0, 3]),
            (Sampling { top_p: 0.8, ..all }, vec![0, 3, 4]),
            // top-p counts within what top-k kept: 0.4 / 0.7 is enough for 0.55.
            (Sampling { top_k: 2, top_p: 0.55, ..all }, vec![3]),
            (Sampling { min_p: 0.3, ..all }, vec![0, 3, 4]),
            (Sampling { min_p: 1.0, ..all }, vec![3]),
            (Sampling { top_k: 4, min_p: 0.2, ..all }, vec![0, 1, 3, 4]),
        ] {
            let counts = counts(&logits, sampling, 2000);
            let seen: Vec<usize> = (0..counts.len()).filter(|&id| counts[id] > 0).collect();
            assert_eq!(seen, kept, "{sampling:?}");
        }
    }

    #[test]
    fn equal_logits_are_kept_from_the_lowest_id() {
        let counts = self::counts(&[1.0; 40], Sampling { top_k: 3, ..SAMPLED }, 500);
        assert!(
            counts[..3].iter().all(|&count| count > 100) && counts[3..].iter().sum::<usize>() == 0
        );
        let zeros = self::counts(&[-0.0, 0.0], Sampling { top_k: 1, ..SAMPLED }, 50);
        assert_eq!(zeros, [50, 0]);
    }

    #[test]
    fn top_p_finds_large_sets() {
        let counts = counts(&[0.0; 5000], Sampling { top_p: 0.5, ..SAMPLED }, 4000);
        assert_eq!(counts[2500..].iter().sum::<usize>(), 0);
        assert!(counts[..2500].iter().filter(|&&count| count > 0).count() > 1800);
    }

    #[test]
    fn shortcuts_change_no_draw() {
        let even = |id: u32| ((id * 37) % 101) as f32 * 0.08;
        // One token, or some of its block's, far above thousands of equals, some of which win all the same.
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
                let sampling = Sampling { seed: 3, ..SAMPLED };
                let drawn = draw(&logits, &sampling, position).expect("finite logits");
                assert_eq!(drawn, slow.1, "row {row}, position {position}");
            }
        }
    }

    #[test]
    fn draws_depend_on_seed_and_position_only() {
        let logits = [0.0; 64];
        let run = |seed| -> Vec<u32> {
            let sampling = Sampling { seed, ..SAMPLED };
            (0..64).map(|p| draw(&logits, &sampling, p).expect("finite logits")).collect()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert_ne!(run(1), run(1 << 32 | 1));
    }

    #[test]
    fn logits_without_a_finite_number_are_refused() {
        let error = draw(&[f32::NAN], &Sampling::GREEDY, 5).expect_err("no logits").to_string();
        assert!(error.contains("position 5"), "{error}");
    }
}
