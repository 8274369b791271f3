//! What a scan has come to, from the state.

use bitcoin::Network;

use super::super::report::{Found, ScanHead, ScanReport, Unresolved, Watched, WatchedState};
use super::Member;

impl Member {
    /// Everything found by this and earlier runs.
    pub(super) fn report(&self, network: Network, oracle_height: u32) -> ScanReport {
        let contents = &self.state.contents;
        let mut found: Vec<Found> = contents
            .found
            .iter()
            .map(|(outpoint, row)| Found {
                outpoint: *outpoint,
                value_sat: row.value_sat,
                key: row.key,
                k: row.k,
                label: row.label,
                tweak: row.tweak,
                height: row.height,
                block_hash: row.block_hash,
                spent: contents.spends.get(outpoint).cloned(),
            })
            .collect();
        found.sort_by_key(|found| (found.height, found.outpoint));
        let unspent = contents.found.iter();
        let unspent = unspent.filter(|(outpoint, _)| !contents.spends.contains_key(outpoint));
        let lagging = unspent.filter_map(|(_, row)| row.next);
        ScanReport {
            network,
            from: contents.cursor.as_ref().map_or(0, |cursor| cursor.first),
            scanned_to: self.state.scanned_to(),
            oracle_height,
            reorganised_above: self.reorganised_above,
            // A server may claim any value.
            unspent_sat: found
                .iter()
                .filter(|found| found.spent.is_none())
                .fold(0, |sum, found| sum.saturating_add(found.value_sat)),
            found,
            spends_known_to: lagging.map(|next| next.saturating_sub(1)).min(),
            watched: self
                .followed()
                .map(|(outpoint, row)| {
                    let spend = contents.spends.get(outpoint).cloned();
                    Watched {
                        outpoint: *outpoint,
                        from: row.from,
                        to: match row.next {
                            Some(next) => next.checked_sub(1),
                            None => self.state.scanned_to(),
                        }
                        .filter(|to| *to >= row.from),
                        state: match &spend {
                            Some(_) => WatchedState::Spent,
                            None if contents.found.contains_key(outpoint) => WatchedState::Unspent,
                            None => WatchedState::Unknown,
                        },
                        spend,
                    }
                })
                .collect(),
            unresolved: contents
                .unresolved
                .iter()
                .map(|(height, row)| Unresolved {
                    height: *height,
                    block_hash: row.block_hash,
                    matches: row.matches,
                })
                .collect(),
            head: self.state.scanned_to().and_then(|to| {
                let row = contents.head(to)?;
                Some(ScanHead {
                    from: row.from,
                    to,
                    head: row.head,
                })
            }),
            unresolved_unknown_below: contents
                .cursor
                .as_ref()
                .and_then(|cursor| cursor.unrecorded_below),
        }
    }
}
