//! A reader of block and undo files of its own: what `bitcoin` does not know is decoded here as Bitcoin Core's sources
//! (serialize.h, compressor.cpp, undo.h, blockstorage.cpp) say, from the other side than the generator.

use std::path::Path;

use bitcoin::consensus::deserialize;
use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::{Amount, Block, BlockHash, ScriptBuf, TxOut};
use secp256k1::PublicKey;

const MAGIC: [u8; 4] = [0xfa, 0xbf, 0xb5, 0xda];

/// An output as undo data tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpentOutput {
    pub(crate) height: u32,
    pub(crate) is_coinbase: bool,
    pub(crate) txout: TxOut,
}

/// A block with its undo data: per transaction but the coinbase what it spends. The genesis block has none.
pub(crate) struct StoredBlock {
    pub(crate) block: Block,
    pub(crate) bytes: Vec<u8>,
    pub(crate) undo: Option<Vec<Vec<SpentOutput>>>,
}

/// All files of a kind, in order, without the XOR.
pub(crate) fn files(directory: &Path, kind: &str) -> Vec<Vec<u8>> {
    let key = std::fs::read(directory.join("xor.dat")).unwrap_or_else(|_| vec![0; 8]);
    assert_eq!(key.len(), 8);
    (0..)
        .map_while(|number| std::fs::read(directory.join(format!("{kind}{number:05}.dat"))).ok())
        .map(|mut bytes| {
            for (byte, key) in bytes.iter_mut().zip(key.iter().cycle()) {
                *byte ^= key;
            }
            bytes
        })
        .collect()
}

/// The blocks in the order of the files.
pub(crate) fn read(directory: &Path) -> Vec<StoredBlock> {
    let mut blocks: Vec<StoredBlock> = Vec::new();
    let (block_files, undo_files) = (files(directory, "blk"), files(directory, "rev"));
    assert_eq!(block_files.len(), undo_files.len());
    for (block_file, undo_file) in block_files.iter().zip(&undo_files) {
        let mut undo_records = Cursor(undo_file);
        let mut records = Cursor(block_file);
        while !records.0.is_empty() {
            let bytes = records.record(0).to_vec();
            let block: Block = deserialize(&bytes).unwrap();
            let undo = (block.header.prev_blockhash != BlockHash::all_zeros()).then(|| {
                let record = undo_records.record(32);
                let (payload, checksum) = record.split_at(record.len() - 32);
                let mut hash = sha256d::Hash::engine();
                hash.input(block.header.prev_blockhash.as_byte_array());
                hash.input(payload);
                assert_eq!(sha256d::Hash::from_engine(hash).as_byte_array(), checksum);
                undo(payload)
            });
            blocks.push(StoredBlock { block, bytes, undo });
        }
        assert!(undo_records.0.is_empty());
    }
    blocks
}

fn undo(payload: &[u8]) -> Vec<Vec<SpentOutput>> {
    let mut cursor = Cursor(payload);
    let transactions = cursor.compact_size();
    let spent = (0..transactions)
        .map(|_| {
            let inputs = cursor.compact_size();
            (0..inputs).map(|_| cursor.spent_output()).collect()
        })
        .collect();
    assert!(cursor.0.is_empty());
    spent
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    fn record(&mut self, uncounted: usize) -> &'a [u8] {
        assert_eq!(self.take(4), MAGIC);
        let length = u32::from_le_bytes(self.take(4).try_into().unwrap());
        self.take(length as usize + uncounted)
    }

    fn compact_size(&mut self) -> u64 {
        let first = self.take(1)[0];
        let more = match first {
            0xfd => self.take(2),
            0xfe => self.take(4),
            0xff => self.take(8),
            _ => return u64::from(first),
        };
        more.iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    fn varint(&mut self) -> u64 {
        let mut n: u64 = 0;
        loop {
            let byte = self.take(1)[0];
            n = n << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return n;
            }
            n += 1;
        }
    }

    fn amount(&mut self) -> u64 {
        let x = self.varint();
        if x == 0 {
            return 0;
        }
        let (x, e) = ((x - 1) / 10, (x - 1) % 10);
        let n = if e < 9 {
            (x / 9) * 10 + x % 9 + 1
        } else {
            x + 1
        };
        n * 10_u64.pow(e as u32)
    }

    fn script(&mut self) -> ScriptBuf {
        let kind = self.varint();
        let bytes = match kind {
            0 => [&[0x76, 0xa9, 20], self.take(20), &[0x88, 0xac]].concat(),
            1 => [&[0xa9, 20], self.take(20), &[0x87]].concat(),
            2 | 3 => [&[33, kind as u8], self.take(32), &[0xac]].concat(),
            4 | 5 => {
                let compressed = [&[kind as u8 - 2], self.take(32)].concat();
                let key = PublicKey::from_slice(&compressed).unwrap();
                [&[65], &key.serialize_uncompressed()[..], &[0xac]].concat()
            }
            _ => self.take(kind as usize - 6).to_vec(),
        };
        ScriptBuf::from_bytes(bytes)
    }

    fn spent_output(&mut self) -> SpentOutput {
        let code = self.varint();
        let height = (code / 2) as u32;
        if height > 0 {
            assert_eq!(self.varint(), 0);
        }
        SpentOutput {
            height,
            is_coinbase: code % 2 == 1,
            txout: TxOut {
                value: Amount::from_sat(self.amount()),
                script_pubkey: self.script(),
            },
        }
    }
}
