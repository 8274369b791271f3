//! Which words of a node go with a list of its mempool, which were true before it, and where one is missing.

use crate::chain::mempool_signal::MempoolChange;

/// What to do with a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next thing that happened.
    Apply,
    /// The list knew it already.
    Stale,
    /// One is missing, or may be: a new list is needed, and no word counts until there is one.
    Gap,
}

/// The words heard since the last list.
///
/// The node numbers its words, which shows whether one got lost on the way; and it numbers the changes of its mempool, which
/// shows whether a word is older than a list, and whether the first one that is not follows it at once. (Later ones need not
/// follow each other: what a block has is a change that has no word.) Words of blocks have no such number: they count only
/// behind a word that is younger than the list.
#[derive(Debug, Default)]
pub(super) struct Alignment {
    /// The number of the first change that the list did not know; `None` without a list that holds.
    first: Option<u64>,
    /// Whether a word was heard that is younger than the list.
    is_past_list: bool,
    /// Least number of the next change.
    next: u64,
    /// Number of the last word.
    last_word: Option<u32>,
}

impl Alignment {
    /// No word counts until there is a new list.
    pub(super) fn lose(&mut self) {
        *self = Self::default();
    }

    /// Whether words count.
    pub(super) fn holds(&self) -> bool {
        self.first.is_some()
    }

    /// A list came, with the number of the first change that it does not know.
    pub(super) fn restart(&mut self, sequence: u64) {
        *self = Self {
            first: Some(sequence),
            is_past_list: false,
            next: sequence,
            last_word: self.last_word,
        };
    }

    /// `is_known` says whether a block is of the chain that the list goes with, or came since.
    pub(super) fn admit(
        &mut self,
        number: u32,
        change: &MempoolChange,
        is_known: impl Fn(&bitcoin::BlockHash) -> bool,
    ) -> Verdict {
        let Some(first) = self.first else {
            return Verdict::Gap;
        };
        let before = self.last_word.replace(number);
        if before.is_some_and(|before| before.wrapping_add(1) != number) {
            return self.gap();
        }
        match change {
            MempoolChange::Accepted { sequence, .. } | MempoolChange::Removed { sequence, .. } => {
                if *sequence < first && !self.is_past_list {
                    return Verdict::Stale;
                }
                // The node began to count anew, or told this to nobody here.
                let is_next = match self.is_past_list {
                    true => *sequence >= self.next,
                    false => *sequence == first,
                };
                if !is_next {
                    return self.gap();
                }
                self.is_past_list = true;
                self.next = sequence.saturating_add(1);
                Verdict::Apply
            }
            MempoolChange::Connected(hash) if is_known(hash) => Verdict::Stale,
            // Perhaps the list was of a time when it had come and gone.
            MempoolChange::Connected(_) | MempoolChange::Disconnected(_) if !self.is_past_list => {
                self.gap()
            }
            MempoolChange::Connected(_) | MempoolChange::Disconnected(_) => Verdict::Apply,
        }
    }

    fn gap(&mut self) -> Verdict {
        self.lose();
        Verdict::Gap
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;
    use bitcoin::{BlockHash, Txid};

    use super::*;

    fn accepted(sequence: u64) -> MempoolChange {
        MempoolChange::Accepted {
            txid: Txid::all_zeros(),
            sequence,
            raw: None,
        }
    }

    fn connected(n: u8) -> MempoolChange {
        MempoolChange::Connected(BlockHash::from_byte_array([n; 32]))
    }

    fn disconnected(n: u8) -> MempoolChange {
        MempoolChange::Disconnected(BlockHash::from_byte_array([n; 32]))
    }

    /// What becomes of words with these numbers behind a list that knew the changes below 10 and block 1.
    fn verdicts(words: &[(u32, MempoolChange)]) -> Vec<Verdict> {
        let mut alignment = Alignment::default();
        alignment.restart(10);
        let words = words.iter();
        let admit = |(number, change): &(u32, MempoolChange)| {
            alignment.admit(*number, change, |hash| hash.as_byte_array() == &[1; 32])
        };
        words.map(admit).collect()
    }

    #[test]
    fn words_count_from_the_list_on() {
        use Verdict::{Apply, Gap, Stale};
        let max = u32::MAX;
        for (words, wanted) in [
            (
                vec![(3, accepted(8)), (4, accepted(9)), (5, accepted(10))],
                vec![Stale, Stale, Apply],
            ),
            // A word is missing, by its number or by that of the first change.
            (vec![(3, accepted(9)), (5, accepted(10))], vec![Stale, Gap]),
            (vec![(3, accepted(11))], vec![Gap]),
            (
                vec![(3, accepted(10)), (5, accepted(11)), (6, accepted(12))],
                vec![Apply, Gap, Gap],
            ),
            // What a block has, and what it conflicts with, are changes, and only the latter are told.
            (
                vec![(3, accepted(10)), (4, accepted(13)), (5, connected(2))],
                vec![Apply, Apply, Apply],
            ),
            // Numbers of words begin again after the highest; those of changes do not.
            (
                vec![(max, accepted(10)), (0, accepted(11))],
                vec![Apply, Apply],
            ),
            (vec![(8, accepted(10)), (9, accepted(1))], vec![Apply, Gap]),
            // Behind a block nobody knows how many changes it was.
            (
                vec![
                    (1, accepted(10)),
                    (2, connected(2)),
                    (3, accepted(40)),
                    (4, accepted(41)),
                ],
                vec![Apply, Apply, Apply, Apply],
            ),
            (
                vec![(1, accepted(10)), (2, connected(2)), (4, accepted(40))],
                vec![Apply, Apply, Gap],
            ),
            (
                vec![(1, accepted(10)), (2, disconnected(1)), (3, accepted(11))],
                vec![Apply, Apply, Apply],
            ),
            // A block that the list's chain has says nothing; another one may be older than the list.
            (
                vec![(1, connected(1)), (2, accepted(10))],
                vec![Stale, Apply],
            ),
            (vec![(1, connected(2))], vec![Gap]),
            (vec![(1, disconnected(1))], vec![Gap]),
        ] {
            assert_eq!(verdicts(&words), wanted, "{words:?}");
        }
    }

    #[test]
    fn no_word_counts_without_a_list() {
        let mut alignment = Alignment::default();
        assert!(!alignment.holds());
        assert_eq!(alignment.admit(1, &accepted(1), |_| false), Verdict::Gap);
        alignment.restart(5);
        assert!(alignment.holds());
        assert_eq!(alignment.admit(9, &accepted(5), |_| false), Verdict::Apply);
        alignment.lose();
        assert_eq!(alignment.admit(10, &accepted(6), |_| false), Verdict::Gap);
    }
}
