//! Follows a watch through blocks that were indexed before it was registered, from the index alone.
//!
//! The index finds the spend of a taproot outpoint at once if the spender carries a state id, and knows of an output of an
//! eligible transaction whether it is unspent. A spend by anybody else is found where the block that created the output
//! is known: by the caller's word, or since it is that of the step before. Of other outputs, and other scripts, the index
//! has nothing to say.

use bitcoin::OutPoint;

use super::pass::{Spend, step};
use crate::process::{End, State};
use crate::store::watches::{Confirmed, WatchRow};
use crate::store::{Keep, Snapshot, StateSpend, StoreError};

/// Most spends that are looked through for the one of an output: those of some hundred blocks at least.
const SPENDS_MAX: u64 = 1 << 22;

/// How far a look back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Watches that were followed to the tip.
    pub watches: u64,
    /// Of how many.
    pub of: u64,
    /// Spends that were found.
    pub steps: u64,
}

/// A watch followed up to some block.
#[derive(Debug, Clone)]
pub(super) struct Lineage {
    /// The watch as of then.
    pub(super) row: WatchRow,
    /// What there is to be said of it, oldest first.
    pub(super) steps: Vec<(Confirmed, Option<End>)>,
    /// Height of the block that created the tip, if that is known.
    created: Option<u32>,
}

/// What the index knows of an outpoint.
enum Known {
    Unspent,
    Spent(Box<StateSpend>),
    /// Spent or not.
    Unknown,
}

impl Lineage {
    /// Of a watch that nothing is known of yet, whose outpoint was created in the block of this height.
    pub(super) fn new(row: WatchRow, created: Option<u32>) -> Self {
        Self {
            row,
            steps: Vec::new(),
            created,
        }
    }

    /// Follows it to the snapshot's tip.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        if snapshot.keep() == Keep::Tweaks {
            self.know_nothing(snapshot);
            return Ok(());
        }
        while !self.row.is_over {
            match self.look(snapshot)? {
                Known::Unspent => {
                    self.row.unknown_below = 0;
                    break;
                }
                Known::Unknown => {
                    self.know_nothing(snapshot);
                    break;
                }
                Known::Spent(found) => {
                    let Some(spender) = found.spend.spender else {
                        self.know_nothing(snapshot);
                        break;
                    };
                    let states: Vec<State> = found.states.iter().map(State::from).collect();
                    let spend = Spend {
                        block: found.block,
                        spender,
                        txid: found.states.first().map(|state| state.txid),
                        states: &states,
                        outputs: None,
                    };
                    self.created = Some(found.block.height);
                    self.steps.push(step(&mut self.row, &spend));
                }
            }
        }
        Ok(())
    }

    /// What happened to the tip up to here is not known.
    fn know_nothing(&mut self, snapshot: &Snapshot) {
        let above = snapshot.tip().map(|tip| tip.height.saturating_add(1));
        self.row.unknown_below = above.unwrap_or_else(|| snapshot.first_height());
        // Not to be looked through again.
        self.created = None;
    }

    fn look(&self, snapshot: &Snapshot) -> Result<Known, StoreError> {
        let tip = self.row.tip;
        if let Some(found) = snapshot.state_spend(&tip)? {
            return Ok(Known::Spent(Box::new(found)));
        }
        match snapshot.is_unspent(&tip) {
            Ok(true) => return Ok(Known::Unspent),
            // In the middle of a long sync nothing more can be said.
            Err(StoreError::NotLocated { .. }) => return Ok(Known::Unknown),
            is_unspent => drop(is_unspent?),
        }
        match self.created {
            Some(created) => spent_without_state(snapshot, created, &tip),
            None => Ok(Known::Unknown),
        }
    }
}

/// The spend of an output that is not unspent, by somebody who carries no state id.
fn spent_without_state(
    snapshot: &Snapshot,
    created: u32,
    tip: &OutPoint,
) -> Result<Known, StoreError> {
    let Some(block) = snapshot.block(created)? else {
        return Ok(Known::Unknown);
    };
    let Some(transaction) = block.transaction(&tip.txid)? else {
        return Ok(Known::Unknown);
    };
    let at = transaction
        .outputs
        .iter()
        .position(|output| output.vout == tip.vout && output.spent);
    let Some(at) = at else {
        return Ok(Known::Unknown);
    };
    let mut only = transaction.clone();
    // The others need not be found.
    for (index, output) in only.outputs.iter_mut().enumerate() {
        output.spent = index == at;
    }
    let mut spends = block.spends_of(&only, SPENDS_MAX)?;
    Ok(match spends.get_mut(at).and_then(Option::take) {
        Some(found) => Known::Spent(Box::new(found)),
        None => Known::Unknown,
    })
}
