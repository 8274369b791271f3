//! An index file of made-up rows: how fast updates are, and what the file takes.
//!
//! `cargo bench --bench store -- [TWEAKS] [TWEAKS_PER_UPDATE] [DIRECTORY] [SHAPE]`: so many tweaks (default a million).
//! The shape `plain` has two outputs and one and a half spends for each, a tenth of the spends foreign, half of the rest
//! of outputs of the last blocks, in ordinary updates. `mainnet` has blocks, outputs, spends and their distances as
//! generated chains have them (docs/scale.md), and says which height created what is spent, so that locators are left for
//! the end. Prints a line per ten updates, then the file's space before and after compaction, then single blocks at the
//! tip.

#![expect(clippy::print_stdout, reason = "prints a table")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, RngCore, SeedableRng};
use bitcoin::{BlockHash, CompactTarget, Network, OutPoint, TxMerkleNode, Txid};
use spindex::BlockId;
use spindex::chain::made::generated::ChainParameters;
use spindex::store::{
    BlockRecord, OutputRow, SpendRow, Spender, Store, StoreOptions, TransactionRow, Update,
};

/// What a chain looks like.
struct Shape {
    /// Eligible transactions of a block.
    block: usize,
    /// One in so many has two outputs, the others one.
    second_output: usize,
    /// Spends for a thousand transactions.
    spends: usize,
    /// Share of these that are foreign.
    foreign: f64,
    /// Weight, least and most blocks between an output and its spend.
    distances: Vec<(u32, u64, u64)>,
    /// Whether spends say which height created what they spend.
    heights: bool,
}

impl Shape {
    fn plain() -> Self {
        Self {
            block: 1_000,
            second_output: 1,
            spends: 1_500,
            foreign: 0.1,
            distances: vec![(1, 0, 20), (1, 0, u64::MAX)],
            heights: false,
        }
    }

    fn mainnet() -> Self {
        let bands = ChainParameters::MAINNET.distances.iter();
        Self {
            block: 741,
            second_output: 6,
            spends: 620,
            foreign: 0.08,
            distances: bands
                .map(|band| (band.weight, band.least, band.most))
                .collect(),
            heights: true,
        }
    }

    /// Transaction and vout of an output by its index in the block.
    fn output(&self, index: usize) -> (usize, u32) {
        let (group, within) = (
            index / (self.second_output + 1),
            index % (self.second_output + 1),
        );
        let transaction = group * self.second_output + within.saturating_sub(1);
        (transaction, u32::from(within == 1))
    }

    fn distance(&self, rng: &mut StdRng) -> u64 {
        let total: u32 = self.distances.iter().map(|(weight, ..)| weight).sum();
        let mut at = rng.gen_range(0..total);
        for &(weight, least, most) in &self.distances {
            if at < weight {
                return rng.gen_range(least..=most);
            }
            at -= weight;
        }
        0
    }
}

/// 32 bytes that follow from a height, an index and what they are for: nothing of the chain needs to be kept.
fn bytes_of(purpose: u64, height: u32, index: usize) -> [u8; 32] {
    let mut state = purpose << 56 | u64::from(height) << 24 | index as u64;
    let mut bytes = [0; 32];
    for part in bytes.as_chunks_mut::<8>().0 {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        *part = (z ^ z >> 31).to_le_bytes();
    }
    bytes
}

const TXID: u64 = 0;
const KEY: u64 = 1;
const TWEAK: u64 = 2;

struct Chain {
    shape: Shape,
    rng: StdRng,
    tip: Option<BlockId>,
    /// Per block, from height 1 on, the indices of its outputs that can be spent.
    live: Vec<Vec<u16>>,
}

impl Chain {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            rng: StdRng::seed_from_u64(1),
            tip: None,
            live: Vec::new(),
        }
    }

    fn block(&mut self) -> BlockRecord {
        let height = self.tip.map_or(1, |tip| tip.height + 1);
        let count = self.shape.block;
        let transactions: Vec<TransactionRow> = (0..count)
            .map(|index| {
                let mut tweak = [0; 64];
                tweak[..32].copy_from_slice(&bytes_of(TWEAK, height, 2 * index));
                tweak[32..].copy_from_slice(&bytes_of(TWEAK, height, 2 * index + 1));
                let txid = Txid::from_byte_array(bytes_of(TXID, height, index));
                TransactionRow { txid, tweak }
            })
            .collect();
        let outputs: Vec<OutputRow> = (0..)
            .map(|index| (index, self.shape.output(index)))
            .take_while(|(_, (transaction, _))| *transaction < count)
            .map(|(index, (transaction, vout))| OutputRow {
                key: bytes_of(KEY, height, index),
                value_sat: 100_000,
                vout,
                transaction: transaction as u32,
            })
            .collect();
        self.live
            .push((0..outputs.len()).map(|index| index as u16).collect());
        let spends: Vec<SpendRow> = (0..count * self.shape.spends / 1000)
            .map(|index| SpendRow {
                // Two inputs each.
                spender: Some(Spender {
                    transaction: 1 + (index / 2) as u16,
                    input: (index % 2) as u16,
                }),
                ..self.spend()
            })
            .collect();
        let header = Header {
            version: Version::TWO,
            prev_blockhash: self.tip.map_or_else(BlockHash::all_zeros, |tip| tip.hash),
            merkle_root: TxMerkleNode::from_byte_array(self.rng.r#gen()),
            time: 0,
            bits: CompactTarget::from_consensus(0),
            nonce: 0,
        };
        let mut filter = |elements: usize| {
            let mut bytes = vec![0; elements * 26 / 10];
            self.rng.fill_bytes(&mut bytes);
            bytes
        };
        let hash = header.block_hash();
        self.tip = Some(BlockId { height, hash });
        BlockRecord {
            id: BlockId { height, hash },
            header,
            multiples: Vec::new(),
            new_utxos_filter: filter(outputs.len()),
            spent_filter: filter(spends.len()),
            transactions,
            outputs,
            spends,
            states: Vec::new(),
        }
    }

    /// Of an output as far back as the shape says, or the next one below that is left.
    fn spend(&mut self) -> SpendRow {
        let tip = self.live.len() as u64;
        let height = |height: u64| self.shape.heights.then_some(height as u32);
        if !self.rng.gen_bool(self.shape.foreign) {
            let from = match self.shape.distance(&mut self.rng) {
                distance if distance < tip => tip - distance,
                _ => self.rng.gen_range(1..=tip),
            };
            for created in (1..=from).rev().take(100) {
                let live = &mut self.live[created as usize - 1];
                if live.is_empty() {
                    continue;
                }
                let index = usize::from(live.swap_remove(self.rng.gen_range(0..live.len())));
                let (transaction, vout) = self.shape.output(index);
                let txid = Txid::from_byte_array(bytes_of(TXID, created as u32, transaction));
                let key = bytes_of(KEY, created as u32, index);
                return SpendRow {
                    outpoint: OutPoint { txid, vout },
                    key_prefix: *key.first_chunk().expect("32 bytes"),
                    created: height(created),
                    spender: None,
                };
            }
        }
        SpendRow {
            outpoint: OutPoint::new(Txid::from_byte_array(self.rng.r#gen()), 0),
            key_prefix: [0; 8],
            created: height(self.rng.gen_range(1..=tip)),
            spender: None,
        }
    }
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let mut number = |default: usize| {
        let argument = arguments.next();
        argument.map_or(default, |text| text.parse().expect("a number"))
    };
    let tweaks = number(1_000_000);
    let per_update = number(100_000);
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let shape = match arguments.next().as_deref() {
        None | Some("plain") => Shape::plain(),
        Some("mainnet") => Shape::mainnet(),
        Some(other) => panic!("no shape {other}: plain or mainnet"),
    };
    let path = directory.join(format!("spindex-bench-{}.redb", std::process::id()));
    let options = StoreOptions {
        network: Network::Regtest,
        first_height: None,
        keep: None,
        tweak_form: None,
        undo_depth: 288,
        cache_bytes: 256 << 20,
    };
    let store = Store::open(&path, &options).expect("a new index");
    let mut chain = Chain::new(shape);

    let apply = |connect: &[BlockRecord], defer: bool| {
        let started = Instant::now();
        let disconnect = 0;
        let tip = match defer {
            true => store.extend(connect),
            false => store.apply(Update {
                disconnect,
                connect,
            }),
        };
        tip.expect("valid update");
        started.elapsed()
    };
    let mut total = Duration::ZERO;
    let mut last = Duration::ZERO;
    let blocks = per_update / chain.shape.block;
    let defer = chain.shape.heights;
    for update in 1..=tweaks / per_update {
        let records: Vec<BlockRecord> = (0..blocks).map(|_| chain.block()).collect();
        let took = apply(&records, defer);
        total += took;
        last += took;
        if update % 10 == 0 {
            let rate = (10 * per_update) as f64 / last.as_secs_f64();
            let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
            println!(
                "{:>12} tweaks  {rate:>10.0} tweaks/s  file {} MiB",
                update * per_update,
                bytes >> 20
            );
            last = Duration::ZERO;
        }
    }
    println!(
        "all updates: {:.0} tweaks/s",
        tweaks as f64 / total.as_secs_f64()
    );
    let started = Instant::now();
    let located = store.locate_rest(|locating| {
        println!(
            "locating: {} of {} outputs after {:?}",
            locating.outputs,
            locating.of,
            started.elapsed()
        );
        true
    });
    located.expect("locators");
    println!("located: {:?}", started.elapsed());

    let print_space = || {
        let space = store.space().expect("space");
        for table in &space.tables {
            println!(
                "{:>12} {:>10} rows {:>14} stored {:>14} allocated",
                table.name, table.rows, table.stored_bytes, table.allocated_bytes
            );
        }
        println!(
            "file {} on disk {} stored {} allocated {}: file/stored {:.3}, stored/tweak {:.1}",
            space.file_bytes,
            space.disk_bytes,
            space.stored_bytes(),
            space.allocated_bytes(),
            space.file_bytes as f64 / space.stored_bytes() as f64,
            space.stored_bytes() as f64 / tweaks as f64
        );
    };
    print_space();
    let started = Instant::now();
    let freed = store.compact(Duration::ZERO).expect("nobody reads");
    println!(
        "compact: {:?}, {} MiB given back",
        started.elapsed(),
        freed >> 20
    );
    print_space();

    let mut single: Vec<Duration> = (0..30).map(|_| apply(&[chain.block()], false)).collect();
    single.sort_unstable();
    println!(
        "one block: median {:?}, slowest {:?}",
        single[15], single[29]
    );

    let snapshot = store.snapshot().expect("snapshot");
    let tip = snapshot.tip().map_or(0, |tip| tip.height);
    let started = Instant::now();
    for height in tip - 20..tip {
        let block = snapshot.block(height).expect("read").expect("indexed");
        block.spends().expect("spends");
    }
    println!("spends of a block: {:?}", started.elapsed() / 20);
    let started = Instant::now();
    snapshot.content_hash().expect("sound");
    println!("verify: {:?}", started.elapsed());
    drop(snapshot);
    drop(store);
    println!(
        "closed: {} bytes",
        std::fs::metadata(&path).map_or(0, |file| file.len())
    );
    let started = Instant::now();
    let store = Store::open(&path, &options).expect("sound");
    println!("open: {:?}", started.elapsed());
    drop(store);
    std::fs::remove_file(&path).expect("remove");
}
