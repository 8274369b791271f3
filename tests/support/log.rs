//! What the library logs, caught.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Everything of level info and above that this thread logs while it exists.
pub(crate) struct Log;

/// Writes to the log of the thread that it is used on, if there is one.
struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        CAUGHT.with_borrow_mut(|caught| match caught {
            Some(caught) => caught.write(bytes),
            None => Ok(bytes.len()),
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn catch() -> Self {
        // One subscriber for all threads: what one thread has no subscriber for is not even looked at on others.
        static START: Once = Once::new();
        START.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_ansi(false);
            subscriber.with_writer(|| Writer).init();
        });
        CAUGHT.set(Some(Vec::new()));
        Self
    }

    /// The lines with this text in them.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        let bytes = CAUGHT.with_borrow(Clone::clone).unwrap();
        let log = String::from_utf8(bytes).unwrap();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        CAUGHT.set(None);
    }
}
