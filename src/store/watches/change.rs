//! What whoever keeps the log is handed of an update.

use std::sync::Arc;

use bitcoin::{OutPoint, Txid};

use super::log::WatchLog;
use crate::BlockId;
use crate::process::State;
use crate::store::error::StoreError;
use crate::store::record::BlockRecord;

/// The inputs of a transaction, in the lists of [`BlockInputs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputSpan {
    /// The transaction.
    pub txid: Txid,
    /// Where its inputs and its state ids end; they start where those of the one before end.
    pub inputs_end: u32,
    /// See above.
    pub states_end: u32,
    /// Number of its outputs.
    pub outputs: u32,
}

/// Whatever a block spends, taproot or not, and what its spenders carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockInputs {
    /// The transactions behind the coinbase, in block order.
    pub transactions: Vec<InputSpan>,
    /// What they spend, in input order.
    pub spent: Vec<OutPoint>,
    /// The state ids that they carry, by vout.
    pub states: Vec<State>,
}

/// A transaction of [`BlockInputs`].
#[derive(Debug, Clone, Copy)]
pub struct Spending<'a> {
    /// Its index among all of its block.
    pub transaction: usize,
    /// Its txid.
    pub txid: Txid,
    /// What it spends.
    pub spent: &'a [OutPoint],
    /// What it carries.
    pub states: &'a [State],
    /// Number of its outputs.
    pub outputs: u32,
}

impl BlockInputs {
    /// Bytes in memory.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(self.transactions.as_slice())
            + size_of_val(self.spent.as_slice())
            + size_of_val(self.states.as_slice())
    }

    /// The transactions with what is theirs.
    pub fn spending(&self) -> impl Iterator<Item = Spending<'_>> {
        let mut start = (0, 0);
        (1..)
            .zip(&self.transactions)
            .map(move |(transaction, span)| {
                let (inputs, states) = start;
                start = (span.inputs_end as usize, span.states_end as usize);
                Spending {
                    transaction,
                    txid: span.txid,
                    spent: self.spent.get(inputs..start.0).unwrap_or_default(),
                    states: self.states.get(states..start.1).unwrap_or_default(),
                    outputs: span.outputs,
                }
            })
    }
}

/// What is known of the inputs of connected blocks beyond their rows.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<'a> {
    /// All of each block's, in the order of the blocks.
    All(&'a [BlockInputs]),
    /// Nothing, though whoever has derived the rows had the blocks: if inputs are [wanted](Watcher::wants_inputs), the update
    /// is refused with [`StoreError::InputsWanted`].
    NotCollected,
    /// Nothing, as nobody has the blocks: taproot outpoints that the rows name are all there is.
    Rows,
}

/// An update of the chain.
#[derive(Debug, Clone, Copy)]
pub struct ChainChange<'a> {
    /// Blocks that go, newest first.
    pub disconnected: &'a [BlockId],
    /// Blocks that come, oldest first.
    pub connected: &'a [BlockRecord],
    /// What they spend.
    pub inputs: Inputs<'a>,
}

/// What is to be done once a transaction is durable; never called if it fails.
pub type Committed = Box<dyn FnOnce() + Send>;

/// Who keeps the log.
pub trait Watcher: Send + Sync {
    /// Whether there is anything to follow or to take back. If not, no update is handed over.
    fn is_active(&self) -> bool;

    /// Whether blocks should come with all of their inputs.
    fn wants_inputs(&self) -> bool;

    /// Writes down what an update means. Called with the writer's place held, so that no other update, and no
    /// [`Store::write_watches`](crate::store::Store::write_watches), comes between this and what it returns.
    ///
    /// # Errors
    /// Those of the log; they end the update.
    fn follow(
        self: Arc<Self>,
        change: &ChainChange<'_>,
        log: &mut WatchLog<'_>,
    ) -> Result<Committed, StoreError>;
}
