//! `ossmith convert`: any checkpoint to the published layout.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ossmith::unstable::export::{Export, ExportOptions, RECORD};
use serde_json::json;

use super::table;
use crate::interrupt;
use crate::model::{ModelArgs, ModelName, NamedFolder};
use crate::output::note;
use crate::progress::Bars;
use crate::published;

/// Write a checkpoint in the published layout: a Hugging Face folder with experts in MXFP4.
///
/// SRC is anything that --model takes. Experts in other formats are quantised to MXFP4, and other weights are decoded to bf16; what
/// that added is printed for each tensor, and kept in ossmith-conversion.json in the folder. Weights that are stored as published keep
/// their bytes. One weight is in memory at a time. A conversion that was interrupted goes on when the same command runs again:
/// files that it had finished are compared with their checksums and kept. Nothing that it did not write is replaced.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint, as --model takes it.
    #[arg(value_name = "SRC", value_parser = ModelName::parser())]
    source: ModelName,

    /// The folder to write: a new or an empty one, or one of an interrupted conversion.
    #[arg(value_name = "DST")]
    folder: PathBuf,

    /// The most bytes of weights in a file.
    #[arg(long, default_value_t = 5_000_000_000, value_name = "N")]
    max_shard_bytes: u64,

    /// Print one JSON object instead of a table: complete, folder, files, kept, tensors (name, from, to, relative_error).
    #[arg(long)]
    json: bool,

    /// A LoRA adapter, as peft saves it, that is added to the weights; several may be given.
    #[arg(long, value_name = "NAME=FOLDER")]
    lora: Vec<NamedFolder>,

    /// Seed of random weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    weights_seed: u64,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut model = ModelArgs::of(self.source.clone(), self.weights_seed);
        model.lora = self.lora.clone();
        let chosen = model.choose()?;
        let files = published::files(&model, &chosen.model.spec)?;
        let options = ExportOptions {
            folder: &self.folder,
            files: &files,
            shard_bytes: self.max_shard_bytes.max(1),
        };
        let watch = interrupt::Watch::start();
        let mut bars = Bars::new();
        let export = chosen.checkpoint.export(&chosen.model.spec, &options, &mut |at| {
            bars.show(at);
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bars.finish();
        drop(watch);
        let export = export?;
        if export.kept > 0 {
            note!("{} of {} files of weights were there already", export.kept, export.shards);
        }
        self.print(&export)?;
        if !export.complete {
            note!("interrupted: run the same command again, and it goes on");
        }
        Ok(())
    }

    fn print(&self, export: &Export) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            let report = json!({
                "complete": export.complete,
                "folder": self.folder.display().to_string(),
                "files": export.shards,
                "kept": export.kept,
                "tensors": export.tensors,
            });
            writeln!(out, "{report:#}")?;
            return Ok(());
        }
        let changed: Vec<Vec<String>> = export
            .tensors
            .iter()
            .filter(|tensor| tensor.relative_error > 0.0)
            .map(|tensor| {
                let error = format!("{:.4} %", 100.0 * tensor.relative_error);
                vec![tensor.name.clone(), tensor.from.clone(), tensor.to.clone(), error]
            })
            .collect();
        if !changed.is_empty() {
            let header = ["tensor", "from", "to", "relative error"];
            for line in table::lines(&header, &changed, &[3]) {
                writeln!(out, "{line}")?;
            }
        }
        writeln!(
            out,
            "{}: {} tensors in {} files, {} with rounded values; {RECORD} lists them",
            self.folder.display(),
            export.tensors.len(),
            export.shards,
            changed.len()
        )?;
        Ok(())
    }
}
