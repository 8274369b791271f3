use bitcoin::BlockHash;
use bitcoin::block::{Header, Version};
use bitcoin::hashes::{Hash, sha256};
use secp256k1::{SECP256K1, SecretKey};

use super::*;
use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use crate::client::light::fetch::Content;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::point::pack;
use crate::wire::native::section::{HeaderSection, Prefixes, SectionHashes};

fn digest(name: &str, number: u32) -> [u8; 32] {
    sha256::Hash::hash(format!("{name} {number}").as_bytes()).to_byte_array()
}

fn keys(wallet: u32) -> Arc<ReceiverKeys> {
    let scan_key = ScanKey::from_bytes(digest("scan", wallet)).expect("a key");
    let spend_key = SpendKey::from_bytes(digest("spend", wallet)).expect("a key");
    Arc::new(ReceiverKeys::new(scan_key, spend_key.public_key(), [1]))
}

/// For a wallet that nobody pays, and the one that is paid.
fn scanner() -> SharedScanner {
    let wallets = vec![keys(1), keys(0)];
    SharedScanner::new(Arc::new(LibSecp256k1), wallets).expect("a scanner")
}

/// Its place.
const PAID: usize = 1;

fn tweak(number: u32) -> TweakPoint {
    let secret = SecretKey::from_slice(&digest("tweak", number)).expect("a key");
    pack(&secret.public_key(SECP256K1))
}

/// Keys of the plain address, of change and of label 1 for k = 0.
fn keys_of(number: u32) -> [[u8; 32]; 3] {
    let scan = scanner().scan(
        &[tweak(number)],
        |_| Vec::new(),
        |keys, chunk| {
            if chunk.wallet == PAID {
                keys.extend_from_slice(chunk.keys);
            }
        },
    );
    scan.concat().try_into().expect("three candidates")
}

/// A block of transactions, each with its tweak and the keys of its outputs.
fn block(height: u32, transactions: &[(u32, Vec<[u8; 32]>)]) -> NativeBlock {
    let mut prefixes = Prefixes::default();
    for (_, keys) in transactions {
        let first = keys.iter().map(|key| [key[0], key[1], key[2]]);
        prefixes.keys.extend(first);
        prefixes.ends.push(prefixes.keys.len() as u32);
    }
    NativeBlock {
        height,
        hash: BlockHash::from_byte_array([height as u8; 32]),
        header: HeaderSection {
            header: Header {
                version: Version::ONE,
                prev_blockhash: BlockHash::all_zeros(),
                merkle_root: bitcoin::TxMerkleNode::all_zeros(),
                time: 0,
                bits: bitcoin::CompactTarget::from_consensus(0),
                nonce: 0,
            },
            transactions: transactions.len() as u32,
            outputs: prefixes.keys.len() as u32,
            spends: 0,
            states: 0,
            hashes: SectionHashes::default(),
        },
        tweaks: transactions
            .iter()
            .map(|(number, _)| tweak(*number).to_compressed())
            .collect(),
        prefixes,
        spent: vec![0],
        outputs: None,
        spends: None,
    }
}

fn fetched(block: NativeBlock) -> FetchedBlock {
    FetchedBlock {
        height: block.height,
        hash: block.hash,
        content: Content::Native(Box::new(block)),
    }
}

fn txid(number: u8) -> Txid {
    Txid::from_byte_array([number; 32])
}

fn outputs(keys: &[[u8; 32]]) -> Vec<Output> {
    (0..)
        .zip(keys)
        .map(|(vout, key)| Output {
            vout: 2 * vout,
            value_sat: 100 + u64::from(vout),
            key: *key,
        })
        .collect()
}

#[test]
fn a_match_belongs_to_a_transaction_of_its_block() {
    let foreign = digest("key", 1);
    // Blocks with none, one and many transactions; every third pays the wallet.
    let mut number = 0;
    let blocks: Vec<FetchedBlock> = [0, 3, 1, 0, 70, 200]
        .into_iter()
        .zip(10..)
        .map(|(count, height)| {
            let transactions: Vec<_> = (0..count)
                .map(|at| {
                    number += 1;
                    let mut keys = vec![foreign; at % 3];
                    // The same keys in another transaction's place are nothing.
                    keys.push(match at % 3 {
                        0 => keys_of(number)[at / 3 % 3],
                        _ => keys_of(number + 1)[0],
                    });
                    (number, keys)
                })
                .collect();
            fetched(block(height, &transactions))
        })
        .collect();
    let matches = match_prefixes(&scanner(), &blocks).expect("points");
    let mut first = 0;
    for (position, fetched) in blocks.iter().enumerate() {
        let count = fetched.native().expect("native").tweaks.len();
        let expected: Vec<_> = (0..count)
            .step_by(3)
            .map(|at| {
                let number = first + at as u32 + 1;
                Match {
                    transaction: at,
                    tweak: tweak(number),
                    key: keys_of(number)[at / 3 % 3],
                }
            })
            .collect();
        let of_block = matches.get(&position).cloned().unwrap_or_default();
        let expected = (!expected.is_empty()).then_some((PAID, expected));
        assert_eq!(of_block, BTreeMap::from_iter(expected), "{position}");
        first += count as u32;
    }
}

#[test]
fn the_block_of_a_tweak_that_is_no_point_is_named() {
    let good = |height| fetched(block(height, &[(1, vec![digest("key", 1)])]));
    let mut bad = block(8, &[(1, vec![[1; 32]]), (2, vec![[2; 32]])]);
    bad.tweaks[1][1..].copy_from_slice(&[0xff; 32]);
    let blocks = [good(6), fetched(block(7, &[])), fetched(bad), good(9)];
    assert_eq!(match_prefixes(&scanner(), &blocks), Err(2));
}

#[test]
fn the_full_rules_are_those_of_the_transaction_that_matched() {
    let scanner = scanner();
    let [own, change, labelled] = keys_of(1);
    let foreign = digest("key", 1);
    let block = block(7, &[(2, vec![foreign]), (1, vec![own])]);
    let matched = |key| Match {
        transaction: 1,
        tweak: tweak(1),
        key,
    };
    let transactions = |keys: &[[u8; 32]]| {
        vec![
            (txid(1), outputs(&[own, foreign])),
            (txid(2), outputs(keys)),
        ]
    };
    let confirm = |matches: &[Match], keys: &[[u8; 32]]| {
        let found = confirm(&scanner, PAID, &block, matches, &transactions(keys));
        found.map(|found| {
            let rows = found.into_iter();
            let rows = rows.map(|(o, row)| (o.txid, o.vout, row.label, row.value_sat));
            rows.collect::<Vec<_>>()
        })
    };
    // Every output of it, and one with a key of the wallet's in another transaction.
    let found = confirm(
        &[matched(own), matched(labelled)],
        &[foreign, labelled, own, change],
    );
    let expected = vec![
        (txid(1), 0, None, 100),
        (txid(2), 2, Some(1), 101),
        (txid(2), 4, None, 102),
        (txid(2), 6, Some(0), 103),
    ];
    assert_eq!(found, Ok(expected));
    // Chance.
    assert_eq!(confirm(&[matched(own)], &[foreign]), Ok(Vec::new()));
    // A whole key that the rules do not confirm is a fault of the machine.
    let wrong = Match {
        tweak: tweak(3),
        ..matched(own)
    };
    assert_eq!(
        confirm(&[wrong], &[foreign, own]),
        Err(Unverified(OutPoint::new(txid(2), 2)))
    );
}
