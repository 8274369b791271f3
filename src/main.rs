//! The `spindex` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_memory_together();
    refuse_too_large_files();
    spindex::cli::main()
}

/// Has glibc's allocator take all memory from one heap, and give back what is free.
///
/// By default each thread has a heap of its own. Rows are allocated by many threads and freed by the one that commits
/// them, long after; a sync then leaves holes in all of the heaps, which grow with the chain (to 4 GB within twenty
/// million outputs, of which a sixth was in use).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the allocator has no other interface")]
fn keep_memory_together() {
    for (setting, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 256 << 10),
        (libc::M_TRIM_THRESHOLD, 16 << 20),
    ] {
        // SAFETY: any value may be set at any time, and no other thread runs yet. What is refused stays as it was.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Other allocators are left alone.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory_together() {}

/// Has a write beyond the largest file size (`ulimit -f`) fail with an error that can be told, instead of killing the
/// process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the standard library ignores no signals")]
fn refuse_too_large_files() {
    // SAFETY: ignoring a signal runs no code when it comes, and no other thread runs yet.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Elsewhere the signal stays what it is.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn refuse_too_large_files() {}
