//! How far a result may be from its reference: the profiles of `fixtures/check_logits.py`, in Rust, so that the
//! tests need no numpy. Profiles are upper bounds, not targets.

/// Bounds on a set of logit rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Name, as in `check_logits.py`.
    pub name: &'static str,
    /// Largest relative L2 distance over all rows.
    pub rel_l2: f64,
    /// Largest mean Kullback-Leibler divergence from the reference, in nats.
    pub kl: f64,
    /// Smallest share of equal best tokens, over rows whose reference margin is above `margin`.
    pub top1: f64,
    /// Margin between best and second best above which the best token must agree.
    pub margin: f64,
}

/// float32 arithmetic throughout.
pub const F32: Profile = Profile { name: "f32", rel_l2: 2e-4, kl: 1e-6, top1: 1.0, margin: 0.02 };

/// How far logits are from their reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Whether every value is finite.
    pub finite: bool,
    /// Relative L2 distance over all rows.
    pub rel_l2: f64,
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub kl: f64,
    /// Share of equal best tokens over rows with a clear best one; 1 if there is none.
    pub top1: f64,
}

/// Relative L2 distance `|actual - expected| / |expected|`.
#[must_use]
pub fn rel_l2(expected: &[f32], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len(), "sizes differ");
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let pairs = expected.iter().zip(actual);
    let error = square(&mut pairs.map(|(&e, &a)| f64::from(a) - f64::from(e)));
    let size = square(&mut expected.iter().map(|&e| f64::from(e)));
    (error / size).sqrt()
}

/// Compares rows of `width` logits.
#[must_use]
pub fn distance(expected: &[f32], actual: &[f32], width: usize, margin: f64) -> Distance {
    let (mut kl, mut clear, mut same) = (0.0, 0_usize, 0_usize);
    for (e, a) in expected.chunks_exact(width).zip(actual.chunks_exact(width)) {
        kl += divergence(e, a);
        let (best, runner_up) = best_two(e);
        if f64::from(e[best]) - f64::from(e[runner_up]) > margin {
            clear += 1;
            same += usize::from(best_two(a).0 == best);
        }
    }
    Distance {
        finite: actual.iter().all(|value| value.is_finite()),
        rel_l2: rel_l2(expected, actual),
        kl: kl / (expected.len() / width) as f64,
        top1: if clear == 0 { 1.0 } else { same as f64 / clear as f64 },
    }
}

impl Profile {
    /// Asserts that logits are within the bounds; `what` names the case in the message.
    ///
    /// # Panics
    /// When they are not: this is a test's assertion.
    #[track_caller]
    pub fn assert_logits(&self, what: &str, expected: &[f32], actual: &[f32], width: usize) {
        let found = distance(expected, actual, width, self.margin);
        let within = found.finite
            && found.rel_l2 <= self.rel_l2
            && found.kl <= self.kl
            && found.top1 >= self.top1;
        assert!(within, "{what}: {found:?} breaks {self:?}");
    }

    /// Asserts that activations are within the relative L2 bound.
    ///
    /// # Panics
    /// When they are not: this is a test's assertion.
    #[track_caller]
    pub fn assert_close(&self, what: &str, expected: &[f32], actual: &[f32]) {
        let found = rel_l2(expected, actual);
        assert!(found <= self.rel_l2, "{what}: relative L2 {found:.3e} breaks {self:?}");
    }
}

/// Kullback-Leibler divergence of softmax(actual) from softmax(expected), in nats.
fn divergence(expected: &[f32], actual: &[f32]) -> f64 {
    let (log_e, log_a) = (log_softmax(expected), log_softmax(actual));
    log_e.iter().zip(&log_a).map(|(e, a)| e.exp() * (e - a)).sum()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - largest).exp()).sum();
    logits.iter().map(|&v| f64::from(v) - largest - sum.ln()).collect()
}

/// Positions of the largest and the second largest value, first among equals.
fn best_two(row: &[f32]) -> (usize, usize) {
    let (mut best, mut second) = (0, usize::MAX);
    for i in 1..row.len() {
        if row[i] > row[best] {
            (best, second) = (i, best);
        } else if second == usize::MAX || row[i] > row[second] {
            second = i;
        }
    }
    (best, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [f32; 4] = [1.0, 3.0, 2.0, -1.0];

    #[test]
    fn equal_rows_have_no_distance() {
        let found = distance(&ROW, &ROW, 4, 0.02);
        assert_eq!(found, Distance { finite: true, rel_l2: 0.0, kl: 0.0, top1: 1.0 });
    }

    #[test]
    fn a_shift_moves_the_norm_but_not_the_distribution() {
        let shifted = ROW.map(|v| v + 0.5);
        let found = distance(&ROW, &shifted, 4, 0.02);
        assert!((found.rel_l2 - (4.0 * 0.25_f64 / 15.0).sqrt()).abs() < 1e-12);
        assert!(found.kl.abs() < 1e-12 && found.top1 == 1.0);
    }

    #[test]
    fn divergence_is_the_textbook_sum() {
        // softmax([0, ln 3]) = [1/4, 3/4] from softmax([0, 0]) = [1/2, 1/2].
        let found = divergence(&[0.0, 0.0], &[0.0, 3_f32.ln()]);
        let expected = 0.5 * (2.0_f64).ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((found - expected).abs() < 1e-7, "{found} against {expected}");
    }

    #[test]
    fn only_clear_rows_count_for_the_best_token() {
        let expected = [1.0, 1.01, 0.0, 5.0]; // the first row's margin is 0.01, the second's 5
        let flipped = [1.01, 1.0, 0.0, 5.0];
        assert_eq!(distance(&expected, &flipped, 2, 0.02).top1, 1.0);
        assert_eq!(distance(&expected, &flipped, 2, 0.001).top1, 0.5);
    }

    #[test]
    #[should_panic(expected = "breaks")]
    fn logits_out_of_bounds_fail() {
        F32.assert_logits("case", &ROW, &ROW.map(|v| v * 1.001), 4);
    }

    #[test]
    fn not_a_number_is_detected() {
        assert!(!distance(&ROW, &[f32::NAN, 3.0, 2.0, -1.0], 4, 0.02).finite);
    }
}
