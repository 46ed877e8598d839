//! Which parts of a model are in memory, and the program's allocator.

use std::ops::Deref;

/// How much of a model stays in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// All parts, from loading on.
    #[default]
    Resident,
    /// No part longer than it is used: the memory is that of the largest part. Each call loads what it needs;
    /// [`crate::Pipeline::render_all`] does so once for all its pictures.
    Sequential,
}

/// A part of a model while it is used.
#[derive(Debug)]
pub(crate) enum Held<'a, T> {
    /// Stays after it.
    Resident(&'a T),
    /// Goes with it. The part is dropped first, then its memory is given back.
    Loaded(Box<T>, GiveBack),
}

impl<'a, T> Held<'a, T> {
    /// The resident part, or one that is loaded now.
    pub fn take<E>(resident: Option<&'a T>, load: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        match resident {
            Some(part) => Ok(Self::Resident(part)),
            None => Ok(Self::Loaded(Box::new(load()?), GiveBack)),
        }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Resident(part) => part,
            Self::Loaded(part, _) => part,
        }
    }
}

/// Gives freed memory back to the system when it is dropped: [`keep_freed_memory`] has it kept otherwise.
#[derive(Debug)]
pub(crate) struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: takes no pointers and may be called at any time.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

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
