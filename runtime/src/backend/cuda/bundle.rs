//! A bundle: compiled units of some models and devices in one file, for machines without NVRTC.
//!
//! The file is 8 bytes with the length of an index (little-endian), the index as JSON, and the cubins one after another. A
//! kernel is found by the name of its entry in the cubin cache, which has a hash of all that decides its content. So a
//! bundle serves every build whose kernels have the same text, and a kernel of another text is missing in it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::nvrtc::{Cubin, Resources};
use super::whole_file::write_whole;
use crate::{Error, Result};

/// The variable that names a bundle.
const VARIABLE: &str = "OSSMITH_BUNDLE";
/// How the file is laid out; another layout gets another number.
const FORMAT: u32 = 1;

/// What stands before the cubins.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    /// `ossmith-kernels`.
    kind: String,
    format: u32,
    /// The version of Ossmith that made it.
    ossmith: String,
    /// The version of NVRTC that compiled all of it, `[major, minor]`.
    nvrtc: (i32, i32),
    kernels: BTreeMap<String, Packed>,
}

/// Where a cubin is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Packed {
    /// Its first byte after the index.
    offset: usize,
    bytes: usize,
    resources: Resources,
    /// BLAKE3 hash of the cubin.
    blake3: String,
}

/// Which format an index has, whatever else it holds.
#[derive(Deserialize)]
struct Head {
    kind: String,
    format: u32,
}

const KIND: &str = "ossmith-kernels";

/// A bundle that was read.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    ossmith: String,
    nvrtc: (i32, i32),
    kernels: HashMap<String, Packed>,
    cubins: Vec<u8>,
}

impl Bundle {
    /// The bundle that `OSSMITH_BUNDLE` names, if it is set.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn of_user() -> Result<Option<Bundle>> {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        path.map(|path| Bundle::open(Path::new(&path))).transpose()
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read; [`Error::KernelSource`] if it is no bundle, is cut short, or has a format that
    /// this build does not read.
    pub fn open(path: &Path) -> Result<Bundle> {
        let mut bytes = std::fs::read(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let refused = |problem: String| Error::KernelSource { path: path.to_owned(), problem };
        let no_bundle = || {
            refused(
                "this is no bundle of kernels; `ossmith kernels compile --bundle` makes one"
                    .to_owned(),
            )
        };
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(no_bundle)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| no_bundle())?;
        let index = rest.get(..length).ok_or_else(no_bundle)?;
        let head: Head = serde_json::from_slice(index).map_err(|_| no_bundle())?;
        if head.kind != KIND {
            return Err(no_bundle());
        }
        if head.format != FORMAT {
            let problem = format!(
                "the bundle has format {}, and this build of Ossmith reads format {FORMAT}: make it again with this build \
                 (`ossmith kernels compile --bundle`)",
                head.format
            );
            return Err(refused(problem));
        }
        let index: Index = serde_json::from_slice(index).map_err(|_| no_bundle())?;
        let cubins = bytes.split_off(8 + length);
        let end = |packed: &Packed| packed.offset.checked_add(packed.bytes);
        if !index.kernels.values().all(|packed| end(packed).is_some_and(|end| end <= cubins.len()))
        {
            return Err(refused("the bundle is cut short: copy it again".to_owned()));
        }
        let Index { ossmith, nvrtc, kernels, .. } = index;
        let kernels = kernels.into_iter().collect();
        Ok(Bundle { path: path.to_owned(), ossmith, nvrtc, kernels, cubins })
    }

    /// Writes compiled units, by the names of their entries in the cache, whole or not at all.
    ///
    /// # Errors
    /// Why the file cannot be written.
    pub fn write(
        path: &Path,
        nvrtc: (i32, i32),
        units: &BTreeMap<String, Cubin>,
    ) -> std::io::Result<()> {
        let (mut kernels, mut cubins) = (BTreeMap::new(), Vec::new());
        for (name, Cubin { image, resources }) in units {
            let packed = Packed {
                offset: cubins.len(),
                bytes: image.len(),
                resources: *resources,
                blake3: blake3::hash(image).to_hex().to_string(),
            };
            kernels.insert(name.clone(), packed);
            cubins.extend_from_slice(image);
        }
        let ossmith = env!("CARGO_PKG_VERSION").to_owned();
        let index = Index { kind: KIND.to_owned(), format: FORMAT, ossmith, nvrtc, kernels };
        let index = serde_json::to_vec(&index)?;
        let length = (index.len() as u64).to_le_bytes();
        write_whole(path, &[&length[..], &index, &cubins].concat())
    }

    /// The version of NVRTC that compiled it.
    #[must_use]
    pub fn nvrtc(&self) -> (i32, i32) {
        self.nvrtc
    }

    /// The kernel of a unit for a target, by the name of its entry in the cache.
    ///
    /// # Errors
    /// [`Error::KernelSource`] if the bundle does not have it, or not whole.
    pub(super) fn cubin(&self, entry: &str, unit: &str, target: &str) -> Result<Cubin> {
        let refused = |problem| Error::KernelSource { path: self.path.clone(), problem };
        let Some(packed) = self.kernels.get(entry) else {
            let version = env!("CARGO_PKG_VERSION");
            let by = match self.ossmith == version {
                true => format!("Ossmith {version}"),
                false => format!("Ossmith {}, and this is {version}", self.ossmith),
            };
            let start = format!("{unit}-{target}-");
            let other = self.kernels.keys().any(|name| name.starts_with(&start));
            let what = if other { "this text of the kernel" } else { "the kernel" };
            return Err(refused(format!(
                "the bundle, made by {by}, does not have {what} {unit} for {target}: make it again for this model and device \
                 (`ossmith kernels compile --bundle`), or unset {VARIABLE} where NVRTC is installed"
            )));
        };
        let image = &self.cubins[packed.offset..packed.offset + packed.bytes];
        if blake3::hash(image).to_hex().as_str() != packed.blake3 {
            return Err(refused(format!(
                "the kernel {unit} in the bundle is corrupt: copy it again"
            )));
        }
        Ok(Cubin { image: image.to_vec(), resources: packed.resources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units() -> BTreeMap<String, Cubin> {
        let cubin = |first: u8| Cubin {
            image: (first..first + 40).collect(),
            resources: Resources { registers: u32::from(first), ..Resources::default() },
        };
        [("a-sm_90a-1", cubin(1)), ("b-sm_90a-2", cubin(100))]
            .map(|(name, cubin)| (name.to_owned(), cubin))
            .into()
    }

    /// What a file of these bytes is refused for.
    fn refusal(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kernels");
        std::fs::write(&path, bytes).expect("a file");
        let bundle = match Bundle::open(&path) {
            Ok(bundle) => bundle,
            Err(error) => return error.to_string(),
        };
        bundle.cubin("b-sm_90a-2", "b", "sm_90a").expect_err("something is wrong").to_string()
    }

    #[test]
    fn a_bundle_has_what_was_put_in_and_names_what_is_wrong() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kernels");
        Bundle::write(&path, (13, 0), &units()).expect("a bundle");
        let bundle = Bundle::open(&path).expect("the bundle");
        assert_eq!(bundle.nvrtc(), (13, 0));
        for (name, cubin) in units() {
            assert_eq!(bundle.cubin(&name, "x", "sm_90a").expect("a kernel"), cubin);
        }
        let missing = |entry: &str, unit: &str| {
            bundle.cubin(entry, unit, "sm_90a").expect_err("it is not there").to_string()
        };
        let other = missing("a-sm_90a-7", "a");
        assert!(other.contains("does not have this text of the kernel a for sm_90a"), "{other}");
        let none = missing("c-sm_90a-1", "c");
        assert!(none.contains("does not have the kernel c for sm_90a"), "{none}");
        assert!(none.contains("OSSMITH_BUNDLE") && none.contains("--bundle"), "{none}");

        let bytes = std::fs::read(&path).expect("its bytes");
        assert!(refusal(&bytes[..bytes.len() - 1]).contains("cut short"));
        assert!(refusal(b"cubin").contains("no bundle of kernels"));
        assert!(refusal(&[255; 64]).contains("no bundle of kernels"));
        let mut corrupt = bytes.clone();
        *corrupt.last_mut().expect("a byte") ^= 1;
        assert!(refusal(&corrupt).contains("the kernel b in the bundle is corrupt"));
        let format = b"\"format\":1";
        let at = bytes.windows(format.len()).position(|text| text == format).expect("its format");
        let mut later = bytes;
        later[at + format.len() - 1] = b'2';
        let why = refusal(&later);
        assert!(why.contains("has format 2") && why.contains("reads format 1"), "{why}");
        let absent = Bundle::open(Path::new("/nonexistent/kernels")).expect_err("no file");
        assert!(absent.to_string().contains("cannot read /nonexistent/kernels"), "{absent}");
    }
}
