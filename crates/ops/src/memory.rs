//! How the process keeps the memory that tensors free.

/// Keeps freed memory in the process instead of returning it to the system; true where that took effect.
///
/// glibc gives every large block back when it is freed, so each training step would fetch and clear
/// the same pages again. Elsewhere (macOS, musl) this does nothing. Calling it again costs nothing.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::sync::OnceLock;
        static KEPT: OnceLock<bool> = OnceLock::new();
        *KEPT.get_or_init(|| {
            // Older versions of glibc refuse a mapping threshold above 32 MiB.
            let set = |parameter, sizes: &[libc::c_int]| {
                sizes
                    .iter()
                    // SAFETY: mallopt changes a setting of the allocator and may be called at any time.
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
