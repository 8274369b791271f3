//! Seeds of `watch_rows` and `watch_answers`: each kind of row and body, with what may be missing and without.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Txid};
use spindex::BlockId;
use spindex::process::{End, Rule, State};
use spindex::store::Spender;
use spindex::store::watches::{
    Confirmed, Event, Gone, Happening, Seen, Subject, TokenRow, WatchRow,
};
use spindex::watch::{token_entry, told, watch};
use spindex::wire::native::{self, EventPage, MadeToken, Registration, Removal, WatchPage};

use crate::seeds::Seed;
use crate::watch_answers;

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

/// The rows as they are told, and what is asked for.
pub(crate) fn watch_answers() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |name: &str, decoder: u8, asked: &[u8], body: Vec<u8>| {
        let seed = [&[decoder], asked, &body[..]].concat();
        seeds.push((name.to_owned(), seed));
    };
    let (mut events, mut watches, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for (name, row) in watch_rows() {
        let cursor = events.len() as u64 + 1;
        match row.split_first() {
            Some((0, row)) => {
                let event = Event::decode(row).expect("a seed");
                let event = told(cursor, &event, None);
                let text = event.encode().expect("a text");
                add(&name, watch_answers::EVENT, &[], text.into_bytes());
                events.push(event);
            }
            Some((1, row)) => {
                let row = WatchRow::decode(row).expect("a seed");
                let number = watches.len() as u64 + 1;
                watches.push(watch(number, &row));
            }
            _ => tokens.push(token_entry(
                &TokenRow::decode(row.get(1..).unwrap_or_default()).expect("a seed"),
            )),
        }
    }
    let last = events.len() as u64;
    let page = EventPage {
        events,
        cursor: last,
        first: Some(1),
        last: last + 2,
    };
    let page = page.encode().expect("a body");
    add(
        "page",
        watch_answers::EVENT_PAGE,
        &0_u64.to_le_bytes(),
        page,
    );
    let registrations = watches.iter().map(|watch| Registration {
        outpoint: watch.outpoint,
        follow: watch.follow,
        created: watch.unknown_below,
        confirmations: watch.confirmations,
        tag: watch.tag.clone(),
    });
    let registrations: Vec<Registration> = registrations.collect();
    let body = Registration::encode_all(&registrations).expect("a body");
    add("registrations", watch_answers::REGISTRATIONS, &[], body);
    let registered = [1, 2].map(|watch| native::Registered {
        watch,
        is_new: watch == 1,
    });
    let body = native::Registered::encode_all(&registered).expect("a body");
    add("registered", watch_answers::REGISTERED, &[2], body);
    let body = watches[0].encode().expect("a body");
    add("watch", watch_answers::WATCH, &[], body);
    let body = WatchPage {
        watches,
        next: Some(9),
    };
    add(
        "watches",
        watch_answers::WATCH_PAGE,
        &[],
        body.encode().expect("a body"),
    );
    let body = Removal {
        watches: vec![1, 9],
    };
    add(
        "removal",
        watch_answers::REMOVAL,
        &[],
        body.encode().expect("a body"),
    );
    let cut = native::LogCut { after: 3, first: 9 };
    let body = cut.encode().expect("a text").into_bytes();
    add("cut", watch_answers::CUT, &[], body);
    let new = native::NewToken {
        name: "a relay".to_owned(),
        scopes: native::Scope::ALL.to_vec(),
        watches_max: 5,
        streams_max: 1,
        owner: Some(0),
    };
    add(
        "new-token",
        watch_answers::NEW_TOKEN,
        &[],
        new.encode().expect("a body"),
    );
    let made = MadeToken {
        number: 1,
        token: "spx_00".to_owned().into(),
    };
    add(
        "made-token",
        watch_answers::MADE_TOKEN,
        &[],
        made.encode().expect("a body"),
    );
    let body = native::TokenEntry::encode_all(tokens).expect("a body");
    add("tokens", watch_answers::TOKENS, &[], body);
    seeds
}
