//! What changes, for everybody who listens: the last changes are kept once, however many listen, and who falls behind them
//! learns that he did.

use std::collections::VecDeque;
use std::sync::Arc;

use bitcoin::Txid;

use super::departure::Departure;
use super::transaction::Unconfirmed;

/// A change of what is unconfirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A transaction came.
    Added {
        /// The transaction.
        tx: Arc<Unconfirmed>,
        /// Its bytes.
        raw: Arc<[u8]>,
    },
    /// It is now known what a transaction spends of which that was not known, and with it whether it is eligible.
    Resolved {
        /// The transaction.
        tx: Arc<Unconfirmed>,
        /// Its bytes.
        raw: Arc<[u8]>,
    },
    /// A transaction went.
    Removed {
        /// The transaction.
        tx: Arc<Unconfirmed>,
        /// Why it went.
        why: Departure,
    },
}

impl Change {
    /// The transaction that it is about.
    pub fn txid(&self) -> Txid {
        match self {
            Self::Added { tx, .. } | Self::Resolved { tx, .. } | Self::Removed { tx, .. } => {
                tx.txid
            }
        }
    }

    fn bytes(&self) -> usize {
        let (tx, raw) = match self {
            Self::Added { tx, raw } | Self::Resolved { tx, raw } => (tx, raw.len()),
            Self::Removed { tx, .. } => (tx, 0),
        };
        size_of::<Self>() + tx.held_bytes() + raw
    }
}

/// The last changes.
#[derive(Debug)]
pub(super) struct News {
    most: usize,
    most_bytes: usize,
    kept: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Number of the next change.
    next: u64,
}

impl News {
    /// Keeps at most so many changes of at most so many bytes.
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            most,
            most_bytes,
            kept: VecDeque::new(),
            bytes: 0,
            next: 0,
        }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.kept.push_back(Arc::new(change));
        self.next += 1;
        while self.kept.len() > self.most || self.bytes > self.most_bytes {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// Number of the next change.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The change with a number; `None` if there is none yet.
    ///
    /// # Errors
    /// How many changes from that number on are not kept any more.
    pub(super) fn get(&self, number: u64) -> Result<Option<Arc<Change>>, u64> {
        let oldest = self.next - self.kept.len() as u64;
        match number.checked_sub(oldest) {
            Some(at) => Ok(self.kept.get(at as usize).cloned()),
            None => Err(oldest - number),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;
    use crate::mempool::transaction::UnconfirmedTweak;

    fn added(n: u8, raw_bytes: usize) -> Change {
        Change::Added {
            tx: Arc::new(Unconfirmed {
                txid: Txid::from_byte_array([n; 32]),
                spends: Box::default(),
                outputs: 1,
                states: Box::default(),
                tweak: UnconfirmedTweak::NotEligible,
                entered: 0,
            }),
            raw: vec![0; raw_bytes].into(),
        }
    }

    #[test]
    fn the_last_changes_are_kept_and_who_asks_for_others_learns_how_many_he_missed() {
        let mut news = News::new(3, usize::MAX);
        assert_eq!(news.get(0), Ok(None));
        for n in 0..5 {
            news.push(added(n, 0));
        }
        assert_eq!(news.next(), 5);
        assert_eq!(news.get(0), Err(2));
        assert_eq!(news.get(1), Err(1));
        for n in 2..5 {
            let change = news.get(n).unwrap().unwrap();
            assert_eq!(change.txid(), Txid::from_byte_array([n as u8; 32]));
        }
        assert_eq!(news.get(5), Ok(None));
    }

    #[test]
    fn large_changes_take_the_room_of_many() {
        let most = 10 * added(0, 1000).bytes();
        let mut news = News::new(usize::MAX, most);
        for n in 0..100 {
            news.push(added(n, 1000));
            assert!(news.bytes <= most);
        }
        assert_eq!(news.kept.len(), 10);
        // One that is too large for all of it is missed by everybody, and said to be.
        news.push(added(100, most));
        assert_eq!((news.kept.len(), news.bytes), (0, 0));
        assert_eq!(news.get(100), Err(1));
        assert_eq!(news.get(101), Ok(None));
    }
}
