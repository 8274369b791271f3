//! What is kept of an unconfirmed transaction.

use std::sync::Arc;

use bitcoin::{OutPoint, Transaction, Txid};

use crate::process::{State, state_id};

/// The tweak of an unconfirmed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnconfirmedTweak {
    /// The transaction is not eligible, whatever it spends.
    NotEligible,
    /// `input_hash * A`, compressed.
    Tweak([u8; 33]),
    /// Nobody could say what it spends, so that nobody knows whether it is eligible.
    Unresolved,
}

/// An unconfirmed transaction. Its bytes are not kept: [`Added`](super::Change::Added) has them, and the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Its id.
    pub txid: Txid,
    /// The outpoints that it spends, in the order of its inputs.
    pub spends: Box<[OutPoint]>,
    /// How many outputs it has.
    pub outputs: u32,
    /// Its outputs that carry a state id, by vout.
    pub states: Box<[State]>,
    /// Its tweak.
    pub tweak: UnconfirmedTweak,
    /// When the node accepted it, in seconds since 1970 by the node's clock. Of transactions that came while others did it is
    /// the time of the last of these.
    pub entered: u64,
}

/// Bytes of an entry of a hash table beside key and value, and of room that it leaves free, for each byte of them.
const TABLE_OVERHEAD: usize = 2;

impl Unconfirmed {
    pub(super) fn new(tx: &Transaction, txid: Txid, tweak: UnconfirmedTweak, entered: u64) -> Self {
        let outputs = (0..).zip(&tx.output);
        let states = outputs.filter_map(|(vout, output)| {
            let id = state_id(&output.script_pubkey)?;
            Some(State { vout, id })
        });
        Self {
            txid,
            spends: tx.input.iter().map(|input| input.previous_output).collect(),
            // A transaction of more outputs has more bytes than a block.
            outputs: u32::try_from(tx.output.len()).unwrap_or(u32::MAX),
            states: states.collect(),
            tweak,
            entered,
        }
    }

    pub(super) fn is_unresolved(&self) -> bool {
        self.tweak == UnconfirmedTweak::Unresolved
    }

    /// The outputs that others may spend.
    pub(super) fn outpoints(&self) -> impl Iterator<Item = OutPoint> + use<> {
        let txid = self.txid;
        (0..self.outputs).map(move |vout| OutPoint { txid, vout })
    }

    /// Memory that a view takes for it, with its places in the tables: what they take on the average, rounded up.
    pub(super) fn held_bytes(&self) -> usize {
        let pointer = size_of::<Arc<Self>>();
        let place = |key: usize| TABLE_OVERHEAD * (key + pointer);
        let own = 2 * size_of::<usize>() + size_of::<Self>();
        let spends = self.spends.len() * (size_of::<OutPoint>() + place(size_of::<OutPoint>()));
        let states = size_of_val(&*self.states);
        own + place(size_of::<Txid>()) + spends + states
    }
}
