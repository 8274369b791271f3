//! A naive index in memory, and a generator of chains for it and for the real one.

#![allow(dead_code, reason = "each test file uses another part")]

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bitcoin::block::{Header, Version};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use bitcoin::{BlockHash, CompactTarget, Network, OutPoint, TxMerkleNode, Txid};
use redb::Database;
use redb::backends::InMemoryBackend;
use spindex::BlockId;
use spindex::curve::TweakPoint;
use spindex::store::schema::VALUE_MAX;
use spindex::store::{
    BlockRecord, OutputRow, RowFilter, ScanColumns, Snapshot, SpendRow, Store, StoreError,
    StoreOptions, Summed, TransactionEntry, TransactionRow, TweakBatch, TweakForm, Update, Utxo,
};

/// Height of the first block in these tests.
pub(crate) const FIRST_HEIGHT: u32 = 7;

/// Options of these tests: an index without multiples.
pub(crate) fn options(undo_depth: u32) -> StoreOptions {
    options_with(undo_depth, false)
}

/// Options of an index with or without multiples.
pub(crate) fn options_with(undo_depth: u32, multiples: bool) -> StoreOptions {
    StoreOptions {
        network: Network::Regtest,
        first_height: Some(FIRST_HEIGHT),
        keep: None,
        tweak_form: None,
        multiples: Some(multiples),
        undo_depth,
        cache_bytes: 8 << 20,
    }
}

/// An empty index in memory, without multiples.
pub(crate) fn memory_store(undo_depth: u32) -> Store {
    memory_store_with(undo_depth, false)
}

/// An empty index in memory.
pub(crate) fn memory_store_with(undo_depth: u32, multiples: bool) -> Store {
    let options = options_with(undo_depth, multiples);
    Store::open_with_backend(InMemoryBackend::new(), &options).expect("empty index")
}

/// What stands for the multiple of a tweak here, where tweaks are no points: the store does no arithmetic.
pub(crate) fn multiple_of(tweak: &[u8; 64]) -> [u8; 64] {
    tweak.map(|byte| byte.wrapping_mul(3) ^ 0x5a)
}

/// Connects blocks in one update.
pub(crate) fn connect(store: &Store, connect: &[BlockRecord]) {
    let disconnect = 0;
    store
        .apply(Update {
            disconnect,
            connect,
        })
        .expect("valid update");
}

/// How large a generated block is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Most transactions.
    pub(crate) transactions: usize,
    /// Most outputs of a transaction.
    pub(crate) outputs: usize,
    /// Most spends.
    pub(crate) spends: usize,
    /// Longest filter in bytes.
    pub(crate) filter_bytes: usize,
}

/// A few rows of everything.
pub(crate) const SMALL: Size = Size {
    transactions: 5,
    outputs: 4,
    spends: 6,
    filter_bytes: 40,
};

/// More than a chunk of tweaks and of outputs at a time.
pub(crate) const MEDIUM: Size = Size {
    transactions: 300,
    outputs: 3,
    spends: 300,
    filter_bytes: 5_000,
};

/// Several chunks of most columns.
pub(crate) const LARGE: Size = Size {
    transactions: 900,
    outputs: 4,
    spends: 1200,
    filter_bytes: 40_000,
};

/// A chain of records that grows and shrinks; remembers what was disconnected, to mine it again.
#[derive(Default, Clone)]
pub(crate) struct Model {
    /// Whether its records have multiples.
    pub(crate) multiples: bool,
    /// The active chain from the first height on.
    pub(crate) chain: Vec<BlockRecord>,
    orphans: Vec<(TransactionRow, Vec<OutputRow>)>,
    /// Hashes of blocks that were disconnected.
    pub(crate) orphan_hashes: Vec<BlockHash>,
}

impl Model {
    /// An empty chain.
    pub(crate) fn new(multiples: bool) -> Self {
        Self {
            multiples,
            ..Self::default()
        }
    }

    /// What the records of this chain have as multiples.
    pub(crate) fn multiples(&self, transactions: &[TransactionRow]) -> Vec<[u8; 64]> {
        let rows = transactions.iter().filter(|_| self.multiples);
        rows.map(|row| multiple_of(&row.tweak)).collect()
    }

    /// The tip.
    pub(crate) fn tip(&self) -> Option<BlockId> {
        self.chain.last().map(|record| record.id)
    }

    /// Takes the last blocks away.
    pub(crate) fn disconnect(&mut self, count: usize) {
        for record in self.chain.split_off(self.chain.len() - count) {
            self.orphan_hashes.push(record.id.hash);
            for (index, row) in record.transactions.into_iter().enumerate() {
                let outputs = record.outputs.iter();
                let outputs = outputs.filter(|output| output.transaction as usize == index);
                self.orphans.push((row, outputs.cloned().collect()));
            }
        }
    }

    /// Outputs of the chain in order, with their outpoints.
    pub(crate) fn outputs(&self) -> Vec<(OutPoint, &OutputRow)> {
        let mut outputs = Vec::new();
        for record in &self.chain {
            for output in &record.outputs {
                let txid = record.transactions[output.transaction as usize].txid;
                let vout = output.vout;
                outputs.push((OutPoint { txid, vout }, output));
            }
        }
        outputs
    }

    /// Everything that a block of the chain spends.
    pub(crate) fn spent(&self) -> HashSet<OutPoint> {
        let spends = self.chain.iter().flat_map(|record| &record.spends);
        spends.map(|spend| spend.outpoint).collect()
    }

    /// Appends a block drawn from `seed`.
    pub(crate) fn grow(&mut self, seed: u64, size: Size) -> &BlockRecord {
        let mut rng = StdRng::seed_from_u64(seed);
        let present: HashSet<Txid> = self
            .chain
            .iter()
            .flat_map(|record| &record.transactions)
            .map(|row| row.txid)
            .collect();
        let spent = self.spent();
        let mut live: Vec<OutPoint> = self
            .outputs()
            .into_iter()
            .map(|(outpoint, _)| outpoint)
            .filter(|outpoint| !spent.contains(outpoint))
            .collect();
        let mut dead: Vec<OutPoint> = spent.into_iter().collect();
        // A set has no order of its own, a seed has one chain.
        dead.sort_unstable();

        let mut transactions = Vec::new();
        let mut outputs = Vec::new();
        for _ in 0..rng.gen_range(0..=size.transactions) {
            let (row, mut rows) = self.draw_transaction(&mut rng, size);
            if present.contains(&row.txid) {
                continue;
            }
            for output in &mut rows {
                output.transaction = transactions.len() as u32;
                live.push(OutPoint::new(row.txid, output.vout));
            }
            transactions.push(row);
            outputs.extend(rows);
        }
        // What an outpoint's key is; a chain does not say two things of it.
        let mut keys: HashMap<OutPoint, [u8; 32]> = self
            .outputs()
            .into_iter()
            .map(|(outpoint, output)| (outpoint, output.key))
            .collect();
        keys.extend(outputs.iter().map(|output: &OutputRow| {
            let row: &TransactionRow = &transactions[output.transaction as usize];
            (OutPoint::new(row.txid, output.vout), output.key)
        }));
        live.shuffle(&mut rng);
        let mut spends = Vec::new();
        for _ in 0..rng.gen_range(0..=size.spends) {
            let outpoint = match rng.gen_range(0..12) {
                // Of no eligible transaction.
                0 => OutPoint::new(Txid::from_byte_array(rng.r#gen()), rng.gen_range(0..3)),
                // An eligible transaction's output that is not taproot.
                1 => match live.last() {
                    Some(outpoint) => OutPoint::new(outpoint.txid, outpoint.vout + 100),
                    None => continue,
                },
                // Spent before: no valid chain does so.
                2 if !dead.is_empty() => dead[rng.gen_range(0..dead.len())],
                _ => match live.pop() {
                    Some(outpoint) => outpoint,
                    None => continue,
                },
            };
            let key = keys.get(&outpoint).copied();
            let key = key.unwrap_or_else(|| rng.r#gen());
            spends.push(SpendRow {
                outpoint,
                key_prefix: key[..8].try_into().expect("8 bytes"),
                created: None,
            });
        }
        let header = Header {
            version: Version::TWO,
            prev_blockhash: self.tip().map_or_else(BlockHash::all_zeros, |tip| tip.hash),
            merkle_root: TxMerkleNode::from_byte_array(rng.r#gen()),
            time: rng.r#gen(),
            bits: CompactTarget::from_consensus(rng.r#gen()),
            nonce: rng.r#gen(),
        };
        let mut filter = |max: usize| {
            let mut bytes = vec![0; rng.gen_range(0..=max)];
            rng.fill(bytes.as_mut_slice());
            bytes
        };
        let record = BlockRecord {
            id: BlockId {
                height: FIRST_HEIGHT + self.chain.len() as u32,
                hash: header.block_hash(),
            },
            header,
            multiples: self.multiples(&transactions),
            transactions,
            outputs,
            spends,
            new_utxos_filter: filter(size.filter_bytes),
            spent_filter: filter(size.filter_bytes),
        };
        self.chain.push(record);
        &self.chain[self.chain.len() - 1]
    }

    /// The records from `at` on, whose spends say which height created what they spend.
    pub(crate) fn with_heights(&self, at: usize) -> Vec<BlockRecord> {
        let rows = |record: &BlockRecord| {
            let height = record.id.height;
            let txids = record.transactions.iter().map(|row| row.txid);
            txids.map(move |txid| (txid, height)).collect::<Vec<_>>()
        };
        let heights: HashMap<Txid, u32> = self.chain.iter().flat_map(rows).collect();
        let mut records = self.chain[at..].to_vec();
        for record in &mut records {
            let any = |txid: &Txid| u32::from(txid.as_byte_array()[0]) % (record.id.height + 1);
            for spend in &mut record.spends {
                let txid = spend.outpoint.txid;
                spend.created = Some(heights.get(&txid).copied().unwrap_or(any(&txid)));
            }
        }
        records
    }

    fn draw_transaction(
        &mut self,
        rng: &mut StdRng,
        size: Size,
    ) -> (TransactionRow, Vec<OutputRow>) {
        if !self.orphans.is_empty() && rng.gen_bool(0.6) {
            return self
                .orphans
                .swap_remove(rng.gen_range(0..self.orphans.len()));
        }
        let mut tweak = [0; 64];
        rng.fill(tweak.as_mut_slice());
        let row = TransactionRow {
            txid: Txid::from_byte_array(rng.r#gen()),
            tweak,
        };
        let mut vout = 0;
        let outputs = (0..rng.gen_range(0..=size.outputs))
            .map(|_| {
                vout += rng.gen_range(1..3);
                OutputRow {
                    key: rng.r#gen(),
                    value_sat: *[0, 330, 546, 1000, 1000, VALUE_MAX, rng.gen_range(1..2000)]
                        .choose(rng)
                        .expect("a choice"),
                    vout,
                    transaction: 0,
                }
            })
            .collect();
        (row, outputs)
    }

    /// What a query for the outputs of the block at `index` answers.
    pub(crate) fn utxos(&self, index: usize, filter: RowFilter) -> Vec<Utxo> {
        let record = &self.chain[index];
        let spent = self.spent();
        let mut utxos = Vec::new();
        for (transaction, row) in record.transactions.iter().enumerate() {
            if !keeps(record, transaction, &spent, filter) {
                continue;
            }
            for output in &record.outputs {
                if output.transaction as usize == transaction {
                    utxos.push(Utxo {
                        txid: row.txid,
                        vout: output.vout,
                        value_sat: output.value_sat,
                        key: output.key,
                        spent: spent.contains(&OutPoint::new(row.txid, output.vout)),
                    });
                }
            }
        }
        utxos
    }

    /// What a query for the tweaks of the block at `index` answers.
    pub(crate) fn tweaks(&self, index: usize, filter: RowFilter) -> Vec<(Txid, TweakPoint)> {
        let record = &self.chain[index];
        let spent = self.spent();
        let rows = record.transactions.iter().enumerate();
        rows.filter(|(transaction, _)| keeps(record, *transaction, &spent, filter))
            .map(|(_, row)| (row.txid, TweakPoint::from_bytes(row.tweak)))
            .collect()
    }

    /// Digest per block.
    pub(crate) fn digests(&self) -> Vec<[u8; 32]> {
        let mut digest = [0; 32];
        let mut digests = Vec::new();
        for record in &self.chain {
            let mut tweaks = Vec::new();
            for row in &record.transactions {
                tweaks.push(if row.tweak[63] % 2 == 0 { 2 } else { 3 });
                tweaks.extend_from_slice(&row.tweak[..32]);
            }
            let mut bytes = digest.to_vec();
            bytes.extend_from_slice(record.id.hash.as_byte_array());
            bytes.extend_from_slice(sha256::Hash::hash(&tweaks).as_byte_array());
            digest = sha256::Hash::hash(&bytes).to_byte_array();
            digests.push(digest);
        }
        digests
    }

    /// Per block the positions of the outputs it was the first to spend, ascending.
    pub(crate) fn spent_positions(&self) -> Vec<Vec<u64>> {
        let positions: HashMap<OutPoint, u64> = self
            .outputs()
            .into_iter()
            .enumerate()
            .map(|(position, (outpoint, _))| (outpoint, position as u64))
            .collect();
        let mut seen = HashSet::new();
        let mut blocks = Vec::new();
        for record in &self.chain {
            let spends = record.spends.iter().map(|spend| spend.outpoint);
            let first = spends.filter(|outpoint| seen.insert(*outpoint));
            let mut row: Vec<u64> = first
                .filter_map(|outpoint| positions.get(&outpoint).copied())
                .collect();
            row.sort_unstable();
            blocks.push(row);
        }
        blocks
    }
}

fn keeps(
    record: &BlockRecord,
    transaction: usize,
    spent: &HashSet<OutPoint>,
    filter: RowFilter,
) -> bool {
    let txid = record.transactions[transaction].txid;
    let outputs: Vec<&OutputRow> = record
        .outputs
        .iter()
        .filter(|output| output.transaction as usize == transaction)
        .collect();
    let unspent: Vec<&OutputRow> = outputs
        .iter()
        .copied()
        .filter(|output| !spent.contains(&OutPoint::new(txid, output.vout)))
        .collect();
    if filter.cut_through {
        let highest = unspent.iter().map(|output| output.value_sat).max();
        highest.is_some_and(|highest| highest >= filter.dust_limit_sat)
    } else {
        let highest = outputs.iter().map(|output| output.value_sat).max();
        highest.unwrap_or(0) >= filter.dust_limit_sat
    }
}

/// Filters that every list is asked with.
pub(crate) fn row_filters() -> Vec<RowFilter> {
    let mut filters = Vec::new();
    for cut_through in [false, true] {
        for dust_limit_sat in [0, 1, 546, 547, 1001, VALUE_MAX, u64::MAX] {
            filters.push(RowFilter {
                dust_limit_sat,
                cut_through,
            });
        }
    }
    filters
}

/// Asserts that every query answers as the naive index does.
pub(crate) fn assert_equal(snapshot: &Snapshot, model: &Model) {
    assert_eq!(snapshot.tip(), model.tip());
    assert_eq!(snapshot.first_height(), FIRST_HEIGHT);
    let outputs = model.outputs();
    let spent = model.spent();
    let counts = snapshot.counts().expect("counts");
    assert_eq!(counts.blocks, model.chain.len() as u64);
    assert_eq!(counts.outputs, outputs.len() as u64);
    let unspent = outputs.iter().filter(|(at, _)| !spent.contains(at)).count();
    assert_eq!(counts.unspent, unspent as u64);
    for (outpoint, _) in &outputs {
        match snapshot.is_unspent(outpoint) {
            Ok(found) => assert_eq!(found, !spent.contains(outpoint), "{outpoint}"),
            Err(StoreError::NotLocated { .. }) => assert!(snapshot.locating().is_some()),
            Err(error) => panic!("{error}"),
        }
    }

    let held: usize = model.spent_positions().iter().map(Vec::len).sum();
    let spends: usize = model.chain.iter().map(|record| record.spends.len()).sum();
    assert_eq!(counts.spends, spends as u64);
    assert_eq!(counts.foreign, (spends - held) as u64);

    let digests = model.digests();
    let spent_positions = model.spent_positions();
    for (index, record) in model.chain.iter().enumerate() {
        let height = record.id.height;
        let entry = snapshot.block(height).expect("row").expect("indexed");
        assert_eq!(entry.id, record.id);
        assert_eq!(entry.header, record.header);
        assert_eq!(entry.transactions as usize, record.transactions.len());
        assert_eq!(entry.outputs as usize, record.outputs.len());
        assert_eq!(entry.spends as usize, record.spends.len());
        let found = snapshot.height_of(&record.id.hash).expect("row");
        assert_eq!(found, Some(height));
        let some = |bytes: &Vec<u8>| Some(bytes.clone());
        assert_eq!(
            snapshot.new_utxos_filter(height).expect("filter"),
            some(&record.new_utxos_filter)
        );
        assert_eq!(
            snapshot.spent_filter(height).expect("filter"),
            some(&record.spent_filter)
        );
        assert_eq!(
            snapshot.spends(height).expect("spends").as_ref(),
            Some(&record.spends)
        );
        assert_eq!(
            snapshot.spent_positions(height).expect("spends").as_ref(),
            Some(&spent_positions[index])
        );
        assert_eq!(
            snapshot.digest(height).expect("digest"),
            Some(digests[index])
        );
        for filter in row_filters() {
            let tweaks = model.tweaks(index, filter);
            let compressed: Vec<(Txid, [u8; 33])> = tweaks
                .iter()
                .map(|(txid, tweak)| (*txid, tweak.to_compressed()))
                .collect();
            let list: Vec<[u8; 33]> = compressed.iter().map(|(_, tweak)| *tweak).collect();
            assert_eq!(
                snapshot.tweak_list(height, filter).expect("tweaks"),
                Some(list),
                "{height} {filter:?}"
            );
            assert_eq!(
                snapshot.compressed_tweaks(height, filter).expect("tweaks"),
                Some(compressed),
                "{height} {filter:?}"
            );
            match snapshot.tweak_form() {
                TweakForm::Point => assert_eq!(
                    snapshot.tweaks(height, filter).expect("tweaks"),
                    Some(tweaks),
                    "{height} {filter:?}"
                ),
                TweakForm::Compressed => {
                    let refused = snapshot.tweaks(height, filter).expect_err("no points");
                    assert!(
                        matches!(refused, StoreError::NoPoints { .. }),
                        "{refused:?}"
                    );
                }
            }
            assert_eq!(
                snapshot.utxos(height, filter).expect("utxos"),
                Some(model.utxos(index, filter)),
                "{height} {filter:?}"
            );
        }
    }

    let columns = ScanColumns {
        compressed: snapshot.tweak_form() == TweakForm::Compressed,
        multiples: model.multiples,
        short_keys: true,
    };
    if let Some(tip) = model.tip() {
        assert_scan(snapshot, model, FIRST_HEIGHT..=tip.height, columns);
    }

    // Nothing outside.
    let above = FIRST_HEIGHT + model.chain.len() as u32;
    for height in [0, FIRST_HEIGHT - 1, above, u32::MAX] {
        let filter = RowFilter::default();
        assert_eq!(snapshot.block(height).expect("no row"), None);
        assert_eq!(snapshot.tweaks(height, filter).expect("no row"), None);
        assert_eq!(snapshot.tweak_list(height, filter).expect("no row"), None);
        assert_eq!(
            snapshot.compressed_tweaks(height, filter).expect("no row"),
            None
        );
        assert_eq!(snapshot.spent_positions(height).expect("no row"), None);
        assert_eq!(snapshot.utxos(height, filter).expect("no row"), None);
        assert_eq!(snapshot.spends(height).expect("no row"), None);
        assert_eq!(snapshot.new_utxos_filter(height).expect("no row"), None);
        assert_eq!(snapshot.spent_filter(height).expect("no row"), None);
        assert_eq!(snapshot.digest(height).expect("no row"), None);
        assert!(
            snapshot
                .scan(height..=height, columns)
                .expect("no row")
                .is_none()
        );
    }
    let transactions = counts.transactions;
    assert_eq!(snapshot.transaction(transactions).expect("none"), None);
    assert_eq!(snapshot.block_of(transactions).expect("none"), None);
    for hash in &model.orphan_hashes {
        assert_eq!(snapshot.height_of(hash).expect("no row"), None);
    }
}

/// Asserts that a scan of indexed heights gives what the queries for each of its blocks do, and returns its batches.
pub(crate) fn assert_scan(
    snapshot: &Snapshot,
    model: &Model,
    heights: RangeInclusive<u32>,
    columns: ScanColumns,
) -> Vec<TweakBatch> {
    let scan = snapshot.scan(heights.clone(), columns).expect("scan");
    let scan = scan.expect("indexed");
    let positions = scan.positions();
    let batches: Vec<TweakBatch> = scan.map(|batch| batch.expect("batch")).collect();

    let before = |height: u32| -> u64 {
        let blocks = model
            .chain
            .iter()
            .filter(|record| record.id.height < height);
        blocks.map(|record| record.transactions.len() as u64).sum()
    };
    let mut next = before(*heights.start());
    assert_eq!(positions, next..before(*heights.end() + 1));
    let filter = RowFilter::default();
    let mut rows = batches.iter().enumerate().flat_map(|(number, batch)| {
        assert_eq!(batch.first, next, "batches follow each other");
        let count = batch.len();
        let tweaks: Vec<[u8; 33]> = match columns.compressed {
            true => {
                assert!(batch.tweaks.is_empty());
                batch.compressed.clone()
            }
            false => {
                assert!(batch.compressed.is_empty());
                batch.tweaks.iter().map(TweakPoint::to_compressed).collect()
            }
        };
        assert_eq!(tweaks.len(), count);
        assert!((1..=4080).contains(&count));
        next += count as u64;
        let following = batches.get(number + 1).and_then(|next| next.ends.first());
        assert!(
            next.is_multiple_of(255)
                || next == positions.end
                || following.is_some_and(|end| batch.keys.len() + *end as usize > 1 << 16),
            "batches end with chunks, unless the next transaction has too many keys"
        );
        let with = |wanted: bool| if wanted { count } else { 0 };
        assert_eq!(batch.multiples.len(), with(columns.multiples));
        assert_eq!(batch.ends.len(), with(columns.short_keys));
        let last = batch.ends.last().map_or(0, |end| *end as usize);
        assert_eq!(batch.keys.len(), last);
        (0..count).map(move |index| {
            let start = index.checked_sub(1).map_or(0, |before| {
                batch.ends.get(before).map_or(0, |end| *end as usize)
            });
            let end = batch.ends.get(index).map_or(0, |end| *end as usize);
            (
                batch.first + index as u64,
                tweaks[index],
                batch.multiples.get(index),
                &batch.keys[start..end],
            )
        })
    });
    for height in heights {
        let tweaks = model.tweaks((height - FIRST_HEIGHT) as usize, filter);
        let utxos = snapshot
            .utxos(height, filter)
            .expect("utxos")
            .expect("indexed");
        for (txid, tweak) in tweaks {
            let (position, found, multiple, keys) =
                rows.next().expect("as many tweaks as the blocks have");
            assert_eq!(found, tweak.to_compressed());
            let expected = TweakPoint::from_bytes(multiple_of(tweak.as_bytes()));
            assert_eq!(multiple, columns.multiples.then_some(&expected));
            let outputs: Vec<Utxo> = utxos
                .iter()
                .filter(|utxo| utxo.txid == txid)
                .cloned()
                .collect();
            if columns.short_keys {
                let short =
                    |utxo: &Utxo| u64::from_be_bytes(*utxo.key.first_chunk().expect("32 bytes"));
                assert!(outputs.iter().map(short).eq(keys.iter().copied()));
            }
            // Every lookup costs the block's outputs: of large blocks a sample will do.
            if utxos.len() < 100 || position % 97 == 0 {
                let block = snapshot.block(height).expect("row").expect("indexed").id;
                let entry = TransactionEntry {
                    block,
                    txid,
                    tweak: tweak.to_compressed(),
                    outputs,
                };
                assert_eq!(snapshot.block_of(position).expect("row"), Some(block));
                assert_eq!(snapshot.transaction(position).expect("row"), Some(entry));
            }
        }
    }
    assert!(rows.next().is_none(), "no more tweaks than the blocks have");
    drop(rows);
    batches
}

/// What the store holds, hashed; fails if it contradicts itself.
pub(crate) fn content(store: &Store) -> [u8; 32] {
    let snapshot = store.snapshot().expect("snapshot");
    snapshot.content_hash().expect("sound index")
}

/// A place for an index file, gone with the directory.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("index.redb");
    (directory, path)
}

/// A short chain in which everything occurs.
pub(crate) fn small_chain(multiples: bool) -> Model {
    let mut model = Model::new(multiples);
    for seed in 0..6 {
        model.grow(seed, SMALL);
    }
    model
}

/// The chain that the files of older formats in `fixtures/store` hold: blocks of both sizes, several chunks.
pub(crate) fn released_chain(multiples: bool) -> Model {
    let mut model = Model::new(multiples);
    for (seed, size) in [SMALL, SMALL, MEDIUM, SMALL, MEDIUM, SMALL, SMALL, SMALL]
        .into_iter()
        .enumerate()
    {
        model.grow(100 + seed as u64, size);
    }
    model
}

/// A file that holds [`small_chain`].
pub(crate) fn small_index(path: &Path, multiples: bool) -> Model {
    let model = small_chain(multiples);
    let store = Store::open(path, &options_with(3, multiples)).expect("new index");
    connect(&store, &model.chain);
    model
}

/// The engine on an index file: one with sums, or one of an older format.
pub(crate) fn engine(path: &Path) -> Database {
    let start = std::fs::read(path).expect("a file");
    let opened = match start.starts_with(b"redb") {
        true => Database::open(path),
        false => {
            Database::builder().create_with_backend(Summed::file(path).expect("an index file"))
        }
    };
    opened.expect("a database")
}

/// Changes a file behind the store's back.
pub(crate) fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = engine(path);
    let write = database.begin_write().expect("write");
    change(&write);
    write.commit().expect("commit");
}
