//! Steps as CUDA graphs: one that samples a token after each of its own is captured once for each number of tokens and way of
//! sampling, and replayed.

use cudarc::driver::{CudaGraph, sys};

use super::CudaBackend;
use super::forward::StepInputs;
use super::memory::device_error;
use super::staging::Staging;
use crate::{Error, Result};

/// How the tokens are sampled of a step that samples after each of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Samples {
    /// After its layers, when their masks are there.
    Later,
    /// From all logits.
    All,
    /// From the shadow of the unembedding: greedily, or by temperature alone.
    Shadow,
}

/// What a graph is captured for: a step that samples after each of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DecodeStep {
    /// [`super::Workspace::logit_rows`] at most.
    pub(super) tokens: usize,
    pub(super) samples: Samples,
    /// Whether any of its tokens has an adapter.
    pub(super) adapted: bool,
}

/// A captured decode step.
pub(super) struct DecodeGraph(pub(super) CudaGraph);

// SAFETY: a graph may be used from any thread, one at a time; the backend is borrowed exclusively whenever it is.
unsafe impl Send for DecodeGraph {}

impl std::fmt::Debug for DecodeGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecodeGraph")
    }
}

impl CudaBackend {
    /// Captures the graph of a step, the first time.
    pub(super) fn capture(&mut self, step: DecodeStep) -> Result<()> {
        if !self.graphs.contains_key(&step) {
            let graph = self.graph_of(|| self.decode_step(step))?;
            self.graphs.insert(step, DecodeGraph(graph));
        }
        Ok(())
    }

    /// Replays the graph of a step.
    pub(super) fn replay(&mut self, step: DecodeStep) -> Result<()> {
        self.capture(step)?;
        self.graphs[&step].0.launch().map_err(device_error("replay a decode step"))
    }

    /// The launches of a step.
    pub(super) fn decode_step(
        &self,
        DecodeStep { tokens, samples, adapted }: DecodeStep,
    ) -> Result<()> {
        let adapted = adapted.then(|| self.arrays.adapted(self.words.ptr()));
        let step = self.pass.step(&StepInputs { adapted, ..self.inputs }, tokens);
        self.pass.body(&step)?;
        match samples {
            Samples::Later => self.pass.head(&step, 0..tokens),
            Samples::All => {
                self.pass.head(&step, 0..tokens)?;
                self.pass.sample(&step, tokens)
            }
            Samples::Shadow => self.pass.shadow_head(&step, tokens),
        }
    }

    /// A staged step that samples after each of its tokens, at once or later.
    pub(super) fn decode_step_of(&self, staging: &Staging, at_once: bool) -> DecodeStep {
        let plainly = staging.samples_plainly && self.pass.has_shadow_head(staging.tokens);
        let samples = match (at_once, plainly) {
            (false, _) => Samples::Later,
            (true, true) => Samples::Shadow,
            (true, false) => Samples::All,
        };
        DecodeStep { tokens: staging.tokens, samples, adapted: staging.is_adapted() }
    }

    /// Captures launches as a graph.
    pub(super) fn graph_of(&self, launches: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let stream = &self.pass.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(device_error("begin a graph"))?;
        let launched = launches();
        let graph = stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .map_err(device_error("make a graph of launches"))?;
        launched?;
        let graph =
            graph.ok_or_else(|| Error::Internal("a captured graph has no launches".into()))?;
        if self.pass.exchange.is_some() {
            // Uploading at the first launch could wait for a kernel that waits for this rank.
            graph.upload().map_err(device_error("upload a graph"))?;
            self.synchronize()?;
        }
        Ok(graph)
    }
}

/// Whether `OSSMITH_GRAPHS` lets steps be replayed as graphs. A profiler that shows a graph as one launch sees each kernel
/// without them.
pub(super) fn use_graphs() -> Result<bool> {
    match std::env::var("OSSMITH_GRAPHS").as_deref() {
        Err(_) | Ok("" | "on") => Ok(true),
        Ok("off") => Ok(false),
        Ok(other) => Err(Error::invalid_option(
            "OSSMITH_GRAPHS",
            format!("it is `{other}`: set it to on or off, or leave it unset"),
        )),
    }
}
