//! Where a scan goes on: what is looked for now, beside what was looked for before.

use std::collections::BTreeSet;

use bitcoin::OutPoint;

use super::super::state::{Change, Coverage, Cursor, Labels, WatchedRow};
use super::{ClientError, Interrupted, Member, WalletsClient};

/// What the server has been asked, so that it is asked once for all members.
#[derive(Default)]
struct Asked {
    first_height: Option<u32>,
    required: BTreeSet<u32>,
}

impl WalletsClient {
    /// Brings the states in line with what this client is to look for: where to begin, and what must be looked at again. None
    /// is changed before all are known to be possible.
    pub(super) async fn prepare(&mut self, tip: u32) -> Result<(), Interrupted> {
        let mut asked = Asked::default();
        let mut changes = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            changes.push((at, self.prepared(member, tip, &mut asked).await?));
        }
        self.apply(changes)?;
        // Once is enough, also if the run begins again.
        self.settings.rescan = false;
        Ok(())
    }

    async fn prepared(
        &self,
        member: &Member,
        tip: u32,
        asked: &mut Asked,
    ) -> Result<Change, Interrupted> {
        let contents = &member.state.contents;
        let labels = member.keys.as_ref().map_or_else(Labels::default, |keys| {
            keys.labels.iter().map(|label| label.m).collect()
        });
        let coverage = Coverage {
            labels,
            dust_limit_sat: self.settings.dust_limit_sat,
            cut_through: self.settings.cut_through,
        };
        let mut roll_back_to = None;
        let before = contents.cursor.as_ref();
        let cursor = match before {
            None => {
                let first = match self.settings.from {
                    Some(from) => from,
                    None => self.first_height_once(tip, asked).await?,
                };
                Cursor {
                    first,
                    next: first,
                    coverage,
                    unrecorded_below: None,
                }
            }
            Some(before) => {
                let (mut cursor, prefix) = (before.clone(), member.prefix());
                if let Some(from) = self.settings.from
                    && from < cursor.first
                {
                    tracing::info!(
                        "{prefix}the stored scan began at {}, now from {from}",
                        cursor.first
                    );
                    cursor.first = from;
                    cursor.next = from;
                }
                if !cursor.coverage.covers(&coverage) {
                    tracing::info!(
                        "{prefix}labels, dust limit or cut-through let this scan find more than the stored one: again from {}",
                        cursor.first
                    );
                    cursor.next = cursor.first;
                }
                if self.settings.rescan {
                    let again = self.settings.from.unwrap_or(cursor.first);
                    cursor.next = cursor.next.min(again);
                    roll_back_to = Some(i64::from(again) - 1);
                    tracing::info!("{prefix}scanning again from block {}", cursor.next);
                }
                cursor.coverage = coverage;
                cursor
            }
        };
        let has_something = self.has_something(&cursor, tip);
        has_something.map_err(|error| member.named(error))?;
        // A beginning that the server does not have is not kept: every later scan would end there.
        let goes_back = before.is_none_or(|before| cursor.next < before.next);
        if goes_back && cursor.next <= tip && asked.required.insert(cursor.next) {
            self.server.require(cursor.next).await?;
        }
        let watched = self.rows(member, &cursor, tip, asked).await?;
        // What is unresolved is taken back with the blocks, and stays until they are scanned.
        let unresolved = contents.unresolved.iter();
        let unresolved = unresolved.map(|(height, row)| (*height, Some(row.clone())));
        let unresolved = unresolved.collect();
        // What was found is taken back with the blocks, and stays. Its spends are looked for with the scan, or before.
        let found = contents.found.iter().map(|(outpoint, row)| {
            let mut row = row.clone();
            row.next = row.next.filter(|next| *next < cursor.next);
            (*outpoint, row)
        });
        let hashes = contents.hashes.iter();
        let hashes = hashes.map(|(height, hash)| (*height, *hash));
        // The hashes stay with it: by them it is seen whether its blocks are still in the chain.
        let (found, hashes) = match roll_back_to {
            Some(_) => (found.collect(), hashes.collect()),
            None => Default::default(),
        };
        Ok(Change {
            roll_back_to,
            cursor: Some(cursor),
            hashes,
            found,
            watched,
            unresolved,
            ..Change::default()
        })
    }

    async fn first_height_once(&self, tip: u32, asked: &mut Asked) -> Result<u32, Interrupted> {
        let first = match asked.first_height {
            Some(first) => first,
            None => self.first_height(tip).await?,
        };
        asked.first_height = Some(first);
        Ok(first)
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
        member: &Member,
        cursor: &Cursor,
        tip: u32,
        asked: &mut Asked,
    ) -> Result<Vec<(OutPoint, WatchedRow)>, Interrupted> {
        let contents = &member.state.contents;
        let (known, before) = (&contents.watched, contents.cursor.as_ref());
        let mut from = self.settings.from;
        if from.is_none()
            && member.keys.is_none()
            && member.watched.iter().any(|o| !known.contains_key(o))
        {
            // Where the scan of other outpoints began says nothing about these.
            from = Some(match before {
                Some(_) => self.first_height_once(tip, asked).await?,
                None => cursor.first,
            });
        }
        let from = from.unwrap_or(cursor.first);
        let new = member.watched.iter().filter_map(|outpoint| {
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
            if member.watched.contains(outpoint) || row.next.is_some() {
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
