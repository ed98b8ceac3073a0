//! `ossmith tokenizer`: the tokenizer as files for other programs.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ossmith_harmony::{
    CHAT_TEMPLATE, MODEL_MAX_LENGTH, special_tokens_map, tokenizer_config, write_tokenizer_json,
};

/// Write the tokenizer for other programs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Write a Hugging Face tokenizer folder, which transformers and tokenizers load without a network.
    ///
    /// It has tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja, and gives the ids of this
    /// program. All gpt-oss models have the same tokenizer.
    Export {
        /// The folder; it is made if need be. Files of these names in it are replaced.
        folder: PathBuf,
    },
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Task::Export { folder } = self.task;
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        write(&folder, "tokenizer.json", write_tokenizer_json)?;
        let config = tokenizer_config(MODEL_MAX_LENGTH);
        write(&folder, "tokenizer_config.json", |out| writeln!(out, "{config:#}"))?;
        let map = special_tokens_map();
        write(&folder, "special_tokens_map.json", |out| writeln!(out, "{map:#}"))?;
        write(&folder, "chat_template.jinja", |out| out.write_all(CHAT_TEMPLATE.as_bytes()))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "wrote {}", folder.display())?;
        Ok(())
    }
}

fn write(
    folder: &Path,
    name: &str,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let path = folder.join(name);
    let written = File::create(&path).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}
