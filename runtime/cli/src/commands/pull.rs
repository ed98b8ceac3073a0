//! `ossmith pull`: a checkpoint from the hub into the local cache.

use std::io::Write;

use crate::failure::fail;
use crate::hub::{self, Repository};

/// Download a checkpoint into the local Hugging Face cache, and print its folder.
///
/// Only what a model needs to run is downloaded: configuration and safetensors, not the copies for other programs. An
/// interrupted download continues where it stopped. Files that are there already are compared with their checksums once. HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean
/// what they mean to Hugging Face's tools.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// OWNER/MODEL or OWNER/MODEL@REVISION (a branch, a tag or a commit); without an owner, OpenAI's.
    #[arg(value_name = "MODEL")]
    model: String,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let repository = Repository::parse(&self.model).ok_or_else(|| {
            fail(
                format!("`{}` is not a model of the hub", self.model),
                "write OWNER/MODEL, such as openai/gpt-oss-20b, or OWNER/MODEL@REVISION",
            )
        })?;
        let folder = hub::snapshot(&repository)?;
        writeln!(std::io::stdout(), "{}", folder.display())?;
        Ok(())
    }
}
