//! A scan of tweaks for one wallet: candidates in bulk, then the full rules for the transactions they point to.
//!
//! Keys, tweak and output are those of the first case of BIP352's test vectors, among tweaks that are nobody's.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::HashMap;

use bitcoin::OutPoint;
use bitcoin::hex::{DisplayHex, FromHex};
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::curve::{self, EngineKind, TweakPoint};
use spindex::scan::{Scanner, TaprootOutput};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let scan_key =
        <[u8; 32]>::from_hex("0f694e068028a717f8af6b9411f9a133dd3565258714cc226594b34db90c1f2c")?;
    let spend_key =
        <[u8; 32]>::from_hex("9d6ad855ce3417ef84e836892e5a56392bfba05fa5d97ccea30e266f540e08b3")?;
    let scan_key = ScanKey::from_bytes(scan_key).ok_or("no scan key")?;
    // A scanner needs no more of the spend key than its public part.
    let spend_key = SpendKey::from_bytes(spend_key).ok_or("no spend key")?;
    let keys = ReceiverKeys::new(scan_key, spend_key.public_key(), []);

    // What an index gives: the tweaks of a block, and the taproot outputs of its eligible transactions.
    let own =
        <[u8; 33]>::from_hex("024ac253c216532e961988e2a8ce266a447c894c781e52ef6cee902361db960004")?;
    let others = (1..=99u8).map(|number| {
        let key = secp256k1::SecretKey::from_slice(&[number; 32])?;
        Ok(key.public_key(secp256k1::SECP256K1).serialize())
    });
    let mut tweaks: Vec<[u8; 33]> = others.collect::<Result<_, secp256k1::Error>>()?;
    tweaks.insert(42, own);
    let tweaks: Option<Vec<TweakPoint>> = tweaks.iter().map(TweakPoint::from_compressed).collect();
    let tweaks = tweaks.ok_or("a tweak that is no point")?;
    let output = TaprootOutput {
        outpoint: OutPoint::null(),
        key: <[u8; 32]>::from_hex(
            "3e9fce73d4e77a4809908e3c3a2e54ee147b9312dc5044a193d1fc85de46e3c1",
        )?,
        value_sat: 1_000,
    };
    let outputs = HashMap::from([(output.key, output)]);

    let scanner = Scanner::new(
        curve::engine(EngineKind::Auto, |broken| eprintln!("{broken}"))?,
        keys,
    )?;
    // Each batch collects the tweaks for which a candidate is an output.
    let hits = scanner.scan(
        &tweaks,
        |batch| (batch.start, Vec::new()),
        |(start, hits), chunk| {
            for (index, candidates) in chunk.by_tweak() {
                if candidates.iter().any(|key| outputs.contains_key(key)) {
                    hits.push(*start + index);
                }
            }
        },
    );
    for position in hits.into_iter().flat_map(|(_, hits)| hits) {
        let outputs: Vec<TaprootOutput> = outputs.values().cloned().collect();
        for found in scanner.confirm(&tweaks[position], &outputs)? {
            println!(
                "tweak {position}: {} sat, k = {}, add {} to the spend key",
                found.value_sat,
                found.k,
                found.tweak.to_lower_hex_string()
            );
        }
    }
    Ok(())
}
