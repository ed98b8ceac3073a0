//! How a token is drawn from logits: the settings, the host's sampler, and the noise that every sampler shares.
//!
//! A draw is the largest `logit / temperature + gumbel` over the tokens that the filters keep, which picks each with
//! its softmax probability and needs no sum. The noise is a hash of (seed, position, token id), so a draw depends on
//! neither batch nor backend, and a device can make it without state.

use std::cmp::Ordering;

use crate::{Error, Result};

/// Sampling settings of one sequence. Filters apply in the order top-k, top-p, min-p, on logits over `temperature`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 means greedy (the lowest id among equal logits).
    pub temperature: f32,
    /// Keep only this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of best tokens with at least this much probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the best one; 0 keeps all.
    pub min_p: f32,
    /// Seed of the draw. The draw at a position depends only on seed, position and logits.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// [`Error::Request`] naming the setting and its range.
    pub fn check(&self) -> Result<()> {
        let settings = [
            ("temperature", self.temperature, self.temperature >= 0.0, "a finite number from 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
        ];
        match settings.iter().find(|(_, value, good, _)| !good || !value.is_finite()) {
            Some((name, value, _, range)) => {
                Err(Error::Request(format!("{name} is {value}; it must be {range}")))
            }
            None => Ok(()),
        }
    }
}

/// The draw at `position`, the position that the drawn token will have.
///
/// # Errors
/// [`Error::Request`] for settings out of range; [`Error::Device`] if no logit is a finite number.
pub(crate) fn draw(logits: &[f32], sampling: &Sampling, position: usize) -> Result<u32> {
    sampling.check()?;
    let largest = largest(logits);
    if !largest.is_finite() {
        return Err(Error::Device(format!(
            "the largest logit at position {position} is {largest}: weights or kernels are damaged"
        )));
    }
    if sampling.temperature == 0.0 {
        let best = logits.iter().position(|&logit| logit == largest);
        return Ok(best.unwrap_or(0) as u32);
    }
    let view = Scores { logits, largest, inverse: 1.0 / sampling.temperature };
    // A score is the logarithm of a token's probability as a share of the best one's.
    let floor = if sampling.min_p > 0.0 { sampling.min_p.ln() } else { f32::NEG_INFINITY };
    let mut race = Race::new(stream(sampling.seed, position as u64));
    let kept = kept(&view, sampling);
    match &kept {
        Some(ids) => ids.iter().for_each(|&id| race.enter(id, view.score(id), floor)),
        None => (0..logits.len() as u32).for_each(|id| race.enter(id, view.score(id), floor)),
    }
    Ok(race.winner)
}

/// Logits over temperature, less the largest.
struct Scores<'a> {
    logits: &'a [f32],
    largest: f32,
    inverse: f32,
}

impl Scores<'_> {
    fn score(&self, id: u32) -> f32 {
        (self.logits[id as usize] - self.largest) * self.inverse
    }

    /// Best first; the lowest id among equals; what is not a number last.
    fn order(&self, a: u32, b: u32) -> Ordering {
        let key = |id: u32| {
            let logit = self.logits[id as usize];
            if logit.is_nan() { f32::NEG_INFINITY } else { logit }
        };
        key(b).total_cmp(&key(a)).then(a.cmp(&b))
    }

    fn mass(&self, ids: impl Iterator<Item = u32>) -> f64 {
        let weight = |id| f64::from(self.score(id).exp());
        ids.map(weight).filter(|weight| !weight.is_nan()).sum()
    }
}

/// The tokens that top-k and top-p keep, or `None` for all.
fn kept(view: &Scores<'_>, sampling: &Sampling) -> Option<Vec<u32>> {
    let vocab = view.logits.len();
    let top_k = if sampling.top_k == 0 { vocab } else { vocab.min(sampling.top_k as usize) };
    let all = || 0..vocab as u32;
    if sampling.top_p >= 1.0 {
        return (top_k < vocab).then(|| best(view, all().collect(), top_k));
    }
    let candidates =
        if top_k < vocab { best(view, all().collect(), top_k) } else { all().collect() };
    let wanted = f64::from(sampling.top_p) * view.mass(candidates.iter().copied());
    // Sorting a whole vocabulary is slow and the set is mostly small, so look for it in ever more of the best.
    let mut count = 256;
    loop {
        let mut ids = best(view, candidates.clone(), count);
        ids.sort_unstable_by(|&a, &b| view.order(a, b));
        let mut mass = 0.0;
        let reached = ids.iter().position(|&id| {
            mass += f64::from(view.score(id).exp());
            mass >= wanted
        });
        if let Some(last) = reached {
            ids.truncate(last + 1);
            return Some(ids);
        }
        if count >= candidates.len() {
            return Some(ids);
        }
        count *= 8;
    }
}

/// The `count` best of `ids`, in no order.
fn best(view: &Scores<'_>, mut ids: Vec<u32>, count: usize) -> Vec<u32> {
    if count < ids.len() {
        ids.select_nth_unstable_by(count, |&a, &b| view.order(a, b));
        ids.truncate(count);
    }
    ids
}

/// Finds the largest `score + gumbel`.
struct Race {
    stream: u64,
    best: f32,
    winner: u32,
    /// Bits above this cannot win with any score.
    bound: u32,
}

impl Race {
    fn new(stream: u64) -> Race {
        Race { stream, best: f32::NEG_INFINITY, winner: u32::MAX, bound: u32::MAX }
    }

    fn enter(&mut self, id: u32, score: f32, floor: f32) {
        let bits = bits(self.stream, id);
        if bits > self.bound || score < floor {
            return;
        }
        let sum = score + gumbel(bits);
        if sum > self.best || (sum == self.best && id < self.winner) || self.winner == u32::MAX {
            (self.best, self.winner) = (sum, id);
            // Scores are at most 0, so whoever beats `best` has a gumbel above it: solve `gumbel(bits) = best` for
            // the bits and leave room for f32's rounding.
            let share = -(-(-f64::from(sum)).exp()).exp_m1();
            self.bound = (share * 1.0001 * 2f64.powi(32)) as u32;
        }
    }
}

/// The largest logit, whatever is not a number aside.
fn largest(logits: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    lanes.iter().fold(rest, |a, &b| a.max(b))
}

/// The noise of one draw, from which [`bits`] makes each token's.
#[must_use]
pub(crate) fn stream(seed: u64, position: u64) -> u64 {
    let low = mix(seed as u32 ^ mix(position as u32));
    let high = mix((seed >> 32) as u32 ^ mix(low ^ 0x9e37_79b9));
    u64::from(high) << 32 | u64::from(low)
}

/// 32 random bits for a token: two rounds of a 32-bit mixer, each keyed by half of the stream.
#[must_use]
pub(crate) fn bits(stream: u64, token: u32) -> u32 {
    mix(mix(token ^ stream as u32).wrapping_add((stream >> 32) as u32))
}

/// A standard Gumbel variate, `-ln(-ln(1 - v))` with `v = (bits + 0.5) / 2^32`; falls as `bits` grow. Small `v` make
/// large variates, and `v` is exact there, so the tail that decides a draw is not cut at f32's precision near 1.
#[must_use]
pub(crate) fn gumbel(bits: u32) -> f32 {
    // The largest f32 below 1 keeps the inner logarithm finite.
    let v = ((bits as f32 + 0.5) * 2f32.powi(-32)).min(1.0 - f32::EPSILON / 2.0);
    -(-(-v).ln_1p()).ln()
}

/// A bijection of 32 bits that flips half of them for any flipped input bit (the finaliser of MurmurHash3).
fn mix(bits: u32) -> u32 {
    let mut h = bits;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
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
        let counts = counts(&[1.0; 40], Sampling { top_k: 3, ..SAMPLED }, 500);
        assert!(
            counts[..3].iter().all(|&count| count > 100) && counts[3..].iter().sum::<usize>() == 0
        );
    }

    #[test]
    fn top_p_finds_sets_larger_than_its_first_guess() {
        let counts = counts(&[0.0; 5000], Sampling { top_p: 0.5, ..SAMPLED }, 4000);
        assert_eq!(counts[2500..].iter().sum::<usize>(), 0);
        assert!(counts[..2500].iter().filter(|&&count| count > 0).count() > 1800);
    }

    #[test]
    fn the_shortcut_changes_no_draw() {
        let logits: Vec<f32> = (0..3000).map(|id| ((id * 37) % 101) as f32 * 0.08).collect();
        for position in 0..50 {
            let stream = stream(3, position as u64);
            let slow = (0..3000)
                .map(|id| (logits[id as usize] - 8.0 + gumbel(bits(stream, id)), id))
                .fold((f32::NEG_INFINITY, 0), |a, b| if b.0 > a.0 { b } else { a });
            let sampling = Sampling { seed: 3, ..SAMPLED };
            assert_eq!(draw(&logits, &sampling, position).expect("finite logits"), slow.1);
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
    fn the_noise_is_finite_and_falls_with_the_bits() {
        let extremes = [0, 1, 1 << 9, 1 << 31, u32::MAX - 1, u32::MAX].map(gumbel);
        assert!(extremes.iter().all(|g| g.is_finite()) && extremes.is_sorted_by(|a, b| a >= b));
        // -ln(-ln(1 - 2^-33)): the far tail survives.
        assert!((extremes[0] - 22.873_855).abs() < 1e-4, "{}", extremes[0]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (sampling, name) in [
            (Sampling { temperature: -1.0, ..SAMPLED }, "temperature"),
            (Sampling { temperature: f32::NAN, ..SAMPLED }, "temperature"),
            (Sampling { temperature: f32::INFINITY, ..SAMPLED }, "temperature"),
            (Sampling { top_p: 0.0, ..SAMPLED }, "top_p"),
            (Sampling { top_p: 1.5, ..SAMPLED }, "top_p"),
            (Sampling { min_p: -0.1, ..SAMPLED }, "min_p"),
        ] {
            let error = draw(&[1.0, 2.0], &sampling, 0).expect_err("nonsense").to_string();
            assert!(error.starts_with(name), "{error}");
        }
        let error = draw(&[f32::NAN; 3], &Sampling::GREEDY, 5).expect_err("no logits").to_string();
        assert!(error.contains("position 5"), "{error}");
    }
}
