//! Bitcoin Core's block files: frames under any key, the first bytes of blocks and how they hang together, undo records
//! matched to their blocks.

use std::io::Cursor;
use std::sync::LazyLock;

use bitcoin::constants::genesis_block;
use bitcoin::{Network, Target};
use spindex::chain::files::frames::{Framing, ObfuscationKey, Record, Records};
use spindex::chain::files::head::{HEAD_BYTES, parse_head};
use spindex::chain::files::headers::{HeaderIndex, Location, Node};
use spindex::chain::files::undo::{CHECKSUM_BYTES, undo_checksum, undo_transactions};
use spindex::chain::files::undo_file::{Candidate, UndoFile};
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};

/// In the first byte of an input: the file is one of undo records.
pub(crate) const UNDO: u8 = 1;

/// In the first byte of an input: the heights that blocks claim are believed as soon as they are seen.
pub(crate) const TRUST: u8 = 2;

/// The chain of whose last blocks an undo file may have records.
pub(crate) fn chain() -> SimulatedChain {
    let chain = SimulatedChain::new(SimulationSettings {
        transactions_per_block: 3,
        ..SimulationSettings::default()
    });
    chain.mine(116);
    chain
}

static CANDIDATES: LazyLock<Vec<Candidate>> = LazyLock::new(|| {
    let blocks = chain().active_blocks();
    let candidates = (0..).zip(blocks.iter().skip(100));
    candidates
        .map(|(node, block)| Candidate {
            node,
            // One waits for its parent.
            height: (node != 3).then_some(block.id.height),
            parent: block.block.header.prev_blockhash,
            transactions: block.block.txdata.len() as u32,
        })
        .collect()
});

/// Whether a record was found. The input: a byte of flags ([`UNDO`], [`TRUST`]), the key (8 bytes), where to begin (2
/// bytes, little-endian), and the file.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((&[flags, key @ .., from_low, from_high], file)) = input.split_first_chunk::<11>()
    else {
        return false;
    };
    let framing = Framing {
        magic: Network::Regtest.magic(),
        key: ObfuscationKey(key),
        trailer_bytes: if flags & UNDO == 0 {
            0
        } else {
            CHECKSUM_BYTES as u32
        },
        payload_bytes: (1, 4_000_000),
    };
    let from = u64::from(u16::from_le_bytes([from_low, from_high]));
    let found = records(framing, from, file);
    if flags & UNDO == 0 {
        index(&found, flags & TRUST != 0);
    } else {
        undo_records(framing, file);
    }
    !found.is_empty()
}

/// All records from a position on, with the first bytes of their payloads.
fn records(framing: Framing, from: u64, file: &[u8]) -> Vec<(Record, Vec<u8>)> {
    let mut records = Records::new(Cursor::new(file), framing, from).expect("reading memory works");
    let (mut head, mut payload) = (Vec::new(), Vec::new());
    let mut found = Vec::new();
    let mut end = from;
    while let Some(record) = records
        .next(HEAD_BYTES, &mut head)
        .expect("reading memory works")
    {
        records
            .payload(&record, &mut payload)
            .expect("a record that was found is there");
        assert_eq!(
            payload.len() as u64,
            u64::from(record.length) + u64::from(framing.trailer_bytes)
        );
        assert!(payload.starts_with(&head));
        assert_eq!(head.len(), HEAD_BYTES.min(record.length as usize));
        assert!(record.offset >= end + 8, "records overlap");
        end = record.offset + payload.len() as u64;
        assert_eq!(records.position(), end);
        assert!(end <= file.len() as u64);
        found.push((record, head.clone()));
    }
    found
}

/// The blocks of a file hang together, in whatever order they come.
fn index(records: &[(Record, Vec<u8>)], trusts: bool) {
    let easiest = Target::MAX_ATTAINABLE_REGTEST;
    let mut index = HeaderIndex::new(genesis_block(Network::Regtest).block_hash());
    let mut nodes: Vec<(Node, Location)> = Vec::new();
    for (record, head) in records {
        let Some(head) = parse_head(head, easiest) else {
            continue;
        };
        assert!(head.transactions > 0);
        assert!(head.header.target() <= easiest);
        let hash = head.header.block_hash();
        let location = Location {
            file: 0,
            offset: record.offset as u32,
            length: record.length,
        };
        let node = index.insert(hash, &head, location);
        assert_eq!(index.find(&hash), Some(node));
        assert!(index.locations(node).contains(&location));
        nodes.push((node, location));
        if trusts {
            index.trust_claimed_heights();
        }
        choose_best(&mut index);
    }
    index.trust_claimed_heights();
    choose_best(&mut index);
    for (node, location) in nodes {
        index.forget(node, location);
        assert!(!index.locations(node).contains(&location));
        choose_best(&mut index);
    }
    assert_eq!(index.best(), None);
}

/// The chosen chain goes from the best block down, parent by parent and height by height.
fn choose_best(index: &mut HeaderIndex) {
    let Some(best) = index.best() else {
        return;
    };
    index.choose_chain(best);
    assert_eq!(index.chain_tip(), Some(best));
    let chain: Vec<Node> = index.chain_downwards().collect();
    for pair in chain.windows(2) {
        assert_eq!(index.parent(pair[0]), Some(pair[1]));
    }
    for node in chain {
        let height = index.id(node).expect("a block of the chain").height;
        assert!(index.is_on_chain(node));
        assert_eq!(index.on_chain(height), Some(node));
        assert_eq!(index.ancestor(best, height), Some(node));
    }
}

/// Each record that was matched is the block's: checksum and number of transactions fit. Looking again changes nothing.
fn undo_records(framing: Framing, file: &[u8]) {
    let mut undo = UndoFile::default();
    undo.extend(Cursor::new(file), framing, CANDIDATES.clone())
        .expect("reading memory works");
    let found: Vec<_> = CANDIDATES.iter().map(|c| undo.record(c.node)).collect();
    for (block, record) in CANDIDATES.iter().zip(&found) {
        let Some(record) = record else {
            undo.missing(block.node, CANDIDATES.clone());
            continue;
        };
        let end = record.offset as usize + record.length as usize + CHECKSUM_BYTES;
        let mut bytes = file[record.offset as usize..end].to_vec();
        framing.key.apply(record.offset, &mut bytes);
        let (payload, checksum) = bytes.split_at(record.length as usize);
        assert_eq!(undo_checksum(&block.parent, payload), checksum);
        assert_eq!(
            undo_transactions(payload).ok(),
            Some(block.transactions as usize - 1)
        );
    }
    undo.extend(Cursor::new(file), framing, CANDIDATES.clone())
        .expect("reading memory works");
    let again: Vec<_> = CANDIDATES.iter().map(|c| undo.record(c.node)).collect();
    assert_eq!(again, found);
}
