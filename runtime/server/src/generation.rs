//! The generations of one request, read as one stream of events and measured. Where the engine gives up, that becomes an error
//! as the client will read it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use ossmith::{FinishReason, PromptInfo, TokenEvent, TokenLogprobs};
use tracing::field::Empty;

use crate::arrivals::{Arrival, ArrivalSink};
use crate::backend::{GenerationBackend, GenerationRequest, GenerationStream, MaskFailure};
use crate::clock;
use crate::error::{ApiError, Result};
use crate::metrics::{Metrics, Outcome};

/// Spans and events of generations have this target.
pub(crate) const TRACE: &str = "ossmith::requests";

/// Numbers the requests, so that the engine counts the choices of each as one where requests compete.
static NEXT_GROUP: AtomicU64 = AtomicU64::new(0);

/// What comes for one choice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GenerationEvent {
    /// About the prompt; it comes once, before the first token.
    Prompt(PromptInfo),
    /// The next token.
    Token(GeneratedToken),
    /// The engine gave up, and nothing follows.
    Failed(ApiError),
}

/// A token that was generated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GeneratedToken {
    pub(crate) id: u32,
    /// If the request wants them.
    pub(crate) logprobs: Option<TokenLogprobs>,
    /// With the last token: a stop token, or the limit of tokens. All other reasons are failures.
    pub(crate) finish: Option<FinishReason>,
}

/// Awaits `work`. It is an error if it takes longer than `limit`.
pub(crate) async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T> {
    let Some(limit) = limit else { return Ok(work.await) };
    let late = |_| ApiError::timed_out(limit);
    tokio::time::timeout(limit, work).await.map_err(late)
}

/// A backend's refusal of a request with so many choices. One that has more choices than may run and wait would come back
/// for ever, so it is refused for good.
fn refusal(error: ossmith::Error, choices: usize) -> ApiError {
    match error {
        ossmith::Error::QueueFull { capacity, .. } if choices > capacity => ApiError::bad(
            "n",
            format!(
                "the request has {choices} choices in all, but at most {capacity} may run and wait; lower `n`, or send fewer prompts"
            ),
        ),
        error => error.into(),
    }
}

/// One generation and what is measured about it.
struct Measured {
    stream: GenerationStream,
    /// The second event of what the engine sent as one.
    pending: Option<GenerationEvent>,
    of: Submitted,
    cached_tokens: usize,
    arrival: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Instant,
    tokens: usize,
    outcome: Option<Outcome>,
    timeout: Option<Duration>,
    metrics: Arc<Metrics>,
    arrivals: Option<ArrivalSink>,
}

/// What was requested of a generation.
struct Submitted {
    choice: usize,
    prompt_length: usize,
    max_tokens: Option<usize>,
    mask_failure: MaskFailure,
    /// From arrival to the last token, for whoever collects traces.
    span: tracing::Span,
    /// The request's, which this one is part of.
    request_span: tracing::Span,
}

impl Submitted {
    /// Prompt tokens that count: those of a prompt count once, however many choices it has.
    fn counted_prompt_tokens(&self) -> usize {
        if self.choice == 0 { self.prompt_length } else { 0 }
    }
}

impl Measured {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<GenerationEvent> {
        let event = match self.pending.take() {
            Some(event) => event,
            None => match self.stream.as_mut().poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(event)) => self.split(event),
                Poll::Ready(None) => {
                    GenerationEvent::Failed(ApiError::unavailable("the engine has stopped"))
                }
            },
        };
        self.measure(&event);
        Poll::Ready(event)
    }

    /// The engine tells about the prompt together with the first token. Here that is an event of its own.
    fn split(&mut self, event: TokenEvent) -> GenerationEvent {
        let TokenEvent { token, logprobs, prompt, finish, .. } = event;
        let event = match (token, self.failure(finish.as_ref())) {
            (_, Some(failure)) => GenerationEvent::Failed(failure),
            (Some(id), None) => GenerationEvent::Token(GeneratedToken { id, logprobs, finish }),
            (None, None) => {
                let why = "the engine ended the request without a token";
                GenerationEvent::Failed(ApiError::internal(why))
            }
        };
        let Some(prompt) = prompt else { return event };
        self.pending = Some(event);
        GenerationEvent::Prompt(*prompt)
    }

    fn failure(&self, finish: Option<&FinishReason>) -> Option<ApiError> {
        match finish? {
            FinishReason::Stop | FinishReason::StopString(_) | FinishReason::Length => None,
            FinishReason::Deadline => Some(ApiError::timed_out(self.timeout.unwrap_or_default())),
            FinishReason::Failed(why) => Some(match self.of.mask_failure.get() {
                Some(failure) => failure.clone(),
                None => ApiError::internal(why.to_string()),
            }),
            other => {
                let why = format!("the engine ended the request: {}", other.name());
                Some(ApiError::unavailable(why))
            }
        }
    }

    fn measure(&mut self, event: &GenerationEvent) {
        let now = clock::now();
        match event {
            GenerationEvent::Prompt(PromptInfo { cached_tokens, queued, .. }) => {
                self.first_step = Some(self.arrival + *queued);
                self.cached_tokens = *cached_tokens;
                self.of.span.record("queued_ms", queued.as_millis() as u64);
                self.of.span.record("cached_tokens", *cached_tokens as u64);
                let cached = (*cached_tokens).min(self.of.counted_prompt_tokens()) as u64;
                self.metrics.record(|counts| {
                    counts.cached_tokens += cached;
                    counts.queue_seconds.add(queued.as_secs_f64());
                });
            }
            GenerationEvent::Token(token) => {
                self.metrics.record(|counts| {
                    if self.first_token.is_some() {
                        let since = (now - self.last_token).as_secs_f64();
                        counts.inter_token_seconds.add(since);
                        return;
                    }
                    counts.first_token_seconds.add((now - self.arrival).as_secs_f64());
                    let first_step = self.first_step.unwrap_or(self.arrival);
                    let prefill = now.saturating_duration_since(first_step);
                    counts.prefill_seconds.add(prefill.as_secs_f64());
                });
                if self.first_token.is_none() {
                    tracing::debug!(target: TRACE, parent: &self.of.span, "first token");
                }
                self.first_token.get_or_insert(now);
                self.last_token = now;
                self.tokens += 1;
                self.outcome = token.finish.as_ref().map(|finish| match finish {
                    FinishReason::Length => Outcome::Length,
                    _ => Outcome::Stop,
                });
            }
            GenerationEvent::Failed(error) => {
                let late = error.status == StatusCode::REQUEST_TIMEOUT;
                self.outcome = Some(if late { Outcome::Abort } else { Outcome::Error });
            }
        }
    }
}

impl Drop for Measured {
    /// Counts the generation, however it ended.
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Outcome::Abort);
        self.of.span.record("generated_tokens", self.tokens as u64);
        self.of.span.record("outcome", outcome.name());
        tracing::debug!(target: TRACE, parent: &self.of.span, "ended");
        // A collector takes a span to end when it was left last, and the request's was left with the head of its response.
        drop(std::mem::replace(&mut self.of.span, tracing::Span::none()));
        self.of.request_span.in_scope(|| ());
        if let Some(arrivals) = &self.arrivals {
            let since = |at: Instant| at.saturating_duration_since(self.arrival).as_secs_f64();
            let recorded = Arrival {
                at_seconds: 0.0,
                prompt_tokens: self.of.prompt_length,
                cached_tokens: self.cached_tokens,
                max_tokens: self.of.max_tokens,
                generated_tokens: self.tokens,
                first_token_seconds: self.first_token.map(since),
                seconds: since(clock::now()),
                finish: outcome.name().to_owned(),
            };
            arrivals.record(self.arrival, recorded);
        }
        self.metrics.record(|counts| {
            counts.end(outcome);
            counts.prompt_tokens += self.of.counted_prompt_tokens() as u64;
            counts.generation_tokens += self.tokens as u64;
            if !matches!(outcome, Outcome::Stop | Outcome::Length) {
                return;
            }
            counts.request_seconds.add((self.last_token - self.arrival).as_secs_f64());
            let first_step = self.first_step.unwrap_or(self.arrival);
            let inference = self.last_token.saturating_duration_since(first_step);
            counts.inference_seconds.add(inference.as_secs_f64());
            counts.request_prompt_tokens.add(self.of.counted_prompt_tokens() as f64);
            counts.request_generation_tokens.add(self.tokens as f64);
            if let Some(first_token) = self.first_token {
                let decode = (self.last_token - first_token).as_secs_f64();
                counts.decode_seconds.add(decode);
                if self.tokens > 1 {
                    counts.per_token_seconds.add(decode / (self.tokens - 1) as f64);
                }
            }
        });
    }
}

/// The generations of one request, one for each choice. Dropping it cancels those that run.
pub(crate) struct Generation {
    choices: Vec<Option<Measured>>,
    /// Which choice is polled first, so that each gets its turn.
    next: usize,
}

impl Generation {
    /// Starts all of them, or none. Each ends with a failure at `timeout` after `received`, whether or not anyone reads its
    /// events.
    pub(crate) fn start(
        backend: &dyn GenerationBackend,
        metrics: &Arc<Metrics>,
        arrivals: Option<&ArrivalSink>,
        requests: Vec<GenerationRequest>,
        received: Instant,
        timeout: Option<Duration>,
    ) -> Result<Generation> {
        let (arrival, choices) = (clock::now(), requests.len());
        let group = NEXT_GROUP.fetch_add(1, Ordering::Relaxed);
        let submit = |mut request: GenerationRequest| {
            let engine = &mut request.engine_request;
            engine.group = Some(group);
            engine.deadline = timeout.and_then(|timeout| received.checked_add(timeout));
            let (prompt_length, max_tokens) = (engine.prompt.len(), engine.params.max_tokens);
            let span = tracing::debug_span!(
                target: TRACE, "generation",
                choice = request.choice, prompt_tokens = prompt_length,
                cached_tokens = Empty, queued_ms = Empty, generated_tokens = Empty, outcome = Empty,
            );
            let (choice, mask_failure) = (request.choice, Arc::clone(&request.mask_failure));
            let stream = backend.submit(request).map_err(|error| refusal(error, choices))?;
            let request_span = tracing::Span::current();
            let of =
                Submitted { choice, prompt_length, max_tokens, mask_failure, span, request_span };
            Ok((stream, of))
        };
        // Where one is refused, those before it are cancelled, and none is counted.
        let accepted = requests.into_iter().map(submit).collect::<Result<Vec<_>>>()?;
        metrics.record(|counts| {
            counts.choices.add(accepted.len() as f64);
            let limits = accepted.iter().filter_map(|(_, of)| of.max_tokens);
            limits.for_each(|max_tokens| counts.max_tokens.add(max_tokens as f64));
        });
        let measured = |(stream, of)| {
            Some(Measured {
                stream,
                of,
                pending: None,
                cached_tokens: 0,
                arrival,
                first_step: None,
                first_token: None,
                last_token: arrival,
                tokens: 0,
                outcome: None,
                timeout,
                metrics: Arc::clone(metrics),
                arrivals: arrivals.cloned(),
            })
        };
        Ok(Generation { choices: accepted.into_iter().map(measured).collect(), next: 0 })
    }

    /// The next event of any choice, with the choice's index; none when all have ended.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<(usize, GenerationEvent)>> {
        let count = self.choices.len();
        let mut running = false;
        for offset in 0..count {
            let index = (self.next + offset) % count;
            let Some(choice) = &mut self.choices[index] else { continue };
            running = true;
            if let Poll::Ready(event) = choice.poll(context) {
                if choice.outcome.is_some() {
                    self.choices[index] = None;
                }
                self.next = (index + 1) % count;
                return Poll::Ready(Some((index, event)));
            }
        }
        if running { Poll::Pending } else { Poll::Ready(None) }
    }

    /// The same, awaited.
    async fn next(&mut self) -> Option<(usize, GenerationEvent)> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Has `read` read every event with its choice's index, until all choices have ended. `read` returns true where a choice
    /// ends with its event, even where the engine would go on; an error ends all choices.
    ///
    /// # Errors
    /// The first error of `read`, or that it took longer than `limit`.
    pub(crate) async fn read_to_end(
        mut self,
        limit: Option<Duration>,
        mut read: impl FnMut(usize, GenerationEvent) -> Result<bool>,
    ) -> Result<()> {
        let all = async {
            while let Some((choice, event)) = self.next().await {
                if read(choice, event)? {
                    self.stop(choice);
                }
            }
            Ok(())
        };
        within(limit, all).await?
    }

    /// Ends a choice before the engine does, for instance at a stop string. Its place is free at once.
    pub(crate) fn stop(&mut self, choice: usize) {
        if let Some(stopped) = self.choices.get_mut(choice).and_then(Option::take) {
            let mut stopped = stopped;
            stopped.outcome = Some(Outcome::Stop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_an_error_with_the_limit() {
        let mut measured = Measured {
            stream: Box::pin(Nothing),
            of: Submitted {
                choice: 0,
                prompt_length: 0,
                max_tokens: None,
                mask_failure: MaskFailure::default(),
                span: tracing::Span::none(),
                request_span: tracing::Span::none(),
            },
            pending: None,
            cached_tokens: 0,
            arrival: clock::now(),
            first_step: None,
            first_token: None,
            last_token: clock::now(),
            tokens: 0,
            outcome: None,
            timeout: Some(Duration::from_secs(2)),
            metrics: Arc::new(Metrics::new()),
            arrivals: None,
        };
        let failure = measured.failure(Some(&FinishReason::Deadline));
        assert_eq!(failure, Some(ApiError::timed_out(Duration::from_secs(2))));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let ended = measured.poll(&mut context);
        assert!(matches!(ended, Poll::Ready(GenerationEvent::Failed(_))), "{ended:?}");
    }

    struct Nothing;

    impl futures_core::Stream for Nothing {
        type Item = TokenEvent;

        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<TokenEvent>> {
            Poll::Ready(None)
        }
    }
}
