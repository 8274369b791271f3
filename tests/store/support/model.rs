//! A naive index in memory, and a generator of chains for it and for the real one.

use std::collections::{HashMap, HashSet};

use bitcoin::block::{Header, Version};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use bitcoin::{BlockHash, CompactTarget, OutPoint, TxMerkleNode, Txid};
use spindex::BlockId;
use spindex::curve::TweakPoint;
use spindex::store::schema::VALUE_MAX;
use spindex::store::{
    BlockRecord, Heads, OutputPosition, OutputRow, RowFilter, SpendRow, Spender, StateRow,
    TransactionRow, Utxo,
};

use super::{FIRST_HEIGHT, multiple_of};

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
                spender: None,
            });
        }
        let states = draw_spenders(seed, &mut spends);
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
            states,
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

    /// The same chain, of which nobody knows who spends what.
    pub(crate) fn without_spenders(mut self) -> Self {
        self.chain.iter_mut().for_each(forget_spenders);
        self
    }

    /// Heads of both versions per block.
    pub(crate) fn heads(&self) -> Vec<Heads> {
        let links = crate::spcommit::links(&self.chain).into_iter();
        links
            .map(|[v1, v2]| Heads {
                v1: v1.head,
                v2: Some(v2.head),
            })
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
    pub(crate) fn spent_positions(&self) -> Vec<Vec<OutputPosition>> {
        let positions: HashMap<OutPoint, OutputPosition> = self
            .outputs()
            .into_iter()
            .enumerate()
            .map(|(position, (outpoint, _))| (outpoint, OutputPosition(position as u64)))
            .collect();
        let mut seen = HashSet::new();
        let mut blocks = Vec::new();
        for record in &self.chain {
            let spends = record.spends.iter().map(|spend| spend.outpoint);
            let first = spends.filter(|outpoint| seen.insert(*outpoint));
            let mut row: Vec<OutputPosition> = first
                .filter_map(|outpoint| positions.get(&outpoint).copied())
                .collect();
            row.sort_unstable();
            blocks.push(row);
        }
        blocks
    }
}

/// A record of which nobody knows who spends what.
pub(crate) fn forget_spenders(record: &mut BlockRecord) {
    record.states.clear();
    for spend in &mut record.spends {
        spend.spender = None;
    }
}

/// Gives each spend a spender, in block order, and some spenders state ids.
fn draw_spenders(seed: u64, spends: &mut [SpendRow]) -> Vec<StateRow> {
    let mut rng = StdRng::seed_from_u64(!seed);
    let mut states = Vec::new();
    let (mut transaction, mut input) = (0, 0);
    for spend in spends {
        if transaction > 0 && rng.gen_bool(0.4) {
            input += rng.gen_range(1..3);
        } else {
            transaction += rng.gen_range(1..3);
            input = rng.gen_range(0..2);
            let txid = Txid::from_byte_array(rng.r#gen());
            let mut vout = 0;
            for _ in 0..*[0, 0, 0, 1, 1, 2].choose(&mut rng).expect("a choice") {
                vout += rng.gen_range(1..3);
                states.push(StateRow {
                    transaction,
                    vout,
                    txid,
                    state_id: rng.r#gen(),
                });
            }
        }
        spend.spender = Some(Spender { transaction, input });
    }
    states
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
