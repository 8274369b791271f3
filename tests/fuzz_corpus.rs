//! The inputs of the fuzz targets (`tests/fuzz`, docs/fuzzing.md) that are kept: each target's check runs over all of
//! its own.
//!
//! With `SPINDEX_WRITE_SEEDS` set to a folder, the seeds that fuzzing begins with are written there, a folder a target.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "fuzz/checks/allocation.rs"]
mod allocation;
#[path = "fuzz/checks/answers.rs"]
mod answers;
#[path = "fuzz/checks/block.rs"]
mod block;
#[path = "fuzz/checks/block_files.rs"]
mod block_files;
#[path = "fuzz/checks/confirm.rs"]
mod confirm;
#[path = "fuzz/curve_seeds.rs"]
mod curve_seeds;
#[path = "fuzz/checks/engines.rs"]
mod engines;
#[path = "fuzz/checks/event_stream.rs"]
mod event_stream;
#[path = "fuzz/checks/input.rs"]
mod input;
#[path = "fuzz/checks/mempool_answers.rs"]
mod mempool_answers;
#[path = "fuzz/checks/native_answers.rs"]
mod native_answers;
#[path = "fuzz/checks/native_parts.rs"]
mod native_parts;
#[path = "fuzz/native_seeds.rs"]
mod native_seeds;
#[path = "fuzz/proof_seeds.rs"]
mod proof_seeds;
#[path = "fuzz/checks/proofs.rs"]
mod proofs;
#[path = "fuzz/checks/rpc_block.rs"]
mod rpc_block;
#[path = "fuzz/checks/scans.rs"]
mod scans;
#[path = "support/sections.rs"]
mod sections;
#[path = "fuzz/seeds.rs"]
mod seeds;
#[path = "fuzz/checks/spent_outputs.rs"]
mod spent_outputs;
#[path = "fuzz/checks/stored_rows.rs"]
mod stored_rows;
mod support;
#[path = "fuzz/checks/undo.rs"]
mod undo;
#[path = "fuzz/checks/v1_answers.rs"]
mod v1_answers;
#[path = "fuzz/checks/wallets.rs"]
mod wallets;
#[path = "fuzz/checks/watch_answers.rs"]
mod watch_answers;
#[path = "fuzz/checks/watch_rows.rs"]
mod watch_rows;
#[path = "fuzz/watch_seeds.rs"]
mod watch_seeds;

use std::fs;
use std::path::Path;

use seeds::Seed;

/// Runs a target's check over its corpus, of which some inputs are taken and some refused: it would show nothing if all
/// were refused at the first byte. The seeds are held to the same, so that fuzzing begins with inputs that reach deep.
fn replay(target: &str, check: fn(&[u8]) -> bool, seeds: &[Seed]) {
    if let Some(folder) = std::env::var_os("SPINDEX_WRITE_SEEDS") {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, seed) in seeds {
            fs::write(folder.join(name), seed).unwrap();
        }
    }

    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz");
    let (mut taken, mut refused) = (0, 0);
    for entry in fs::read_dir(corpus.join(target)).unwrap() {
        let path = entry.unwrap().path();
        // If the check fails, the last name is the input's.
        eprintln!("{}", path.display());
        match check(&fs::read(path).unwrap()) {
            true => taken += 1,
            false => refused += 1,
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");

    let taken = seeds.iter().filter(|(name, seed)| {
        eprintln!("seed {name}");
        check(seed)
    });
    assert!(taken.count() > 0, "of {} seeds", seeds.len());
}

#[test]
fn block_inputs() {
    replay("block", block::check, &seeds::block());
}

#[test]
fn spent_outputs_inputs() {
    replay(
        "spent_outputs",
        spent_outputs::check,
        &seeds::spent_outputs(),
    );
}

#[test]
fn undo_inputs() {
    replay("undo", undo::check, &seeds::undo());
}

#[test]
fn block_files_inputs() {
    replay("block_files", block_files::check, &seeds::block_files());
}

#[test]
fn rpc_block_inputs() {
    replay("rpc_block", rpc_block::check, &seeds::rpc_block());
}

#[test]
fn stored_rows_inputs() {
    replay("stored_rows", stored_rows::check, &seeds::stored_rows());
}

#[test]
fn engines_inputs() {
    replay("engines", engines::check, &curve_seeds::engines());
}

#[test]
fn confirm_inputs() {
    replay("confirm", confirm::check, &curve_seeds::confirm());
}

#[test]
fn native_parts_inputs() {
    replay(
        "native_parts",
        native_parts::check,
        &native_seeds::native_parts(),
    );
}

#[test]
fn native_answers_inputs() {
    replay(
        "native_answers",
        native_answers::check,
        &native_seeds::native_answers(),
    );
}

#[test]
fn event_stream_inputs() {
    replay(
        "event_stream",
        event_stream::check,
        &native_seeds::event_stream(),
    );
}

#[test]
fn v1_answers_inputs() {
    replay("v1_answers", v1_answers::check, &native_seeds::v1_answers());
}

#[test]
fn watch_rows_inputs() {
    replay("watch_rows", watch_rows::check, &watch_seeds::watch_rows());
}

#[test]
fn proofs_inputs() {
    replay("proofs", proofs::check, &proof_seeds::proofs());
}

#[test]
fn watch_answers_inputs() {
    replay(
        "watch_answers",
        watch_answers::check,
        &watch_seeds::watch_answers(),
    );
}

#[test]
fn mempool_answers_inputs() {
    replay(
        "mempool_answers",
        mempool_answers::check,
        &seeds::mempool_answers(),
    );
}
