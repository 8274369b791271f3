//! How much memory a decoder takes: an allocator that counts, for each thread by itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes taken on a thread, and the most there were. What other threads give back may make them less than none.
#[derive(Clone, Copy)]
struct Taken {
    now: isize,
    most: isize,
}

thread_local! {
    static TAKEN: Cell<Taken> = const { Cell::new(Taken { now: 0, most: 0 }) };
}

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn count(bytes: isize) {
    // A thread that ends has none any more.
    let _ = TAKEN.try_with(|taken| {
        let mut now = taken.get();
        now.now += bytes;
        now.most = now.most.max(now.now);
        taken.set(now);
    });
}

#[expect(unsafe_code, reason = "the interface of allocators")]
// SAFETY: all is left to the system's allocator. Counting allocates nothing and does not panic: no block is longer than
// `isize::MAX`.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if it were moved.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Bytes for each byte of an input that decoding it may take, at most: a text of two characters is a vector of its own.
const TIMES: usize = 64;

/// Bytes that it may take whatever the input's length: texts of errors, tables of a library.
const ANYWAY: usize = 64 << 10;

/// Does what reads an input of so many bytes, which must not take more memory than such an input is worth.
pub(crate) fn bounded<T>(input_bytes: usize, read: impl FnOnce() -> T) -> T {
    let before = TAKEN.get().now;
    TAKEN.set(Taken {
        now: before,
        most: before,
    });
    let value = read();
    let most = (TAKEN.get().most - before) as usize;
    let allowed = TIMES * input_bytes + ANYWAY;
    assert!(
        most <= allowed,
        "{input_bytes} bytes took {most}, more than {allowed}"
    );
    value
}
