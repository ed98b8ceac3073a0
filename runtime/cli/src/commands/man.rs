//! `ossmith man`: the command's manual pages, which packages install.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use crate::Cli;

/// Write a manual page for each command.
///
/// The page of `serve` is ossmith-serve.1, to be read with `man FOLDER/ossmith-serve.1`, or `man ossmith-serve` from a folder man1/ of $MANPATH.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; it is made if need be. Pages of these names in it are replaced.
    folder: PathBuf,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let folder = self.folder.display();
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the folder {folder}"))?;
        clap_mangen::generate_to(Cli::command(), &self.folder)
            .with_context(|| format!("cannot write the pages to {folder}"))?;
        writeln!(std::io::stdout().lock(), "wrote {folder}")?;
        Ok(())
    }
}
