//! Kernels that tell when and where their blocks ran: the text of a unit with stamps put in. The text without stamps is
//! not touched by this, so neither are the cubins that steps run.
//!
//! A unit gets a second parameter, [`BlockTrace`], and its entry point an object whose construction and destruction
//! stamp, so that every way out of the kernel does.

use bytemuck::NoUninit;
use ossmith_plan::params::Ptr;
use ossmith_plan::{BODY_MARKER, Unit};

/// Path of the header that stamped units include.
pub(in super::super) const HEADER: &str = "trace/stamps.cuh";
/// Its text.
pub(super) const HEADER_TEXT: &str = include_str!("stamps.cuh");
/// Words of a block's record: start, ready, end, SM.
pub(in super::super) const RECORD_WORDS: usize = 4;

/// The parameter of stamped kernels beside their own; `stamps.cuh` has its twin.
#[derive(Clone, Copy, Debug, NoUninit)]
#[repr(C)]
pub(in super::super) struct BlockTrace {
    /// `[blocks][RECORD_WORDS]`.
    pub records: Ptr,
    /// Record of the launch's first block.
    pub first: u32,
    pub unused: u32,
}

/// The wait of a kernel's body. Where warps have work of different kinds, each kind waits in a branch of its own.
const WAIT: &str = "wait_for_inputs();";

/// What follows it. The block's first thread alone leaves the time.
const READY: &str = " block_stamp.ready();";

/// A unit's text with stamps.
///
/// # Errors
/// What the text lacks, if it is not of the form that units have.
pub(super) fn stamped(unit: &Unit, text: &str) -> Result<String, String> {
    let entry = format!("{}(const __grid_constant__ ", unit.name);
    let at = text.find(&entry).ok_or_else(|| format!("it has no entry point `{entry}…)`"))?;
    let opens =
        text[at..].find(" p) {").ok_or("its entry point does not take one parameter `p`")?;
    let body = at + opens + " p) {".len();
    let marker = text.find(BODY_MARKER).ok_or_else(|| format!("it has no line `{BODY_MARKER}`"))?;
    let includes = marker + BODY_MARKER.len();
    if !text[body..].contains(WAIT) || includes > at {
        return Err("its entry point never waits for its inputs".into());
    }
    // In the same lines, so that line numbers stay those of the text without stamps, but for the header's.
    let mut stamped = String::with_capacity(text.len() + 256);
    stamped.push_str(&text[..includes]);
    stamped.push_str(&format!("\n#include \"{HEADER}\""));
    stamped.push_str(&text[includes..at + opens]);
    stamped.push_str(" p, const __grid_constant__ BlockTrace block_trace) { const BlockStamp block_stamp(block_trace);");
    stamped.push_str(&text[body..].replace(WAIT, &format!("{WAIT}{READY}")));
    Ok(stamped)
}

#[cfg(test)]
mod tests {
    use ossmith_models::{GPT_OSS_20B, GPT_OSS_120B, NANO};

    use super::*;

    /// Taking the stamps out of a stamped unit leaves the unit.
    #[test]
    fn every_kernel_of_a_step_can_be_stamped_and_nothing_else_changes() {
        for model in [GPT_OSS_20B, GPT_OSS_120B, NANO] {
            let infos = model.schedules.iter().flat_map(ossmith_plan::Schedule::infos);
            for info in infos {
                let unit = model.units.iter().find(|unit| unit.name == info.name).expect("a unit");
                let text =
                    stamped(unit, unit.source).unwrap_or_else(|why| panic!("{}: {why}", unit.name));
                let plain = text
                    .replacen(&format!("\n#include \"{HEADER}\""), "", 1)
                    .replacen(", const __grid_constant__ BlockTrace block_trace) { const BlockStamp block_stamp(block_trace);", ") {", 1)
                    .replace(READY, "");
                assert!(plain == unit.source && text.len() > plain.len() + 100, "{}", unit.name);
            }
        }
    }

    #[test]
    fn text_of_another_form_is_refused() {
        let find = |name| GPT_OSS_20B.units.iter().find(|unit| unit.name == name).expect("a unit");
        let refusal = |unit, text: &str| stamped(unit, text).expect_err("a refusal");
        let flat_read = find("flat_read");
        assert!(refusal(flat_read, flat_read.source).contains("never waits"));
        let embed = find("embed");
        assert!(refusal(embed, flat_read.source).contains("no entry point `embed("));
        assert!(refusal(embed, &embed.source.replace(BODY_MARKER, "")).contains("no line"));
    }
}
