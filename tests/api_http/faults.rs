//! An index that cannot be read.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use spindex::api::ServeSettings;

use super::fixture::{Server, TestStore, sample_chain};
use super::{DATABASE, HEIGHT_ROUTES};

/// Bytes in memory that cannot be read any more once the switch is on.
#[derive(Debug, Default)]
struct Failing {
    bytes: Mutex<Vec<u8>>,
    fails: Arc<AtomicBool>,
}

impl redb::StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().expect("not poisoned").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("/secret/path/index.redb: read error"));
        }
        let bytes = self.bytes.lock().expect("not poisoned");
        let start = offset as usize;
        let wanted = bytes.get(start..start + out.len());
        out.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes
            .lock()
            .expect("not poisoned")
            .resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes.lock().expect("not poisoned");
        let start = offset as usize;
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn a_broken_index_answers_errors_that_name_no_path() {
    let chain = sample_chain();
    let backend = Failing::default();
    let fails = backend.fails.clone();
    let store = TestStore::on_backend(backend);
    store.connect(&chain.records());
    let settings = ServeSettings {
        kept_answer_bytes: 0,
        ..ServeSettings::default()
    };
    let server = Server::start_with(&store, None, settings).await;
    server.ok("tweaks/2").await;
    let keeping = Server::start(&store, None).await;
    let kept = keeping.ok("tweaks/2").await;
    fails.store(true, Ordering::SeqCst);
    // What was right stays right; what has to be read is refused.
    assert_eq!(keeping.ok("tweaks/2").await, kept);
    keeping.refused("utxos/2", 500, DATABASE).await;
    for route in HEIGHT_ROUTES {
        server.refused(&format!("{route}2"), 500, DATABASE).await;
    }
    server.refused("info", 500, DATABASE).await;
    server.refused("block-height", 500, DATABASE).await;
}
