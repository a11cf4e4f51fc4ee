//! The setting that keeps memory freed by tensors in the process.

/// Keeps freed memory in the process instead of returning it to the operating system. Returns
/// whether this took effect.
///
/// glibc returns every large block to the system when it is freed. Without this setting each
/// training step requests the same pages again, and the system clears them again. On other
/// systems (macOS, musl) the function does nothing and returns false. Repeated calls cost
/// nothing.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::sync::OnceLock;
        static DONE: OnceLock<bool> = OnceLock::new();
        *DONE.get_or_init(|| {
            // Older versions of glibc reject a mapping threshold above 32 MiB.
            let set = |parameter, sizes: &[libc::c_int]| {
                sizes
                    .iter()
                    // SAFETY: mallopt only changes a setting of the allocator and may be called
                    // at any time; it takes two integers and no pointer.
                    .any(|size| unsafe { libc::mallopt(parameter, *size) } == 1)
            };
            let mapped = set(libc::M_MMAP_THRESHOLD, &[1 << 30, 32 << 20]);
            let trimmed = set(libc::M_TRIM_THRESHOLD, &[1 << 30]);
            mapped && trimmed
        })
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        false
    }
}
