//! Bits that flip in the index file under a running server: it answers as before, or with an error.
//!
//! `SPINDEX_FLIPS` says how many files are damaged.

use std::env;
use std::io;
use std::sync::{Arc, Mutex};

use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::fixture::{Server, TestStore, sample_chain};
use super::{DATABASE, HEIGHT_ROUTES};

/// What a version 1 server says where it cannot read a filter.
const FILTER: &str = "could not get filter from db";

/// Bytes in memory that others can change.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl redb::StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("not poisoned").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().expect("not poisoned");
        let wanted = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().expect("not poisoned");
        bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().expect("not poisoned");
        bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// Every answer of a server that does not come from elsewhere.
async fn ask(server: &Server, heights: u32) -> Vec<(String, u16, Value)> {
    let mut answers = Vec::new();
    let mut paths = vec!["info".to_owned(), "block-height".to_owned()];
    for height in 1..=heights {
        paths.extend(HEIGHT_ROUTES.map(|route| format!("{route}{height}")));
        paths.push(format!("tweaks/{height}?dustLimit=600"));
        paths.push(format!("tweak-index/{height}?dustLimit=600"));
    }
    for path in paths {
        let (status, body) = server.json(&path).await;
        answers.push((path, status, body));
    }
    answers
}

#[tokio::test]
async fn flipped_bits_are_errors_or_change_nothing() {
    let count = env::var("SPINDEX_FLIPS").map_or(12, |count| count.parse().expect("a number"));
    let chain = sample_chain();
    let heights = chain.blocks.len() as u32;
    let mut errors = 0;
    for seed in 0..count {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = Memory::default();
        let store = TestStore::on_backend(memory.clone());
        store.connect(&chain.records());
        let server = Server::start(&store, None).await;
        let expected = ask(&server, heights).await;
        // Pages that were written: the others are zeros.
        let written: Vec<usize> = {
            let bytes = memory.0.lock().expect("not poisoned");
            let pages = bytes.chunks(4096).enumerate().skip(3);
            let pages = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            pages.map(|(page, _)| page).collect()
        };
        for _ in 0..rng.gen_range(1..=3) {
            let page = written[rng.gen_range(0..written.len())];
            let (at, bit) = (rng.gen_range(0..4096), rng.gen_range(0..8));
            memory.0.lock().expect("not poisoned")[page * 4096 + at] ^= 1 << bit;
        }
        let answers = ask(&server, heights).await;
        for ((path, status, body), (_, right_status, right)) in answers.iter().zip(&expected) {
            if (status, body) != (right_status, right) {
                let is_of_filter = path.starts_with("filter/") && body["error"] == FILTER;
                let is_error = *status == 500 && (is_of_filter || body["error"] == DATABASE);
                assert!(is_error, "file {seed}, {path}: {status} {body}");
                errors += 1;
            }
        }
    }
    assert!(errors > 0, "no flipped bit was ever read");
}
