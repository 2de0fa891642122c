//! What the allocator kept of a large piece of work → back to the system.

/// To be called once something of tens of megabytes has been dropped: freed memory in the middle of a heap otherwise
/// stays with the process. Takes milliseconds, during which other threads may wait for memory.
pub fn give_back() {
    // musl's allocator gives back by itself.
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions; it only touches memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}
