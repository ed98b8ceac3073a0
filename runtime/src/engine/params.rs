//! What a caller may ask of one prompt, and the check that it can be served before anything runs.
//! How logits become a token is [`crate::Sampling`]'s matter.

use ossmith_plan::ModelSpec;

use super::request::Request;
use crate::backend::PAGE_TOKENS;
use crate::{Error, Limits, Result, Sampling};

/// Sampling settings and end conditions of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits, at least 0; 0 means greedy.
    pub temperature: f32,
    /// Keep only this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of best tokens with at least this much probability, in (0, 1].
    pub top_p: f32,
    /// Drop tokens less likely than this share of the best one, in [0, 1].
    pub min_p: f32,
    /// Seed of the draws: the same prompt, settings and seed give the same tokens.
    pub seed: u64,
    /// Most tokens to generate, the stop token included; cut at the end of the context.
    /// `None` takes all that fits.
    pub max_tokens: Option<usize>,
    /// Token ids that end the answer, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Ignore the model's own stop tokens (`stop_token_ids` still count).
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    /// What gpt-oss models are published with: temperature 1 and no filter.
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            max_tokens: None,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// The most likely token each time.
    #[must_use]
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    fn sampling(&self) -> Result<Sampling> {
        let refuse = |name: &str, value: f32, range: &str| {
            Err(Error::Request(format!("{name} is {value}; it must be {range}")))
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature, "a finite number of at least 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "between 0 and 1");
        }
        let SamplingParams { temperature, top_k, top_p, min_p, seed, .. } = *self;
        Ok(Sampling { temperature, top_k, top_p, min_p, seed })
    }

    /// Ids that end this request, ascending.
    fn stops(&self, spec: &ModelSpec) -> Result<Vec<u32>> {
        check_ids("stop token id", &self.stop_token_ids, spec.vocab)?;
        let mut stops = self.stop_token_ids.clone();
        if !self.ignore_eos {
            stops.extend_from_slice(spec.stop_tokens);
        }
        stops.sort_unstable();
        stops.dedup();
        Ok(stops)
    }

    /// Whether an engine with these limits would take the prompt: the check of [`crate::Engine::submit`], with no
    /// engine.
    ///
    /// # Errors
    /// [`Error::Request`] with what is wrong and what to do.
    pub fn check(&self, prompt: &[u32], spec: &ModelSpec, limits: &Limits) -> Result<()> {
        self.request(prompt, spec, limits).map(drop)
    }

    /// Turns a prompt with these settings into a request that is sure to fit.
    pub(super) fn request(
        &self,
        prompt: &[u32],
        spec: &ModelSpec,
        limits: &Limits,
    ) -> Result<Request> {
        check_prompt(prompt, spec)?;
        let (sampling, stops) = (self.sampling()?, self.stops(spec)?);
        let max_tokens = self.room(prompt.len(), spec, limits)?;
        Ok(Request { prompt: prompt.to_vec(), sampling, stops, max_tokens })
    }

    /// How many tokens may be generated after a prompt of this length.
    fn room(&self, prompt: usize, spec: &ModelSpec, limits: &Limits) -> Result<usize> {
        if self.max_tokens == Some(0) {
            return Err(Error::Request("max_tokens is 0; ask for at least one token".to_owned()));
        }
        if prompt >= spec.context {
            return Err(Error::Request(format!(
                "the prompt has {prompt} tokens, but the context of {} is {} and the answer needs \
                 at least one: shorten the prompt by {}",
                spec.name,
                spec.context,
                prompt - spec.context + 1
            )));
        }
        let context = spec.context - prompt;
        let wanted = self.max_tokens.map_or(context, |most| most.min(context));
        // The last token drawn is never fed back, so it takes no place in the cache.
        let cache = limits.pages * PAGE_TOKENS;
        let fits = (cache + 1).saturating_sub(prompt);
        if fits == 0 || (self.max_tokens.is_some() && wanted > fits) {
            let asked = if self.max_tokens.is_some() { wanted } else { 1 };
            return Err(Error::Request(format!(
                "{prompt} prompt tokens and {asked} to generate need {} cache pages of {PAGE_TOKENS} \
                 tokens, but there are {}: ask for fewer tokens or load the model with more pages",
                (prompt + asked - 1).div_ceil(PAGE_TOKENS),
                limits.pages
            )));
        }
        Ok(wanted.min(fits))
    }
}

/// Refuses a prompt that is empty or names a token that does not exist.
pub(super) fn check_prompt(prompt: &[u32], spec: &ModelSpec) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::Request("the prompt is empty; give at least one token".to_owned()));
    }
    check_ids("prompt token", prompt, spec.vocab)
}

fn check_ids(what: &str, ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        None => Ok(()),
        Some(at) => Err(Error::Request(format!(
            "{what} {} (number {at} of {}, counted from 0) is out of range: the vocabulary has the \
             ids 0 to {}",
            ids[at],
            ids.len(),
            vocab - 1
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing;
    use super::*;

    const LIMITS: Limits = Limits { max_sequences: 2, max_step_tokens: 8, pages: 3 };

    fn request(prompt: &[u32], params: &SamplingParams) -> Result<Request> {
        params.request(prompt, &testing::SPEC, &LIMITS)
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
        let wide = Limits { pages: 100, ..LIMITS };
        let cut = most(10_000).request(&prompt, &testing::SPEC, &wide).unwrap();
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
