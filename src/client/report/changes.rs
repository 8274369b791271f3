//! What is new since an earlier report.

use std::collections::BTreeMap;

use bitcoin::OutPoint;
use serde::Serialize;

use super::{Found, ScanReport, Spend};

/// Something that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An output of the wallet that was not known.
    Found(Found),
    /// An output of the wallet or a watched outpoint that was spent, or by another block than was known.
    Spent {
        /// Which one.
        outpoint: OutPoint,
        /// How.
        spend: Spend,
    },
    /// One whose spend was taken back by a reorganisation.
    Unspent {
        /// Which one.
        outpoint: OutPoint,
    },
    /// An output of the wallet that was taken back by a reorganisation.
    Gone {
        /// Which one.
        outpoint: OutPoint,
    },
    /// How far blocks have been scanned.
    Scanned {
        /// Height of the last one.
        to: u32,
    },
}

/// Spends by their outpoint, of the wallet's outputs and of watched ones.
fn spends(report: &ScanReport) -> BTreeMap<OutPoint, &Spend> {
    let found = report.found.iter();
    let found = found.filter_map(|found| Some((found.outpoint, found.spent.as_ref()?)));
    let watched = report.watched.iter();
    let watched = watched.filter_map(|watched| Some((watched.outpoint, watched.spend.as_ref()?)));
    found.chain(watched).collect()
}

impl ScanReport {
    /// What has changed since an earlier report of the same state: what is gone, what is found, then spends, then how far it
    /// was scanned. A spend of which only more is known by now is no change.
    pub fn since(&self, before: &Self) -> Vec<Event> {
        let known: BTreeMap<OutPoint, _> = before
            .found
            .iter()
            .map(|found| (found.outpoint, found.block_hash))
            .collect();
        let now: BTreeMap<OutPoint, _> = self
            .found
            .iter()
            .map(|found| (found.outpoint, found.block_hash))
            .collect();
        let gone = known.keys().filter(|outpoint| !now.contains_key(outpoint));
        let gone = gone.map(|outpoint| Event::Gone {
            outpoint: *outpoint,
        });
        let new = self.found.iter().filter(|found| {
            let before = known.get(&found.outpoint);
            before != Some(&found.block_hash)
        });
        let new = new.cloned().map(Event::Found);
        let (were_spent, are_spent) = (spends(before), spends(self));
        let is_there = |outpoint: &OutPoint| {
            now.contains_key(outpoint) || self.watched.iter().any(|w| w.outpoint == *outpoint)
        };
        let revived = were_spent
            .keys()
            .filter(|outpoint| !are_spent.contains_key(outpoint) && is_there(outpoint));
        let revived = revived.map(|outpoint| Event::Unspent {
            outpoint: *outpoint,
        });
        let spent = are_spent.iter().filter(|(outpoint, spend)| {
            let before = were_spent.get(outpoint);
            before.is_none_or(|before| before.block_hash != spend.block_hash)
        });
        let spent = spent.map(|(outpoint, spend)| Event::Spent {
            outpoint: *outpoint,
            spend: (*spend).clone(),
        });
        let scanned = self.scanned_to.filter(|to| before.scanned_to != Some(*to));
        let scanned = scanned.map(|to| Event::Scanned { to });
        gone.chain(new)
            .chain(revived)
            .chain(spent)
            .chain(scanned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;
    use bitcoin::{BlockHash, Network, Txid};

    use super::*;
    use crate::client::{Watched, WatchedState};

    fn outpoint(number: u8) -> OutPoint {
        OutPoint::new(Txid::from_byte_array([number; 32]), 1)
    }

    fn spend(block: u8) -> Spend {
        Spend {
            height: block.into(),
            block_hash: BlockHash::from_byte_array([block; 32]),
            spending_txid: None,
            input: Some(0),
            op_return: Vec::new(),
        }
    }

    fn found(number: u8, block: u8, spent: Option<Spend>) -> Found {
        Found {
            outpoint: outpoint(number),
            value_sat: 7,
            key: [number; 32],
            k: 0,
            label: None,
            tweak: [3; 33],
            height: block.into(),
            block_hash: BlockHash::from_byte_array([block; 32]),
            spent,
        }
    }

    fn report(to: u32, found: Vec<Found>, watched: Option<Spend>) -> ScanReport {
        ScanReport {
            network: Network::Regtest,
            from: 1,
            scanned_to: Some(to),
            oracle_height: to,
            reorganised_above: None,
            unspent_sat: 0,
            found,
            spends_known_to: None,
            watched: vec![Watched {
                outpoint: outpoint(9),
                from: 1,
                to: Some(to),
                state: match watched {
                    Some(_) => WatchedState::Spent,
                    None => WatchedState::Unknown,
                },
                spend: watched,
            }],
            unresolved: Vec::new(),
            head: None,
            unresolved_unknown_below: None,
        }
    }

    #[test]
    fn changes_are_told_and_nothing_else_is() {
        let before = report(
            20,
            vec![
                found(1, 10, None),
                found(2, 11, Some(spend(15))),
                found(3, 12, Some(spend(16))),
                found(4, 13, None),
                found(5, 14, None),
            ],
            None,
        );
        assert_eq!(before.since(&before), vec![]);
        // Who spent is no change, where is one.
        let told = Spend {
            spending_txid: Some(Txid::from_byte_array([8; 32])),
            ..spend(16)
        };
        let after = report(
            21,
            vec![
                found(1, 10, Some(spend(21))),
                found(2, 11, None),
                found(3, 12, Some(told)),
                found(5, 18, None),
                found(6, 19, None),
            ],
            Some(spend(20)),
        );
        let expected = vec![
            Event::Gone {
                outpoint: outpoint(4),
            },
            Event::Found(found(5, 18, None)),
            Event::Found(found(6, 19, None)),
            Event::Unspent {
                outpoint: outpoint(2),
            },
            Event::Spent {
                outpoint: outpoint(1),
                spend: spend(21),
            },
            Event::Spent {
                outpoint: outpoint(9),
                spend: spend(20),
            },
            Event::Scanned { to: 21 },
        ];
        assert_eq!(after.since(&before), expected);
        // As text, one object each.
        let text = serde_json::to_string(&expected[0]).expect("text");
        assert_eq!(
            text,
            format!(r#"{{"event":"gone","outpoint":"{}"}}"#, outpoint(4))
        );
        let text = serde_json::to_string(&expected[1]).expect("text");
        assert!(text.starts_with(&format!(
            r#"{{"event":"found","outpoint":"{}""#,
            outpoint(5)
        )));
    }
}
