//! What a schedule may choose otherwise: every tunable with its legal values and what it trades, and the overrides that a
//! tuner or a tuning record gives.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ScheduleError;

/// The values that a tunable may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Legal {
    /// Any multiple of `step` from `min` to `max`.
    Range {
        /// The least.
        min: usize,
        /// The greatest.
        max: usize,
        /// What it must be a multiple of.
        step: usize,
    },
    /// One of a few.
    OneOf(&'static [usize]),
}

impl Legal {
    /// Any value from `min` to `max`.
    #[must_use]
    pub const fn range(min: usize, max: usize) -> Legal {
        Legal::Range { min, max, step: 1 }
    }

    /// Whether a value is legal.
    #[must_use]
    pub fn allows(&self, value: usize) -> bool {
        match *self {
            Legal::Range { min, max, step } => {
                (min..=max).contains(&value) && value.is_multiple_of(step)
            }
            Legal::OneOf(values) => values.contains(&value),
        }
    }

    /// Every legal value, ascending.
    #[must_use]
    pub fn values(&self) -> Vec<usize> {
        match *self {
            Legal::Range { min, max, .. } => {
                (min..=max).filter(|&value| self.allows(value)).collect()
            }
            Legal::OneOf(values) => values.to_vec(),
        }
    }
}

impl std::fmt::Display for Legal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Legal::Range { min, max, step: 1 } => write!(f, "{min} to {max}"),
            Legal::Range { min, max, step } => {
                write!(f, "a multiple of {step} from {min} to {max}")
            }
            Legal::OneOf(values) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, "one of {}", values.join(", "))
            }
        }
    }
}

/// One choice of a kernel's schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tunable {
    /// Its name among the kernel's tunables.
    pub name: &'static str,
    /// What was chosen.
    pub value: usize,
    /// What the schedule chooses by itself.
    pub own: usize,
    /// What may be chosen.
    pub legal: Legal,
    /// What more of it gains and costs.
    pub trades: &'static str,
}

/// Values of tunables that replace those of the schedule: kernel, then tunable. As JSON:
/// `{"moe_down_residual_decode1": {"stages": 3}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overrides(pub BTreeMap<String, BTreeMap<String, usize>>);

/// What stops a text from being overrides.
#[derive(Debug, thiserror::Error)]
#[error("{0}; write kernel, tunable and value, as in moe_up_swiglu_decode1.stages = 2")]
pub struct OverridesError(String);

impl Overrides {
    /// Overrides as TOML, or as JSON if the text begins with a brace.
    ///
    /// # Errors
    /// [`OverridesError`] with the place where the text is neither.
    pub fn parse(text: &str) -> Result<Overrides, OverridesError> {
        let sentence = |why: String| OverridesError(why.trim_end().to_owned());
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text).map_err(|why| sentence(why.to_string()));
        }
        toml::from_str(text).map_err(|why| sentence(why.to_string()))
    }

    /// These, with those of `over` in place of values for the same tunables.
    #[must_use]
    pub fn with(&self, over: &Overrides) -> Overrides {
        let mut all = self.clone();
        for (kernel, values) in &over.0 {
            let of_kernel = all.0.entry(kernel.clone()).or_default();
            of_kernel.extend(values.iter().map(|(name, value)| (name.clone(), *value)));
        }
        all
    }

    /// The one override of a tunable of a kernel, to try it.
    #[must_use]
    pub fn one(kernel: &str, tunable: &str, value: usize) -> Overrides {
        let values = BTreeMap::from([(tunable.to_owned(), value)]);
        Overrides(BTreeMap::from([(kernel.to_owned(), values)]))
    }

    fn get(&self, kernel: &str, tunable: &str) -> Option<usize> {
        self.0.get(kernel)?.get(tunable).copied()
    }

    /// Refuses an override of a tunable that no kernel has.
    ///
    /// # Errors
    /// [`ScheduleError::UnknownTunable`], naming what there is.
    pub(crate) fn check_names<'a>(
        &self,
        kernels: impl Iterator<Item = (&'a str, &'a [Tunable])> + Clone,
    ) -> Result<(), ScheduleError> {
        for (kernel, values) in &self.0 {
            let found = kernels.clone().find(|(name, _)| name == kernel);
            for tunable in values.keys() {
                let known: Vec<String> = match found {
                    None => kernels.clone().map(|(name, _)| name.to_owned()).collect(),
                    Some((_, tunables)) => tunables.iter().map(|it| it.name.to_owned()).collect(),
                };
                if found.is_none() || !known.contains(tunable) {
                    let (kernel, tunable) = (kernel.clone(), tunable.clone());
                    let known = known.join(", ");
                    let of_kernel = found.is_some();
                    return Err(ScheduleError::UnknownTunable {
                        kernel,
                        tunable,
                        known,
                        of_kernel,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Powers of two up to the most blocks of a cluster.
pub(super) const fn splits_of(max_cluster: usize) -> Legal {
    match max_cluster {
        8.. => Legal::OneOf(&[1, 2, 4, 8]),
        4..8 => Legal::OneOf(&[1, 2, 4]),
        2..4 => Legal::OneOf(&[1, 2]),
        _ => Legal::OneOf(&[1]),
    }
}

/// What more tokens per tile trade.
pub(super) const TILE_TOKENS_TRADE: &str =
    "tokens of one block: more read weights less often, and leave more of a tile empty";

/// The choices of one kernel, as its schedule makes them.
pub(super) struct Tuner<'a> {
    kernel: &'a str,
    overrides: &'a Overrides,
    chosen: Vec<Tunable>,
}

impl<'a> Tuner<'a> {
    pub(super) fn new(kernel: &'a str, overrides: &'a Overrides) -> Tuner<'a> {
        Tuner { kernel, overrides, chosen: Vec::new() }
    }

    /// The value of a tunable: the override's if there is one, else the schedule's own.
    pub(super) fn pick(
        &mut self,
        name: &'static str,
        own: usize,
        legal: Legal,
        trades: &'static str,
    ) -> Result<usize, ScheduleError> {
        let value = self.overrides.get(self.kernel, name).unwrap_or(own);
        if !legal.allows(value) {
            return Err(ScheduleError::IllegalValue {
                kernel: self.kernel.to_owned(),
                tunable: name,
                value,
                legal,
            });
        }
        self.chosen.push(Tunable { name, value, own, legal, trades });
        Ok(value)
    }

    /// Every choice.
    pub(super) fn chosen(self) -> Vec<Tunable> {
        self.chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn illegal_values_are_refused_with_the_range() {
        let overrides: Overrides =
            serde_json::from_str(r#"{"k": {"stages": 9, "tile_tokens": 20}}"#).expect("overrides");
        let mut tuner = Tuner::new("k", &overrides);
        let error = tuner.pick("stages", 2, Legal::range(1, 8), "").expect_err("9 of 8");
        assert_eq!(error.to_string(), "k: stages is 9; legal: 1 to 8");
        let legal = Legal::Range { min: 8, max: 64, step: 8 };
        let error = tuner.pick("tile_tokens", 64, legal, "").expect_err("20");
        let expected = "k: tile_tokens is 20; legal: a multiple of 8 from 8 to 64";
        assert_eq!(error.to_string(), expected);
        assert_eq!(tuner.pick("warps", 4, Legal::OneOf(&[4, 8]), "").expect("its own"), 4);
        assert_eq!(tuner.chosen().len(), 1);
    }

    #[test]
    fn overrides_are_json_by_kernel() {
        let one = Overrides::one("moe_down_residual_decode1", "stages", 3);
        let text = serde_json::to_string(&one).expect("JSON");
        assert_eq!(text, r#"{"moe_down_residual_decode1":{"stages":3}}"#);
        assert_eq!(serde_json::from_str::<Overrides>(&text).expect("the same"), one);
    }

    #[test]
    fn overrides_are_read_as_toml_and_as_json() {
        let one = Overrides::one("moe_down_residual_decode1", "stages", 3);
        for text in [
            " {\"moe_down_residual_decode1\": {\"stages\": 3}}",
            "moe_down_residual_decode1.stages = 3\n",
            "# deeper\n[moe_down_residual_decode1]\nstages = 3\n",
        ] {
            assert_eq!(Overrides::parse(text).expect(text), one);
        }
        for (text, expected) in [
            ("{\"k\": 3}", "expected a map"),
            ("k = 3", "expected a map"),
            ("[k]\nstages = -1", "invalid value: integer `-1`"),
            ("[k]\nstages = 1\nstages = 2", "duplicate key"),
            ("stages: 3", "TOML parse error at line 1"),
        ] {
            let error = Overrides::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected) && error.contains("write kernel"), "{error}");
        }
    }

    #[test]
    fn later_overrides_replace_earlier_ones_tunable_by_tunable() {
        let first = Overrides::parse("[a]\nx = 1\ny = 2\n").expect("TOML");
        let over = Overrides::parse("a.y = 3\nb.z = 4\n").expect("TOML");
        let expected = Overrides::parse("a = { x = 1, y = 3 }\nb.z = 4\n").expect("TOML");
        assert_eq!(first.with(&over), expected);
        assert_eq!(first.with(&Overrides::default()), first);
    }
}
