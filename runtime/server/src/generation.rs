//! The generations of one request, read as one stream, and what is measured about them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::engine::{Answer, Ask, Finish, Source, Update};
use crate::error::{ApiError, Result};
use crate::metrics::{End, Metrics};

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
            Update::Prompt { cached, .. } => {
                self.admitted = Some(now);
                let cached = (*cached).min(self.prompt) as u64;
                self.metrics.cached_tokens.fetch_add(cached, Ordering::Relaxed);
                self.metrics.queued.add((now - self.begun).as_secs_f64());
            }
            Update::Token { finish, .. } => {
                if self.first.is_none() {
                    self.first = Some(now);
                    self.metrics.first_token.add((now - self.begun).as_secs_f64());
                    let begun = self.admitted.unwrap_or(self.begun);
                    self.metrics.prefill.add((now - begun).as_secs_f64());
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
            Update::Failed(_) => self.end = Some(End::Error),
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
        metrics.inference.add((self.last - admitted).as_secs_f64());
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
        let mut runs = Vec::with_capacity(asks.len());
        for ask in asks {
            // A prompt counts once, however many alternatives are asked for.
            let prompt = if ask.alternative == 0 { ask.prompt.len() } else { 0 };
            let begun = Instant::now();
            if let Some(most) = ask.sampling.max_tokens {
                metrics.most_tokens.add(most as f64);
            }
            let answer = source.submit(ask)?;
            runs.push(Some(Run {
                answer,
                prompt,
                begun,
                admitted: None,
                first: None,
                last: begun,
                tokens: 0,
                end: None,
                metrics: Arc::clone(metrics),
            }));
        }
        metrics.choices.add(runs.len() as f64);
        Ok(Generation { runs, next: 0 })
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
