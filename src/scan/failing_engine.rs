//! A scan while the engine begins to compute wrongly gives what an exact one gives.

use std::sync::Arc;

use super::*;
use crate::bip352::keys::{ScanKey, SpendKey};
use crate::curve::failing::{counting, failing_after};
use crate::curve::libsecp256k1::LibSecp256k1;

fn scanner(engine: Arc<dyn Engine>) -> Scanner {
    let scan_key = ScanKey::from_bytes([0x51; 32]).expect("in range");
    let spend_key = SpendKey::from_bytes([0x52; 32]).expect("in range");
    let keys = ReceiverKeys::new(scan_key, spend_key.public_key(), 1..=2);
    Scanner::new(engine, keys).expect("valid keys")
}

#[test]
fn candidates_of_a_failing_engine_are_computed_again() {
    let tweaks: Vec<TweakPoint> = (1..=150u8)
        .map(|number| {
            let key = ScanKey::from_bytes([number; 32]).expect("in range");
            TweakPoint::from_compressed(&key.public_key().serialize()).expect("on the curve")
        })
        .collect();
    let candidates = |engine: Arc<dyn Engine>| {
        let mut candidates = vec![[[0; 32]; 4]; tweaks.len()];
        let batches = scanner(engine).scan(
            &tweaks,
            |_| Vec::new(),
            |chunks, chunk| {
                let keys = chunk.by_tweak().map(|(tweak, keys)| (tweak, keys.to_vec()));
                chunks.push((chunk.numbers.clone(), keys.collect::<Vec<_>>()));
            },
        );
        for (numbers, keys) in batches.into_iter().flatten() {
            for (tweak, keys) in keys {
                candidates[tweak][numbers.clone()].copy_from_slice(&keys);
            }
        }
        candidates
    };
    let exact = candidates(Arc::new(LibSecp256k1));
    let used = counting();
    assert_eq!(candidates(used.engine()), exact);
    let used = used.count();
    for part in 0..7 {
        let engine = failing_after(used / 7 * part + 11);
        assert_eq!(candidates(engine.clone()), exact, "{part}");
        assert!(engine.status().is_broken, "{part}");
    }
}
