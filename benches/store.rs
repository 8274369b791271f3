//! An index file of made-up rows: how fast updates are, and what the file takes.
//!
//! `cargo bench --bench store -- [TWEAKS] [TWEAKS_PER_UPDATE] [DIRECTORY]`: so many tweaks (default a million) with two
//! outputs and one and a half spends each, a tenth of the spends foreign, half of the rest of outputs of the last
//! blocks. Prints a line per ten updates, then the file's space before and after compaction, then single blocks at
//! the tip.

#![expect(clippy::print_stdout, reason = "prints a table")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::{Rng, RngCore, SeedableRng};
use bitcoin::{BlockHash, CompactTarget, Network, OutPoint, TxMerkleNode, Txid};
use spindex::BlockId;
use spindex::store::{
    BlockRecord, OutputRow, SpendRow, Store, StoreOptions, TransactionRow, Update,
};

/// Eligible transactions of a block.
const BLOCK: usize = 1_000;

struct Chain {
    rng: StdRng,
    tip: Option<BlockId>,
    /// What can be spent, newest last but for the holes that spending leaves.
    live: Vec<(OutPoint, [u8; 8])>,
}

impl Chain {
    fn block(&mut self) -> BlockRecord {
        let mut random = || {
            let mut bytes = [0; 32];
            self.rng.fill_bytes(&mut bytes);
            bytes
        };
        let mut transactions = Vec::new();
        let mut outputs = Vec::new();
        for transaction in 0..BLOCK as u32 {
            let txid = Txid::from_byte_array(random());
            let mut tweak = [0; 64];
            tweak[..32].copy_from_slice(&random());
            tweak[32..].copy_from_slice(&random());
            transactions.push(TransactionRow { txid, tweak });
            for vout in 0..2 {
                let key = random();
                outputs.push(OutputRow {
                    key,
                    value_sat: 100_000,
                    vout,
                    transaction,
                });
            }
        }
        let header = Header {
            version: Version::TWO,
            prev_blockhash: self.tip.map_or_else(BlockHash::all_zeros, |tip| tip.hash),
            merkle_root: TxMerkleNode::from_byte_array(random()),
            time: 0,
            bits: CompactTarget::from_consensus(0),
            nonce: 0,
        };
        let mut spends = Vec::new();
        for _ in 0..BLOCK * 3 / 2 {
            let (outpoint, key_prefix) = if self.live.is_empty() || self.rng.gen_bool(0.1) {
                (
                    OutPoint::new(Txid::from_byte_array(self.rng.r#gen()), 0),
                    [0; 8],
                )
            } else {
                let from = match self.rng.gen_bool(0.5) {
                    true => self.live.len().saturating_sub(20 * BLOCK),
                    false => 0,
                };
                let at = self.rng.gen_range(from..self.live.len());
                self.live.swap_remove(at)
            };
            spends.push(SpendRow {
                outpoint,
                key_prefix,
                created: None,
            });
        }
        for output in &outputs {
            let txid = transactions[output.transaction as usize].txid;
            let key = *output.key.first_chunk().expect("32 bytes");
            self.live.push((OutPoint::new(txid, output.vout), key));
        }
        let mut filter = |elements: usize| {
            let mut bytes = vec![0; elements * 26 / 10];
            self.rng.fill_bytes(&mut bytes);
            bytes
        };
        let id = BlockId {
            height: self.tip.map_or(1, |tip| tip.height + 1),
            hash: header.block_hash(),
        };
        self.tip = Some(id);
        BlockRecord {
            id,
            header,
            multiples: Vec::new(),
            new_utxos_filter: filter(outputs.len()),
            spent_filter: filter(spends.len()),
            transactions,
            outputs,
            spends,
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
    let path = directory.join(format!("spindex-bench-{}.redb", std::process::id()));
    let options = StoreOptions {
        network: Network::Regtest,
        first_height: None,
        keep: None,
        tweak_form: None,
        multiples: None,
        undo_depth: 288,
        cache_bytes: 256 << 20,
    };
    let store = Store::open(&path, &options).expect("a new index");
    let mut chain = Chain {
        rng: StdRng::seed_from_u64(1),
        tip: None,
        live: Vec::new(),
    };

    let apply = |connect: &[BlockRecord]| {
        let started = Instant::now();
        let disconnect = 0;
        let update = Update {
            disconnect,
            connect,
        };
        store.apply(update).expect("valid update");
        started.elapsed()
    };
    let mut total = Duration::ZERO;
    let mut last = Duration::ZERO;
    for update in 1..=tweaks / per_update {
        let records: Vec<BlockRecord> = (0..per_update / BLOCK).map(|_| chain.block()).collect();
        let took = apply(&records);
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

    let mut single: Vec<Duration> = (0..30).map(|_| apply(&[chain.block()])).collect();
    single.sort_unstable();
    println!(
        "one block: median {:?}, slowest {:?}",
        single[15], single[29]
    );

    let snapshot = store.snapshot().expect("snapshot");
    let tip = snapshot.tip().map_or(0, |tip| tip.height);
    let started = Instant::now();
    for height in tip - 20..tip {
        snapshot.spends(height).expect("spends");
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
