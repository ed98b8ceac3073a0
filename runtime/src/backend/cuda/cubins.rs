//! The cubin cache: compiled units on disk, so that a warm start compiles nothing.
//!
//! An entry is two files: the cubin as NVRTC made it, a plain ELF file that `nvdisasm` and `cuobjdump` open, and a JSON
//! sidecar that tells what it was compiled from and which resources it takes. The entry's name has a hash of everything
//! that decides its content: the unit's text, the headers that it includes, the options and NVRTC's version. So models
//! with the same unit share an entry, and an edited header recompiles only the units that include it.
//!
//! Each file is written whole or not at all (a temporary file, renamed into place), the sidecar last. It has a checksum
//! of both files: a corrupt or incomplete entry is compiled again. NVRTC is not needed for cubins from the cache.
//!
//! Where a bundle is named ([`super::bundle`]), all cubins come from it, and nothing is compiled.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ossmith_plan::{Model, Unit};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::limits;
use super::nvrtc::{self, Cubin, Resources};
use super::sources::{self, Sources};
use super::whole_file::write_whole;
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
    /// What is read instead of the folder.
    bundle: Option<Arc<Bundle>>,
}

impl CubinCache {
    /// The user's bundle (`OSSMITH_BUNDLE`), if there is one, over the user's cache.
    ///
    /// # Errors
    /// Those of [`Bundle::open`]; without a bundle, as [`CubinCache::folder_of_user`].
    pub fn of_user() -> Result<CubinCache> {
        match Bundle::of_user()? {
            // A machine with a bundle needs no place to write to.
            Some(bundle) => {
                Ok(CubinCache { folder: PathBuf::new(), bundle: Some(Arc::new(bundle)) })
            }
            None => CubinCache::folder_of_user(),
        }
    }

    /// The user's cache: `OSSMITH_CACHE`, else `$XDG_CACHE_HOME/ossmith`, else `~/.cache/ossmith`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if none of these is set.
    pub fn folder_of_user() -> Result<CubinCache> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = set("OSSMITH_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("ossmith")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/ossmith")))
            .ok_or_else(|| {
                Error::invalid_option(
                    "OSSMITH_CACHE",
                    "no place for compiled kernels: set OSSMITH_CACHE to a folder",
                )
            })?;
        Ok(CubinCache::at(folder))
    }

    /// A cache in this folder, made when first written to.
    #[must_use]
    pub fn at(folder: PathBuf) -> CubinCache {
        CubinCache { folder, bundle: None }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every unit that a model's schedules launch, in the order of [`Model::launched`], for a device of this compute
    /// capability; compiles what is missing, on all cores. Kernels that spill, or take more registers than planned, are
    /// logged by name.
    ///
    /// # Errors
    /// Those of [`Sources::of`] and [`nvrtc::compile`]; [`Error::Device`] for a kernel that the device cannot launch. A
    /// cache that cannot be written is logged, and the kernels are compiled at every start.
    pub fn units(
        &self,
        model: &Model,
        compute: (i32, i32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Vec<Cubin>, CacheUse)> {
        self.some(model, &model.launched(), compute, progress)
    }

    /// The same with the name of each unit's entry, as a bundle has it.
    ///
    /// # Errors
    /// As [`CubinCache::units`].
    pub fn named_units(
        &self,
        model: &Model,
        compute: (i32, i32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<(String, Cubin)>> {
        let (units, sources) = (model.launched(), Sources::of(model)?);
        let (target, version) = (nvrtc::target(compute), Some(nvrtc::version()?));
        let (cubins, _) = self.some_of(model, &units, &sources, compute, progress)?;
        let name = |unit: &Unit| self.entry(&sources, unit, &target, version).name();
        Ok(units.into_iter().map(name).zip(cubins).collect())
    }

    /// The same for some units of a model.
    ///
    /// # Errors
    /// As [`CubinCache::units`].
    pub fn some(
        &self,
        model: &Model,
        units: &[&'static Unit],
        compute: (i32, i32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Vec<Cubin>, CacheUse)> {
        self.some_of(model, units, &Sources::of(model)?, compute, progress)
    }

    /// As [`CubinCache::some`], of this text.
    pub(super) fn some_of(
        &self,
        model: &Model,
        units: &[&'static Unit],
        sources: &Sources,
        compute: (i32, i32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Vec<Cubin>, CacheUse)> {
        let version = match &self.bundle {
            Some(bundle) => Some(bundle.nvrtc()),
            None => nvrtc::version().ok(),
        };
        let total = units.len() as u64;
        let target = nvrtc::target(compute);
        let entries: Vec<Entry> =
            units.iter().map(|unit| self.entry(sources, unit, &target, version)).collect();
        if let Some(bundle) = &self.bundle {
            let packed = |entry: &Entry| bundle.cubin(&entry.name(), &entry.unit, &target);
            let cubins = entries.iter().map(packed).collect::<Result<Vec<Cubin>>>()?;
            check_limits(model, compute, units, &cubins)?;
            return Ok((cubins, CacheUse { hits: units.len(), misses: 0 }));
        }
        let mut cubins: Vec<Option<Cubin>> = entries.iter().map(Entry::read).collect();
        let hits = cubins.iter().flatten().count();
        progress(Progress { stage: "compile kernels", done: hits as u64, total });
        let missing: Vec<usize> = (0..units.len()).filter(|&i| cubins[i].is_none()).collect();
        let compiled: Vec<Result<(usize, Cubin)>> = missing
            .par_iter()
            .map(|&i| {
                let cubin = nvrtc::compile(sources, units[i], &target)?;
                if let Err(error) = entries[i].write(&cubin) {
                    let path = entries[i].path.display();
                    tracing::warn!(path = %path, %error, "cannot keep a compiled kernel");
                }
                Ok((i, cubin))
            })
            .collect();
        for result in compiled {
            let (i, cubin) = result?;
            cubins[i] = Some(cubin);
        }
        progress(Progress { stage: "compile kernels", done: total, total });
        let cubins: Vec<Cubin> = cubins.into_iter().flatten().collect();
        check_limits(model, compute, units, &cubins)?;
        Ok((cubins, CacheUse { hits, misses: missing.len() }))
    }

    /// The entry of a unit. Without NVRTC at hand, it is that of the version that Ossmith ships for.
    fn entry(
        &self,
        sources: &Sources,
        unit: &Unit,
        target: &str,
        version: Option<(i32, i32)>,
    ) -> Entry {
        let (major, minor) = version.unwrap_or(SHIPPED_NVRTC);
        let (nvrtc, options) = (format!("{major}.{minor}"), nvrtc::options(target));
        let text = sources.unit(unit);
        let mut hasher = blake3::Hasher::new();
        sources::add(&mut hasher, &text);
        for (path, text) in sources.headers_of(&text) {
            sources::add(&mut hasher, path);
            sources::add(&mut hasher, text);
        }
        for option in &options {
            sources::add(&mut hasher, option);
        }
        sources::add(&mut hasher, &nvrtc);
        let hash = &hasher.finalize().to_hex()[..24];
        Entry {
            path: self.folder.join(format!("{}-{target}-{hash}.cubin", unit.name)),
            unit: unit.name.to_owned(),
            nvrtc,
            options,
        }
    }
}

/// Logs kernels that take more than planned, and refuses those that the device cannot launch.
fn check_limits(
    model: &Model,
    compute: (i32, i32),
    units: &[&'static Unit],
    cubins: &[Cubin],
) -> Result<()> {
    let resources = units.iter().copied().zip(cubins.iter().map(|cubin| cubin.resources));
    for warning in limits::check(model, compute, resources)? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// The NVRTC that cubins shipped with a release come from.
const SHIPPED_NVRTC: (i32, i32) = (13, 0);

/// A unit's place in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The cubin's file.
    path: PathBuf,
    unit: String,
    nvrtc: String,
    options: Vec<String>,
}

/// What the JSON beside a cubin holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    /// The kernel.
    unit: String,
    /// NVRTC's version.
    nvrtc: String,
    /// Its options, the architecture included.
    options: Vec<String>,
    /// What a launch takes.
    resources: Resources,
    /// BLAKE3 hash of the cubin and of the other fields.
    blake3: String,
}

impl Sidecar {
    fn new(entry: &Entry, cubin: &Cubin) -> Sidecar {
        let mut sidecar = Sidecar {
            unit: entry.unit.clone(),
            nvrtc: entry.nvrtc.clone(),
            options: entry.options.clone(),
            resources: cubin.resources,
            blake3: String::new(),
        };
        let mut hasher = blake3::Hasher::new();
        sources::add(&mut hasher, &sidecar.text());
        hasher.update(&cubin.image);
        sidecar.blake3 = hasher.finalize().to_hex().to_string();
        sidecar
    }

    fn text(&self) -> String {
        // A struct of strings and numbers always has a JSON text.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl Entry {
    /// Its name, which has a hash of all that decides its content.
    fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn sidecar(&self) -> PathBuf {
        self.path.with_extension("json")
    }

    /// The cubin, if the entry is there and whole.
    fn read(&self) -> Option<Cubin> {
        let image = std::fs::read(&self.path).ok()?;
        let sidecar = std::fs::read(self.sidecar()).unwrap_or_default();
        let cubin = self.decode(image, &sidecar);
        if cubin.is_none() {
            tracing::warn!(path = %self.path.display(), "a cached kernel is corrupt or incomplete; compiling it again");
        }
        cubin
    }

    /// The cubin of both files' content, if that is exactly what [`Entry::write`] writes.
    fn decode(&self, image: Vec<u8>, sidecar: &[u8]) -> Option<Cubin> {
        let found: Sidecar = serde_json::from_slice(sidecar).ok()?;
        let cubin = Cubin { image, resources: found.resources };
        let expected = Sidecar::new(self, &cubin);
        (expected.text().as_bytes() == sidecar).then_some(cubin)
    }

    fn write(&self, cubin: &Cubin) -> std::io::Result<()> {
        write_whole(&self.path, &cubin.image)?;
        write_whole(&self.sidecar(), Sidecar::new(self, cubin).text().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MODEL: &Model = ossmith_models::GPT_OSS_20B;

    fn cubin() -> Cubin {
        let resources =
            Resources { registers: 94, stack_bytes: 0, spill_bytes: 4, shared_bytes: 32 };
        Cubin { image: (0..200).collect(), resources }
    }

    fn unit(model: &'static Model, name: &str) -> &'static Unit {
        model.units.iter().find(|unit| unit.name == name).expect("a unit of this name")
    }

    fn entry(folder: &Path) -> Entry {
        let sources = Sources::of(MODEL).expect("the model's own text");
        let cache = CubinCache::at(folder.to_owned());
        cache.entry(&sources, unit(MODEL, "rmsnorm"), "sm_90a", Some((13, 0)))
    }

    #[test]
    fn an_entry_reads_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let entry = entry(&folder.path().join("deeper"));
        assert_eq!(entry.read(), None);
        entry.write(&cubin()).expect("a written entry");
        assert_eq!(entry.read(), Some(cubin()));
        assert_eq!(
            std::fs::read(&entry.path).expect("a file"),
            cubin().image,
            "the cubin is as it was made"
        );
        let left: BTreeSet<PathBuf> = std::fs::read_dir(folder.path().join("deeper"))
            .expect("a folder")
            .map(|file| file.expect("a file").path())
            .collect();
        assert_eq!(
            left,
            BTreeSet::from([entry.path.clone(), entry.sidecar()]),
            "a temporary file was left"
        );
    }

    #[test]
    fn any_damage_is_seen() {
        let entry = entry(Path::new("."));
        let image = cubin().image;
        let sidecar = Sidecar::new(&entry, &cubin()).text().into_bytes();
        assert_eq!(entry.decode(image.clone(), &sidecar), Some(cubin()));
        for length in 0..image.len() {
            assert_eq!(
                entry.decode(image[..length].to_vec(), &sidecar),
                None,
                "cut to {length} bytes"
            );
        }
        for length in 0..sidecar.len() {
            assert_eq!(
                entry.decode(image.clone(), &sidecar[..length]),
                None,
                "sidecar of {length} bytes"
            );
        }
        for byte in 0..image.len() {
            let mut bad = image.clone();
            bad[byte] ^= 1;
            assert_eq!(entry.decode(bad, &sidecar), None, "byte {byte} changed");
        }
        for byte in 0..sidecar.len() {
            for bit in 0..8 {
                let mut bad = sidecar.clone();
                bad[byte] ^= 1 << bit;
                assert_eq!(
                    entry.decode(image.clone(), &bad),
                    None,
                    "bit {bit} of byte {byte} changed"
                );
            }
        }
    }

    #[test]
    fn half_an_entry_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let entry = entry(folder.path());
        entry.write(&cubin()).expect("a written entry");
        std::fs::remove_file(entry.sidecar()).expect("removed");
        assert_eq!(entry.read(), None);
        entry.write(&cubin()).expect("a written entry");
        std::fs::remove_file(&entry.path).expect("removed");
        assert_eq!(entry.read(), None);
    }

    #[test]
    fn an_edited_header_changes_the_entries_that_include_it_and_no_others() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let norm =
            MODEL.headers.iter().find(|(path, _)| *path == "tile/norm.cuh").expect("a header");
        std::fs::create_dir(folder.path().join("tile")).expect("a folder");
        std::fs::write(folder.path().join(norm.0), format!("{}// edited\n", norm.1))
            .expect("a file");
        let (plain, edited) = (
            Sources::of(MODEL).expect("the model's own text"),
            Sources::edited(MODEL, folder.path()).expect("an edited header"),
        );
        let cache = CubinCache::at(folder.path().to_owned());
        let changed: BTreeSet<&str> = MODEL
            .units
            .iter()
            .filter(|unit| {
                let of = |sources| cache.entry(sources, unit, "sm_90a", None).path;
                of(&plain) != of(&edited)
            })
            .map(|unit| unit.name)
            .collect();
        // Directly, and through `moe/logits.cuh` or `epilogue/residual.cuh`.
        for name in ["rmsnorm", "embed", "moe_up_swiglu_decode1", "attn_out_residual_decode8"] {
            assert!(changed.contains(name), "{name} includes tile/norm.cuh");
        }
        for name in ["attention_full", "sample", "moe_down_wgmma", "unembed_prefill"] {
            assert!(!changed.contains(name), "{name} does not include tile/norm.cuh");
        }
    }

    #[test]
    fn models_with_the_same_unit_share_an_entry() {
        let other = ossmith_models::GPT_OSS_120B;
        let path = |model: &'static Model, name| {
            let sources = Sources::of(model).expect("the model's own text");
            let cache = CubinCache::at(PathBuf::from("."));
            cache.entry(&sources, unit(model, name), "sm_90a", None).path
        };
        assert_eq!(path(MODEL, "attention_full"), path(other, "attention_full"));
        assert_ne!(path(MODEL, "moe_topk"), path(other, "moe_topk"));
    }

    #[test]
    fn target_options_and_compiler_are_in_the_name() {
        let sources = Sources::of(MODEL).expect("the model's own text");
        let cache = CubinCache::at(PathBuf::from("."));
        let unit = unit(MODEL, "rmsnorm");
        let names: BTreeSet<PathBuf> =
            [("sm_90a", (13, 0)), ("sm_90a", (13, 1)), ("sm_80", (13, 0))]
                .map(|(target, version)| cache.entry(&sources, unit, target, Some(version)).path)
                .into();
        assert_eq!(names.len(), 3);
        assert_eq!(
            cache.entry(&sources, unit, "sm_90a", None),
            cache.entry(&sources, unit, "sm_90a", Some(SHIPPED_NVRTC))
        );
    }

    #[test]
    fn a_bundle_is_read_without_nvrtc_and_what_it_lacks_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("kernels");
        let sources = Sources::of(MODEL).expect("the model's own text");
        let cache = CubinCache::at(folder.path().to_owned());
        // As if another NVRTC than any here had compiled them.
        let version = (13, 77);
        let cubin = |registers: u8| Cubin {
            image: vec![registers; 100],
            resources: Resources { registers: u32::from(registers), ..Resources::default() },
        };
        let launched = MODEL.on((9, 0)).launched();
        let name = |unit: &&Unit| cache.entry(&sources, unit, "sm_90a", Some(version)).name();
        let all: std::collections::BTreeMap<String, Cubin> =
            launched.iter().map(name).zip((1..64).cycle().map(cubin)).collect();
        let over = |path: &Path| {
            let bundle = Some(Arc::new(Bundle::open(path).expect("a bundle")));
            CubinCache { folder: PathBuf::new(), bundle }
        };
        Bundle::write(&file, version, &all).expect("a written bundle");
        let (found, cache_use) =
            over(&file).units(&MODEL.on((9, 0)), (9, 0), &mut |_| {}).expect("all kernels");
        assert_eq!(cache_use, CacheUse { hits: launched.len(), misses: 0 });
        for (unit, cubin) in launched.iter().zip(&found) {
            assert_eq!(all.get(&name(unit)), Some(cubin), "{}", unit.name);
        }
        let mut fewer = all;
        fewer.remove(&name(&unit(MODEL, "rmsnorm")));
        Bundle::write(&file, version, &fewer).expect("a written bundle");
        let error = over(&file).units(&MODEL.on((9, 0)), (9, 0), &mut |_| {}).expect_err("a gap");
        let error = error.to_string();
        assert!(error.contains("does not have the kernel rmsnorm for sm_90a"), "{error}");
        // A model whose kernels have another text.
        let other = ossmith_models::GPT_OSS_120B.on((9, 0));
        let error = over(&file).units(&other, (9, 0), &mut |_| {}).expect_err("another model");
        assert!(error.to_string().contains("does not have th"), "{error}");
    }

    /// With NVRTC: what is kept is what NVRTC made, and a disassembler opens it.
    #[test]
    fn a_kept_cubin_is_a_plain_elf_file() {
        if nvrtc::version().is_err() {
            assert!(std::env::var_os("OSSMITH_NVRTC").is_none(), "OSSMITH_NVRTC names no NVRTC");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (entry, sources) = (entry(folder.path()), Sources::of(MODEL).expect("its own text"));
        let cubin = nvrtc::compile(&sources, unit(MODEL, "rmsnorm"), "sm_90a").expect("compiles");
        entry.write(&cubin).expect("a written entry");
        assert!(std::fs::read(&entry.path).expect("a file").starts_with(b"\x7fELF"));
        let beside =
            std::env::var_os("OSSMITH_NVRTC").map(|folder| Path::new(&folder).join("nvdisasm"));
        if let Some(disassembler) = beside.filter(|file| file.is_file()) {
            let run = std::process::Command::new(disassembler).arg(&entry.path).output();
            let output = run.expect("nvdisasm runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(String::from_utf8_lossy(&output.stdout).contains(".text.rmsnorm"));
        }
    }
}
