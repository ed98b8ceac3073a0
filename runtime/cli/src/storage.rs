//! Where a server keeps what its clients store: flags to a shared store and a folder of files.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ossmith_server::{FileLimits, SharedStore};

use crate::failure::fail;

/// Where responses, conversations, batches and files are kept.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageArgs {
    /// Where responses, conversations and batches are kept: memory, or redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], so that every
    /// server that names it continues them [default: OSSMITH_STORE, if set; else memory].
    #[arg(long, value_name = "STORE")]
    store: Option<String>,

    /// Folder for uploaded files and the results of batches; without it /v1/files and /v1/batches are off.
    #[arg(long, value_name = "FOLDER")]
    files: Option<PathBuf>,

    /// Bytes of all files; with several keys, one key's may take half.
    #[arg(long, default_value_t = 1 << 30, value_name = "N")]
    files_bytes: u64,

    /// Bytes of one file.
    #[arg(long, default_value_t = 200 << 20, value_name = "N")]
    max_file_bytes: u64,

    /// Seconds for which a file is kept.
    #[arg(long, default_value_t = 7 * 24 * 3600, value_name = "SECONDS")]
    files_seconds: u64,
}

impl StorageArgs {
    /// The store that is shared with other servers, if one is named.
    pub(crate) fn shared_store(&self) -> anyhow::Result<Option<SharedStore>> {
        let of_environment = || std::env::var("OSSMITH_STORE").ok();
        let Some(store) = self.store.clone().or_else(of_environment) else { return Ok(None) };
        match store.as_str() {
            "" | "memory" => return Ok(None),
            url if url.contains("://") => {}
            other => {
                let hint = "give memory, or an address such as redis://127.0.0.1:6379";
                return Err(fail(format!("--store {other} is no store"), hint));
            }
        }
        // The address may hold a password, so no message repeats it.
        let connected = SharedStore::connect(&store).map_err(|why| {
            let hint = "check the address and that the server runs; `--store memory` needs none";
            fail(format!("the store of --store cannot be used: {why}"), hint)
        })?;
        Ok(Some(connected))
    }

    /// Where files are kept, if they are; the folder is made if need be.
    pub(crate) fn limits(&self) -> anyhow::Result<Option<FileLimits>> {
        let Some(folder) = self.files.clone() else { return Ok(None) };
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Some(FileLimits {
            folder,
            bytes: self.files_bytes,
            file_bytes: self.max_file_bytes,
            lifetime: Duration::from_secs(self.files_seconds),
        }))
    }

    /// With what the server names its tenants, where what they store outlives the process or is shared.
    pub(crate) fn tenant_salt(
        store: Option<&SharedStore>,
        files: Option<&FileLimits>,
    ) -> anyhow::Result<Option<[u8; 32]>> {
        Ok(match (store, files) {
            // All servers of a store name a key's files alike, too.
            (Some(store), _) => Some(store.tenant_salt()),
            (None, Some(files)) => Some(file_salt(&files.folder)?),
            (None, None) => None,
        })
    }
}

/// The salt of a folder of files, so that their owners find them again after a restart. It is made with the folder, and only
/// the server's own user can read it.
fn file_salt(folder: &Path) -> anyhow::Result<[u8; 32]> {
    let path = folder.join("salt");
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let made = match new {
        Ok(mut file) => file.write_all(&ossmith_server::new_salt()),
        Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(why) => Err(why),
    };
    made.with_context(|| format!("cannot write {}", path.display()))?;
    let salt = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    salt.try_into().map_err(|_| {
        let hint =
            "name an empty folder, or delete the file: then nobody finds the files that are there";
        fail(format!("{} is not a salt of 32 bytes", path.display()), hint)
    })
}
