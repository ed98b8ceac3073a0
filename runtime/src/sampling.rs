//! How a token is drawn from logits: the settings, the host's sampler, and the noise that every sampler shares.
//!
//! A draw is the largest `logit / temperature + gumbel` over the tokens that the filters keep, which picks each with
//! its softmax probability and needs no sum. The noise is a hash of (seed, position, token id), so a draw depends on
//! neither batch nor backend, and a device can make it without state.

use ossmith_scalar::{gumbel_of_bits, noise_bits, noise_stream};

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

/// Logits that are passed over together where none of them can be drawn.
const BLOCK: usize = 64;

/// Logits over temperature, less the largest.
struct Scores<'a> {
    logits: &'a [f32],
    largest: f32,
    inverse: f32,
}

impl Scores<'_> {
    fn score(&self, id: u32) -> f32 {
        self.of_logit(self.logits[id as usize])
    }

    fn of_logit(&self, logit: f32) -> f32 {
        (logit - self.largest) * self.inverse
    }

    /// A number that orders tokens best first, the lowest id among equals, what is not a number last; the id is
    /// its low half.
    fn rank(&self, id: u32) -> u64 {
        let logit = self.logits[id as usize];
        let bits = if logit.is_nan() { f32::NEG_INFINITY.to_bits() } else { logit.to_bits() };
        // Flipped to grow with the logit, then inverted.
        let grows = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(!grows) << 32 | u64::from(id)
    }

    fn mass(&self, ranks: &[u64]) -> f64 {
        let weight = |&rank: &u64| f64::from(self.score(rank as u32).exp());
        ranks.iter().map(weight).filter(|weight| !weight.is_nan()).sum()
    }
}

/// The tokens that top-k and top-p keep, or `None` for all.
fn kept(view: &Scores<'_>, sampling: &Sampling) -> Option<Vec<u32>> {
    let vocab = view.logits.len();
    let top_k = if sampling.top_k == 0 { vocab } else { vocab.min(sampling.top_k as usize) };
    if top_k == vocab && sampling.top_p >= 1.0 {
        return None;
    }
    let mut ranks: Vec<u64> = (0..vocab as u32).map(|id| view.rank(id)).collect();
    if top_k < vocab {
        ranks.select_nth_unstable(top_k);
        ranks.truncate(top_k);
    }
    if sampling.top_p < 1.0 {
        let wanted = f64::from(sampling.top_p) * view.mass(&ranks);
        let count = count_to_mass(view, &mut ranks, wanted);
        ranks.truncate(count);
    }
    Some(ranks.into_iter().map(|rank| rank as u32).collect())
}

/// How many of the best have `wanted` mass together; moves them to the front. Halves what is left to look at, as
/// quickselect does, so a vocabulary is never sorted.
fn count_to_mass(view: &Scores<'_>, ranks: &mut [u64], mut wanted: f64) -> usize {
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
        wanted -= view.mass(&ranks[start..=start]);
        start += 1;
        if wanted <= 0.0 {
            break;
        }
    }
    start
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

    /// Enters a whole vocabulary, most of it by a glance at its blocks' largest logits and at the bits.
    fn enter_all(&mut self, view: &Scores<'_>, peaks: &[f32], floor: f32) {
        // Whoever follows the best one's block has much to beat.
        let first = peaks.iter().position(|&peak| peak == view.largest).unwrap_or(0);
        for block in std::iter::once(first).chain(0..peaks.len()) {
            let score = view.of_logit(peaks[block]);
            if score < floor || score + MOST_GUMBEL < self.best {
                continue;
            }
            let ids = block * BLOCK..view.logits.len().min((block + 1) * BLOCK);
            let ids = ids.start as u32..ids.end as u32;
            let bound = self.bound.min(bits_to_beat(self.best - score));
            let least = ids.clone().map(|id| noise_bits(self.stream, id)).min();
            if least.is_some_and(|least| least <= bound) {
                ids.for_each(|id| self.enter(id, view.score(id), floor));
            }
        }
    }

    fn enter(&mut self, id: u32, score: f32, floor: f32) {
        let bits = noise_bits(self.stream, id);
        // A gumbel is below -ln(v), and v at least 2^-(zeros + 1): no logarithm for those far behind.
        let most = (bits.leading_zeros() + 1) as f32 * 0.694;
        let behind = score < floor || score + most < self.best || score.is_nan();
        if bits > self.bound || behind {
            return;
        }
        let sum = score + gumbel_of_bits(bits);
        if sum > self.best || (sum == self.best && id < self.winner) || self.winner == u32::MAX {
            (self.best, self.winner) = (sum, id);
            // Scores are at most 0, so whoever beats `best` has a gumbel above it: solve `gumbel(bits) = best` for
            // the bits and leave room for f32's rounding.
            let share = -(-(-f64::from(sum)).exp()).exp_m1();
            self.bound = (share * 1.0001 * 2f64.powi(32)) as u32;
        }
    }
}

/// Above every gumbel, that of no bits set included.
const MOST_GUMBEL: f32 = 22.9;

/// Bits above this have a gumbel below `gumbel`, f32's rounding included: a share of `1 - exp(-exp(-gumbel))`, which is
/// below `exp(-gumbel)`, of all bits.
fn bits_to_beat(gumbel: f32) -> u32 {
    ((-gumbel).exp() * 1.0001 * 2f32.powi(32)).ceil() as u32
}

/// The largest of some numbers, whatever is not a number aside.
fn peak(numbers: &[f32]) -> f32 {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = numbers.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| larger(a, b));
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, number);
        }
    }
    lanes.iter().fold(rest, |a, &b| larger(a, b))
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
    fn the_bits_to_beat_a_gumbel_leave_none_out() {
        for exponent in 0..32 {
            for bits in [(1_u32 << exponent) - 1, 1 << exponent, (1 << exponent) + 1] {
                let gumbel = gumbel_of_bits(bits);
                assert!(gumbel < MOST_GUMBEL && bits <= bits_to_beat(gumbel), "{bits}");
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
    fn the_noise_is_finite_and_falls_with_the_bits() {
        let extremes = [0, 1, 1 << 9, 1 << 31, u32::MAX - 1, u32::MAX].map(gumbel_of_bits);
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
        let error = draw(&[f32::NAN], &Sampling::GREEDY, 5).expect_err("no logits").to_string();
        assert!(error.contains("position 5"), "{error}");
    }
}
