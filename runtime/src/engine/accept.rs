//! The check of a request before anything runs: its tokens exist, its settings mean something, and it fits.

use std::sync::Arc;
use std::time::Instant;

use ossmith_plan::ModelSpec;

use super::mask::MaskSource;
use super::params::SamplingParams;
use super::request::{Request, RequestId};
use super::text::Vocabulary;
use crate::backend::PAGE_TOKENS;
use crate::{Error, Limits, Result};

/// Most samples of one request.
const MAX_SAMPLES: usize = 128;
/// Most alternatives that are reported beside a token.
const MAX_TOP: u32 = 100;

/// A request that was checked: its tokens exist, it fits alone, and at least one token may be generated.
pub(super) struct Accepted {
    pub(super) id: RequestId,
    pub(super) prompt: Arc<[u32]>,
    pub(super) params: SamplingParams,
    /// Ids that end a sample, ascending.
    pub(super) stops: Vec<u32>,
    /// At least 1.
    pub(super) max_tokens: usize,
    /// [`SamplingParams::stop`], shared by all samples.
    pub(super) stop_strings: Arc<[String]>,
    pub(super) priority: i32,
    pub(super) deadline: Option<Instant>,
    pub(super) text: Option<Arc<dyn Vocabulary>>,
    pub(super) mask: Option<Arc<dyn MaskSource>>,
    pub(super) salt: u64,
    pub(super) arrived: Instant,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Checks a request that arrives now.
pub(super) fn accept(
    id: RequestId,
    request: Request,
    spec: &ModelSpec,
    limits: &Limits,
) -> Result<Accepted> {
    let Request { prompt: tokens, params, priority, deadline, text, mask, cache_salt } = request;
    prompt(&tokens, spec)?;
    settings(&params, spec)?;
    if !params.stop.is_empty() && text.is_none() {
        return refuse(
            "stop strings need to know what tokens spell; give the request a vocabulary, or use stop_token_ids",
        );
    }
    let stops = stops(&params, spec)?;
    let max_tokens = room(&params, tokens.len(), spec, limits)?;
    Ok(Accepted {
        id,
        prompt: tokens.into(),
        stops,
        max_tokens,
        stop_strings: params.stop.clone().into(),
        params,
        priority,
        deadline,
        text,
        mask,
        salt: cache_salt,
        arrived: Instant::now(),
    })
}

/// The queue is full.
pub(super) fn busy(waiting: usize, most: usize) -> Error {
    Error::Busy(format!("{waiting} samples wait already, and at most {most} may; try again later"))
}

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Request(why.into()))
}

/// Refuses a prompt that is empty or names a token that does not exist.
pub(super) fn prompt(prompt: &[u32], spec: &ModelSpec) -> Result<()> {
    if prompt.is_empty() {
        return refuse("the prompt is empty; give at least one token");
    }
    check_ids("prompt token", prompt.iter().copied(), spec.vocab)
}

/// Refuses settings that mean nothing.
pub(super) fn settings(params: &SamplingParams, spec: &ModelSpec) -> Result<()> {
    params.sampling(0).check()?;
    let penalties = [
        ("presence_penalty", params.presence_penalty),
        ("frequency_penalty", params.frequency_penalty),
    ];
    for (name, value) in penalties {
        if !(-2.0..=2.0).contains(&value) {
            return refuse(format!("{name} is {value}; it must be from -2 to 2"));
        }
    }
    let repetition = params.repetition_penalty;
    if !(repetition > 0.0 && repetition.is_finite()) {
        return refuse(format!("repetition_penalty is {repetition}; it must be above 0"));
    }
    check_ids("logit_bias token", params.logit_bias.iter().map(|&(id, _)| id), spec.vocab)?;
    if let Some((id, bias)) =
        params.logit_bias.iter().find(|(_, b)| b.is_nan() || *b == f32::INFINITY)
    {
        return refuse(format!(
            "logit_bias of token {id} is {bias}; it must be a number, or minus infinity"
        ));
    }
    for (name, top) in [("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)]
    {
        if let Some(top) = top.filter(|&top| top > MAX_TOP) {
            return refuse(format!(
                "{name} is {top}; at most {MAX_TOP} tokens are reported beside the one drawn"
            ));
        }
    }
    if !(1..=MAX_SAMPLES).contains(&params.n) {
        return refuse(format!("n is {}; it must be from 1 to {MAX_SAMPLES}", params.n));
    }
    if let Some(most) = params.max_tokens.filter(|&most| most < params.min_tokens) {
        return refuse(format!("min_tokens is {}, more than max_tokens {most}", params.min_tokens));
    }
    if params.stop.iter().any(String::is_empty) {
        return refuse("a stop string is empty; leave it out");
    }
    Ok(())
}

/// Ids that end a sample, ascending.
pub(super) fn stops(params: &SamplingParams, spec: &ModelSpec) -> Result<Vec<u32>> {
    check_ids("stop token id", params.stop_token_ids.iter().copied(), spec.vocab)?;
    let mut stops = params.stop_token_ids.clone();
    if !params.ignore_eos {
        stops.extend_from_slice(spec.stop_tokens);
    }
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

/// How many tokens may be generated after a prompt of this length.
pub(super) fn room(
    params: &SamplingParams,
    prompt: usize,
    spec: &ModelSpec,
    limits: &Limits,
) -> Result<usize> {
    if params.max_tokens == Some(0) {
        return refuse("max_tokens is 0; ask for at least one token");
    }
    if prompt >= spec.context {
        return refuse(format!(
            "the prompt has {prompt} tokens, but the context of {} is {} and the answer needs \
             at least one: shorten the prompt by {}",
            spec.name,
            spec.context,
            prompt - spec.context + 1
        ));
    }
    let context = spec.context - prompt;
    let limit = params.max_tokens.or(spec.max_new_tokens.map(|most| most.max(params.min_tokens)));
    let wanted = limit.map_or(context, |most| most.min(context));
    // The last token drawn is never fed back, so it takes no place in the cache.
    let cache = limits.pages * PAGE_TOKENS;
    let fits = (cache + 1).saturating_sub(prompt);
    if fits == 0 || (params.max_tokens.is_some() && wanted > fits) {
        let asked = if params.max_tokens.is_some() { wanted } else { 1 };
        return refuse(format!(
            "{prompt} prompt tokens and {asked} to generate need {} cache pages of {PAGE_TOKENS} \
             tokens, but there are {}: ask for fewer tokens or load the model with more pages",
            (prompt + asked - 1).div_ceil(PAGE_TOKENS),
            limits.pages
        ));
    }
    Ok(wanted.min(fits))
}

fn check_ids(what: &str, mut ids: impl ExactSizeIterator<Item = u32>, vocab: usize) -> Result<()> {
    let count = ids.len();
    let mut bad = None;
    let at = ids.position(|id| {
        bad = Some(id);
        id as usize >= vocab
    });
    match (at, bad) {
        (Some(at), Some(bad)) => refuse(format!(
            "{what} {bad} (number {at} of {count}, counted from 0) is out of range: the vocabulary has the \
             ids 0 to {}",
            vocab - 1
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing;
    use super::*;

    const LIMITS: Limits = Limits { max_sequences: 2, max_step_tokens: 8, pages: 3 };

    fn request(prompt: &[u32], params: &SamplingParams) -> Result<Accepted> {
        let request = Request::new(prompt, params.clone());
        accept(RequestId(0), request, &testing::SPEC, &LIMITS)
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_numbers() {
        let ok = SamplingParams::default();
        let most = |max_tokens| SamplingParams { max_tokens: Some(max_tokens), ..ok.clone() };
        let long = vec![1; testing::SPEC.context + 4];
        let cases: &[(&[u32], SamplingParams, &str)] = &[
            (&[], ok.clone(), "the prompt is empty"),
            (&[1, 97], ok.clone(), "prompt token 97 (number 1 of 2, counted from 0)"),
            (&[u32::MAX], ok.clone(), "the ids 0 to 96"),
            (&[1], most(0), "max_tokens is 0"),
            (&long, ok.clone(), "shorten the prompt by 5"),
            (&long[..193], most(1), "need 4 cache pages of 64 tokens, but there are 3"),
            (&long[..193], ok.clone(), "to generate need 4 cache pages"),
            (&long[..192], most(2), "192 prompt tokens and 2 to generate need 4"),
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
                SamplingParams { min_tokens: 3, ..most(2) },
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
                "give the request a vocabulary",
            ),
        ];
        for (prompt, params, want) in cases {
            let error = request(prompt, params).expect_err(want);
            assert!(matches!(error, Error::Request(_)), "{want}: {error:?}");
            assert!(error.to_string().contains(want), "`{error}` does not say `{want}`");
        }
    }

    #[test]
    fn max_tokens_is_cut_at_what_fits() {
        let ok = SamplingParams::default();
        let most = |max_tokens| SamplingParams { max_tokens: Some(max_tokens), ..ok.clone() };
        let prompt = vec![1; 192];
        for (prompt, params, want) in [
            (&prompt[..1], most(5), 5),
            (&prompt[..1], ok.clone(), 192),
            (&prompt[..192], ok.clone(), 1),
            (&prompt[..192], most(1), 1),
            (&prompt[..20], ok.clone(), 173),
        ] {
            assert_eq!(request(prompt, &params).unwrap().max_tokens, want, "{params:?}");
        }
        let brief = ModelSpec { max_new_tokens: Some(7), ..testing::SPEC };
        let least = SamplingParams { min_tokens: 9, ..ok.clone() };
        for (params, want) in [(ok.clone(), 7), (most(5), 5), (most(50), 50), (least, 9)] {
            assert_eq!(room(&params, 20, &brief, &LIMITS).unwrap(), want, "{params:?}");
        }
        assert_eq!(room(&ok, 190, &brief, &LIMITS).unwrap(), 3);
        let wide = Limits { pages: 100, ..LIMITS };
        let asked = Request::new(prompt, most(10_000));
        let cut = accept(RequestId(0), asked, &testing::SPEC, &wide).unwrap();
        assert_eq!(cut.max_tokens, testing::SPEC.context - 192);
    }

    #[test]
    fn stops_are_the_models_and_the_callers() {
        let with = |ignore_eos| SamplingParams {
            stop_token_ids: vec![9, 2, 9],
            ignore_eos,
            ..SamplingParams::default()
        };
        assert_eq!(request(&[1], &with(false)).unwrap().stops, [0, 2, 9]);
        assert_eq!(request(&[1], &with(true)).unwrap().stops, [2, 9]);
    }
}
