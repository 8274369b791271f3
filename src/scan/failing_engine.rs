//! A scan while the engine begins to compute wrongly gives what an exact one gives.

use std::sync::Arc;

use super::*;
use crate::bip352::keys::{ScanKey, SpendKey};
use crate::curve::failing::{counting, failing_after};
use crate::curve::libsecp256k1::LibSecp256k1;

fn keys(wallet: u8) -> ReceiverKeys {
    let scan_key = ScanKey::from_bytes([0x51 + 2 * wallet; 32]).expect("in range");
    let spend_key = SpendKey::from_bytes([0x52 + 2 * wallet; 32]).expect("in range");
    ReceiverKeys::new(scan_key, spend_key.public_key(), 1..=2)
}

fn tweaks() -> Vec<TweakPoint> {
    let tweaks = (1..=150u8).map(|number| {
        let key = ScanKey::from_bytes([number; 32]).expect("in range");
        TweakPoint::from_compressed(&key.public_key().serialize()).expect("on the curve")
    });
    tweaks.collect()
}

/// What the plain address, change and two labels have of each tweak.
type Candidates = Vec<[[u8; 32]; 4]>;

fn put(candidates: &mut [[[u8; 32]; 4]], chunk: &CandidateChunk<'_>) {
    for (tweak, keys) in chunk.by_tweak() {
        candidates[tweak][chunk.numbers.clone()].copy_from_slice(keys);
    }
}

/// Candidates of each wallet, by a scan for all of them.
fn candidates(engine: Arc<dyn Engine>, wallets: u8) -> Vec<Candidates> {
    let tweaks = tweaks();
    let all = (0..wallets).map(|wallet| Arc::new(keys(wallet))).collect();
    let scanner = SharedScanner::new(engine, all).expect("valid keys");
    let none = || vec![vec![[[0; 32]; 4]; tweaks.len()]; usize::from(wallets)];
    let batches = scanner.scan(
        &tweaks,
        |range| (range, none()),
        |(_, of_batch), chunk| put(&mut of_batch[chunk.wallet], &chunk),
    );
    let mut candidates = none();
    for (range, of_batch) in batches {
        for (all, some) in candidates.iter_mut().zip(of_batch) {
            all[range.clone()].copy_from_slice(&some[range.clone()]);
        }
    }
    candidates
}

/// Those of one wallet, by a scan for it alone.
fn alone(wallet: u8) -> Candidates {
    let tweaks = tweaks();
    let scanner = Scanner::new(Arc::new(LibSecp256k1), keys(wallet)).expect("valid keys");
    let batches = scanner.scan(
        &tweaks,
        |range| (range, vec![[[0; 32]; 4]; tweaks.len()]),
        |(_, of_batch), chunk| put(of_batch, &chunk),
    );
    let parts = batches
        .into_iter()
        .map(|(range, of_batch)| of_batch[range].to_vec());
    parts.collect::<Vec<_>>().concat()
}

#[test]
fn candidates_of_a_failing_engine_are_computed_again() {
    for (wallets, parts) in [(1, 7), (3, 3)] {
        let exact: Vec<Candidates> = (0..wallets).map(alone).collect();
        let used = counting();
        assert_eq!(candidates(used.engine(), wallets), exact);
        let used = used.count();
        for part in 0..parts {
            let engine = failing_after(used / parts * part + 11);
            let computed = candidates(engine.clone(), wallets);
            assert_eq!(computed, exact, "{wallets} wallets, {part}");
            assert!(engine.status().is_broken, "{wallets} wallets, {part}");
        }
    }
}
