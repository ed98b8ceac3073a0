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

/// `NVTX_ETID_CALLBACKS`.
const CALLBACKS: u32 = 1;
/// `NVTX_CB_MODULE_CORE`.
const CORE: c_int = 1;
/// `NVTX_CBID_CORE_RangePushA`, `NVTX_CBID_CORE_RangePop` and `NVTX_CBID_CORE_SIZE`.
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
const CORE_SIZE: usize = 16;

type Slot = AtomicPtr<c_void>;
type GetExportTable = unsafe extern "C" fn(u32) -> *const c_void;
type Initialize = unsafe extern "C" fn(GetExportTable) -> c_int;
type RangePush = unsafe extern "C" fn(*const c_char) -> c_int;
type RangePop = unsafe extern "C" fn() -> c_int;

/// The functions of the core module. The profiler writes them while it is initialised.
static FUNCTIONS: [Slot; CORE_SIZE] = [const { AtomicPtr::new(std::ptr::null_mut()) }; CORE_SIZE];

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    module_table: unsafe extern "C" fn(c_int, *mut *const *const Slot, *mut c_uint) -> c_int,
}

static CALLBACK_TABLE: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), module_table };

/// Addresses of [`FUNCTIONS`], as the profiler reads them: it writes through each.
struct Addresses([*const Slot; CORE_SIZE]);

// SAFETY: the addresses are those of a static of atomics.
unsafe impl Sync for Addresses {}

static ADDRESSES: Addresses = {
    let mut addresses = [std::ptr::null::<Slot>(); CORE_SIZE];
    let mut i = 0;
    while i < CORE_SIZE {
        addresses[i] = &raw const FUNCTIONS[i];
        i += 1;
    }
    Addresses(addresses)
};

/// Tells a profiler where it can write the functions of a module. Only the core module is called here.
unsafe extern "C" fn module_table(
    module: c_int,
    table: *mut *const *const Slot,
    size: *mut c_uint,
) -> c_int {
    if module != CORE || table.is_null() {
        return 0;
    }
    // SAFETY: the caller passes the addresses of its own variables, or none for the size.
    unsafe {
        *table = ADDRESSES.0.as_ptr();
        if !size.is_null() {
            *size = CORE_SIZE as c_uint;
        }
    }
    1
}

unsafe extern "C" fn export_table(id: u32) -> *const c_void {
    if id == CALLBACKS { (&raw const CALLBACK_TABLE).cast() } else { std::ptr::null() }
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
    let function = FUNCTIONS[RANGE_PUSH].load(Ordering::Acquire);
    if let (false, Ok(name)) = (function.is_null(), CString::new(name)) {
        // SAFETY: the profiler wrote a function of this type at this place; it copies the name.
        unsafe { std::mem::transmute::<*mut c_void, RangePush>(function)(name.as_ptr()) };
    }
}

fn pop() {
    let function = FUNCTIONS[RANGE_POP].load(Ordering::Acquire);
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
            assert!(get(3).is_null(), "no table of versions");
            let callbacks = &*get(CALLBACKS).cast::<Callbacks>();
            assert_eq!(callbacks.bytes, 16);
            let (mut table, mut size) = (std::ptr::null(), 0);
            assert_eq!((callbacks.module_table)(2, &mut table, &mut size), 0, "no CUDA module");
            assert_eq!((callbacks.module_table)(CORE, &mut table, &mut size), 1);
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
