//! The generations of one request, read as one stream, and what is measured about them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::engine::{Answer, Ask, Finish, Source, Update};
use crate::error::{ApiError, Result};
use crate::metrics::{End, Metrics};

/// What `work` gives, or the error that it took longer than `limit`.
pub(crate) async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T> {
    let Some(limit) = limit else { return Ok(work.await) };
    let late = |_| ApiError::timed_out(limit.as_secs());
    tokio::time::timeout(limit, work).await.map_err(late)
}

/// One generation, measured.
struct Run {
    answer: Box<dyn Answer>,
    prompt: usize,
    begun: Instant,
    admitted: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
    tokens: usize,
    end: Option<End>,
    metrics: Arc<Metrics>,
}

impl Run {
    fn update(&mut self, update: &Update) {
        let now = Instant::now();
        match update {
            Update::Prompt { cached, queued, .. } => {
                self.admitted = Some(self.begun + *queued);
                let cached = (*cached).min(self.prompt) as u64;
                self.metrics.cached_tokens.fetch_add(cached, Ordering::Relaxed);
                self.metrics.queued.add(queued.as_secs_f64());
            }
            Update::Token { finish, .. } => {
                if self.first.is_none() {
                    self.first = Some(now);
                    self.metrics.first_token.add((now - self.begun).as_secs_f64());
                    let begun = self.admitted.unwrap_or(self.begun);
                    self.metrics.prefill.add(now.saturating_duration_since(begun).as_secs_f64());
                } else {
                    self.metrics.between_tokens.add((now - self.last).as_secs_f64());
                }
                self.last = now;
                self.tokens += 1;
                match finish {
                    Some(Finish::Stop) => self.end = Some(End::Stop),
                    Some(Finish::Length) => self.end = Some(End::Length),
                    None => {}
                }
            }
            Update::Failed(error) => {
                let late = error.status == StatusCode::REQUEST_TIMEOUT;
                self.end = Some(if late { End::Abort } else { End::Error });
            }
        }
    }
}

impl Drop for Run {
    /// Counts the generation, however it ended.
    fn drop(&mut self) {
        let metrics = &self.metrics;
        let end = self.end.unwrap_or(End::Abort);
        metrics.end(end);
        metrics.prompt_tokens.fetch_add(self.prompt as u64, Ordering::Relaxed);
        metrics.generation_tokens.fetch_add(self.tokens as u64, Ordering::Relaxed);
        if !matches!(end, End::Stop | End::Length) {
            return;
        }
        metrics.whole.add((self.last - self.begun).as_secs_f64());
        let admitted = self.admitted.unwrap_or(self.begun);
        metrics.inference.add(self.last.saturating_duration_since(admitted).as_secs_f64());
        metrics.prompt_sizes.add(self.prompt as f64);
        metrics.answer_sizes.add(self.tokens as f64);
        if let Some(first) = self.first {
            let decode = (self.last - first).as_secs_f64();
            metrics.decode.add(decode);
            if self.tokens > 1 {
                metrics.per_token.add(decode / (self.tokens - 1) as f64);
            }
        }
    }
}

/// Several generations; dropping it frees their places.
pub(crate) struct Generation {
    runs: Vec<Option<Run>>,
    /// Where to look first, so that no choice is passed over for ever.
    next: usize,
}

impl Generation {
    /// Starts all of them, or none.
    pub(crate) fn start(
        source: &dyn Source,
        metrics: &Arc<Metrics>,
        asks: Vec<Ask>,
    ) -> Result<Generation> {
        let submit = |ask: Ask| {
            // A prompt counts once, however many alternatives are asked for.
            let prompt = if ask.alternative == 0 { ask.prompt.len() } else { 0 };
            let (most, begun) = (ask.sampling.max_tokens, Instant::now());
            Ok((source.submit(ask)?, prompt, most, begun))
        };
        // What is refused is not counted, nor what was taken before it and is given back.
        let taken = asks.into_iter().map(submit).collect::<Result<Vec<_>>>()?;
        metrics.choices.add(taken.len() as f64);
        let run = |(answer, prompt, most, begun): (_, _, Option<usize>, _)| {
            if let Some(most) = most {
                metrics.most_tokens.add(most as f64);
            }
            Some(Run {
                answer,
                prompt,
                begun,
                admitted: None,
                first: None,
                last: begun,
                tokens: 0,
                end: None,
                metrics: Arc::clone(metrics),
            })
        };
        Ok(Generation { runs: taken.into_iter().map(run).collect(), next: 0 })
    }

    /// The next update of any choice, with the choice's index; none when all have ended.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Update)>> {
        let count = self.runs.len();
        let mut live = false;
        for offset in 0..count {
            let index = (self.next + offset) % count;
            let Some(run) = &mut self.runs[index] else { continue };
            live = true;
            if let Poll::Ready(update) = run.answer.poll(context) {
                let lost = || Update::Failed(ApiError::unavailable("the engine has stopped"));
                let update = update.unwrap_or_else(lost);
                run.update(&update);
                if run.end.is_some() {
                    self.runs[index] = None;
                }
                self.next = (index + 1) % count;
                return Poll::Ready(Some((index, update)));
            }
        }
        if live { Poll::Pending } else { Poll::Ready(None) }
    }

    /// The same, awaited.
    pub(crate) async fn next(&mut self) -> Option<(usize, Update)> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Ends a choice early, because of a stop string: its place is free at once.
    pub(crate) fn stop(&mut self, choice: usize) {
        if let Some(run) = self.runs.get_mut(choice).and_then(Option::as_mut) {
            run.end = Some(End::Stop);
        }
        if let Some(run) = self.runs.get_mut(choice) {
            *run = None;
        }
    }
}
