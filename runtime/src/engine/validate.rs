//! The check of a request before anything runs: its tokens exist, its settings are in range, and it fits.

use std::sync::Arc;
use std::time::Instant;

use ossmith_plan::ModelSpec;

use super::mask::MaskSource;
use super::params::SamplingParams;
use super::request::{Request, RequestId};
use super::text::Detokenizer;
use crate::backend::PAGE_TOKENS;
use crate::{Adapter, AdapterSupport, Error, Limits, Result};

/// The largest number of samples of one request.
const MAX_SAMPLES: usize = 128;
/// The largest number of alternatives that are reported beside a token.
const MAX_TOP: u32 = 100;

/// A request whose tokens exist, which fits into the cache alone, and for which at least one token may be generated.
pub(super) struct ValidatedRequest {
    pub(super) id: RequestId,
    pub(super) prompt: Arc<[u32]>,
    pub(super) params: SamplingParams,
    /// Ids that end a sample, ascending.
    pub(super) stop_ids: Vec<u32>,
    /// [`SamplingParams::logit_bias`] by ascending token, the biases of each token added up.
    pub(super) biases: Vec<(u32, f32)>,
    /// At least 1.
    pub(super) max_tokens: usize,
    /// [`SamplingParams::stop`], shared by all samples.
    pub(super) stop_strings: Arc<[String]>,
    pub(super) priority: i32,
    pub(super) deadline: Option<Instant>,
    pub(super) detokenizer: Option<Arc<dyn Detokenizer>>,
    pub(super) mask: Option<Arc<dyn MaskSource>>,
    /// [`Request::prefix_scope`].
    pub(super) salt: u64,
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) claimant: Claimant,
    pub(super) arrived: Instant,
}

/// What competes for the engine: one call of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Claimant {
    pub(super) tenant: u64,
    pub(super) group: Group,
}

/// The call that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Group {
    /// It is the call's only request.
    Alone(RequestId),
    /// [`Request::group`].
    Shared(u64),
}

impl std::fmt::Debug for ValidatedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValidatedRequest").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ValidatedRequest {
    /// Tokens that must not be sampled after `generated` tokens.
    pub(super) fn forbidden(&self, generated: usize) -> &[u32] {
        if generated < self.params.min_tokens { &self.stop_ids } else { &[] }
    }
}

/// Checks a request that arrives at `now`.
pub(super) fn validate(
    id: RequestId,
    request: Request,
    spec: &ModelSpec,
    limits: &Limits,
    now: Instant,
) -> Result<ValidatedRequest> {
    let salt = request.prefix_scope();
    let Request {
        prompt,
        params,
        priority,
        deadline,
        detokenizer,
        mask,
        cache_salt: _,
        tenant,
        group,
        adapter,
    } = request;
    check_prompt(&prompt, spec)?;
    check_params(&params, spec)?;
    if !params.stop.is_empty() && detokenizer.is_none() {
        return refuse(
            "stop",
            "stop strings need to know the bytes of each token; give the request a detokenizer, or use \
             stop_token_ids",
        );
    }
    let stop_ids = stop_ids(&params, spec)?;
    let biases = added_biases(&params)?;
    let max_tokens = max_new_tokens(&params, prompt.len(), spec, limits)?;
    Ok(ValidatedRequest {
        id,
        prompt: prompt.into(),
        stop_ids,
        biases,
        max_tokens,
        stop_strings: params.stop.clone().into(),
        params,
        priority,
        deadline,
        detokenizer,
        mask,
        salt,
        adapter,
        claimant: Claimant { tenant, group: group.map_or(Group::Alone(id), Group::Shared) },
        arrived: now,
    })
}

impl SamplingParams {
    /// Whether an engine with these limits would take the prompt: the check of [`crate::Engine::submit`], without an
    /// engine.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::PromptTooLong`] or [`Error::CacheTooSmall`].
    pub fn check(&self, prompt: &[u32], spec: &ModelSpec, limits: &Limits) -> Result<()> {
        check_prompt(prompt, spec)?;
        check_params(self, spec)?;
        stop_ids(self, spec)?;
        added_biases(self)?;
        max_new_tokens(self, prompt.len(), spec, limits).map(drop)
    }
}

/// Refuses an adapter that the engine cannot apply to single requests, or that is for another model.
pub(super) fn check_adapter(
    request: &Request,
    spec: &ModelSpec,
    support: AdapterSupport,
) -> Result<()> {
    let Some(adapter) = &request.adapter else { return Ok(()) };
    if let Some(why) = support.refusal(adapter) {
        return refuse("adapter", why);
    }
    if !adapter.fits(spec) {
        let name = adapter.name();
        return refuse("adapter", format!("adapter {name} is for a model of other shapes"));
    }
    Ok(())
}

fn refuse<T>(field: &'static str, problem: impl Into<String>) -> Result<T> {
    Err(Error::invalid_request(field, problem))
}

/// Refuses a prompt that is empty or contains a token that does not exist.
pub(super) fn check_prompt(prompt: &[u32], spec: &ModelSpec) -> Result<()> {
    if prompt.is_empty() {
        return refuse("prompt", "the prompt is empty; give at least one token");
    }
    check_ids("prompt", "prompt token", prompt.iter().copied(), spec.vocab)
}

/// Refuses settings that are out of range.
fn check_params(params: &SamplingParams, spec: &ModelSpec) -> Result<()> {
    params.sampler(0).check()?;
    let penalties = [
        ("presence_penalty", params.presence_penalty),
        ("frequency_penalty", params.frequency_penalty),
    ];
    for (name, value) in penalties {
        if !(-2.0..=2.0).contains(&value) {
            return refuse(name, format!("{name} is {value}; it must be from -2 to 2"));
        }
    }
    let name = "repetition_penalty";
    let repetition = params.repetition_penalty;
    if !(repetition > 0.0 && repetition.is_finite()) {
        return refuse(name, format!("{name} is {repetition}; it must be above 0"));
    }
    let biased = params.logit_bias.iter().map(|&(id, _)| id);
    check_ids("logit_bias", "logit_bias token", biased, spec.vocab)?;
    if let Some((id, bias)) =
        params.logit_bias.iter().find(|(_, b)| b.is_nan() || *b == f32::INFINITY)
    {
        return refuse(
            "logit_bias",
            format!("logit_bias of token {id} is {bias}; it must be a number, or minus infinity"),
        );
    }
    for (name, top) in [("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)]
    {
        if let Some(top) = top.filter(|&top| top > MAX_TOP) {
            return refuse(
                name,
                format!(
                    "{name} is {top}; at most {MAX_TOP} tokens are reported beside the sampled one"
                ),
            );
        }
    }
    if !(1..=MAX_SAMPLES).contains(&params.n) {
        return refuse("n", format!("n is {}; it must be from 1 to {MAX_SAMPLES}", params.n));
    }
    if let Some(limit) = params.max_tokens.filter(|&limit| limit < params.min_tokens) {
        return refuse(
            "min_tokens",
            format!("min_tokens is {}, more than max_tokens {limit}", params.min_tokens),
        );
    }
    if params.stop.iter().any(String::is_empty) {
        return refuse("stop", "a stop string is empty; leave it out");
    }
    Ok(())
}

/// The bias of each token once, by ascending token.
fn added_biases(params: &SamplingParams) -> Result<Vec<(u32, f32)>> {
    let mut biases = params.logit_bias.clone();
    // A stable sort, so that the biases of a token are added in the order in which they were given.
    biases.sort_by_key(|&(token, _)| token);
    biases.dedup_by(|(token, bias), (first, sum)| {
        let same = token == first;
        if same {
            *sum += *bias;
        }
        same
    });
    match biases.iter().find(|(_, bias)| *bias == f32::INFINITY) {
        Some((token, _)) => refuse(
            "logit_bias",
            format!("the biases of token {token} are too large together; lower them"),
        ),
        None => Ok(biases),
    }
}

/// Ids that end a sample, ascending.
fn stop_ids(params: &SamplingParams, spec: &ModelSpec) -> Result<Vec<u32>> {
    let given = params.stop_token_ids.iter().copied();
    check_ids("stop_token_ids", "stop token id", given, spec.vocab)?;
    let mut ids = params.stop_token_ids.clone();
    if !params.ignore_eos {
        ids.extend_from_slice(spec.stop_tokens);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// How many tokens may be generated after a prompt of this length.
fn max_new_tokens(
    params: &SamplingParams,
    prompt: usize,
    spec: &ModelSpec,
    limits: &Limits,
) -> Result<usize> {
    if params.max_tokens == Some(0) {
        return refuse("max_tokens", "max_tokens is 0; request at least one token");
    }
    if prompt >= spec.context {
        return Err(Error::PromptTooLong { tokens: prompt, limit: spec.context - 1 });
    }
    let context = spec.context - prompt;
    let limit = params.max_tokens.or(spec.max_new_tokens.map(|limit| limit.max(params.min_tokens)));
    let requested = limit.map_or(context, |limit| limit.min(context));
    // The last sampled token is never fed back, so it takes no position in the cache.
    let cache = limits.pages * PAGE_TOKENS;
    let fits = (cache + 1).saturating_sub(prompt);
    if fits == 0 || (params.max_tokens.is_some() && requested > fits) {
        let new_tokens = if params.max_tokens.is_some() { requested } else { 1 };
        return Err(Error::CacheTooSmall {
            prompt_tokens: prompt,
            new_tokens,
            needed_pages: (prompt + new_tokens - 1).div_ceil(PAGE_TOKENS),
            pages: limits.pages,
        });
    }
    Ok(requested.min(fits))
}

fn check_ids(
    field: &'static str,
    what: &str,
    mut ids: impl ExactSizeIterator<Item = u32>,
    vocab: usize,
) -> Result<()> {
    let count = ids.len();
    let mut bad = None;
    let at = ids.position(|id| {
        bad = Some(id);
        id as usize >= vocab
    });
    match (at, bad) {
        (Some(at), Some(bad)) => refuse(
            field,
            format!(
                "{what} {bad} (number {at} of {count}, counted from 0) is out of range: the vocabulary has \
                 the ids 0 to {}",
                vocab - 1
            ),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing;
    use super::*;

    const LIMITS: Limits = Limits { max_sequences: 2, max_step_tokens: 8, pages: 3 };

    fn request(prompt: &[u32], params: &SamplingParams) -> Result<ValidatedRequest> {
        let request = Request::new(prompt, params.clone());
        validate(RequestId(0), request, &testing::SPEC, &LIMITS, Instant::now())
    }

    #[test]
    fn a_request_that_cannot_be_served_is_refused_with_its_numbers() {
        let ok = SamplingParams::default();
        let limited = |max_tokens| SamplingParams { max_tokens: Some(max_tokens), ..ok.clone() };
        let long = vec![1; testing::SPEC.context + 4];
        let cases: &[(&[u32], SamplingParams, &str)] = &[
            (&[], ok.clone(), "the prompt is empty"),
            (&[1, 97], ok.clone(), "prompt token 97 (number 1 of 2, counted from 0)"),
            (&[u32::MAX], ok.clone(), "the ids 0 to 96"),
            (&[1], limited(0), "max_tokens is 0"),
            (&long, ok.clone(), "shorten the prompt by 5"),
            (&long[..193], limited(1), "need 4 cache pages, but there are 3"),
            (&long[..193], ok.clone(), "to generate need 4 cache pages"),
            (&long[..192], limited(2), "192 prompt tokens and 2 to generate need 4"),
            (&[1], SamplingParams { temperature: -0.5, ..ok.clone() }, "temperature is -0.5"),
            (&[1], SamplingParams { temperature: f32::NAN, ..ok.clone() }, "temperature is NaN"),
            (&[1], SamplingParams { top_p: 0.0, ..ok.clone() }, "top_p is 0"),
            (&[1], SamplingParams { top_p: f32::NAN, ..ok.clone() }, "top_p is NaN"),
            (&[1], SamplingParams { min_p: 1.5, ..ok.clone() }, "min_p is 1.5"),
            (
                &[1],
                SamplingParams { stop_token_ids: vec![3, 97], ..ok.clone() },
                "stop token id 97",
            ),
            (
                &[1],
                SamplingParams { presence_penalty: 2.5, ..ok.clone() },
                "presence_penalty is 2.5",
            ),
            (
                &[1],
                SamplingParams { frequency_penalty: f32::NAN, ..ok.clone() },
                "frequency_penalty is NaN",
            ),
            (
                &[1],
                SamplingParams { repetition_penalty: 0.0, ..ok.clone() },
                "repetition_penalty is 0",
            ),
            (
                &[1],
                SamplingParams { logit_bias: vec![(97, 1.0)], ..ok.clone() },
                "logit_bias token 97",
            ),
            (
                &[1],
                SamplingParams { logit_bias: vec![(7, f32::NAN)], ..ok.clone() },
                "bias of token 7 is NaN",
            ),
            (&[1], SamplingParams { logprobs: Some(101), ..ok.clone() }, "logprobs is 101"),
            (&[1], SamplingParams { n: 0, ..ok.clone() }, "n is 0"),
            (
                &[1],
                SamplingParams { min_tokens: 3, ..limited(2) },
                "min_tokens is 3, more than max_tokens 2",
            ),
            (
                &[1],
                SamplingParams { stop: vec![String::new()], ..ok.clone() },
                "a stop string is empty",
            ),
            (
                &[1],
                SamplingParams { stop: vec!["x".into()], ..ok.clone() },
                "give the request a detokenizer",
            ),
        ];
        for (prompt, params, want) in cases {
            let error = request(prompt, params).expect_err(want);
            assert!(error.is_bad_request(), "{want}: {error:?}");
            assert!(error.to_string().contains(want), "`{error}` does not contain `{want}`");
        }
    }

    #[test]
    fn max_tokens_is_lowered_to_what_fits() {
        let ok = SamplingParams::default();
        let limited = |max_tokens| SamplingParams { max_tokens: Some(max_tokens), ..ok.clone() };
        let prompt = vec![1; 192];
        for (prompt, params, want) in [
            (&prompt[..1], limited(5), 5),
            (&prompt[..1], ok.clone(), 192),
            (&prompt[..192], ok.clone(), 1),
            (&prompt[..192], limited(1), 1),
            (&prompt[..20], ok.clone(), 173),
        ] {
            assert_eq!(request(prompt, &params).unwrap().max_tokens, want, "{params:?}");
        }
        let brief = ModelSpec { max_new_tokens: Some(7), ..testing::SPEC };
        let least = SamplingParams { min_tokens: 9, ..ok.clone() };
        for (params, want) in [(ok.clone(), 7), (limited(5), 5), (limited(50), 50), (least, 9)] {
            assert_eq!(max_new_tokens(&params, 20, &brief, &LIMITS).unwrap(), want, "{params:?}");
        }
        assert_eq!(max_new_tokens(&ok, 190, &brief, &LIMITS).unwrap(), 3);
        let wide = Limits { pages: 100, ..LIMITS };
        let request = Request::new(prompt, limited(10_000));
        let cut = validate(RequestId(0), request, &testing::SPEC, &wide, Instant::now()).unwrap();
        assert_eq!(cut.max_tokens, testing::SPEC.context - 192);
    }

    #[test]
    fn biases_of_one_token_are_added() {
        let ok = SamplingParams::default();
        let with = |logit_bias: &[(u32, f32)]| {
            request(&[1], &SamplingParams { logit_bias: logit_bias.to_vec(), ..ok.clone() })
        };
        let biases = with(&[(7, 1.0), (3, f32::NEG_INFINITY), (7, 0.5), (3, 2.0)]).unwrap().biases;
        assert_eq!(biases, [(3, f32::NEG_INFINITY), (7, 1.5)]);
        let error = with(&[(7, f32::MAX), (7, f32::MAX)]).expect_err("too large").to_string();
        assert!(error.contains("biases of token 7 are too large together"), "{error}");
    }

    #[test]
    fn the_models_and_the_callers_stop_tokens_both_count() {
        let with = |ignore_eos| SamplingParams {
            stop_token_ids: vec![9, 2, 9],
            ignore_eos,
            ..SamplingParams::default()
        };
        assert_eq!(request(&[1], &with(false)).unwrap().stop_ids, [0, 2, 9]);
        assert_eq!(request(&[1], &with(true)).unwrap().stop_ids, [2, 9]);
    }
}
