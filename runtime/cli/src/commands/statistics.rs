//! Mean, deviation and percentiles of measured values.

/// Mean and standard deviation; `None` without values.
pub(crate) fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    Some((mean, variance.sqrt()))
}

/// The value below which this share of sorted values lies, between neighbours in proportion, as numpy does it; `None` without
/// values.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = percent.clamp(0.0, 100.0) / 100.0 * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_on_lines_between_neighbours() {
        for (percent, want) in [(0.0, 1.0), (50.0, 2.5), (90.0, 3.7), (100.0, 4.0)] {
            let found = percentile(&[1.0, 2.0, 3.0, 4.0], percent);
            assert!(found.is_some_and(|found| (found - want).abs() < 1e-12), "{percent}");
        }
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), Some((2.0, 1.0)));
        assert_eq!((percentile(&[], 50.0), mean_and_deviation(&[])), (None, None));
    }
}
