//! What the C library's allocator keeps of freed memory, and giving it back. A program that has freed much at once, as a
//! server has after large requests, would otherwise stay as large as it ever was.

/// Has the allocator keep no more than this many separate areas, from now on. By default there are eight for each core, and
/// what many threads free in turn is scattered over all of them, where it cannot be given back. Does nothing where the C
/// library is not glibc.
pub fn limit_arenas(arenas: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    limit(arenas);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = arenas;
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn limit(arenas: usize) {
    let arenas = libc::c_int::try_from(arenas).unwrap_or(libc::c_int::MAX);
    // SAFETY: the call takes no pointer, and sets a number that is read when a thread first allocates.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
}

/// Gives freed memory back to the system. It takes some milliseconds, and does nothing where the C library is not glibc.
pub fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    trim();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn trim() {
    // SAFETY: the call takes no pointer, may be made from any thread, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
