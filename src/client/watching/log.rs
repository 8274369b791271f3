//! A lineage as the log of a server tells it: of any script, by any rule, with what reorganisations took back.

use super::audit::{Claim, Claims};
use super::server::{FollowError, WatchServer};
use crate::client::OracleError;
use crate::proof::SpendClaim;
use crate::wire::native::{Follow, Watch, WatchHappening};

/// What the log says of the process that is watched, as the chain is now; `None` if the log does not go back to its first step any
/// more.
///
/// # Errors
/// As all of [`Oracle`](crate::client::Oracle); a log that takes back what it has not said, or not the newest first.
pub async fn logged(server: &WatchServer, watch: &Watch) -> Result<Option<Claims>, FollowError> {
    let mut told = Told::default();
    let (mut after, mut is_cut) = (0, false);
    loop {
        let page = server.page_behind(after, Some(watch.watch)).await?;
        is_cut |= page.first.is_some_and(|first| first > 1);
        for event in &page.events {
            told.take(event.cursor, &event.what).map_err(|what| {
                FollowError::Oracle(OracleError::Malformed {
                    url: server.describe(),
                    what: format!("the log of watch {}: {what}", watch.watch),
                })
            })?;
        }
        // An answer that does not go on would be asked for again for ever.
        if page.cursor >= page.last || page.cursor <= after {
            break;
        }
        after = page.cursor;
    }
    let steps: Vec<Claim> = told.steps.into_iter().map(|(_, claim)| claim).collect();
    if is_cut && (steps.len() as u64) < watch.steps {
        return Ok(None);
    }
    let last = steps.last().map(|claim| claim.spend.next);
    Ok(Some(Claims {
        tip: last.unwrap_or(Some(watch.outpoint)),
        steps,
        known_from: watch.unknown_below,
    }))
}

/// The watch of a process that starts at an outpoint, among the caller's.
///
/// # Errors
/// As all of [`Oracle`](crate::client::Oracle).
pub async fn watch_of(
    server: &WatchServer,
    outpoint: &bitcoin::OutPoint,
) -> Result<Option<Watch>, OracleError> {
    let mut from = Some(0);
    while let Some(first) = from {
        let page = server.watches(first).await?;
        let is_it = |watch: &Watch| watch.outpoint == *outpoint && watch.follow != Follow::Outpoint;
        if let Some(watch) = page.watches.into_iter().find(is_it) {
            return Ok(Some(watch));
        }
        from = page.next;
    }
    Ok(None)
}

/// What is left of what was told, each under the cursor of its event.
#[derive(Default)]
struct Told {
    steps: Vec<(u64, Claim)>,
    /// Events that ended the process.
    ended: Vec<u64>,
    /// Events that are taken back and change nothing.
    others: Vec<u64>,
}

impl Told {
    fn take(&mut self, cursor: u64, what: &WatchHappening) -> Result<(), String> {
        match what {
            WatchHappening::Confirmed(spend) => {
                let claim = Claim {
                    spent: spend.spent,
                    block: spend.block,
                    transaction: spend.transaction.into(),
                    spend: SpendClaim {
                        txid: spend.txid,
                        input: spend.input.into(),
                        state: spend.state,
                        next: spend.next_tip,
                    },
                    end: Some(None),
                };
                self.steps.push((cursor, claim));
            }
            WatchHappening::Ended { of, end, .. } => {
                let (_, claim) = self.last(*of)?;
                claim.end = Some(Some(*end));
                self.ended.push(cursor);
            }
            WatchHappening::Reorged { of } => self.take_back(*of)?,
            WatchHappening::Deep { .. } => self.others.push(cursor),
            WatchHappening::Seen(_)
            | WatchHappening::Replaced { .. }
            | WatchHappening::Evicted { .. }
            | WatchHappening::Conflict { .. } => {}
        }
        Ok(())
    }

    /// The last step, which an event must be about.
    fn last(&mut self, of: u64) -> Result<&mut (u64, Claim), String> {
        let last = self.steps.last_mut().filter(|(cursor, _)| *cursor == of);
        last.ok_or_else(|| format!("event {of} is not its last step"))
    }

    fn take_back(&mut self, of: u64) -> Result<(), String> {
        if self.ended.last() == Some(&of) {
            self.ended.pop();
            if let Some((_, claim)) = self.steps.last_mut() {
                claim.end = Some(None);
            }
            return Ok(());
        }
        if let Some(at) = self.others.iter().rposition(|cursor| *cursor == of) {
            self.others.remove(at);
            return Ok(());
        }
        self.last(of)?;
        self.steps.pop();
        Ok(())
    }
}
