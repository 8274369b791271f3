//! Seeds of `watch_rows`: each kind of row, with what may be missing and without.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Txid};
use spindex::BlockId;
use spindex::process::{End, Rule, State};
use spindex::store::Spender;
use spindex::store::watches::{
    Confirmed, Event, Gone, Happening, Seen, Subject, TokenRow, WatchRow,
};

use crate::seeds::Seed;

pub(crate) fn watch_rows() -> Vec<Seed> {
    let txid = Txid::from_byte_array([3; 32]);
    let spent = OutPoint::new(txid, 1);
    let block = BlockId {
        height: 800_000,
        hash: BlockHash::from_byte_array([4; 32]),
    };
    let state = |byte| {
        let id = [byte; 32];
        Some(State { vout: 1, id })
    };
    let confirmed = |txid, state, next| {
        Happening::Confirmed(Confirmed {
            block,
            spender: Spender {
                transaction: 5,
                input: 2,
            },
            txid,
            spent,
            state,
            next,
            confirmations: 6,
        })
    };
    let seen = |state, next| {
        Happening::Seen(Seen {
            txid,
            spent,
            state,
            next,
        })
    };
    let (of, by) = (9, txid);
    let events = [
        ("confirmed", confirmed(Some(txid), state(7), Some(0))),
        ("confirmed-end", confirmed(Some(txid), state(0), None)),
        ("confirmed-by-place", confirmed(None, None, None)),
        (
            "ended",
            Happening::Ended {
                of,
                block,
                end: End::NoState,
            },
        ),
        (
            "ended-zeros",
            Happening::Ended {
                of,
                block,
                end: End::EndState,
            },
        ),
        (
            "ended-short",
            Happening::Ended {
                of,
                block,
                end: End::NoSuccessor,
            },
        ),
        (
            "deep",
            Happening::Deep {
                of,
                block,
                tip: block,
            },
        ),
        ("reorged", Happening::Reorged { of }),
        ("seen", seen(state(7), Some(0))),
        ("seen-end", seen(None, None)),
        ("replaced", Happening::Replaced { of, by: Some(by) }),
        ("replaced-by-what", Happening::Replaced { of, by: None }),
        (
            "evicted",
            Happening::Evicted {
                of,
                why: Gone::Evicted,
            },
        ),
        ("conflict", Happening::Conflict { of, by }),
    ];
    let mut seeds: Vec<Seed> = Vec::new();
    for (name, what) in events {
        let (watch, owner) = (2, 1);
        let row = Event { watch, owner, what }.encode();
        seeds.push((name.to_owned(), [&[0], &row[..]].concat()));
    }
    for (name, subject) in [
        ("outpoint", Subject::Outpoint),
        ("process", Subject::Process(Rule { state: 1, carry: 2 })),
    ] {
        let row = WatchRow {
            owner: 1,
            subject,
            start: spent,
            tip: spent,
            is_over: false,
            confirmations: 6,
            unknown_below: 800_001,
            steps: 3,
            tag: b"a tag".to_vec(),
        };
        seeds.push((name.to_owned(), [&[1], &row.encode()[..]].concat()));
    }
    let token = TokenRow {
        number: 1,
        scopes: 3,
        owner: None,
        watches_max: 10_000,
        streams_max: 4,
        name: "a relay".to_owned(),
    };
    seeds.push(("token".to_owned(), [&[2], &token.encode()[..]].concat()));
    seeds
}
