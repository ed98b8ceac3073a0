//! A safetensors file that is written row by row, so that logits of any prompt fit: only a chunk is ever in memory.
//! The file appears under its name when it is whole.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A 4-byte element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    I32,
}

/// One tensor, `[rows, width]`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) rows: usize,
    pub(crate) width: usize,
}

impl Layout {
    fn bytes(&self) -> u64 {
        4 * self.rows as u64 * self.width as u64
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    /// Each tensor, and where it starts in the file.
    tensors: Vec<(Layout, u64)>,
}

impl TensorFile {
    /// Starts a file of these tensors; all rows have to be written. A link goes on to point at what is written.
    pub(crate) fn create(path: &Path, layouts: Vec<Layout>) -> anyhow::Result<TensorFile> {
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // The finished file takes the name, which would do away with a device or a pipe.
        anyhow::ensure!(!path.exists() || path.is_file(), "{} is no regular file", path.display());
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let cannot = || format!("cannot write {}", path.display());
        let mut file = File::create(&partial).with_context(cannot)?;
        let header = header(&layouts);
        file.write_all(&(header.len() as u64).to_le_bytes()).with_context(cannot)?;
        file.write_all(header.as_bytes()).with_context(cannot)?;
        let mut at = 8 + header.len() as u64;
        let place = |layout: Layout| {
            let start = at;
            at += layout.bytes();
            (layout, start)
        };
        let tensors = layouts.into_iter().map(place).collect();
        Ok(TensorFile { path: path.to_owned(), partial, file, tensors })
    }

    /// Writes whole rows of a tensor from row `first` on; `values` are little-endian 4-byte elements.
    pub(crate) fn write(&mut self, name: &str, first: usize, values: &[u8]) -> anyhow::Result<()> {
        let found = self.tensors.iter().find(|(layout, _)| layout.name == name);
        let (layout, start) = found.with_context(|| format!("the file has no tensor {name}"))?;
        let offset = 4 * first as u64 * layout.width as u64;
        let fits = values.len().is_multiple_of(4 * layout.width)
            && offset + values.len() as u64 <= layout.bytes();
        anyhow::ensure!(fits, "{} bytes at row {first} do not fit into {layout:?}", values.len());
        let seek = self.file.seek(SeekFrom::Start(start + offset));
        let cannot = || format!("cannot write {}", self.path.display());
        seek.and_then(|_| self.file.write_all(values)).with_context(cannot)
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        std::fs::rename(&self.partial, &self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for TensorFile {
    fn drop(&mut self) {
        // Gone already if the file was finished.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn header(layouts: &[Layout]) -> String {
    let mut at = 0;
    let mut entries = serde_json::Map::new();
    for layout in layouts {
        let dtype = match layout.element {
            Element::F32 => "F32",
            Element::I32 => "I32",
        };
        let end = at + layout.bytes();
        let entry = serde_json::json!({
            "dtype": dtype, "shape": [layout.rows, layout.width], "data_offsets": [at, end]
        });
        entries.insert(layout.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string();
    // The data starts at a multiple of 8.
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    fn layouts() -> Vec<Layout> {
        let layout = |name: &str, element, rows, width| Layout {
            name: name.to_owned(),
            element,
            rows,
            width,
        };
        vec![layout("logits", Element::F32, 3, 2), layout("ids", Element::I32, 2, 1)]
    }

    #[test]
    fn rows_written_in_any_order_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        let mut file = TensorFile::create(&path, layouts()).unwrap();
        let bytes =
            |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        file.write("logits", 2, &bytes(&[5.0, 6.0])).unwrap();
        file.write("ids", 0, &[7, 0, 0, 0, 255, 255, 255, 255]).unwrap();
        file.write("logits", 0, &bytes(&[1.0, 2.0, 3.0, 4.0])).unwrap();
        assert!(!path.exists(), "the file must not appear before it is whole");
        file.finish().unwrap();
        let raw = std::fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&raw).unwrap();
        let logits = read.tensor("logits").unwrap();
        assert_eq!((logits.dtype(), logits.shape()), (Dtype::F32, &[3, 2][..]));
        assert_eq!(logits.data(), bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(read.tensor("ids").unwrap().data(), [7, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_and_a_device_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        TensorFile::create(&link, layouts()).unwrap().finish().unwrap();
        assert!(link.is_symlink() && std::fs::metadata(&real).unwrap().len() > 0);
        let error = TensorFile::create(Path::new("/dev/null"), layouts()).unwrap_err();
        assert!(error.to_string().contains("/dev/null is no regular file"), "{error}");
    }

    #[test]
    fn rows_that_do_not_fit_are_refused_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = TensorFile::create(&folder.path().join("out"), layouts()).unwrap();
        assert!(file.write("logits", 2, &[0; 16]).is_err());
        assert!(file.write("logits", 0, &[0; 4]).is_err());
        assert!(file.write("other", 0, &[0; 4]).is_err());
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
