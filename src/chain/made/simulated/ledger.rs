//! What exists on the simulated chain: blocks of all branches, the coins of the active one, the mempool.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::sighash::{Annex, Prevouts, SighashCache};
use bitcoin::{Amount, BlockHash, OutPoint, Transaction, TxOut, Txid};
use secp256k1::{Message, SECP256K1, SecretKey, XOnlyPublicKey};

use super::builder::{InputKind, SpendableOutput, sum_sat};
use super::changes::MempoolChanges;
use super::{PaidOutput, SimulatedBlock};
use crate::BlockId;
use crate::bip352::inputs::taproot_output_key;

/// Blocks until a coinbase output can be spent.
pub(super) const COINBASE_MATURITY: u32 = 100;

/// How the chain itself can spend an output.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) kind: InputKind,
    pub(super) secret: SecretKey,
    /// Set apart for the caller: background traffic leaves it alone.
    pub(super) kept: bool,
}

/// An unspent output.
#[derive(Clone)]
pub(super) struct Coin {
    pub(super) txout: TxOut,
    /// Height of its coinbase; `None` for outputs of other transactions.
    pub(super) coinbase_height: Option<u32>,
    pub(super) owner: Option<Owner>,
}

impl Coin {
    pub(super) fn spendable(&self, outpoint: OutPoint) -> Option<SpendableOutput> {
        let owner = self.owner.as_ref()?;
        let value_sat = self.txout.value.to_sat();
        Some(SpendableOutput::new(
            owner.kind,
            owner.secret,
            outpoint,
            value_sat,
        ))
    }
}

/// A transaction waiting for a block.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) tx: Transaction,
    pub(super) txid: Txid,
    pub(super) fee_sat: u64,
    /// Coins it spends, in input order.
    pub(super) spent: Vec<(OutPoint, Coin)>,
    /// Coins it creates; no OP_RETURN outputs.
    pub(super) created: Vec<(OutPoint, Coin)>,
    pub(super) payments: Vec<PaidOutput>,
}

/// A block of any branch, with what connecting and disconnecting it needs.
pub(super) struct StoredBlock {
    pub(super) data: Arc<SimulatedBlock>,
    pub(super) coinbase: Vec<(OutPoint, Coin)>,
    pub(super) transactions: Vec<Pending>,
}

/// Blocks, coins and mempool. Knows consensus rules about coins; makes no random choices.
pub(super) struct Ledger {
    blocks: HashMap<BlockHash, StoredBlock>,
    /// Hashes of the active chain by height.
    active: Vec<BlockHash>,
    coins: BTreeMap<OutPoint, Coin>,
    mempool: Vec<Pending>,
    mempool_coins: HashMap<OutPoint, Coin>,
    mempool_spends: HashSet<OutPoint>,
    pub(super) changes: MempoolChanges,
}

impl Ledger {
    /// A chain of the genesis block alone, whose coinbase can never be spent.
    pub(super) fn new(genesis: SimulatedBlock) -> Self {
        let hash = genesis.id.hash;
        let stored = StoredBlock {
            data: Arc::new(genesis),
            coinbase: Vec::new(),
            transactions: Vec::new(),
        };
        Self {
            blocks: HashMap::from([(hash, stored)]),
            active: vec![hash],
            coins: BTreeMap::new(),
            mempool: Vec::new(),
            mempool_coins: HashMap::new(),
            mempool_spends: HashSet::new(),
            changes: MempoolChanges::default(),
        }
    }

    pub(super) fn tip(&self) -> BlockId {
        let hash = self.active.last().expect("the genesis block stays");
        self.blocks[hash].data.id
    }

    pub(super) fn at(&self, height: u32) -> Option<BlockId> {
        let hash = *self.active.get(usize::try_from(height).ok()?)?;
        Some(BlockId { height, hash })
    }

    pub(super) fn stored(&self, hash: BlockHash) -> Option<&StoredBlock> {
        self.blocks.get(&hash)
    }

    /// Blocks of the active chain, the genesis block first.
    pub(super) fn active(&self) -> impl Iterator<Item = &StoredBlock> {
        self.active.iter().map(|hash| &self.blocks[hash])
    }

    pub(super) fn mempool(&self) -> &[Pending] {
        &self.mempool
    }

    /// The confirmed coins, in order of outpoint.
    pub(super) fn coins(&self) -> impl Iterator<Item = (&OutPoint, &Coin)> {
        self.coins.iter()
    }

    /// A coin that is unspent on the chain, whatever the mempool says.
    pub(super) fn confirmed(&self, outpoint: &OutPoint) -> Option<&Coin> {
        self.coins.get(outpoint)
    }

    /// A coin that the next block may spend: unspent on the chain and in the mempool, and mature.
    pub(super) fn coin(&self, outpoint: &OutPoint) -> Option<&Coin> {
        if self.mempool_spends.contains(outpoint) {
            return None;
        }
        let coin = self
            .coins
            .get(outpoint)
            .or_else(|| self.mempool_coins.get(outpoint))?;
        let next_height = self.tip().height + 1;
        match coin.coinbase_height {
            Some(height) if height + COINBASE_MATURITY > next_height => None,
            _ => Some(coin),
        }
    }

    /// Takes a transaction into the mempool. `owners` tell how the chain can spend each output; a shorter list leaves
    /// the rest to others.
    ///
    /// # Errors
    /// The reason, in the words Bitcoin Core uses for it.
    pub(super) fn accept(
        &mut self,
        tx: Transaction,
        owners: Vec<Option<Owner>>,
        payments: Vec<PaidOutput>,
    ) -> Result<Txid, &'static str> {
        let txid = tx.compute_txid();
        if self.mempool.iter().any(|pending| pending.txid == txid) {
            return Ok(txid);
        }
        if tx.is_coinbase() {
            return Err("coinbase");
        }
        if tx.input.is_empty() {
            return Err("bad-txns-vin-empty");
        }
        if tx.output.is_empty() {
            return Err("bad-txns-vout-empty");
        }
        let outputs_sat = sum_sat(&tx.output);
        if outputs_sat > Amount::MAX_MONEY.to_sat() {
            return Err("bad-txns-txouttotal-toolarge");
        }
        let mut spent: Vec<(OutPoint, Coin)> = Vec::with_capacity(tx.input.len());
        for input in &tx.input {
            let outpoint = input.previous_output;
            if spent.iter().any(|(earlier, _)| *earlier == outpoint) {
                return Err("bad-txns-inputs-duplicate");
            }
            match self.coin(&outpoint) {
                Some(coin) => spent.push((outpoint, coin.clone())),
                None if self.mempool_spends.contains(&outpoint) => {
                    return Err("txn-mempool-conflict");
                }
                None if self.coins.contains_key(&outpoint) => {
                    return Err("bad-txns-premature-spend-of-coinbase");
                }
                None => return Err("bad-txns-inputs-missingorspent"),
            }
        }
        let prevouts: Vec<TxOut> = spent.iter().map(|(_, coin)| coin.txout.clone()).collect();
        let fee_sat = sum_sat(&prevouts)
            .checked_sub(outputs_sat)
            .ok_or("bad-txns-in-belowout")?;
        check_taproot_key_paths(&tx, &prevouts)?;

        let created = created_coins(&tx, txid, None, owners);
        self.mempool_coins.extend(created.iter().cloned());
        self.mempool_spends
            .extend(spent.iter().map(|(outpoint, _)| *outpoint));
        self.changes.accepted(&tx, txid);
        self.mempool.push(Pending {
            tx,
            txid,
            fee_sat,
            spent,
            created,
            payments,
        });
        Ok(txid)
    }

    /// The transactions of the mempool that spend these outpoints, or are these, and what builds on them.
    pub(super) fn family(&self, outpoints: &[OutPoint], txids: &[Txid]) -> HashSet<Txid> {
        let mut family: HashSet<Txid> = txids.iter().copied().collect();
        // Parents are in front of their children.
        for pending in &self.mempool {
            let mut spent = pending.spent.iter().map(|(outpoint, _)| outpoint);
            if spent.any(|o| outpoints.contains(o) || family.contains(&o.txid)) {
                family.insert(pending.txid);
            }
        }
        family
    }

    /// Takes transactions, and whatever builds on them, out of the mempool.
    pub(super) fn remove(&mut self, family: &HashSet<Txid>) {
        let (gone, stay) = std::mem::take(&mut self.mempool)
            .into_iter()
            .partition(|pending| family.contains(&pending.txid));
        self.mempool = stay;
        let gone: Vec<Pending> = gone;
        for pending in gone {
            for (outpoint, _) in &pending.created {
                self.mempool_coins.remove(outpoint);
            }
            for (outpoint, _) in &pending.spent {
                self.mempool_spends.remove(outpoint);
            }
            self.changes.removed(pending.txid);
        }
    }

    /// Empties the mempool.
    pub(super) fn take_mempool(&mut self) -> Vec<Pending> {
        self.mempool_coins.clear();
        self.mempool_spends.clear();
        std::mem::take(&mut self.mempool)
    }

    /// Takes transactions into the mempool again, those that still can be; the others are forgotten.
    pub(super) fn accept_again(&mut self, transactions: Vec<Pending>) {
        for pending in transactions {
            let mut owners = vec![None; pending.tx.output.len()];
            for (outpoint, coin) in pending.created {
                if let Some(slot) = owners.get_mut(outpoint.vout as usize) {
                    *slot = coin.owner;
                }
            }
            // A refusal means that the branch it depended on is gone.
            let _ = self.accept(pending.tx, owners, pending.payments);
        }
    }

    /// Extends the active chain by a new block.
    pub(super) fn extend(&mut self, block: StoredBlock) {
        let hash = block.data.id.hash;
        self.blocks.insert(hash, block);
        self.connect(hash);
    }

    /// Connects a stored block whose parent is the tip.
    pub(super) fn connect(&mut self, hash: BlockHash) {
        let block = &self.blocks[&hash];
        self.coins.extend(block.coinbase.iter().cloned());
        // In order, as a transaction may spend what an earlier one of the same block created.
        for pending in &block.transactions {
            self.coins.extend(pending.created.iter().cloned());
            for (outpoint, _) in &pending.spent {
                self.coins.remove(outpoint);
            }
        }
        self.active.push(hash);
    }

    /// Disconnects the tip, which stays stored; `None` if only the genesis block is left. The mempool is left alone
    /// and has to be renewed by the caller.
    pub(super) fn disconnect(&mut self) -> Option<BlockId> {
        if self.active.len() < 2 {
            return None;
        }
        let hash = self.active.pop()?;
        let block = &self.blocks[&hash];
        for pending in block.transactions.iter().rev() {
            self.coins.extend(pending.spent.iter().cloned());
            for (outpoint, _) in &pending.created {
                self.coins.remove(outpoint);
            }
        }
        for (outpoint, _) in &block.coinbase {
            self.coins.remove(outpoint);
        }
        Some(block.data.id)
    }
}

/// The coins a transaction creates. OP_RETURN outputs are none.
pub(super) fn created_coins(
    tx: &Transaction,
    txid: Txid,
    coinbase_height: Option<u32>,
    owners: Vec<Option<Owner>>,
) -> Vec<(OutPoint, Coin)> {
    let owners = owners.into_iter().chain(std::iter::repeat(None));
    (0..)
        .zip(&tx.output)
        .zip(owners)
        .filter(|((_, output), _)| !output.script_pubkey.is_op_return())
        .map(|((vout, output), owner)| {
            let coin = Coin {
                txout: output.clone(),
                coinbase_height,
                owner,
            };
            (OutPoint { txid, vout }, coin)
        })
        .collect()
}

/// Checks the signatures of taproot inputs that are spent by key path. Other scripts are not executed here; a real
/// node does that to the same blocks in the tests.
fn check_taproot_key_paths(tx: &Transaction, prevouts: &[TxOut]) -> Result<(), &'static str> {
    const INVALID: &str = "mandatory-script-verify-flag-failed (Invalid Schnorr signature)";
    let mut cache = SighashCache::new(tx);
    for (at, (input, prevout)) in tx.input.iter().zip(prevouts).enumerate() {
        let Some(output_key) = taproot_output_key(&prevout.script_pubkey) else {
            continue;
        };
        let items: Vec<&[u8]> = input.witness.iter().collect();
        let (signature, annex) = match items[..] {
            [] => {
                return Err(
                    "mandatory-script-verify-flag-failed (Witness program was passed an empty witness)",
                );
            }
            [signature] => (signature, None),
            [signature, annex] if annex.first() == Some(&0x50) => (signature, Some(annex)),
            _ => continue,
        };
        let annex = annex.map(Annex::new).transpose().map_err(|_| INVALID)?;
        let signature = bitcoin::taproot::Signature::from_slice(signature).map_err(|_| INVALID)?;
        let output_key = XOnlyPublicKey::from_slice(&output_key).map_err(|_| INVALID)?;
        let hash = cache
            .taproot_signature_hash(
                at,
                &Prevouts::All(prevouts),
                annex,
                None,
                signature.sighash_type,
            )
            .map_err(|_| INVALID)?;
        SECP256K1
            .verify_schnorr(
                &signature.signature,
                &Message::from_digest(hash.to_byte_array()),
                &output_key,
            )
            .map_err(|_| INVALID)?;
    }
    Ok(())
}
