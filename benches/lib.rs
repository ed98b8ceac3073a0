//! What the benches of the engine's host side share: an engine over a backend that computes nothing.

use ossmith::unstable::{Backend, LogitRows, RowSampling, Step, StepOutput, TokenHistory};
use ossmith::{Engine, Limits, Policy, Result};

/// Samples the number of the next position, at once.
#[derive(Debug)]
struct EmptyBackend {
    limits: Limits,
    vocab: usize,
    done: Vec<StepOutput>,
}

impl Backend for EmptyBackend {
    fn describe(&self) -> String {
        "empty".to_owned()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn reserve_snapshots(&mut self, _count: usize) -> Result<()> {
        Ok(())
    }

    fn save_snapshot(&mut self, _snapshot: usize, _seq_slot: usize, _end: usize) -> Result<()> {
        Ok(())
    }

    fn load_snapshot(&mut self, _snapshot: usize, _seq_slot: usize, _end: usize) -> Result<()> {
        Ok(())
    }

    fn set_history(&mut self, _: usize, _: &TokenHistory) -> Result<()> {
        Ok(())
    }

    fn set_mask(&mut self, _: usize, _: usize, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let mut output = StepOutput::default();
        for sequence in step.sequences {
            let next = (sequence.start + sequence.input.len()) % self.vocab;
            output.sampled.extend(sequence.sample.map(|_| Some(next as u32)));
            let rows = if sequence.logits == LogitRows::None { 0 } else { self.vocab };
            output.logits.push(vec![0.5; rows]);
        }
        self.done.push(output);
        Ok(())
    }

    fn submit_layers(&mut self, step: &Step<'_>) -> Result<()> {
        self.submit(step)
    }

    fn sample(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<()> {
        let left_out = |(token, row): (Option<u32>, &Option<RowSampling<'_>>)| row.map(|_| token);
        if let Some(output) = self.done.last_mut() {
            let sampled = std::mem::take(&mut output.sampled);
            output.sampled = sampled.into_iter().zip(rows).filter_map(left_out).collect();
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        Ok(self.done.remove(0))
    }
}

/// An engine for gpt-oss-20b over a backend that computes nothing.
///
/// # Panics
/// Never: this backend refuses nothing.
#[must_use]
pub fn engine(sequences: usize, pages: usize) -> Engine {
    let spec = &ossmith_models::GPT_OSS_20B.spec;
    let limits = Limits::default()
        .with_max_sequences(sequences)
        .with_max_step_tokens(2048)
        .with_pages(pages);
    let backend = EmptyBackend { limits, vocab: spec.vocab, done: Vec::new() };
    Engine::with_backend(spec, Box::new(backend), 1, Policy::default()).expect("an engine")
}
