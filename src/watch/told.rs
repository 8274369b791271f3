//! Watches and events as they are told: the values of the wire.

use bitcoin::OutPoint;

use super::registration::NewWatch;
use crate::store::watches::{Event, Gone, Happening, Subject, WatchRow};
use crate::wire::native::{
    ConfirmedSpend, Follow, GoneWhy, Registration, SeenSpend, Watch, WatchEvent, WatchHappening,
};

impl From<Registration> for NewWatch {
    fn from(registration: Registration) -> Self {
        Self {
            subject: match registration.follow {
                Follow::Outpoint => Subject::Outpoint,
                Follow::Process(rule) => Subject::Process(rule),
            },
            outpoint: registration.outpoint,
            created: registration.created,
            confirmations: registration.confirmations,
            tag: registration.tag.into_bytes(),
        }
    }
}

/// An event under its cursor; `row` is its watch, if that is still there.
pub fn told(cursor: u64, event: &Event, row: Option<&WatchRow>) -> WatchEvent {
    let what = match &event.what {
        Happening::Confirmed(confirmed) => WatchHappening::Confirmed(ConfirmedSpend {
            block: confirmed.block,
            transaction: confirmed.spender.transaction,
            input: confirmed.spender.input,
            txid: confirmed.txid,
            spent: confirmed.spent,
            state: confirmed.state,
            next_tip: confirmed.next_tip(),
        }),
        Happening::Ended { of, block, end } => WatchHappening::Ended {
            of: *of,
            block: *block,
            end: *end,
        },
        Happening::Deep { of, block, tip } => WatchHappening::Deep {
            of: *of,
            block: *block,
            tip: *tip,
        },
        Happening::Reorged { of } => WatchHappening::Reorged { of: *of },
        Happening::Seen(seen) => WatchHappening::Seen(SeenSpend {
            txid: seen.txid,
            spent: seen.spent,
            state: seen.state,
            next_tip: seen.next.map(|vout| OutPoint::new(seen.txid, vout)),
        }),
        Happening::Replaced { of, by } => WatchHappening::Replaced { of: *of, by: *by },
        Happening::Evicted { of, why } => WatchHappening::Evicted {
            of: *of,
            why: match why {
                Gone::Evicted => GoneWhy::NoRoom,
                Gone::Expired => GoneWhy::TooOld,
                Gone::Unknown => GoneWhy::NotKnown,
            },
        },
        Happening::Conflict { of, by } => WatchHappening::Conflict { of: *of, by: *by },
    };
    WatchEvent {
        cursor,
        watch: event.watch,
        tag: row.map(tag),
        what,
    }
}

/// A watch under its number.
pub fn watch(number: u64, row: &WatchRow) -> Watch {
    Watch {
        watch: number,
        outpoint: row.start,
        follow: match row.subject {
            Subject::Outpoint => Follow::Outpoint,
            Subject::Process(rule) => Follow::Process(rule),
        },
        tip: row.tip,
        is_over: row.is_over,
        steps: row.steps,
        unknown_below: Some(row.unknown_below).filter(|height| *height > 0),
        confirmations: row.confirmations,
        tag: tag(row),
    }
}

/// A tag in words; bytes that are none, which only programs that use the library can give, are replaced.
fn tag(row: &WatchRow) -> String {
    String::from_utf8_lossy(&row.tag).into_owned()
}
