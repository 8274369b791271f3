//! Why a transaction is not in the mempool any more.

use std::collections::{HashMap, VecDeque};

use bitcoin::Txid;

use crate::BlockId;

/// Why an unconfirmed transaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Another one came that spends what it, or one that it builds on, spends.
    Replaced {
        /// The other one.
        by: Txid,
    },
    /// The node let it go: its mempool was full, or lost, or the transaction was no longer valid after a reorganisation.
    Evicted,
    /// It, or one that it builds on, had waited for as long as the node lets transactions wait.
    Expired,
    /// A block has it.
    Confirmed {
        /// The block.
        block: BlockId,
    },
    /// A block has another transaction that spends what it, or one that it builds on, spends.
    Conflicted {
        /// The other one.
        by: Txid,
        /// The block.
        block: BlockId,
    },
    /// It went while nobody could look, and what came instead of it is not known.
    Unexplained,
}

/// The last departures, as many as are kept.
#[derive(Debug)]
pub(super) struct Departures {
    most: usize,
    /// With the number of the departure.
    by_txid: HashMap<Txid, (u64, Departure)>,
    /// The oldest first. Those that have come again are still here.
    in_order: VecDeque<(u64, Txid)>,
    next: u64,
}

impl Departures {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            by_txid: HashMap::new(),
            in_order: VecDeque::new(),
            next: 0,
        }
    }

    pub(super) fn note(&mut self, txid: Txid, departure: Departure) {
        if self.most == 0 {
            return;
        }
        if self.in_order.len() == self.most
            && let Some((number, oldest)) = self.in_order.pop_front()
            && self.by_txid.get(&oldest).is_some_and(|(n, _)| *n == number)
        {
            self.by_txid.remove(&oldest);
        }
        self.by_txid.insert(txid, (self.next, departure));
        self.in_order.push_back((self.next, txid));
        self.next += 1;
    }

    /// It has come again.
    pub(super) fn forget(&mut self, txid: &Txid) {
        self.by_txid.remove(txid);
    }

    pub(super) fn of(&self, txid: &Txid) -> Option<Departure> {
        self.by_txid.get(txid).map(|(_, departure)| *departure)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    #[test]
    fn the_last_departures_are_kept() {
        let txid = |n: u8| Txid::from_byte_array([n; 32]);
        let mut departures = Departures::new(3);
        for n in 0..3 {
            departures.note(txid(n), Departure::Evicted);
        }
        // The first comes and goes again, which makes it the last one.
        departures.forget(&txid(0));
        assert_eq!(departures.of(&txid(0)), None);
        departures.note(txid(0), Departure::Expired);
        assert_eq!(departures.of(&txid(0)), Some(Departure::Expired));
        assert_eq!(departures.of(&txid(1)), Some(Departure::Evicted));
        departures.note(txid(9), Departure::Unexplained);
        assert_eq!(departures.of(&txid(1)), None);
        assert_eq!(departures.of(&txid(2)), Some(Departure::Evicted));
        assert_eq!(departures.of(&txid(0)), Some(Departure::Expired));
        assert!(departures.in_order.len() <= 3 && departures.by_txid.len() <= 3);
    }
}
