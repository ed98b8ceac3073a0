//! `ossmith logits`: every token's logits of a prompt, into a file.

use std::path::PathBuf;

use ossmith::unstable::{LogitsOptions, StepOutput};
use ossmith::{Engine, Limits};

use crate::failure::fail;
use crate::load::DeviceArgs;
use crate::model::ModelArgs;
use crate::output::{self, note};
use crate::tensors::{Element, Layout, TensorFile};
use crate::tokens;

/// The largest step by default: it bounds the memory of activations and logits.
const MAX_CHUNK: usize = 512;

/// Write the logits of every token of a prompt to a file.
///
/// The output is a safetensors file with `logits`, f32 [tokens, vocab]. With --tensors it also has `resid.L`
/// (f32 [tokens, hidden], the residual stream after layer L) and `router_indices.L` (i32 [tokens, top_k], the
/// chosen experts, best first).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    device: DeviceArgs,

    /// A file with a JSON array of token ids: [1, 2, 3].
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,

    /// The file to write.
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,

    /// Read the prompt in chunks of N tokens [default: as many as a step takes, at most 512].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,

    /// Read the prompt one token at a time, as decoding does.
    #[arg(long, conflicts_with = "chunk")]
    step: bool,

    /// Intermediate values to write as well.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    tensors: Vec<Intermediate>,
}

/// Intermediate values of every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Intermediate {
    /// Residual rows, `resid.L`.
    Resid,
    /// Chosen experts, `router_indices.L`.
    Router,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.device.draft_tokens > 0 {
            return Err(fail(
                "--draft-tokens drafts tokens of an answer, and `logits` generates none",
                "leave it out",
            ));
        }
        let tokens = tokens::from_file(&self.tokens)?;
        output::check(&self.out)?;
        let chosen = self.model.choose()?;
        let mut engine = self.device.load(&chosen, self.limits(tokens.len()))?;
        let mut file = TensorFile::create(&self.out, self.layouts(&engine, tokens.len()))?;
        self.fill(&mut engine, &tokens, &mut file)?;
        file.finish()?;
        note!("{} tokens on {}: {}", tokens.len(), engine.describe(), self.out.display());
        Ok(())
    }

    fn chunk_size(&self) -> Option<usize> {
        if self.step { Some(1) } else { self.chunk.map(|chunk| chunk as usize) }
    }

    fn limits(&self, tokens: usize) -> Limits {
        let chunk = self.chunk_size().unwrap_or(MAX_CHUNK).min(tokens.max(1));
        Limits::for_sequences(1, tokens.max(1)).with_max_step_tokens(chunk)
    }

    fn layouts(&self, engine: &Engine, rows: usize) -> Vec<Layout> {
        let spec = engine.spec();
        let layout = |name: String, element, width| Layout { name, element, rows, width };
        let mut layouts = vec![layout("logits".to_owned(), Element::F32, spec.vocab)];
        for layer in 0..spec.layers.len() {
            if self.tensors.contains(&Intermediate::Resid) {
                layouts.push(layout(format!("resid.{layer}"), Element::F32, spec.hidden));
            }
            if self.tensors.contains(&Intermediate::Router) {
                layouts.push(layout(
                    format!("router_indices.{layer}"),
                    Element::I32,
                    spec.layers[layer].top_k,
                ));
            }
        }
        layouts
    }

    fn fill(
        &self,
        engine: &mut Engine,
        tokens: &[u32],
        file: &mut TensorFile,
    ) -> anyhow::Result<()> {
        let capture_activations = !self.tensors.is_empty();
        let options = LogitsOptions { chunk: self.chunk_size(), capture_activations };
        // The engine's errors and the file's differ in type, so the file's are kept here.
        let mut written = Ok(());
        engine.logits(tokens, options, &mut |start, output| {
            if written.is_ok() {
                written = self.write(file, start, &output);
            }
            Ok(())
        })?;
        written
    }

    fn write(
        &self,
        file: &mut TensorFile,
        start: usize,
        output: &StepOutput,
    ) -> anyhow::Result<()> {
        let floats =
            |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        for rows in &output.logits {
            file.write("logits", start, &floats(rows))?;
        }
        for (layer, captured) in output.activations.iter().enumerate() {
            if self.tensors.contains(&Intermediate::Resid) {
                file.write(&format!("resid.{layer}"), start, &floats(&captured.residual))?;
            }
            if self.tensors.contains(&Intermediate::Router) {
                let ids: Vec<u8> =
                    captured.router_indices.iter().flat_map(|id| id.to_le_bytes()).collect();
                file.write(&format!("router_indices.{layer}"), start, &ids)?;
            }
        }
        Ok(())
    }
}
