//! How far a kernel's values are from the executor's, and what is accepted.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// The part that samples are filed under; all of them must agree.
pub(super) const SAMPLER: &str = "sampler";
/// bf16 activations and outputs differ from the executor's fp32 by about 2e-3 over all elements.
const TOLERANCE: f64 = 6e-3;
/// One element may differ by this share of the root mean square of all, which a wrong element exceeds by far, ...
const ELEMENT_OF_RMS: f64 = 0.25;
/// ... and by this share of itself, since the largest have the largest rounding errors.
const ELEMENT_OF_ITSELF: f64 = 1.0 / 64.0;

/// How far values are from those expected.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// `|actual - expected| / |expected|` over all elements (relative L2 error); of samples and ids the share that
    /// differs.
    pub overall: f64,
    /// Error of the element that differs most, over what is accepted of one element: a few wrong elements among millions
    /// show here alone.
    pub element: f64,
}

impl Difference {
    /// Of values in floating point; infinite where one is not a number.
    ///
    /// # Errors
    /// [`Error::Internal`] if there are not as many of both.
    pub(super) fn of(actual: &[f32], expected: &[f32]) -> Result<Difference> {
        same_length(actual.len(), expected.len())?;
        let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let pairs = || actual.iter().zip(expected).map(|(&a, &e)| (f64::from(a), f64::from(e)));
        let size = sum(&mut pairs().map(|(_, e)| e)).max(1e-30);
        let rms = (size / expected.len().max(1) as f64).sqrt();
        let overall = (sum(&mut pairs().map(|(a, e)| a - e)) / size).sqrt();
        let excess = |(a, e): (f64, f64)| {
            (a - e).abs() / (ELEMENT_OF_RMS * rms + ELEMENT_OF_ITSELF * e.abs())
        };
        let element = pairs().map(excess).fold(0.0, f64::max);
        Ok(if overall.is_finite() {
            Difference { overall, element }
        } else {
            Difference { overall: f64::INFINITY, element: f64::INFINITY }
        })
    }

    /// Of whole numbers, which must be equal.
    ///
    /// # Errors
    /// [`Error::Internal`] if there are not as many of both.
    pub(super) fn of_ids(actual: &[u32], expected: &[u32]) -> Result<Difference> {
        same_length(actual.len(), expected.len())?;
        let differ = actual.iter().zip(expected).filter(|(a, e)| a != e).count();
        let overall = differ as f64 / expected.len().max(1) as f64;
        Ok(Difference { overall, element: if differ == 0 { 0.0 } else { f64::INFINITY } })
    }

    /// Of samples, of which a share differs.
    pub(super) fn of_samples(share: f64) -> Difference {
        Difference { overall: share, element: 0.0 }
    }

    /// The worse of two, in both respects.
    #[must_use]
    pub(super) fn max(self, other: Difference) -> Difference {
        Difference {
            overall: worse(self.overall, other.overall),
            element: worse(self.element, other.element),
        }
    }
}

fn same_length(actual: usize, expected: usize) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::Internal(format!("{actual} values were compared with {expected}")))
}

/// The larger; what is not a number is worse than any number.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::INFINITY } else { a.max(b) }
}

/// What was found of one kernel on one kind of layer, over all shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckLine {
    /// Kernel name.
    pub kernel: String,
    /// `start`, `sliding`, `full`, `head` or `sampler`.
    pub part: &'static str,
    /// Shapes compared.
    pub shapes: usize,
    /// The largest differences of any shape.
    pub worst: Difference,
    /// The shape whose difference is furthest beyond what is accepted, or nearest to it.
    pub at: String,
    /// What is accepted of [`Difference::overall`]; of [`Difference::element`] 1 is.
    pub tolerance: f64,
}

impl CheckLine {
    /// Whether the kernel agrees with the executor.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.worst.overall <= self.tolerance && self.worst.element <= 1.0
    }

    /// A difference as a share of what is accepted.
    fn severity(&self, difference: Difference) -> f64 {
        let overall = match self.tolerance {
            0.0 if difference.overall == 0.0 => 0.0,
            tolerance => difference.overall / tolerance,
        };
        worse(overall, difference.element)
    }
}

/// Lines by kernel and part, each with its worst shape.
#[derive(Default)]
pub(super) struct Lines(BTreeMap<(String, &'static str), (f64, CheckLine)>);

impl Lines {
    pub(super) fn add(&mut self, kernel: &str, part: &'static str, shape: &str, found: Difference) {
        let fresh = || CheckLine {
            kernel: kernel.to_owned(),
            part,
            shapes: 0,
            worst: Difference::default(),
            at: shape.to_owned(),
            tolerance: if part == SAMPLER { 0.0 } else { TOLERANCE },
        };
        let key = (kernel.to_owned(), part);
        let (severity, line) = self.0.entry(key).or_insert_with(|| (0.0, fresh()));
        line.shapes += 1;
        line.worst = line.worst.max(found);
        if line.severity(found) > *severity {
            (*severity, line.at) = (line.severity(found), shape.to_owned());
        }
    }

    /// These and those of another rank, which checked the same: of each line the worse.
    pub(super) fn joined_with(mut self, other: Lines) -> Lines {
        for (key, (severity, line)) in other.0 {
            match self.0.get_mut(&key) {
                Some((own, kept)) => {
                    let worst = kept.worst.max(line.worst);
                    if severity > *own {
                        (*own, *kept) = (severity, line);
                    }
                    kept.worst = worst;
                }
                None => {
                    self.0.insert(key, (severity, line));
                }
            }
        }
        self
    }

    pub(super) fn into_lines(self) -> Vec<CheckLine> {
        self.0.into_values().map(|(_, line)| line).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::step_layout::Random;
    use super::*;

    /// As many values as a step of 1,100 tokens has in a row of 2,880, and the same as bf16 has them.
    fn values() -> (Vec<f32>, Vec<f32>) {
        let mut random = Random(7 + (5 << 32));
        let exact: Vec<f32> = (0..1100 * 2880).map(|_| random.normal()).collect();
        let rounded = exact.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        (exact, rounded)
    }

    fn line(part: &'static str, found: &[Difference]) -> CheckLine {
        let mut lines = Lines::default();
        for (at, &found) in found.iter().enumerate() {
            lines.add("kernel", part, &format!("shape {at}"), found);
        }
        let mut lines = lines.into_lines();
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }

    #[test]
    fn of_two_ranks_the_worse_shape_counts() {
        let of = |shape: &str, overall: f64| {
            let mut lines = Lines::default();
            lines.add("kernel", "full", shape, Difference { overall, element: 0.0 });
            lines.add("kernel", "full", "another", Difference::default());
            lines
        };
        for (first, second) in [(1e-3, 5e-3), (5e-3, 1e-3)] {
            let joined = of("first", first).joined_with(of("second", second)).into_lines();
            assert_eq!(joined.len(), 1);
            assert_eq!((joined[0].shapes, joined[0].worst.overall), (2, 5e-3));
            assert_eq!(joined[0].at, if first > second { "first" } else { "second" });
        }
    }

    fn passes(actual: &[f32], expected: &[f32]) -> bool {
        line("full", &[Difference::of(actual, expected).unwrap()]).passed()
    }

    #[test]
    fn rounding_passes_and_its_size_is_found() {
        let (exact, rounded) = values();
        let found = Difference::of(&rounded, &exact).unwrap();
        assert!((1e-3..3e-3).contains(&found.overall), "{found:?}");
        assert!((1e-3..0.5).contains(&found.element), "{found:?}");
        assert!(passes(&rounded, &exact));
        assert_eq!(Difference::of(&exact, &exact).unwrap(), Difference::default());
    }

    #[test]
    fn what_is_not_a_number_fails() {
        let (exact, mut actual) = values();
        for planted in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let kept = std::mem::replace(&mut actual[3_000_000], planted);
            let found = Difference::of(&actual, &exact).unwrap();
            assert_eq!((found.overall, found.element), (f64::INFINITY, f64::INFINITY));
            assert!(!passes(&actual, &exact));
            actual[3_000_000] = kept;
        }
        assert!(!passes(&[1.0], &[f32::NAN]));
        let nan = Difference { overall: f64::NAN, element: 0.0 };
        assert!(!line("full", &[nan, Difference::default()]).passed());
        let nan = Difference { overall: 0.0, element: f64::NAN };
        assert!(!line("full", &[Difference::default(), nan]).passed());
    }

    #[test]
    fn one_wrong_element_among_millions_fails() {
        let (exact, mut actual) = values();
        actual[1_234_567] += 1.0;
        let found = Difference::of(&actual, &exact).unwrap();
        assert!(found.overall < TOLERANCE && found.element > 1.0, "{found:?}");
        assert!(!passes(&actual, &exact));
    }

    #[test]
    fn elements_that_are_off_by_one_place_fail() {
        let (exact, rounded) = values();
        assert!(!passes(&rounded[1..], &exact[..exact.len() - 1]));
        // In one row of many.
        let mut actual = rounded;
        actual[2880 * 5..2880 * 6].rotate_left(1);
        assert!(!passes(&actual, &exact));
    }

    #[test]
    fn zeros_fail_and_zeros_are_expected_exactly() {
        let (exact, _) = values();
        let zeros = vec![0.0; exact.len()];
        assert!((Difference::of(&zeros, &exact).unwrap().overall - 1.0).abs() < 1e-9);
        assert!(!passes(&zeros, &exact));
        assert!(passes(&zeros, &zeros));
        assert!(!passes(&[1e-6, 0.0], &[0.0, 0.0]));
    }

    #[test]
    fn a_scaled_output_fails() {
        let (exact, _) = values();
        let scaled = |by: f32| exact.iter().map(|x| x * by).collect::<Vec<_>>();
        assert!(passes(&scaled(1.004), &exact));
        assert!(!passes(&scaled(1.01), &exact) && !passes(&scaled(-1.0), &exact));
    }

    #[test]
    fn ids_must_be_equal() {
        let expected: Vec<u32> = (0..4400).map(|at| at % 32).collect();
        let mut actual = expected.clone();
        assert!(line("full", &[Difference::of_ids(&actual, &expected).unwrap()]).passed());
        actual[4000] += 1;
        let found = Difference::of_ids(&actual, &expected).unwrap();
        assert!(found.overall < TOLERANCE && !line("full", &[found]).passed());
        assert!(Difference::of_ids(&[1], &[1, 2]).is_err() && Difference::of(&[], &[1.0]).is_err());
    }

    #[test]
    fn one_sample_of_another_token_fails() {
        assert!(line(SAMPLER, &[Difference::of_samples(0.0)]).passed());
        assert!(!line(SAMPLER, &[Difference::of_samples(1.0 / 4096.0)]).passed());
    }

    #[test]
    fn a_line_has_the_worst_of_its_shapes() {
        let of = |overall, element| Difference { overall, element };
        let found = [of(1e-3, 0.1), of(5e-3, 0.2), of(2e-3, 0.9), of(4e-3, 0.3)];
        let worst = line("full", &found);
        assert_eq!((worst.shapes, worst.worst), (4, of(5e-3, 0.9)));
        assert_eq!((worst.at.as_str(), worst.passed()), ("shape 2", true));
        let wrong = line("full", &[of(1e-3, 0.1), of(7e-3, 0.1), of(5e-3, 0.9)]);
        assert_eq!((wrong.at.as_str(), wrong.passed()), ("shape 1", false));
        // Samples of which none differs have a shape too.
        assert_eq!(line(SAMPLER, &[of(0.0, 0.0), of(0.5, 0.0)]).at, "shape 1");
    }

    #[test]
    fn kernels_and_parts_have_lines_of_their_own() {
        let mut lines = Lines::default();
        for (kernel, part) in [("b", "full"), ("a", "sliding"), ("a", "full"), ("a", "sliding")] {
            lines.add(kernel, part, "a shape", Difference::default());
        }
        let lines = lines.into_lines();
        let all: Vec<_> = lines.iter().map(|l| (l.kernel.as_str(), l.part, l.shapes)).collect();
        assert_eq!(all, [("a", "full", 1), ("a", "sliding", 2), ("b", "full", 1)]);
    }
}
