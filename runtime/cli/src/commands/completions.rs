//! `ossmith completions`: what a shell reads to complete this command's words.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;

/// Print a script by which a shell completes this command.
///
/// For bash:  ossmith completions bash > ~/.local/share/bash-completion/completions/ossmith
///
/// For zsh, into a folder of $fpath:  ossmith completions zsh > ~/.zfunc/_ossmith
///
/// For fish:  ossmith completions fish > ~/.config/fish/completions/ossmith.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // The library completes hidden commands too, so the script is of the same command without them.
        let whole = Cli::command();
        let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
        let mut command = clap::Command::new("ossmith")
            .version(env!("CARGO_PKG_VERSION"))
            .args(whole.get_arguments().cloned())
            .subcommands(shown);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "ossmith", &mut script);
        // The library panics where it cannot write.
        Ok(std::io::stdout().lock().write_all(&script)?)
    }
}
