//! `--schedule FILE`: values of tunables that a file chooses otherwise, checked before anything runs.

use std::path::PathBuf;

use anyhow::Context;
use ossmith_models::codegen::Overrides;
use ossmith_plan::{Arch, Model};

use crate::failure::fail;

/// Schedules chosen otherwise.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ScheduleArgs {
    /// Values of tunables to use instead of the present ones, as TOML or JSON: kernel, tunable, value.
    ///
    /// `moe_up_swiglu_decode1.stages = 2`, or `{"moe_up_swiglu_decode1": {"stages": 2}}`. `ossmith kernels space` lists
    /// what there is; an illegal value is refused with what is legal.
    #[arg(long, value_name = "FILE")]
    pub(crate) schedule: Option<PathBuf>,

    /// Keep no 8-bit shadow of the unembedding on a CUDA device. It takes 0.6 GB with gpt-oss, makes plain decode steps of up
    /// to eight sequences faster, and changes no token.
    #[arg(long)]
    pub(crate) no_shadow_head: bool,
}

impl ScheduleArgs {
    /// The file's values; none if no file is named.
    pub(crate) fn overrides(&self) -> anyhow::Result<Overrides> {
        let Some(file) = &self.schedule else { return Ok(Overrides::default()) };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the schedule {}", file.display()))?;
        Overrides::parse(&text).map_err(|why| {
            fail(
                format!("{} is no schedule: {why}", file.display()),
                "`ossmith kernels space --model M` lists kernels and tunables",
            )
        })
    }

    /// The model as a profile runs it, with the file's values; the model itself if neither a file is named nor its shadow left
    /// out.
    pub(crate) fn apply(
        &self,
        model: &'static Model,
        arch: &Arch,
    ) -> anyhow::Result<&'static Model> {
        let model = match &self.schedule {
            None => model,
            Some(_) => scheduled(model, arch, &self.overrides()?)?,
        };
        match self.no_shadow_head {
            true => Ok(Box::leak(Box::new(model.without_shadow_head()))),
            false => Ok(model),
        }
    }

    /// The same for the CUDA device of this ordinal; on a machine without one, for the built-in profile.
    pub(crate) fn apply_on(
        &self,
        model: &'static Model,
        device: usize,
    ) -> anyhow::Result<&'static Model> {
        let arch = ossmith::unstable::cuda::probe(device)
            .map_or(Arch::BUILT_IN, |info| Arch::of_device(&info.name, info.compute));
        self.apply(model, &arch)
    }
}

/// A model with some values chosen otherwise; what is illegal is refused with what is legal.
pub(crate) fn scheduled(
    model: &'static Model,
    arch: &Arch,
    overrides: &Overrides,
) -> anyhow::Result<&'static Model> {
    ossmith_models::scheduled(model, arch, overrides).map_err(|why| {
        let hint =
            format!("`ossmith kernels space --model {}` lists what is legal", model.spec.name);
        fail(why.to_string(), hint)
    })
}
