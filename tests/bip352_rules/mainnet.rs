//! A whole block of mainnet, against the `silentpayments` crate.

use std::path::{Path, PathBuf};

use bitcoin::consensus::{Decodable, encode};
use bitcoin::hashes::Hash;
use bitcoin::{Block, Transaction, TxOut, VarInt};
use secp256k1::PublicKey;
use silentpayments::utils::OutPoint;
use silentpayments::utils::receiving::{calculate_tweak_data, get_pubkey_from_input};
use spindex::bip352::inputs::{TweakInputs, tweak_inputs};
use spindex::bip352::tweak::tweaks;
use spindex::curve::libsecp256k1::LibSecp256k1;

fn data_folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mainnet-866342");
    folder.is_dir().then_some(folder)
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    let file = std::fs::File::open(folder.join(name)).expect("the data folder is complete");
    zstd::decode_all(file).expect("a zstd file")
}

/// The spent outputs of each transaction, as the node's REST interface has them.
fn parse_prevouts(bytes: &[u8]) -> Vec<Vec<TxOut>> {
    let mut rest = bytes;
    let count = VarInt::consensus_decode(&mut rest).expect("a count").0;
    let prevouts = (0..count)
        .map(|_| Vec::consensus_decode(&mut rest).expect("spent outputs"))
        .collect();
    assert!(rest.is_empty());
    prevouts
}

/// The tweak by the other library. It refuses what it takes for malformed; no such input is in the block.
fn tweak_by_crate(tx: &Transaction, prevouts: &[TxOut]) -> Option<[u8; 33]> {
    if tx.is_coinbase() || !tx.output.iter().any(|out| out.script_pubkey.is_p2tr()) {
        return None;
    }
    let later_version = |prevout: &TxOut| {
        let version = prevout.script_pubkey.witness_version();
        version.is_some_and(|version| version.to_num() > 1)
    };
    if prevouts.iter().any(later_version) {
        return None;
    }
    let keys: Vec<PublicKey> = tx
        .input
        .iter()
        .zip(prevouts)
        .filter_map(|(input, prevout)| {
            get_pubkey_from_input(
                input.script_sig.as_bytes(),
                &input.witness.to_vec(),
                prevout.script_pubkey.as_bytes(),
            )
            .expect("only usual inputs")
        })
        .collect();
    let outpoints: Vec<OutPoint> = tx
        .input
        .iter()
        .map(|input| {
            let outpoint = input.previous_output;
            OutPoint::from_txid_bytes_and_vout(outpoint.txid.to_byte_array(), outpoint.vout)
        })
        .collect();
    if keys.is_empty() {
        return None;
    }
    let keys: Vec<&PublicKey> = keys.iter().collect();
    let tweak = calculate_tweak_data(&keys, &outpoints).expect("a sum that is no infinity");
    Some(tweak.serialize())
}

#[test]
fn block_866342_has_2241_tweaks() {
    let Some(folder) = data_folder() else {
        println!("skipped: ../shared/data is missing");
        return;
    };
    let block: Block = encode::deserialize(&read(&folder, "block.bin.zst")).expect("a block");
    let prevouts = parse_prevouts(&read(&folder, "spenttxouts.bin.zst"));
    assert_eq!(block.txdata.len(), 4864);
    assert_eq!(prevouts.len(), 4864);
    assert_eq!(prevouts.iter().map(Vec::len).sum::<usize>(), 7972);

    let (places, inputs): (Vec<usize>, Vec<TweakInputs>) = block
        .txdata
        .iter()
        .zip(&prevouts)
        .enumerate()
        .filter_map(|(place, (tx, prevouts))| Some((place, tweak_inputs(tx, prevouts)?)))
        .unzip();
    let mut computed = vec![None; block.txdata.len()];
    for (place, tweak) in places.into_iter().zip(tweaks(&LibSecp256k1, &inputs)) {
        computed[place] = tweak.map(|tweak| tweak.to_compressed());
    }
    assert_eq!(computed.iter().flatten().count(), 2241);

    for ((tx, prevouts), computed) in block.txdata.iter().zip(&prevouts).zip(computed) {
        assert_eq!(
            computed,
            tweak_by_crate(tx, prevouts),
            "{}",
            tx.compute_txid()
        );
    }
}
