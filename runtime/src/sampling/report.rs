//! How likely tokens were by the logits as the model computed them, before anything changed them.

use ossmith_scalar::{natural_log, weight_of_score};

use super::scores::{Scores, peak};

/// The probability of a token, and the most likely tokens. All are logarithms of the model's own distribution, before
/// temperature, penalties, bias and masks.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The log probability of the token itself.
    pub logprob: f32,
    /// How many tokens were more likely, plus one.
    pub rank: u32,
    /// The requested number of most likely tokens with their log probabilities, best first, the lowest id among equals.
    pub top: Vec<(u32, f32)>,
}

/// A unit of `weight_of_score`.
const WEIGHT_UNIT: f32 = 1.0 / (1_u64 << 40) as f32;

/// The report of a row of logits on one token, with this many of the most likely tokens. NaN counts as minus infinity;
/// where no logit is a finite number, every log probability is NaN.
pub(crate) fn report(row: &[f32], token: u32, top: u32) -> TokenLogprobs {
    let largest = peak(row);
    let view = Scores { logits: row, largest, inverse: 1.0 };
    // The logarithm of the sum of exponentials. The sum is one of integers, so it depends on no order.
    let total = if largest.is_finite() {
        let mass: u64 = row.iter().map(|&logit| weight_of_score(logit - largest)).sum();
        largest + natural_log(mass as f32 * WEIGHT_UNIT)
    } else {
        f32::NAN
    };
    let logit = canonical(row[token as usize]);
    let likelier = row.iter().filter(|&&other| canonical(other) > logit).count();
    let listed = most_likely(&view, row.len().min(top as usize));
    let top = listed.map(|id| (id, canonical(row[id as usize]) - total)).collect();
    TokenLogprobs { logprob: logit - total, rank: likelier as u32 + 1, top }
}

/// The `count` most likely tokens, best first.
fn most_likely(view: &Scores<'_>, count: usize) -> impl Iterator<Item = u32> {
    // In order. Few of a row are ever among the best so far, so nearly all cost one comparison.
    let mut best: Vec<u64> = Vec::with_capacity(count + 1);
    for id in 0..view.logits.len() as u32 {
        let rank = view.rank(id);
        if best.len() < count || best.last().is_some_and(|&worst| rank < worst) {
            best.insert(best.partition_point(|&better| better < rank), rank);
            best.truncate(count);
        }
    }
    best.into_iter().map(|rank| rank as u32)
}

/// A logit as it is compared and reported: NaN is minus infinity, and minus zero is zero.
fn canonical(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit + 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_agree_with_double_precision() {
        let row: Vec<f32> = (0..4000_u32).map(|id| ((id * 37) % 101) as f32 * 0.13 - 4.0).collect();
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        for token in [0, 17, 100, 3999] {
            let report = report(&row, token, 5);
            let exact = |id: u32| f64::from(row[id as usize]) - sum.ln();
            assert!((f64::from(report.logprob) - exact(token)).abs() < 2e-6);
            let likelier = row.iter().filter(|&&logit| logit > row[token as usize]).count();
            assert_eq!(report.rank as usize, likelier + 1);
            let mut order: Vec<u32> = (0..4000).collect();
            order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
            let ids: Vec<u32> = report.top.iter().map(|&(id, _)| id).collect();
            assert_eq!(ids, order[..5]);
            assert!(report.top.iter().all(|&(id, p)| (f64::from(p) - exact(id)).abs() < 2e-6));
        }
    }

    #[test]
    fn nan_is_the_least_likely_and_equals_are_listed_by_id() {
        let row = [f32::NAN, -0.0, 0.0, f32::NEG_INFINITY, 1.0];
        let of_zero = report(&row, 2, 9);
        let ids: Vec<u32> = of_zero.top.iter().map(|&(id, _)| id).collect();
        assert_eq!((ids, of_zero.rank), (vec![4, 1, 2, 0, 3], 2));
        assert_eq!(of_zero.top[3].1, f32::NEG_INFINITY);
        assert_eq!(report(&row, 0, 0).rank, 4);
        let nothing = report(&[f32::NAN, f32::INFINITY], 1, 1);
        assert!(nothing.logprob.is_nan() && nothing.top[0].1.is_nan());
    }
}
