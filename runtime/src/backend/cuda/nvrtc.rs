//! NVRTC: CUDA text to a cubin, in memory, with the resources that ptxas reports. Needs no GPU.
//!
//! NVRTC is found in the folder that `OSSMITH_NVRTC` names, or as a system library.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cudarc::nvrtc::{result, sys};
use libloading::Library;
use ossmith_plan::Unit;
use serde::{Deserialize, Serialize};

use super::sources::Sources;
use crate::{Error, Result};

/// A compiled unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    /// The device binary.
    pub image: Vec<u8>,
    /// What a launch of it takes.
    pub resources: Resources,
}

/// What ptxas reports of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of stack per thread.
    pub stack_bytes: u32,
    /// Bytes spilled to local memory (stores).
    pub spill_bytes: u32,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
}

/// The architecture name that units are compiled for on a device of this compute capability: `sm_90a`, `sm_80`.
#[must_use]
pub fn target(compute: (i32, i32)) -> String {
    match compute {
        (9, 0) => "sm_90a".to_owned(),
        (major, minor) => format!("sm_{major}{minor}"),
    }
}

/// NVRTC's version, or why there is none.
///
/// # Errors
/// [`Error::DeviceUnavailable`] with where NVRTC was looked for and how to get it.
pub fn version() -> Result<(i32, i32)> {
    load()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is loaded (checked above) and both pointers are to live integers.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().map_err(|error| Error::device("read the version of NVRTC", error))?;
    Ok((major, minor))
}

/// Options that decide the code, in the order given to NVRTC.
pub(super) fn options(target: &str) -> Vec<String> {
    ["--std=c++17", "--minimal", "--ptxas-options=-v", "-lineinfo"]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("--gpu-architecture={target}")])
        .collect()
}

/// Compiles one unit for a target such as `sm_90a`.
///
/// # Errors
/// [`Error::Compile`] with NVRTC's log; [`Error::DeviceUnavailable`] if there is no NVRTC.
pub fn compile(sources: &Sources, unit: &Unit, target: &str) -> Result<Cubin> {
    load()?;
    let program = Program::new(sources, unit)?;
    let compiled = program.compile(&options(target));
    let log = program.log();
    if compiled.is_err() {
        return Err(Error::Compile { unit: unit.name.to_owned(), log });
    }
    Ok(Cubin { image: program.cubin(unit)?, resources: parse_resources(&log) })
}

/// One unit's PTX for a target such as `sm_90a`.
///
/// # Errors
/// As [`compile`].
pub fn ptx(sources: &Sources, unit: &Unit, target: &str) -> Result<String> {
    load()?;
    let program = Program::new(sources, unit)?;
    // ptxas does not run for a virtual architecture, so its options are left out.
    let virtual_target = target.replace("sm_", "compute_");
    let mut options = options(&virtual_target);
    options.retain(|option| !option.starts_with("--ptxas-options"));
    if program.compile(&options).is_err() {
        return Err(Error::Compile { unit: unit.name.to_owned(), log: program.log() });
    }
    // SAFETY: the program is live and compiled.
    let text = unsafe { result::get_ptx(program.0) }
        .map_err(|error| internal(unit, "read the PTX of", &error))?;
    Ok(text.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect())
}

/// An NVRTC program, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created by `new` and is destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    fn new(sources: &Sources, unit: &Unit) -> Result<Program> {
        let source = sources.unit(unit);
        let text = c_string(&source)?;
        let name = c_string(&format!("{}.cu", unit.name))?;
        let headers = sources.headers_of(&source);
        let paths = headers.iter().map(|(path, _)| c_string(path)).collect::<Result<Vec<_>>>()?;
        let texts = headers.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>>>()?;
        let path_pointers: Vec<*const c_char> = paths.iter().map(|s| s.as_ptr()).collect();
        let text_pointers: Vec<*const c_char> = texts.iter().map(|s| s.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: every pointer is to a NUL-terminated string that outlives the call, which copies them; both arrays
        // have as many entries as the count says.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                headers.len() as i32,
                text_pointers.as_ptr(),
                path_pointers.as_ptr(),
            )
        };
        status.result().map_err(|error| internal(unit, "create a program for", &error))?;
        Ok(Program(program))
    }

    fn compile(&self, options: &[String]) -> std::result::Result<(), result::NvrtcError> {
        // SAFETY: the program is live.
        unsafe { result::compile_program(self.0, options) }
    }

    fn log(&self) -> String {
        // SAFETY: the program is live and was compiled.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn cubin(&self, unit: &Unit) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program is live and compiled to a real architecture; `size` is a live integer.
        let status = unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) };
        status.result().map_err(|error| internal(unit, "size the cubin of", &error))?;
        let mut image = vec![0_u8; size];
        // SAFETY: the buffer has exactly the size that NVRTC reported.
        let status = unsafe { sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()) };
        status.result().map_err(|error| internal(unit, "read the cubin of", &error))?;
        Ok(image)
    }
}

fn internal(unit: &Unit, action: &str, error: &result::NvrtcError) -> Error {
    Error::Internal(format!("NVRTC could not {action} {}: {error}", unit.name))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::device("read a kernel source", error))
}

/// Reads `Used N registers`, spills, stack and static shared memory from ptxas's report of the one kernel in a unit.
fn parse_resources(log: &str) -> Resources {
    let number_before = |what: &str| {
        let end = log.find(what)?;
        let digits = log[..end].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    Resources {
        registers: number_before("registers").unwrap_or(0),
        stack_bytes: number_before("bytes stack frame").unwrap_or(0),
        spill_bytes: number_before("bytes spill stores").unwrap_or(0),
        shared_bytes: number_before("bytes smem").unwrap_or(0),
    }
}

/// Makes sure that NVRTC is there: cudarc panics where it is not.
fn load() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<Vec<Library>, String>> = OnceLock::new();
    match LOADED.get_or_init(find) {
        Ok(_) => Ok(()),
        Err(problem) => Err(Error::unavailable(problem.as_str())),
    }
}

/// Opens NVRTC and its builtins. A library that is loaded by its path is found by its name from then on.
fn find() -> std::result::Result<Vec<Library>, String> {
    super::device::can_load_libraries()?;
    let Some(folder) = std::env::var_os("OSSMITH_NVRTC").map(PathBuf::from) else {
        // SAFETY: loading NVRTC runs its initialisers, which have no preconditions.
        if unsafe { sys::is_culib_present() } {
            return Ok(Vec::new());
        }
        return Err("NVRTC is not installed: install the CUDA 13 toolkit, or set OSSMITH_NVRTC to a folder that \
                    holds libnvrtc.so.13 (`cargo xtask nvrtc` fetches one)"
            .into());
    };
    let mut names = builtins(&folder);
    names.push("libnvrtc.so.13".to_owned());
    names.iter().map(|name| open(&folder, name)).collect()
}

/// The builtins of whichever CUDA 13 a folder holds; where it holds none, the name that its first release gave them.
fn builtins(folder: &Path) -> Vec<String> {
    const PREFIX: &str = "libnvrtc-builtins.so.13.";
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(PREFIX)).collect();
    found.sort();
    if found.is_empty() { vec![format!("{PREFIX}0")] } else { found }
}

fn open(folder: &Path, name: &str) -> std::result::Result<Library, String> {
    let path = folder.join(name);
    // SAFETY: as above; the file is the user's choice.
    unsafe { Library::new(&path) }.map_err(|error| {
        format!(
            "OSSMITH_NVRTC names {}, but {name} cannot be loaded from it ({error}): name a folder that holds it \
             (`cargo xtask nvrtc` fetches one), or unset OSSMITH_NVRTC to use the system's",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_from_the_log() {
        let log = "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
                   ptxas info    : Function properties for k\n    \
                   16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n\
                   ptxas info    : Used 94 registers, used 1 barriers, 32 bytes smem\n";
        assert_eq!(
            parse_resources(log),
            Resources { registers: 94, stack_bytes: 16, spill_bytes: 12, shared_bytes: 32 }
        );
    }

    #[test]
    fn builtins_of_any_cuda_13_are_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(builtins(folder.path()), ["libnvrtc-builtins.so.13.0"]);
        for name in ["libnvrtc-builtins.so.13.2", "libnvrtc-builtins.alt.so.13.2", "libnvrtc.so.13"]
        {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        assert_eq!(builtins(folder.path()), ["libnvrtc-builtins.so.13.2"]);
    }

    #[test]
    fn hopper_gets_its_own_instructions() {
        assert_eq!(target((9, 0)), "sm_90a");
        assert_eq!(target((8, 9)), "sm_89");
        assert_eq!(target((12, 0)), "sm_120");
    }
}
