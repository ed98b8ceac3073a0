//! What the sampler is checked with: rows that are hard for filters, and settings of every combination.

use super::step_layout::Random;
use crate::backend::RowSampling;
use crate::sampling::{
    LogitChanges, Penalties, SamplerConfig, TokenHistory, TokenLogprobs, report, sample_changed,
};
use crate::{Error, Result};

/// A kind of row. `logit` computes one logit from its place in the row, from 0 to 1; `peak` replaces that of one token.
pub(super) struct Kind {
    pub(super) name: &'static str,
    logit: fn(&mut Random, f32) -> f32,
    peak: Option<f32>,
}

impl Kind {
    /// A row of logits.
    pub(super) fn fill(&self, row: &mut [f32], random: &mut Random) {
        let vocab = row.len();
        for (token, logit) in row.iter_mut().enumerate() {
            *logit = (self.logit)(random, token as f32 / vocab as f32);
        }
        if let Some(peak) = self.peak {
            row[random.below(vocab)] = peak;
        }
    }
}

const fn kind(name: &'static str, logit: fn(&mut Random, f32) -> f32, peak: Option<f32>) -> Kind {
    Kind { name, logit, peak }
}

pub(super) const KINDS: [Kind; 14] = [
    kind("normal logits", |random, _| 2.5 * random.normal(), None),
    kind("a few likely tokens", few_likely, None),
    kind("equal logits", |_, _| 1.25, None),
    kind("one finite logit", |_, _| f32::NEG_INFINITY, Some(10.0)),
    kind("ties", |random, _| (2.0 * random.normal()).floor() / 2.0, None),
    kind("NaN and infinities", mostly_not_finite, None),
    kind("one likely token", |random, _| 2.0 * random.normal() - 30.0, Some(10.0)),
    kind("ascending logits", |random, place| 20.0 * place + 1e-3 * random.normal(), None),
    kind("descending logits", |_, place| -20.0 * place, None),
    kind("bf16 logits in a narrow range", narrow_bf16, None),
    kind("two values", |random, _| if random.below(3) == 0 { 3.0 } else { -1.0 }, None),
    kind("huge logits", huge, None),
    kind("an infinite logit", |random, _| random.normal(), Some(f32::INFINITY)),
    kind("no finite logit", nothing_finite, None),
];

fn few_likely(random: &mut Random, _: f32) -> f32 {
    let logit = 3.0 * random.normal();
    match random.below(60_000) {
        0 => logit + 20.0,
        1..15 => logit + 12.0,
        _ => logit - 2.0,
    }
}

fn mostly_not_finite(random: &mut Random, _: f32) -> f32 {
    match random.below(100) {
        0 => 0.0,
        1 => -0.0,
        2..20 => f32::NAN,
        20..80 => f32::NEG_INFINITY,
        _ => 4.0 * random.normal(),
    }
}

fn narrow_bf16(random: &mut Random, _: f32) -> f32 {
    f32::from_bits((0.4 * random.normal()).to_bits() & 0xffff_0000)
}

fn huge(random: &mut Random, _: f32) -> f32 {
    random.normal() * [1e30, 1e-40, -1e38][random.below(3)]
}

fn nothing_finite(random: &mut Random, _: f32) -> f32 {
    if random.below(2) == 0 { f32::NAN } else { f32::NEG_INFINITY }
}

/// What is combined with the filters.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    biases: bool,
    penalties: bool,
    forbidden: bool,
    mask: bool,
    report: bool,
    /// A token is given, and nothing is sampled.
    given: bool,
}

/// One combination: its name, whether it is greedy, and which filters and parts it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Combination {
    pub(super) name: &'static str,
    filters: Filters,
    parts: Parts,
}

#[derive(Clone, Copy, Debug)]
enum Filters {
    Greedy,
    /// Top-k, top-p and min-p.
    These([bool; 3]),
    /// Those that chance decides.
    Any,
}

const NO_PARTS: Parts = Parts {
    biases: false,
    penalties: false,
    forbidden: false,
    mask: false,
    report: false,
    given: false,
};
const ALL_PARTS: Parts = Parts {
    biases: true,
    penalties: true,
    forbidden: true,
    mask: true,
    report: true,
    given: false,
};

const fn filters(name: &'static str, filters: Filters) -> Combination {
    Combination { name, filters, parts: NO_PARTS }
}

const fn part(name: &'static str, parts: Parts) -> Combination {
    Combination { name, filters: Filters::Any, parts }
}

const fn everything(name: &'static str, filters: Filters) -> Combination {
    Combination { name, filters, parts: ALL_PARTS }
}

/// Greedy sampling and every combination of filters, without and with everything else; then every other part alone with
/// filters by chance.
pub(super) const COMBINATIONS: [Combination; 24] = [
    filters("greedy", Filters::Greedy),
    filters("no filter", Filters::These([false, false, false])),
    filters("top-k", Filters::These([true, false, false])),
    filters("top-p", Filters::These([false, true, false])),
    filters("top-k and top-p", Filters::These([true, true, false])),
    filters("min-p", Filters::These([false, false, true])),
    filters("top-k and min-p", Filters::These([true, false, true])),
    filters("top-p and min-p", Filters::These([false, true, true])),
    filters("all filters", Filters::These([true, true, true])),
    part("biases", Parts { biases: true, ..NO_PARTS }),
    part("penalties", Parts { penalties: true, ..NO_PARTS }),
    part("forbidden tokens", Parts { forbidden: true, ..NO_PARTS }),
    part("mask", Parts { mask: true, ..NO_PARTS }),
    part("report", Parts { report: true, ..NO_PARTS }),
    part("report of a given token", Parts { report: true, given: true, ..NO_PARTS }),
    everything("greedy with all changes and a report", Filters::Greedy),
    everything("all changes and a report", Filters::These([false, false, false])),
    everything("top-k, all changes and a report", Filters::These([true, false, false])),
    everything("top-p, all changes and a report", Filters::These([false, true, false])),
    everything("top-k, top-p, all changes and a report", Filters::These([true, true, false])),
    everything("min-p, all changes and a report", Filters::These([false, false, true])),
    everything("top-k, min-p, all changes and a report", Filters::These([true, false, true])),
    everything("top-p, min-p, all changes and a report", Filters::These([false, true, true])),
    everything("all filters, all changes and a report", Filters::These([true, true, true])),
];

/// All that decides what one row yields.
#[derive(Clone, Debug)]
pub(super) struct Case {
    config: SamplerConfig,
    pub(super) position: usize,
    biases: Vec<(u32, f32)>,
    forbidden: Vec<u32>,
    pub(super) penalties: Option<Penalties>,
    pub(super) history: TokenHistory,
    pub(super) mask: Option<Vec<u32>>,
    pub(super) report: Option<u32>,
    pub(super) given: Option<u32>,
}

/// A token and its report; none where no logit is a finite number.
pub(super) type Sampled = Option<(u32, Option<TokenLogprobs>)>;

impl Case {
    /// Nothing is changed or reported.
    pub(super) fn plain(config: SamplerConfig, position: usize) -> Case {
        Case {
            config,
            position,
            biases: Vec::new(),
            forbidden: Vec::new(),
            penalties: None,
            history: TokenHistory::default(),
            mask: None,
            report: None,
            given: None,
        }
    }

    /// Random settings of a combination.
    pub(super) fn new(combination: &Combination, vocab: usize, random: &mut Random) -> Case {
        let parts = combination.parts;
        let token = |random: &mut Random| random.below(vocab) as u32;
        let config = config(combination.filters, vocab, random);
        let mut case = Case::plain(config, random.below(1 << 17));
        if parts.biases {
            let count = [1, 1 + random.below(300), 800][random.below(3)];
            let mut biases: Vec<(u32, f32)> = (0..count)
                .map(|_| {
                    let bias = [4.0 * random.normal(), 100.0, -100.0, f32::NEG_INFINITY];
                    (token(random), bias[random.below(4)])
                })
                .collect();
            biases.sort_unstable_by_key(|&(token, _)| token);
            biases.dedup_by_key(|(token, _)| *token);
            case.biases = biases;
        }
        if parts.forbidden {
            let mut forbidden: Vec<u32> =
                (0..1 + random.below(200)).map(|_| token(random)).collect();
            forbidden.sort_unstable();
            forbidden.dedup();
            case.forbidden = forbidden;
        }
        if parts.penalties {
            const REPETITION: [f32; 5] = [1.0, 1.1, 1.3, 0.5, 2.0];
            const OTHER: [f32; 6] = [0.0, 0.5, 1.5, 2.0, -1.0, -2.0];
            case.penalties = Some(Penalties {
                repetition: REPETITION[random.below(5)],
                presence: OTHER[random.below(6)],
                frequency: OTHER[random.below(6)],
            });
            let prompt: Vec<u32> = (0..random.below(4000)).map(|_| token(random)).collect();
            // Some tokens so often that the count ends.
            let often = token(random);
            let mut generated: Vec<u32> = (0..random.below(500)).map(|_| token(random)).collect();
            generated.extend((0..[0, 3, 40_000][random.below(3)]).map(|_| often));
            generated.extend(prompt.iter().take(random.below(100)));
            case.history = TokenHistory::new(&prompt, &generated);
        }
        if parts.mask {
            let kind = random.below(4);
            let mut words: Vec<u32> = (0..vocab.div_ceil(u32::BITS as usize))
                .map(|_| match (kind, random.below(64)) {
                    (0, _) => random.next() as u32,
                    (1, 0) => 1 << random.below(32),
                    (1, _) => 0,
                    (2, 0) => !(1 << random.below(32)),
                    _ => u32::MAX,
                })
                .collect();
            let allowed = random.below(vocab);
            words[allowed / 32] |= 1 << (allowed % 32);
            case.mask = Some(words);
        }
        if parts.report {
            case.report = Some([0, 1, 5, 20, random.below(21)][random.below(5)] as u32);
        }
        case.given = parts.given.then(|| token(random));
        case
    }

    /// As a step would carry it; the mask is the slot's first.
    pub(super) fn row(&self) -> RowSampling<'_> {
        RowSampling {
            config: self.config,
            biases: &self.biases,
            penalties: self.penalties,
            forbidden: &self.forbidden,
            mask: self.mask.as_ref().map(|_| 0),
            report: self.report,
        }
    }

    /// What the host makes of a row of logits.
    pub(super) fn on_host(&self, logits: &[f32]) -> Result<Sampled> {
        let report_of = |token| self.report.map(|top| report(logits, token, top));
        if let Some(token) = self.given {
            return Ok(Some((token, report_of(token))));
        }
        let changes = LogitChanges {
            biases: &self.biases,
            penalties: self.penalties.map(|penalties| (penalties, &self.history)),
            forbidden: &self.forbidden,
            mask: self.mask.as_deref(),
        };
        match sample_changed(logits, &changes, &self.config, self.position) {
            Ok(token) => Ok(Some((token, report_of(token)))),
            Err(Error::NonFiniteLogits { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether two samples are the same, each log probability bit for bit.
pub(super) fn same(a: &Sampled, b: &Sampled) -> bool {
    let bits = |report: &TokenLogprobs| {
        // There are many NaNs, and all mean the same.
        let bits = |p: f32| if p.is_nan() { f32::NAN.to_bits() } else { p.to_bits() };
        let top: Vec<(u32, u32)> = report.top.iter().map(|&(id, p)| (id, bits(p))).collect();
        (bits(report.logprob), report.rank, top)
    };
    let comparable = |sampled: &Sampled| {
        sampled.as_ref().map(|(token, report)| (*token, report.as_ref().map(bits)))
    };
    comparable(a) == comparable(b)
}

fn config(filters: Filters, vocab: usize, random: &mut Random) -> SamplerConfig {
    let [top_k, top_p, min_p] = match filters {
        Filters::Greedy => return SamplerConfig::GREEDY,
        Filters::These(filters) => filters,
        Filters::Any => match random.below(9) {
            8 => return SamplerConfig::GREEDY,
            bits => [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0],
        },
    };
    const TEMPERATURES: [f32; 12] =
        [1.0, 1.0, 1.0, 0.8, 0.6, 0.1, 1e-3, 1.5, 2.0, 100.0, 3e38, f32::from_bits(1)];
    const TOP_P: [f32; 9] = [0.95, 0.9, 0.8, 0.5, 0.1, 0.01, 0.999, 1e-7, 0.999_999_9];
    const MIN_P: [f32; 6] = [0.05, 0.1, 0.3, 1e-3, 1e-6, 1.0];
    let ks = [1, 2, 50, 1 + random.below(100), 1 + random.below(2000), 1 + random.below(vocab)];
    let k = ks[random.below(6)] as u32;
    SamplerConfig {
        temperature: TEMPERATURES[random.below(12)],
        top_k: if top_k { k } else { 0 },
        top_p: if top_p { TOP_P[random.below(9)] } else { 1.0 },
        min_p: if min_p { MIN_P[random.below(6)] } else { 0.0 },
        seed: random.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_a_combination_of_its_own() {
        let of = |name: &str| {
            let found = COMBINATIONS.iter().find(|one| one.name == name);
            let parts = found.expect("a combination").parts;
            let Parts { biases, penalties, forbidden, mask, report, given } = parts;
            [biases, penalties, forbidden, mask, report, given]
        };
        let names = ["biases", "penalties", "forbidden tokens", "mask", "report"];
        for (at, name) in names.into_iter().enumerate() {
            let alone: [bool; 6] = std::array::from_fn(|part| part == at);
            assert_eq!(of(name), alone, "{name}");
        }
        let both = [false, false, false, false, true, true];
        assert_eq!(of("report of a given token"), both);
        assert_eq!(of("greedy"), [false; 6]);
        let all = [true, true, true, true, true, false];
        assert_eq!(of("all filters, all changes and a report"), all);
        let filters: std::collections::BTreeSet<[bool; 3]> = COMBINATIONS
            .iter()
            .filter_map(|one| match one.filters {
                Filters::These(filters) => Some(filters),
                Filters::Greedy | Filters::Any => None,
            })
            .collect();
        assert_eq!(filters.len(), 8, "every set of filters");
    }
}
