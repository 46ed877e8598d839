//! The program's allocator.

/// Keeps freed memory in the process. Call it first in a program that renders.
///
/// A decoder frees and takes buffers of megabytes all the time. By default glibc gives each back to the system and
/// gets it again page by page, which costs a fifth of the time of a small picture and spreads the buffers over
/// one arena for each thread. Other systems' allocators are left as they are.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const MIB: i32 = 1 << 20;
        for (setting, value) in [
            (libc::M_ARENA_MAX, 1),
            (libc::M_MMAP_THRESHOLD, 1024 * MIB),
            (libc::M_TRIM_THRESHOLD, 2047 * MIB),
        ] {
            // SAFETY: sets a number in the allocator; it takes no pointers and may be called at any time.
            let known = unsafe { libc::mallopt(setting, value) };
            // An allocator without this setting goes on as before.
            debug_assert_eq!(known, 1, "mallopt knows setting {setting}");
        }
    }
}
