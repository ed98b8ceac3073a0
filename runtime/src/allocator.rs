//! What the C library's allocator keeps of freed memory, and giving it back. A program that has freed much at once, as a
//! server has after large requests, would otherwise stay as large as it ever was.

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
