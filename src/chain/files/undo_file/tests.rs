use std::io::Cursor;

use bitcoin::Network;
use bitcoin::hashes::Hash;

use super::super::frames::ObfuscationKey;
use super::*;

const FRAMING: Framing = Framing {
    magic: Magic::REGTEST,
    key: ObfuscationKey([0; 8]),
    trailer_bytes: 32,
    payload_bytes: (1, 1000),
};

use bitcoin::p2p::Magic;

fn hash(number: u32) -> BlockHash {
    let mut bytes = [0xee; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    BlockHash::from_byte_array(bytes)
}

/// A chain: block `n` has height `n`, parent `n - 1`, and 1 to 3 transactions.
fn chain(blocks: u32) -> Vec<Candidate> {
    (1..=blocks)
        .map(|node| Candidate {
            node,
            height: Some(node),
            parent: hash(node - 1),
            transactions: 1 + node % 3,
        })
        .collect()
}

/// A record that fits a block and, by its other bytes, no other.
fn record(block: &Candidate) -> Vec<u8> {
    let mut payload = vec![block.transactions as u8 - 1];
    payload.extend(vec![0xab; block.transactions as usize]);
    let mut bytes = Network::Regtest.magic().to_bytes().to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(&payload);
    bytes.extend(undo_checksum(&block.parent, &payload));
    bytes
}

fn file(blocks: &[&Candidate]) -> Vec<u8> {
    blocks.iter().flat_map(|block| record(block)).collect()
}

/// Offset of the payload of the `n`th record.
fn offset(blocks: &[&Candidate], n: usize) -> u64 {
    file(&blocks[..n]).len() as u64 + 8
}

fn read(bytes: &[u8], candidates: &[Candidate]) -> UndoFile {
    let mut undo = UndoFile::default();
    let candidates = candidates.to_vec();
    undo.extend(Cursor::new(bytes), FRAMING, candidates)
        .unwrap();
    undo
}

#[test]
fn records_in_any_order_find_their_blocks() {
    let chain = chain(200);
    let in_order: Vec<&Candidate> = chain.iter().collect();
    let mut reversed = in_order.clone();
    reversed.reverse();
    let mut mixed = in_order.clone();
    mixed.sort_by_key(|block| block.node * 7919 % 211);
    for order in [in_order, reversed, mixed] {
        let undo = read(&file(&order), &chain);
        for (n, block) in order.iter().enumerate() {
            assert_eq!(
                undo.record(block.node),
                Some(UndoRecord {
                    offset: offset(&order, n),
                    length: 1 + block.transactions
                })
            );
        }
    }
}

/// Blocks of a branch that was never connected have no record, and take nobody else's.
#[test]
fn blocks_without_record_are_passed_over() {
    let mut candidates = chain(100);
    for height in (20..60).step_by(3) {
        candidates.push(Candidate {
            node: 1000 + height,
            height: Some(height),
            parent: hash(5000 + height),
            transactions: 1 + height % 3,
        });
    }
    let connected: Vec<&Candidate> = candidates.iter().filter(|b| b.node <= 100).collect();
    let undo = read(&file(&connected), &candidates);
    for block in &candidates {
        assert_eq!(undo.record(block.node).is_some(), block.node <= 100);
    }
    assert_eq!(undo.missing(1020, candidates), NoRecord::Lost);
}

#[test]
fn what_is_appended_is_read_once_it_is_there() {
    let chain = chain(30);
    let all: Vec<&Candidate> = chain.iter().collect();
    let whole = file(&all);
    let mut undo = UndoFile::default();
    for length in 0..=whole.len() {
        // What is not written yet is zeros.
        let mut bytes = whole.clone();
        bytes[length..].fill(0);
        undo.extend(Cursor::new(&bytes), FRAMING, chain.clone())
            .unwrap();
        for (n, block) in all.iter().enumerate() {
            let end = offset(&all, n + 1) as usize - 8;
            // A checksum may end with zeros.
            let is_there = bytes[..end] == whole[..end];
            assert_eq!(undo.record(block.node).is_some(), is_there, "{length}");
        }
    }
    // A block that becomes known after its record.
    let mut undo = read(&whole, &chain[..29]);
    assert_eq!(undo.record(30), None);
    undo.extend(Cursor::new(&whole), FRAMING, chain.clone())
        .unwrap();
    assert_eq!(undo.record(30).unwrap().offset, offset(&all, 29));
}

#[test]
fn damaged_and_lost_records_are_told_from_those_to_come() {
    let chain = chain(30);
    let all: Vec<&Candidate> = chain.iter().collect();
    let mut bytes = file(&all);
    let damaged = offset(&all, 14);
    bytes[damaged as usize + 1] ^= 1;
    let undo = read(&bytes, &chain);
    assert_eq!(undo.record(15), None);
    assert_eq!(undo.missing(15, chain.clone()), NoRecord::Damaged(damaged));
    assert!((1..=30).all(|node| node == 15 || undo.record(node).is_some()));

    let without: Vec<&Candidate> = chain.iter().filter(|block| block.node != 15).collect();
    let undo = read(&file(&without), &chain);
    assert_eq!(undo.missing(15, chain.clone()), NoRecord::Lost);

    let undo = read(&file(&all[..20]), &chain);
    assert_eq!(undo.missing(21, chain.clone()), NoRecord::NotYet);
    // The last record may be half written.
    let mut bytes = file(&all[..20]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let undo = read(&bytes, &chain);
    assert_eq!(undo.missing(20, chain.clone()), NoRecord::NotYet);
}

/// Every record is damaged, all blocks have as many transactions: the search gives up in time.
#[test]
fn a_search_is_bounded() {
    let mut chain = chain(3000);
    for block in &mut chain {
        block.transactions = 2;
    }
    let mut search = Search::new(&chain, |_| false);
    search.far_budget = 10_000;
    let all: Vec<&Candidate> = chain.iter().collect();
    let bytes = [&[1, 0xab, 0xab][..], &[0; 32]].concat();
    for _ in &all {
        assert_eq!(search.owner(&bytes), None);
    }
    assert!(search.far_budget < bytes.len());
    // What is near is found all the same.
    let near = record(&chain[10]);
    assert_eq!(search.owner(&near[8..]), Some(11));
    assert_eq!(search.expected, 11);
}
