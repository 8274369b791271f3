//! From the lanes' sections to blocks and undo records.

use bitcoin::BlockHash;
use bitcoin::block::{Header, Version};
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::script::Builder;
use bitcoin::{CompactTarget, TxMerkleNode};

use super::lane::{Reward, Section, double_hash};
use super::wire::push_compact_size;

/// Regtest's proof of work: every second hash is good enough.
const BITS: u32 = 0x207f_ffff;

/// Blocks until the subsidy halves on regtest.
const HALVING_BLOCKS: u32 = 150;
const FIRST_SUBSIDY_SAT: u64 = 5_000_000_000;

/// Seconds between blocks.
const SPACING_SECONDS: u32 = 600;

/// A block but for its parent.
pub(super) struct Draft {
    height: u32,
    merkle_root: [u8; 32],
    /// Room for the header, then all of the block.
    bytes: Vec<u8>,
    /// The undo record's payload: what each transaction but the coinbase spends.
    undo: Vec<u8>,
    pub(super) coinbase_txid: [u8; 32],
    pub(super) reward_sat: u64,
}

/// A block and its undo record, as they stand in the files, without frames.
pub(super) struct FinishedBlock {
    pub(super) hash: BlockHash,
    pub(super) block: Vec<u8>,
    pub(super) undo: Vec<u8>,
}

const HEADER_BYTES: usize = 80;

impl Draft {
    /// Joins the sections, in order.
    pub(super) fn new(height: u32, sections: &[Section], reward: &Reward) -> Self {
        let fees_sat: u64 = sections.iter().map(|section| section.fees_sat).sum();
        let reward_sat = subsidy_sat(height) + fees_sat;
        let transactions: usize = sections.iter().map(|section| section.txids.len()).sum();

        let mut wtxids = Vec::with_capacity(transactions + 1);
        wtxids.push([0; 32]);
        wtxids.extend(sections.iter().flat_map(|section| &section.wtxids));
        let commitment = double_hash(&[&merkle_root(wtxids), &[0; 32]]);
        let coinbase = Coinbase::new(height, reward_sat, &reward.script, &commitment);
        let coinbase_txid = coinbase.txid();

        let mut txids = Vec::with_capacity(transactions + 1);
        txids.push(coinbase_txid);
        txids.extend(sections.iter().flat_map(|section| &section.txids));

        let bytes_of = |part: fn(&Section) -> &Vec<u8>| -> usize {
            sections.iter().map(|section| part(section).len()).sum()
        };
        let mut bytes =
            Vec::with_capacity(HEADER_BYTES + 512 + bytes_of(|section| &section.transactions));
        bytes.resize(HEADER_BYTES, 0);
        push_compact_size(transactions as u64 + 1, &mut bytes);
        coinbase.write(&mut bytes);
        let mut undo = Vec::with_capacity(64 + bytes_of(|section| &section.undo));
        push_compact_size(transactions as u64, &mut undo);
        for section in sections {
            bytes.extend_from_slice(&section.transactions);
            undo.extend_from_slice(&section.undo);
        }
        Self {
            height,
            merkle_root: merkle_root(txids),
            bytes,
            undo,
            coinbase_txid,
            reward_sat,
        }
    }

    /// A header with proof of work on this parent, whose time is given too.
    pub(super) fn header(&self, parent: BlockHash, genesis_time: u32) -> Header {
        let mut header = Header {
            version: Version::from_consensus(0x2000_0000),
            prev_blockhash: parent,
            merkle_root: TxMerkleNode::from_byte_array(self.merkle_root),
            time: genesis_time.saturating_add(self.height.saturating_mul(SPACING_SECONDS)),
            bits: CompactTarget::from_consensus(BITS),
            nonce: 0,
        };
        while header.validate_pow(header.target()).is_err() {
            header.nonce += 1;
        }
        header
    }

    /// The block with its header, and the undo record with its checksum.
    pub(super) fn finish(mut self, header: &Header) -> FinishedBlock {
        self.bytes[..HEADER_BYTES].copy_from_slice(&serialize(header));
        let checksum = double_hash(&[header.prev_blockhash.as_byte_array(), &self.undo]);
        self.undo.extend_from_slice(&checksum);
        FinishedBlock {
            hash: header.block_hash(),
            block: self.bytes,
            undo: self.undo,
        }
    }
}

/// What a block may create, in satoshi.
fn subsidy_sat(height: u32) -> u64 {
    FIRST_SUBSIDY_SAT
        .checked_shr(height / HALVING_BLOCKS)
        .unwrap_or(0)
}

/// A coinbase in parts: what lies before the place of the witness, and after it.
struct Coinbase {
    body: Vec<u8>,
}

impl Coinbase {
    const VERSION: [u8; 4] = [2, 0, 0, 0];
    const LOCK_TIME: [u8; 4] = [0; 4];

    /// Height first (BIP34), the reward, the commitment to the witnesses (BIP141).
    fn new(height: u32, reward_sat: u64, script: &[u8], commitment: &[u8; 32]) -> Self {
        let script_sig = Builder::new()
            .push_int(i64::from(height))
            .push_slice(b"/spindex generated/")
            .into_script();
        let mut body = vec![1];
        body.extend_from_slice(&[0; 32]);
        body.extend_from_slice(&[0xff; 4]);
        push_compact_size(script_sig.len() as u64, &mut body);
        body.extend_from_slice(script_sig.as_bytes());
        body.extend_from_slice(&[0xff; 4]);
        body.push(2);
        body.extend_from_slice(&reward_sat.to_le_bytes());
        push_compact_size(script.len() as u64, &mut body);
        body.extend_from_slice(script);
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(&[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed]);
        body.extend_from_slice(commitment);
        Self { body }
    }

    fn txid(&self) -> [u8; 32] {
        double_hash(&[&Self::VERSION, &self.body, &Self::LOCK_TIME])
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&Self::VERSION);
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(&self.body);
        bytes.extend_from_slice(&[1, 32]);
        bytes.extend_from_slice(&[0; 32]);
        bytes.extend_from_slice(&Self::LOCK_TIME);
    }
}

/// Merkle root of at least one hash, in internal byte order.
fn merkle_root(mut level: Vec<[u8; 32]>) -> [u8; 32] {
    while level.len() > 1 {
        let pairs = level.chunks(2);
        level = pairs
            .map(|pair| double_hash(&[&pair[0], &pair[pair.len() - 1]]))
            .collect();
    }
    level[0]
}
