//! Files that commands write: a path that cannot be written is refused before the work, not after it.

use std::path::Path;

use crate::failure::fail;

/// Refuses a file that cannot be written, because it is a folder or lies in none.
pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    if file.is_dir() {
        return Err(fail(format!("{} is a folder", file.display()), "give the name of a file"));
    }
    file.parent().map_or(Ok(()), check_folder)
}

/// Refuses a folder that is not there. An empty path is the current one.
pub(crate) fn check_folder(folder: &Path) -> anyhow::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let folder = folder.display();
    Err(fail(format!("there is no folder {folder}"), format!("make it: mkdir -p {folder}")))
}

/// Prints a line about what is being done to standard error. Where that is closed or full, the work goes on without it.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // One write, so that a line of the log's thread cannot come in between.
        let line = format!("{}\n", format_args!($($text)*));
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }};
}
pub(crate) use note;
