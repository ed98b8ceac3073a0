//! Threads whose work may wait: what clients ask of grammars must not take the cores from steps, nor from threads that serve.

/// Has this thread, and the threads and processes that it starts, yield to others by so much more, as `nice` counts it: at 5 a
/// thread gets a third of what another one gets on a core that both want, at 10 a ninth. Nothing changes on a free core.
/// Does nothing but on Linux, where each thread has a niceness of its own.
pub fn yield_to_others(more: i32) {
    #[cfg(target_os = "linux")]
    if let Err(why) = rustix::process::nice(more) {
        tracing::warn!(%why, "a thread that should yield to others does not");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = more;
}
