//! Where a scan goes on: what is looked for now, beside what was looked for before.

use bitcoin::OutPoint;

use super::super::state::{Change, Coverage, Cursor, Labels, WatchedRow};
use super::{ClientError, Interrupted, LightClient};

impl LightClient {
    /// Brings the state in line with what this client is to look for: where to begin, and what must be looked at again.
    pub(super) async fn prepare(&mut self, tip: u32) -> Result<(), Interrupted> {
        let coverage = Coverage {
            labels: self
                .scanner
                .as_ref()
                .map_or_else(Labels::default, |scanner| {
                    scanner.keys().labels.iter().map(|label| label.m).collect()
                }),
            dust_limit_sat: self.settings.dust_limit_sat,
            cut_through: self.settings.cut_through,
        };
        let mut roll_back_to = None;
        let before = self.state.contents.cursor.clone();
        let cursor = match before.clone() {
            None => {
                let first = match self.settings.from {
                    Some(from) => from,
                    None => self.first_height(tip).await?,
                };
                Cursor {
                    first,
                    next: first,
                    coverage,
                    unrecorded_below: None,
                }
            }
            Some(mut cursor) => {
                if let Some(from) = self.settings.from
                    && from < cursor.first
                {
                    tracing::info!("the stored scan began at {}, now from {from}", cursor.first);
                    cursor.first = from;
                    cursor.next = from;
                }
                if !cursor.coverage.covers(&coverage) {
                    tracing::info!(
                        "labels, dust limit or cut-through let this scan find more than the stored one: again from {}",
                        cursor.first
                    );
                    cursor.next = cursor.first;
                }
                if self.settings.rescan {
                    let again = self.settings.from.unwrap_or(cursor.first);
                    cursor.next = cursor.next.min(again);
                    roll_back_to = Some(i64::from(again) - 1);
                    tracing::info!("scanning again from block {}", cursor.next);
                }
                cursor.coverage = coverage;
                cursor
            }
        };
        self.has_something(&cursor, tip)?;
        // A beginning that the server does not have is not kept: every later scan would end there.
        let goes_back = before
            .as_ref()
            .is_none_or(|before| cursor.next < before.next);
        if goes_back && cursor.next <= tip {
            self.server.require(cursor.next).await?;
        }
        let watched = self.rows(before.as_ref(), &cursor, tip).await?;
        // What is unresolved is taken back with the blocks, and stays until they are scanned.
        let unresolved = self.state.contents.unresolved.iter();
        let unresolved = unresolved.map(|(height, row)| (*height, Some(row.clone())));
        let unresolved = unresolved.collect();
        // What was found is taken back with the blocks, and stays. Its spends are looked for with the scan, or before.
        let found = self.state.contents.found.iter().map(|(outpoint, row)| {
            let mut row = row.clone();
            row.next = row.next.filter(|next| *next < cursor.next);
            (*outpoint, row)
        });
        let hashes = self.state.contents.hashes.iter();
        let hashes = hashes.map(|(height, hash)| (*height, *hash));
        // The hashes stay with it: by them it is seen whether its blocks are still in the chain.
        let (found, hashes) = match roll_back_to {
            Some(_) => (found.collect(), hashes.collect()),
            None => Default::default(),
        };
        self.state.apply(Change {
            roll_back_to,
            cursor: Some(cursor),
            hashes,
            found,
            watched,
            unresolved,
            ..Change::default()
        })?;
        // Once is enough, also if the run begins again.
        self.settings.rescan = false;
        Ok(())
    }

    /// Whether there is a block to scan, or has been one.
    fn has_something(&self, cursor: &Cursor, tip: u32) -> Result<(), ClientError> {
        let from = match self.settings.from {
            Some(from) if cursor.scanned_to().is_some() => from,
            _ if cursor.scanned_to().is_some() => return Ok(()),
            _ => cursor.first,
        };
        if from > tip {
            return Err(ClientError::BeyondTip {
                oracle: self.server.describe(),
                from,
                tip,
            });
        }
        match self.settings.to {
            Some(to) if to < from => Err(ClientError::EmptyRange { from, to }),
            _ => Ok(()),
        }
    }

    /// What changes in the rows of watched outpoints: those to follow from now on get one; those that are not, and went
    /// along with the wallet's scan, stay behind.
    async fn rows(
        &self,
        before: Option<&Cursor>,
        cursor: &Cursor,
        tip: u32,
    ) -> Result<Vec<(OutPoint, WatchedRow)>, Interrupted> {
        let known = &self.state.contents.watched;
        let mut from = self.settings.from;
        if from.is_none()
            && self.scanner.is_none()
            && self.watched.iter().any(|o| !known.contains_key(o))
        {
            // Where the scan of other outpoints began says nothing about these.
            from = Some(match before {
                Some(_) => self.first_height(tip).await?,
                None => cursor.first,
            });
        }
        let from = from.unwrap_or(cursor.first);
        let new = self.watched.iter().filter_map(|outpoint| {
            if known.get(outpoint).is_some_and(|row| row.from <= from) {
                return None;
            }
            let row = WatchedRow {
                from,
                next: (from < cursor.next).then_some(from),
            };
            Some((*outpoint, row))
        });
        let left = known.iter().filter_map(|(outpoint, row)| {
            if self.watched.contains(outpoint) || row.next.is_some() {
                return None;
            }
            // Blocks that are scanned again are taken back for these outpoints too.
            let next = before.map(|before| before.next.min(cursor.next).max(row.from));
            let row = WatchedRow {
                from: row.from,
                next,
            };
            Some((*outpoint, row))
        });
        Ok(new.chain(left).collect())
    }
}
