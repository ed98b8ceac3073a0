//! `ossmith kernels compile`: kernels into the cubin cache, and into a bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use ossmith::unstable::cuda::nvrtc::{self, Cubin};
use ossmith::unstable::cuda::{Bundle, CubinCache};
use ossmith_plan::Arch;

use super::{Target, arch, compiled};
use crate::failure::fail;
use crate::model::ModelArgs;
use crate::output::note;
use crate::progress::Bars;

#[derive(Debug, clap::Args)]
pub(super) struct Compile {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,

    /// Write them to this file, too, which OSSMITH_BUNDLE names on machines without NVRTC.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,

    /// Devices that the bundle is for, of those that Ossmith knows [default: that of --gpu, else all of --arch].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = arch, requires = "bundle", conflicts_with_all = ["arch", "gpu"])]
    profiles: Vec<Arch>,

    /// Ranks for which the bundle has kernels besides those of one device.
    #[arg(long, visible_alias = "tp", value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8), requires = "bundle")]
    tensor_parallel_size: Option<u8>,
}

impl Compile {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let cache = CubinCache::folder_of_user()?;
        let folder = cache.folder();
        // Filling the cache is all this command is for, so a cache that cannot be written is an error here.
        try_writing(folder).map_err(|why| {
            let message = format!("cannot write to the kernel cache {}: {why}", folder.display());
            fail(message, "set OSSMITH_CACHE to a folder that can be written")
        })?;
        if let Some(file) = &self.bundle {
            return self.write_bundle(&cache, file);
        }
        let model = &self.target.model(&self.model)?;
        let begin = Instant::now();
        let model_compute = self.target.compute()?;
        let (mut cubins, mut compiled_now) = compiled(&cache, model, &self.target)?;
        // Which of an architecture's profiles the device has is known when a model is loaded there.
        if self.target.gpu.is_none() && self.target.schedule.schedule.is_none() {
            for tuned in model.tuned.iter().filter(|tuned| tuned.arch.compute == model_compute) {
                let (more, now) =
                    compiled(&cache, &model.for_arch(&tuned.arch).on(model_compute), &self.target)?;
                let added = more.into_iter().filter(|cubin| !cubins.contains(cubin));
                let added: Vec<Cubin> = added.collect();
                cubins.extend(added);
                compiled_now += now;
            }
        }
        note!(
            "{} kernels of {} for {}: {compiled_now} compiled, {} already in {}, {:.2} s",
            cubins.len(),
            model.spec.name,
            nvrtc::target(model_compute),
            cubins.len() - compiled_now,
            folder.display(),
            begin.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Compiles what each device runs of the model into the cache, and writes all of it to a file.
    fn write_bundle(&self, cache: &CubinCache, file: &Path) -> anyhow::Result<()> {
        let begin = Instant::now();
        let shape = self.model.shape()?;
        let compute = self.target.compute()?;
        let of_own = |profile: &Arch| (*profile, profile.compute);
        let devices: Vec<(Arch, (i32, i32))> = match (&self.profiles[..], &self.target.gpu) {
            ([], Some(gpu)) => vec![of_own(gpu)],
            ([], None) => {
                // Which of an architecture's profiles the device has is known when a model is loaded there.
                let tuned = shape.tuned.iter().map(|tuned| tuned.arch);
                let profiles = tuned.filter(|arch| arch.compute == compute);
                profiles.chain([Arch::BUILT_IN]).map(|profile| (profile, compute)).collect()
            }
            (named, _) => named.iter().map(of_own).collect(),
        };
        let (mut units, mut bars) = (BTreeMap::new(), Bars::new());
        for (profile, compute) in devices {
            let whole = self.target.schedule.apply(shape, &profile)?.for_arch(&profile);
            let ranks = match self.tensor_parallel_size {
                Some(count) => ossmith_models::ranks(shape, count.into(), &profile)?,
                None => &[],
            };
            for model in std::iter::once(&whole).chain(ranks.iter().copied()) {
                let model = model.on(compute);
                units.extend(cache.named_units(&model, compute, &mut |at| bars.show(at))?);
            }
        }
        bars.finish();
        Bundle::write(file, nvrtc::version()?, &units)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let bytes: usize = units.values().map(|cubin| cubin.image.len()).sum();
        note!(
            "{} kernels of {} in {}, {:.1} MB, {:.2} s; OSSMITH_BUNDLE names it where the model runs",
            units.len(),
            shape.spec.name,
            file.display(),
            bytes as f64 / 1e6,
            begin.elapsed().as_secs_f64()
        );
        Ok(())
    }
}

/// Makes the folder, and a file in it for a moment.
fn try_writing(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(format!("try.tmp{}", std::process::id()));
    std::fs::write(&file, "")?;
    std::fs::remove_file(file)
}
