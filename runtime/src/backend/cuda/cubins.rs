//! The cubin cache: compiled units on disk, so that a warm start compiles nothing.
//!
//! An entry's name is a hash of everything that decides its content: text with headers, options, NVRTC's version.
//! Entries are written whole or not at all (a temporary file, renamed into place), and carry a checksum of
//! themselves: a damaged one is compiled again. Where a cubin comes from the cache, NVRTC is not needed.

use std::path::{Path, PathBuf};

use ossmith_plan::{Model, Unit};
use rayon::prelude::*;

use super::nvrtc::{self, Cubin, Resources};
use super::sources::Sources;
use crate::backend::Progress;
use crate::{Error, Result};

/// What a start found in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Units read from disk.
    pub hits: usize,
    /// Units compiled.
    pub misses: usize,
}

/// A folder of cubins.
#[derive(Clone, Debug)]
pub struct CubinCache {
    folder: PathBuf,
}

impl CubinCache {
    /// The user's cache: `OSSMITH_CACHE`, else `$XDG_CACHE_HOME/ossmith`, else `~/.cache/ossmith`.
    ///
    /// # Errors
    /// [`Error::Device`] if none of these is set.
    pub fn of_user() -> Result<CubinCache> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = set("OSSMITH_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("ossmith")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/ossmith")))
            .ok_or_else(|| {
                Error::Device("no place for compiled kernels: set OSSMITH_CACHE to a folder".into())
            })?;
        Ok(CubinCache::at(folder))
    }

    /// A cache in this folder, made when first written to.
    #[must_use]
    pub fn at(folder: PathBuf) -> CubinCache {
        CubinCache { folder }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every unit that a model's schedules launch, in the order of [`Model::launched`], for a device of this compute
    /// capability; compiles what is missing, on all cores.
    ///
    /// # Errors
    /// Those of [`Sources::of`] and [`nvrtc::compile`]. A cache that cannot be written is logged and does without.
    pub fn units(
        &self,
        model: &Model,
        compute: (i32, i32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Vec<Cubin>, CacheUse)> {
        let sources = Sources::of(model)?;
        let version = nvrtc::version().ok();
        let units = model.launched();
        let total = units.len() as u64;
        let target = nvrtc::target(compute);
        let path = |unit| self.folder.join(entry_name(&sources, unit, &target, version));
        let keyed: Vec<(&Unit, PathBuf)> =
            units.into_iter().map(|unit| (unit, path(unit))).collect();
        let mut cubins: Vec<Option<Cubin>> = keyed.iter().map(|(_, path)| read(path)).collect();
        let hits = cubins.iter().flatten().count();
        progress(Progress { stage: "compile kernels", done: hits as u64, total });
        let missing: Vec<usize> = (0..keyed.len()).filter(|&i| cubins[i].is_none()).collect();
        let compiled: Vec<Result<(usize, Cubin)>> = missing
            .par_iter()
            .map(|&i| {
                let (unit, path) = &keyed[i];
                let cubin = nvrtc::compile(&sources, unit, &target)?;
                if let Err(error) = write(path, &cubin) {
                    tracing::warn!(path = %path.display(), %error, "cannot keep a compiled kernel");
                }
                Ok((i, cubin))
            })
            .collect();
        for result in compiled {
            let (i, cubin) = result?;
            cubins[i] = Some(cubin);
        }
        progress(Progress { stage: "compile kernels", done: total, total });
        Ok((cubins.into_iter().flatten().collect(), CacheUse { hits, misses: missing.len() }))
    }
}

/// `<unit>-<target>-<hash>.cubin`. Without NVRTC at hand, entries of the version that Ossmith ships for are looked up.
fn entry_name(sources: &Sources, unit: &Unit, target: &str, version: Option<(i32, i32)>) -> String {
    let (major, minor) = version.unwrap_or(SHIPPED_NVRTC);
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(&sources.unit(unit));
    for (path, text) in sources.headers() {
        add(path);
        add(text);
    }
    for option in nvrtc::options(target) {
        add(&option);
    }
    add(&format!("{major}.{minor}"));
    format!("{}-{target}-{}.cubin", unit.name, &hasher.finalize().to_hex()[..24])
}

/// The NVRTC that cubins shipped with a release come from.
const SHIPPED_NVRTC: (i32, i32) = (13, 0);

const MAGIC: &[u8; 8] = b"ossmith1";
const HASH_BYTES: usize = blake3::OUT_LEN;

/// Magic, resources, image, and the hash of all that.
fn encode(cubin: &Cubin) -> Vec<u8> {
    let Resources { registers, stack_bytes, spill_bytes, shared_bytes } = cubin.resources;
    let mut bytes = MAGIC.to_vec();
    for value in [registers, stack_bytes, spill_bytes, shared_bytes] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(&cubin.image);
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Cubin> {
    let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if blake3::hash(content).as_bytes() != hash {
        return None;
    }
    let (numbers, image) = content.strip_prefix(MAGIC)?.split_at_checked(16)?;
    let number = |i: usize| {
        let bytes = numbers.get(4 * i..4 * i + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let resources = Resources {
        registers: number(0)?,
        stack_bytes: number(1)?,
        spill_bytes: number(2)?,
        shared_bytes: number(3)?,
    };
    Some(Cubin { image: image.to_vec(), resources })
}

fn read(path: &Path) -> Option<Cubin> {
    let bytes = std::fs::read(path).ok()?;
    let cubin = decode(&bytes);
    if cubin.is_none() {
        tracing::warn!(path = %path.display(), "a cached kernel is damaged; compiling it again");
    }
    cubin
}

fn write(path: &Path, cubin: &Cubin) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut file| {
        std::io::Write::write_all(&mut file, &encode(cubin))?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cubin() -> Cubin {
        let resources =
            Resources { registers: 94, stack_bytes: 0, spill_bytes: 4, shared_bytes: 32 };
        Cubin { image: (0..200).collect(), resources }
    }

    #[test]
    fn an_entry_reads_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deeper/k.cubin");
        write(&path, &cubin()).expect("a written entry");
        assert_eq!(read(&path), Some(cubin()));
        let left: Vec<_> =
            std::fs::read_dir(folder.path().join("deeper")).expect("a folder").collect();
        assert_eq!(left.len(), 1, "a temporary file was left behind");
    }

    #[test]
    fn any_damage_is_seen() {
        let good = encode(&cubin());
        assert_eq!(decode(&good), Some(cubin()));
        for length in 0..good.len() {
            assert_eq!(decode(&good[..length]), None, "cut to {length} bytes");
        }
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            assert_eq!(decode(&bad), None, "byte {byte} changed");
        }
    }
}
