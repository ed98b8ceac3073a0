//! Ranges that profilers show: a step, a layer, a phase, around the calls that launch them.
//!
//! NVTX has no library of its own: a profiler names one in `NVTX_INJECTION64_PATH`, and the program hands it a table in
//! which it writes the functions to call (NVIDIA/NVTX, `nvtxTypes.h`, version 3). Without that variable there are no
//! ranges and nothing is loaded. A range encloses calls on the host: a replayed graph is one call, so with graphs there is
//! one range per step (`OSSMITH_GRAPHS=off` launches kernel by kernel).

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

/// `NVTX_ETID_CALLBACKS` and `NVTX_ETID_VERSIONINFO`.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;
/// `NVTX_VERSION`.
const VERSION: u32 = 3;
/// Functions of each module (`NVTX_CB_MODULE_CORE` and those after it, each `NVTX_CBID_…_SIZE`): a profiler may insist on
/// every module, whichever of its functions are called.
const MODULES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const MAX_FUNCTIONS: usize = 16;
/// `NVTX_CB_MODULE_CORE` and in it `NVTX_CBID_CORE_RangePushA` and `NVTX_CBID_CORE_RangePop`.
const CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

type Slot = AtomicPtr<c_void>;
type GetExportTable = unsafe extern "C" fn(u32) -> *const c_void;
type Initialize = unsafe extern "C" fn(GetExportTable) -> c_int;
type RangePush = unsafe extern "C" fn(*const c_char) -> c_int;
type RangePop = unsafe extern "C" fn() -> c_int;

/// The functions of each module. The profiler writes them while it is initialised.
static FUNCTIONS: [[Slot; MAX_FUNCTIONS]; MODULES.len()] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_FUNCTIONS] }; MODULES.len()];

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    module_table: unsafe extern "C" fn(c_int, *mut *const *const Slot, *mut c_uint) -> c_int,
}

static CALLBACK_TABLE: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), module_table };

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_injection_version: unsafe extern "C" fn(u32),
}

static VERSION_TABLE: VersionInfo = VersionInfo {
    bytes: size_of::<VersionInfo>(),
    version: VERSION,
    reserved: 0,
    set_injection_version,
};

/// Every version of a profiler knows the calls that are made here.
unsafe extern "C" fn set_injection_version(_: u32) {}

/// Addresses of [`FUNCTIONS`], as the profiler reads them: it writes through each.
struct Addresses([[*const Slot; MAX_FUNCTIONS]; MODULES.len()]);

// SAFETY: the addresses are those of a static of atomics.
unsafe impl Sync for Addresses {}

static ADDRESSES: Addresses = {
    let mut addresses = [[std::ptr::null::<Slot>(); MAX_FUNCTIONS]; MODULES.len()];
    let mut module = 0;
    while module < MODULES.len() {
        let mut i = 0;
        while i < MAX_FUNCTIONS {
            addresses[module][i] = &raw const FUNCTIONS[module][i];
            i += 1;
        }
        module += 1;
    }
    Addresses(addresses)
};

/// Tells a profiler where it can write the functions of a module.
unsafe extern "C" fn module_table(
    module: c_int,
    table: *mut *const *const Slot,
    size: *mut c_uint,
) -> c_int {
    let known =
        usize::try_from(module).ok().filter(|&module| (CORE..MODULES.len()).contains(&module));
    let Some(module) = known else { return 0 };
    // SAFETY: the caller passes the addresses of its own variables, or none for what it does not want.
    unsafe {
        if !table.is_null() {
            *table = ADDRESSES.0[module].as_ptr();
        }
        if !size.is_null() {
            *size = MODULES[module] as c_uint;
        }
    }
    1
}

unsafe extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        CALLBACKS => (&raw const CALLBACK_TABLE).cast(),
        VERSION_INFO => (&raw const VERSION_TABLE).cast(),
        _ => std::ptr::null(),
    }
}

/// Loads the profiler's library once, if there is one; whether there is.
fn is_profiled() -> bool {
    static PROFILER: OnceLock<Option<Library>> = OnceLock::new();
    let load = || {
        let path = std::env::var_os("NVTX_INJECTION64_PATH").filter(|path| !path.is_empty())?;
        // SAFETY: the library is the profiler's, which whoever started the program has chosen.
        let loaded = unsafe { Library::new(&path) };
        let library = loaded
            .inspect_err(|why| tracing::warn!(path = %path.display(), %why, "NVTX_INJECTION64_PATH names no library"))
            .ok()?;
        // SAFETY: the symbol is a function of this type (`NvtxInitializeInjectionNvtxFunc_t`).
        let initialize = unsafe { library.get::<Initialize>(b"InitializeInjectionNvtx2\0") };
        // SAFETY: it is called once, with a function that outlives it.
        let accepted = initialize.is_ok_and(|initialize| unsafe { initialize(export_table) } != 0);
        tracing::debug!(path = %path.display(), accepted, "a profiler's library for NVTX ranges");
        accepted.then_some(library)
    };
    PROFILER.get_or_init(load).is_some()
}

/// A range that lasts until it is dropped, on the thread that made it.
#[derive(Debug)]
#[must_use]
pub(super) struct Range(bool);

impl Range {
    /// Opens a range; its name is made only for a profiler.
    pub(super) fn new(name: impl FnOnce() -> String) -> Range {
        if !is_profiled() {
            return Range(false);
        }
        push(&name());
        Range(true)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if self.0 {
            pop();
        }
    }
}

fn push(name: &str) {
    let function = FUNCTIONS[CORE][RANGE_PUSH].load(Ordering::Acquire);
    if let (false, Ok(name)) = (function.is_null(), CString::new(name)) {
        // SAFETY: the profiler wrote a function of this type at this place; it copies the name.
        unsafe { std::mem::transmute::<*mut c_void, RangePush>(function)(name.as_ptr()) };
    }
}

fn pop() {
    let function = FUNCTIONS[CORE][RANGE_POP].load(Ordering::Acquire);
    if !function.is_null() {
        // SAFETY: as above.
        unsafe { std::mem::transmute::<*mut c_void, RangePop>(function)() };
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::sync::Mutex;

    use super::*;

    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

    fn see(what: String) {
        SEEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(what);
    }

    unsafe extern "C" fn record_push(name: *const c_char) -> c_int {
        // SAFETY: the caller passes a C string.
        see(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        0
    }

    unsafe extern "C" fn record_pop() -> c_int {
        see("end".to_owned());
        0
    }

    /// What a profiler's library does when it is initialised (`InitializeInjectionNvtx2`).
    unsafe fn initialize(get: GetExportTable) {
        // SAFETY: the calls and casts are those of NVTX's own types, in their order.
        unsafe {
            assert!(get(2).is_null() && get(4).is_null(), "two tables");
            let version = &*get(VERSION_INFO).cast::<VersionInfo>();
            assert_eq!((version.bytes, version.version, version.reserved), (24, 3, 0));
            (version.set_injection_version)(3);
            let callbacks = &*get(CALLBACKS).cast::<Callbacks>();
            assert_eq!(callbacks.bytes, 16);
            let (mut table, mut size) = (std::ptr::null(), 0);
            for (module, known) in [(-1, 0), (0, 0), (7, 0), (2, 1), (6, 1)] {
                assert_eq!(
                    (callbacks.module_table)(module, &mut table, &mut size),
                    known,
                    "{module}"
                );
            }
            assert_eq!((callbacks.module_table)(5, std::ptr::null_mut(), &mut size), 1);
            assert_eq!((callbacks.module_table)(CORE as c_int, &mut table, &mut size), 1);
            assert_eq!(size, 16);
            let slot = |at: usize| &**table.add(at);
            slot(RANGE_PUSH).store(record_push as *mut c_void, Ordering::Release);
            slot(RANGE_POP).store(record_pop as *mut c_void, Ordering::Release);
        }
    }

    #[test]
    fn a_profiler_that_fills_the_table_sees_names_and_ends() {
        push("before there is one");
        // SAFETY: this stands for the profiler's library.
        unsafe { initialize(export_table) };
        push("decode step");
        push("moe_up_swiglu");
        pop();
        push("not\0a name");
        pop();
        let seen = SEEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        assert_eq!(*seen, ["decode step", "moe_up_swiglu", "end", "end"]);
    }
}
