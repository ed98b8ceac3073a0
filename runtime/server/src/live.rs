//! The real engine behind the seam: requests go to its thread, its events come back as updates.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ossmith::engine::{
    Allowed, EngineHandle, Events, FinishReason, MaskSource, Request, SamplingParams, TokenEvent,
    TokenLogprobs, TokenMask,
};

use crate::engine::{
    Answer, Ask, Candidate, Counts, EngineStats, Finish, Logprobs, Sampling, Source, Update,
};
use crate::error::ApiError;
use crate::guide::{Guide, bits};

/// An engine on its thread.
#[derive(Clone, Debug)]
pub struct Live {
    handle: EngineHandle,
}

impl Live {
    /// Serves with this engine.
    #[must_use]
    pub fn new(handle: EngineHandle) -> Live {
        Live { handle }
    }
}

impl Source for Live {
    fn submit(&self, ask: Ask) -> Result<Box<dyn Answer>, ApiError> {
        let Ask { prompt, sampling, guide, timeout, .. } = ask;
        let mask = mask(guide, &sampling);
        let mut request = Request::new(prompt, params(&sampling));
        request.priority = sampling.priority;
        request.mask = mask;
        request.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let events = self.handle.submit(request).map_err(|why| match why {
            ossmith::Error::Request(why) => ApiError::bad("", why),
            ossmith::Error::Busy(why) => ApiError::overloaded(why),
            ossmith::Error::Closed(why) => ApiError::unavailable(why),
            other => ApiError::internal(other.to_string()),
        })?;
        Ok(Box::new(LiveAnswer { events, timeout, next: None }))
    }

    fn stats(&self) -> EngineStats {
        let metrics = self.handle.metrics();
        EngineStats {
            running: metrics.running,
            waiting: metrics.waiting,
            cache_usage: metrics.pages_used as f64 / metrics.pages_total.max(1) as f64,
            preemptions: metrics.preemptions,
            prefix_queries: metrics.prefix_queries,
            prefix_hits: metrics.cached_tokens,
            drafts: [metrics.drafts, metrics.draft_tokens, metrics.accepted_tokens],
            accepted_by_place: metrics.accepted_by_place,
            page_tokens: ossmith::backend::PAGE_TOKENS,
            pages: metrics.pages_total,
            step_tokens: Counts {
                bounds: metrics.step_tokens.bounds,
                counts: metrics.step_tokens.counts,
                sum: metrics.step_tokens.sum,
            },
        }
    }

    fn failure(&self) -> Option<String> {
        self.handle.closed()
    }

    fn reset_prefix_cache(&self) {
        self.handle.reset_prefix_cache();
    }

    fn stop(&self) {
        self.handle.shutdown();
    }
}

fn params(sampling: &Sampling) -> SamplingParams {
    SamplingParams {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: sampling.logit_bias.clone(),
        logprobs: sampling.logprobs,
        prompt_logprobs: sampling.prompt_logprobs,
        seed: sampling.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        max_tokens: sampling.max_tokens,
        min_tokens: sampling.min_tokens,
        stop_token_ids: sampling.stop_token_ids.clone(),
        ignore_eos: sampling.ignore_eos,
        ..SamplingParams::default()
    }
}

/// What the engine asks before each draw, if anything is forbidden at all.
fn mask(guide: Option<Guide>, sampling: &Sampling) -> Option<Arc<dyn MaskSource>> {
    let (allowed, bad_words) = (sampling.allowed_token_ids.clone(), sampling.bad_words.clone());
    if guide.is_none() && allowed.is_none() && bad_words.is_empty() {
        return None;
    }
    let mask = Mask { guide, allowed, bad_words, seen: 0 };
    Some(Arc::new(Once(Mutex::new(Some(mask)))))
}

/// Hands out the mask of a request's only sample.
struct Once(Mutex<Option<Mask>>);

impl MaskSource for Once {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        let mask = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(mask.unwrap_or_default())
    }
}

#[derive(Clone, Debug, Default)]
struct Mask {
    guide: Option<Guide>,
    allowed: Option<Vec<u32>>,
    bad_words: Vec<Vec<u32>>,
    /// Tokens that the guide has heard of.
    seen: usize,
}

impl TokenMask for Mask {
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        let mut listed = false;
        if let Some(guide) = &mut self.guide {
            generated
                .get(self.seen..)
                .unwrap_or_default()
                .iter()
                .for_each(|&token| guide.accept(token));
            self.seen = generated.len();
            listed = guide.mask(words)?;
        }
        if let Some(allowed) = self.allowed.as_ref().filter(|_| !listed) {
            allowed.iter().for_each(|&token| bits::set(words, token));
            listed = true;
        }
        let ends = self.bad_words.iter().filter_map(|word| {
            let (last, before) = word.split_last()?;
            generated.ends_with(before).then_some(*last)
        });
        for token in ends {
            if !std::mem::replace(&mut listed, true) {
                words.fill(u32::MAX);
            }
            bits::clear(words, token);
            // A word that leaves nothing else is the lesser evil.
            if words.iter().all(|&word| word == 0) {
                bits::set(words, token);
            }
        }
        Ok(if listed { Allowed::Listed } else { Allowed::All })
    }
}

struct LiveAnswer {
    events: Events,
    timeout: Option<Duration>,
    /// The second update of an event that has two.
    next: Option<Update>,
}

impl Answer for LiveAnswer {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        if let Some(update) = self.next.take() {
            return Poll::Ready(Some(update));
        }
        let Poll::Ready(event) = self.events.poll_next(context) else { return Poll::Pending };
        let Some(TokenEvent { token, logprobs, prompt, finish, .. }) = event else {
            return Poll::Ready(None);
        };
        let update = match (token, end(finish, self.timeout)) {
            (_, Err(failed)) => Update::Failed(failed),
            (Some(id), Ok(finish)) => Update::Token { id, logprobs: logprobs.map(told), finish },
            (None, Ok(_)) => Update::Failed(ApiError::internal("the engine ended without a token")),
        };
        let Some(prompt) = prompt else { return Poll::Ready(Some(update)) };
        self.next = Some(update);
        let logprobs = prompt.logprobs.into_iter().map(|at| at.map(told)).collect();
        Poll::Ready(Some(Update::Prompt {
            cached: prompt.cached_tokens,
            queued: prompt.queued,
            logprobs,
        }))
    }
}

fn end(
    finish: Option<FinishReason>,
    timeout: Option<Duration>,
) -> Result<Option<Finish>, ApiError> {
    match finish {
        None => Ok(None),
        Some(FinishReason::Stop | FinishReason::StopString(_)) => Ok(Some(Finish::Stop)),
        Some(FinishReason::Length) => Ok(Some(Finish::Length)),
        Some(FinishReason::Deadline) => {
            Err(ApiError::timed_out(timeout.unwrap_or_default().as_secs()))
        }
        Some(FinishReason::Failed(why)) => Err(ApiError::internal(why.to_string())),
        Some(other) => {
            Err(ApiError::unavailable(format!("the engine ended the request: {}", other.name())))
        }
    }
}

fn told(of: TokenLogprobs) -> Logprobs {
    let top = of.top.into_iter().map(|(token, logprob)| Candidate { token, logprob }).collect();
    Logprobs { logprob: of.logprob, rank: of.rank, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_its_time_is_told_as_timed_out() {
        let ended = end(Some(FinishReason::Deadline), Some(Duration::from_secs(2)));
        assert_eq!(ended, Err(ApiError::timed_out(2)));
    }
}
