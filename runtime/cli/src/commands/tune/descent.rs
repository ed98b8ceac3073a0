//! The search: which values of a kernel's tunables to try next. It knows neither kernels nor devices; what a candidate
//! costs is asked of the caller.

use std::collections::BTreeMap;

use ossmith_models::codegen::Tunable;

/// Values of one kernel's tunables, by name.
pub(super) type Values = BTreeMap<String, usize>;

/// Smaller is better: a candidate's time as a share of what the search began with.
pub(super) type Score = f64;

/// By how much a candidate must be better than what there is to be taken: less is noise.
pub(super) const LEAST_GAIN: f64 = 0.002;

/// Which candidates are tried together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// The tunable that they differ in, or `restart` for random ones.
    pub(super) tunable: &'static str,
    /// The candidates; the first is what there is.
    pub(super) candidates: Vec<Values>,
}

/// Asks for the scores of a decision's candidates: `None` for those that are refused or slower beyond doubt, or for all
/// when time is up.
pub(super) type Try<'a> =
    &'a mut dyn FnMut(&Decision) -> anyhow::Result<Option<Vec<Option<Score>>>>;

/// Every value of one tunable, the others as they are; the present one first.
fn along(tunable: &Tunable, at: &Values) -> Vec<Values> {
    let with = |value: usize| {
        let mut values = at.clone();
        values.insert(tunable.name.to_owned(), value);
        values
    };
    let present = at.get(tunable.name).copied().unwrap_or(tunable.value);
    let others = tunable.legal.values().into_iter().filter(|&value| value != present);
    std::iter::once(present).chain(others).map(with).collect()
}

/// The best of a decision's candidates, if it is better than the first by more than noise.
fn better(candidates: &[Values], scores: &[Option<Score>]) -> Option<Values> {
    let present = scores.first().copied().flatten()?;
    let best =
        candidates.iter().zip(scores).filter_map(|(values, score)| Some((values, (*score)?)));
    let (values, score) = best.min_by(|a, b| a.1.total_cmp(&b.1))?;
    (score < present * (1.0 - LEAST_GAIN)).then(|| values.clone())
}

/// Coordinate descent: one tunable after another, until none gets better. Returns where it ended, and whether it did
/// (`false`: time was up).
pub(super) fn descend(
    tunables: &[Tunable],
    start: Values,
    try_all: Try<'_>,
) -> anyhow::Result<(Values, bool)> {
    let mut at = start;
    // A pass that changes nothing ends it; the one tunable that changed last need not be tried again.
    let mut unchanged = 0;
    for tunable in tunables.iter().cycle() {
        if unchanged >= tunables.len() {
            break;
        }
        let candidates = along(tunable, &at);
        if candidates.len() == 1 {
            unchanged += 1;
            continue;
        }
        let decision = Decision { tunable: tunable.name, candidates };
        let Some(scores) = try_all(&decision)? else { return Ok((at, false)) };
        match better(&decision.candidates, &scores) {
            Some(values) => (at, unchanged) = (values, 1),
            None => unchanged += 1,
        }
    }
    Ok((at, true))
}

/// Random points of the space: starts beyond the valley that the descent ended in. The same seed gives the same.
pub(super) fn restarts(tunables: &[Tunable], at: &Values, count: usize, seed: u64) -> Decision {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let mut candidates = vec![at.clone()];
    for _ in 0..count {
        let mut values = at.clone();
        for tunable in tunables {
            let legal = tunable.legal.values();
            values.insert(tunable.name.to_owned(), legal[next(legal.len())]);
        }
        if !candidates.contains(&values) {
            candidates.push(values);
        }
    }
    Decision { tunable: "restart", candidates }
}

/// The descent, then random starts, of which the best is descended from if it is near; the better of both ends.
pub(super) fn search(
    tunables: &[Tunable],
    start: Values,
    restart_count: usize,
    try_all: Try<'_>,
) -> anyhow::Result<Values> {
    /// A start this much slower may still lead to something faster.
    const NEAR: f64 = 1.01;
    let (at, ended) = descend(tunables, start, try_all)?;
    if !ended || restart_count == 0 || tunables.len() < 2 {
        return Ok(at);
    }
    let decision = restarts(tunables, &at, restart_count, tunables.len() as u64);
    let Some(scores) = try_all(&decision)? else { return Ok(at) };
    let Some(present) = scores.first().copied().flatten() else { return Ok(at) };
    let others = decision.candidates.iter().zip(&scores).skip(1);
    let nearest = others
        .filter_map(|(values, score)| Some((values, (*score)?)))
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let Some((start, _)) = nearest.filter(|(_, score)| *score < present * NEAR) else {
        return Ok(at);
    };
    let (other, _) = descend(tunables, start.clone(), try_all)?;
    let last = Decision { tunable: "restart", candidates: vec![at.clone(), other] };
    let scores = try_all(&last)?;
    Ok(scores.and_then(|scores| better(&last.candidates, &scores)).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use ossmith_models::codegen::Legal;

    use super::*;

    fn tunables() -> Vec<Tunable> {
        let range = |name, value, max| Tunable {
            name,
            value,
            own: value,
            legal: Legal::range(1, max),
            trades: "",
        };
        vec![range("stages", 1, 8), range("warps", 4, 16)]
    }

    fn values(stages: usize, warps: usize) -> Values {
        Values::from([("stages".into(), stages), ("warps".into(), warps)])
    }

    /// Tries candidates by a formula; counts them.
    fn by(
        cost: impl Fn(usize, usize) -> Option<f64>,
        tried: &mut usize,
    ) -> impl FnMut(&Decision) -> anyhow::Result<Option<Vec<Option<Score>>>> {
        move |decision| {
            *tried += decision.candidates.len();
            let score = |at: &Values| cost(at["stages"], at["warps"]);
            Ok(Some(decision.candidates.iter().map(score).collect()))
        }
    }

    #[test]
    fn a_valley_is_descended_to_its_floor_and_refused_values_are_not_taken() {
        let cost = |stages: usize, warps: usize| {
            let distance = stages.abs_diff(5) + warps.abs_diff(12);
            (warps != 12).then_some(1.0 + 0.01 * distance as f64)
        };
        let mut tried = 0;
        let (at, ended) =
            descend(&tunables(), values(1, 4), &mut by(cost, &mut tried)).expect("found");
        assert!(ended);
        assert!(at == values(5, 11) || at == values(5, 13), "{at:?}");
        assert!(tried <= 5 * 16, "{tried} candidates");
    }

    #[test]
    fn noise_changes_nothing() {
        let cost = |stages: usize, _| Some(if stages == 1 { 1.0 } else { 0.999 });
        let (at, _) = descend(&tunables(), values(1, 4), &mut by(cost, &mut 0)).expect("found");
        assert_eq!(at, values(1, 4));
    }

    #[test]
    fn a_restart_finds_the_other_valley_and_the_better_end_stays() {
        // Two valleys that no single coordinate leads between.
        let cost = |stages: usize, warps: usize| {
            let first = stages.abs_diff(1) + warps.abs_diff(4);
            let second = stages.abs_diff(7) + warps.abs_diff(15);
            Some((1.0 + 0.002 * first as f64).min(0.9 + 0.02 * second as f64))
        };
        let found = search(&tunables(), values(1, 4), 12, &mut by(cost, &mut 0)).expect("found");
        assert_eq!(found, values(7, 15));
        let stays = |stages: usize, warps: usize| {
            Some(1.0 + 0.005 * (stages.abs_diff(1) + warps.abs_diff(4)) as f64)
        };
        let found = search(&tunables(), values(1, 4), 12, &mut by(stays, &mut 0)).expect("found");
        assert_eq!(found, values(1, 4));
    }

    #[test]
    fn when_time_is_up_what_was_found_stays() {
        let mut left = 1;
        let mut out_of_time = |decision: &Decision| -> anyhow::Result<Option<Vec<Option<Score>>>> {
            left -= 1;
            let score = |at: &Values| Some(1.0 - 0.01 * at["stages"] as f64);
            Ok((left >= 0).then(|| decision.candidates.iter().map(score).collect()))
        };
        let found = search(&tunables(), values(1, 4), 4, &mut out_of_time).expect("found");
        assert_eq!(found, values(8, 4));
    }
}
