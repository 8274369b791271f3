//! State ids: 32 bytes that a transaction carries which spends taproot outputs, found by block or by what it spends.

use std::collections::BTreeSet;

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Txid};
use redb::{TableDefinition, WriteTransaction};

use super::error::{Fault, StoreError};
use super::locator::hex;
use super::plan::Plan;
use super::position::{OutputPosition, SpendPosition};
use super::record::{BlockRecord, SpendRow, StateRow};
use super::schema::{
    BlockRow, LocatorHasher, LocatorKey, VOUT_MAX, locator_key, split_locator_key,
};
use super::snapshot::Snapshot;
use super::view::{Full, View};
use crate::BlockId;

/// [`StateKey`] to txid (internal order) and state id, 32 bytes each.
pub const STATES: TableDefinition<'static, &StateKey, &[u8; 64]> = TableDefinition::new("states");
/// For each spend by a transaction with a state id the [`LocatorKey`] of the outpoint, with the position of the spend in
/// `spends` where `locator` has that of the output, to nothing.
pub const STATE_LOCATOR: TableDefinition<'static, &LocatorKey, ()> =
    TableDefinition::new("state_locator");

/// Key of `states`, 10 bytes big-endian: height 4, index of the transaction in its block 2, vout 4.
pub type StateKey = [u8; 10];

/// The key of a state id.
pub fn state_key(height: u32, transaction: u16, vout: u32) -> StateKey {
    let mut key = [0; 10];
    key[..4].copy_from_slice(&height.to_be_bytes());
    key[4..6].copy_from_slice(&transaction.to_be_bytes());
    key[6..].copy_from_slice(&vout.to_be_bytes());
    key
}

/// Height, transaction and vout of a key.
pub fn split_state_key(key: &StateKey) -> (u32, u16, u32) {
    let [h0, h1, h2, h3, t0, t1, v0, v1, v2, v3] = *key;
    (
        u32::from_be_bytes([h0, h1, h2, h3]),
        u16::from_be_bytes([t0, t1]),
        u32::from_be_bytes([v0, v1, v2, v3]),
    )
}

/// What spends an outpoint and carries state ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpend {
    /// The block that holds the spender.
    pub block: BlockId,
    /// The spend.
    pub spend: SpendRow,
    /// Where it stands.
    pub position: SpendPosition,
    /// The spender's state ids, by vout; one at least.
    pub states: Vec<StateRow>,
}

impl Snapshot {
    /// The transaction that spends a taproot outpoint and carries a state id; `None` if no indexed one does, which may be
    /// because a spender of older blocks is not known ([`spenders_from`](Self::spenders_from)).
    ///
    /// # Errors
    /// [`StoreError::NotKept`] for an index that keeps tweaks only; else as [`block`](Self::block).
    pub fn state_spend(&self, outpoint: &OutPoint) -> Result<Option<StateSpend>, StoreError> {
        self.read(|view| state_spend(view, view.full("spends")?, outpoint))
    }
}

fn state_spend(view: &View, full: &Full, outpoint: &OutPoint) -> Result<Option<StateSpend>, Fault> {
    let hash = view.meta.locator.hash(outpoint);
    let first = locator_key(hash, OutputPosition(0));
    let last = locator_key(hash, OutputPosition(u64::MAX));
    for entry in full.state_locator()?.range::<&LocatorKey>(&first..=&last)? {
        let (_, OutputPosition(position)) = split_locator_key(entry?.0.value());
        let position = SpendPosition(position);
        let (height, row) = view.block_of_spend(position)?;
        let spend = view.spend_at(full, &row, position)?;
        if spend.outpoint != *outpoint {
            continue;
        }
        let mut states = view.states(full, height)?;
        states.retain(|state| Some(state.transaction) == spend.spender.map(|by| by.transaction));
        return Ok(Some(StateSpend {
            block: row.id(height),
            spend,
            position,
            states,
        }));
    }
    Ok(None)
}

impl View {
    /// The state ids of a block, ascending by transaction, then by vout.
    pub(super) fn states(&self, full: &Full, height: u32) -> Result<Vec<StateRow>, Fault> {
        let first = state_key(height, 0, 0);
        let last = state_key(height, u16::MAX, u32::MAX);
        let mut states = Vec::new();
        for entry in full.states()?.range::<&StateKey>(&first..=&last)? {
            let (key, value) = entry?;
            let (_, transaction, vout) = split_state_key(key.value());
            let [txid, state_id] = match value.value().as_chunks::<32>().0 {
                [txid, state_id] => [*txid, *state_id],
                _ => return Err(Fault::row("states", hex(key.value()), "not 64 bytes")),
            };
            states.push(StateRow {
                transaction,
                vout,
                txid: Txid::from_byte_array(txid),
                state_id,
            });
        }
        Ok(states)
    }

    /// The rows of `state_locator` that a block has, given its state ids.
    pub(super) fn state_locators(
        &self,
        full: &Full,
        row: &BlockRow,
        states: &[StateRow],
    ) -> Result<Vec<LocatorKey>, Fault> {
        if states.is_empty() {
            return Ok(Vec::new());
        }
        let spends = self.spends(full, row)?;
        Ok(locators(&self.meta.locator, row, &spends, states))
    }
}

/// A row for each spend whose spender carries a state id.
pub(super) fn locators(
    hasher: &LocatorHasher,
    row: &BlockRow,
    spends: &[SpendRow],
    states: &[StateRow],
) -> Vec<LocatorKey> {
    let with_state: BTreeSet<u16> = states.iter().map(|state| state.transaction).collect();
    let positions = row.spends.range().zip(spends);
    let found = positions.filter(|(_, spend)| {
        let spender = spend.spender.map(|by| by.transaction);
        spender.is_some_and(|transaction| with_state.contains(&transaction))
    });
    found
        // The same form as `locator`, of another column.
        .map(|(position, spend)| hasher.locate(&spend.outpoint, OutputPosition(position)))
        .collect()
}

/// How the tables of state ids change in an update.
#[derive(Default)]
pub(super) struct StateChange {
    /// Rows that go.
    pub(super) forget: Vec<StateKey>,
    /// Locators that go, ascending.
    pub(super) forget_locators: Vec<LocatorKey>,
    /// Locators that come, ascending.
    pub(super) locators: Vec<LocatorKey>,
}

impl StateChange {
    /// Of blocks that go and blocks that come, which have these directory rows.
    pub(super) fn new(
        view: &View,
        full: &Full,
        disconnect: &[BlockId],
        connect: &[BlockRecord],
        rows: &[BlockRow],
    ) -> Result<Self, Fault> {
        let mut change = Self::default();
        for id in disconnect {
            let states = view.states(full, id.height)?;
            let keys = states.iter();
            let keys = keys.map(|state| state_key(id.height, state.transaction, state.vout));
            change.forget.extend(keys);
            let row = view.present_row(id.height)?;
            let locators = view.state_locators(full, &row, &states)?;
            change.forget_locators.extend(locators);
        }
        for (record, row) in connect.iter().zip(rows) {
            let hasher = &view.meta.locator;
            let own = locators(hasher, row, &record.spends, &record.states);
            change.locators.extend(own);
        }
        change.forget_locators.sort_unstable();
        change.locators.sort_unstable();
        Ok(change)
    }
}

/// Writes what a plan changes of state ids.
pub(super) fn write(write: &WriteTransaction, plan: &Plan<'_>) -> Result<(), Fault> {
    let mut table = write.open_table(STATES)?;
    for key in &plan.states.forget {
        if table.remove(key)?.is_none() {
            return Err(Fault::row("states", hex(key), "missing"));
        }
    }
    drop(table);
    let mut table = write.open_table(STATE_LOCATOR)?;
    for key in &plan.states.forget_locators {
        if table.remove(key)?.is_none() {
            return Err(Fault::row("state_locator", hex(key), "missing"));
        }
    }
    drop(table);
    let new = plan.connect.iter().flat_map(|record| {
        let states = record.states.iter();
        states.map(|state| (record.id.height, state))
    });
    insert(write, new, &plan.states.locators)
}

/// Adds state ids, with the heights of their blocks, and locators.
pub(super) fn insert<'s>(
    write: &WriteTransaction,
    states: impl Iterator<Item = (u32, &'s StateRow)>,
    locators: &[LocatorKey],
) -> Result<(), Fault> {
    let mut table = write.open_table(STATES)?;
    for (height, state) in states {
        let key = state_key(height, state.transaction, state.vout);
        if table.insert(&key, &encode(state))?.is_some() {
            return Err(Fault::row("states", hex(&key), "there already"));
        }
    }
    let mut table = write.open_table(STATE_LOCATOR)?;
    for key in locators {
        if table.insert(key, ())?.is_some() {
            return Err(Fault::row("state_locator", hex(key), "there already"));
        }
    }
    Ok(())
}

fn encode(state: &StateRow) -> [u8; 64] {
    let mut bytes = [0; 64];
    let (txid, state_id) = bytes.split_at_mut(32);
    txid.copy_from_slice(state.txid.as_byte_array());
    state_id.copy_from_slice(&state.state_id);
    bytes
}

/// What a block spends is in block order, by spenders that are known or not, and its state ids are theirs.
pub(super) fn check(
    block: BlockId,
    spends: &[SpendRow],
    states: &[StateRow],
) -> Result<(), StoreError> {
    let invalid = |reason: &str| {
        let reason = reason.to_owned();
        Err(StoreError::InvalidRecord { block, reason })
    };
    let spenders: Vec<_> = spends.iter().filter_map(|spend| spend.spender).collect();
    if !spenders.is_empty() && spenders.len() != spends.len() {
        return invalid("it knows the spenders of some spends and not of others");
    }
    if !spenders.is_sorted_by(|a, b| a < b) {
        return invalid("spends are not in block order");
    }
    let mut transactions = spenders.iter().map(|spender| spender.transaction);
    if transactions.any(|number| number == u16::MAX) {
        return invalid("more transactions than a block can have");
    }
    if states.iter().any(|state| state.vout > VOUT_MAX) {
        return invalid("a state id at a vout that no block can hold");
    }
    if !states.is_sorted_by(|a, b| (a.transaction, a.vout) < (b.transaction, b.vout)) {
        return invalid("state ids are not in block order");
    }
    for state in states {
        let transaction = state.transaction;
        let at = spenders.binary_search_by_key(&transaction, |spender| spender.transaction);
        if at.is_err() {
            let reason = format!("a state id of transaction {transaction}, which spends nothing");
            return invalid(&reason);
        }
    }
    Ok(())
}
