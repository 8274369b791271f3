//! Transactions that are still to be read, each once.

use std::collections::{HashSet, VecDeque};

use bitcoin::Txid;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Those removed are still here.
    in_order: VecDeque<Txid>,
    waiting: HashSet<Txid>,
}

impl Backlog {
    pub(super) fn new(txids: Vec<Txid>) -> Self {
        Self {
            waiting: txids.iter().copied().collect(),
            in_order: txids.into(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, txid: Txid) {
        if self.waiting.insert(txid) {
            self.in_order.push_back(txid);
        }
    }

    /// Whether it was here.
    pub(super) fn remove(&mut self, txid: &Txid) -> bool {
        self.waiting.remove(txid)
    }

    /// The first ones, at most so many. They stay here.
    pub(super) fn first(&mut self, most: usize) -> Vec<Txid> {
        while let Some(txid) = self.in_order.front()
            && !self.waiting.contains(txid)
        {
            self.in_order.pop_front();
        }
        let mut first = Vec::with_capacity(most.min(self.waiting.len()));
        let mut taken = HashSet::new();
        for txid in &self.in_order {
            if first.len() == most {
                break;
            }
            // One that was removed and came again is here twice.
            if self.waiting.contains(txid) && taken.insert(txid) {
                first.push(*txid);
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    #[test]
    fn each_is_given_once_and_in_order() {
        let txid = |n: u8| Txid::from_byte_array([n; 32]);
        let mut backlog = Backlog::new((0..5).map(txid).collect());
        assert!(backlog.remove(&txid(0)) && backlog.remove(&txid(3)));
        assert!(!backlog.remove(&txid(3)));
        backlog.push(txid(3));
        backlog.push(txid(3));
        backlog.push(txid(9));
        assert_eq!(backlog.first(2), [1, 2].map(txid));
        assert_eq!(backlog.first(9), [1, 2, 3, 4, 9].map(txid));
        for n in [1, 2, 3, 4, 9] {
            assert!(!backlog.is_empty());
            assert!(backlog.remove(&txid(n)));
        }
        assert!(backlog.is_empty() && backlog.first(1).is_empty());
    }
}
