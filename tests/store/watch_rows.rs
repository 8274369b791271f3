//! Rows of watches and events byte by byte, and what a check says of those that cannot be right.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Txid};
use redb::ReadableTable;
use spindex::BlockId;
use spindex::process::{Rule, State};
use spindex::store::schema::META;
use spindex::store::watches::{
    CONSUMERS, Committed, Confirmed, DEEP_DUE, EVENT_BLOCKS, EVENTS, Event, Happening, Subject,
    TOKENS, TokenRow, WATCH_STARTS, WATCHES, WatchRow, event_key,
};
use spindex::store::{Spender, Store, StoreError};

use super::rows::bytes;
use crate::support::{content, options, place, small_index, tamper};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn row(owner: u32, vout: u32) -> WatchRow {
    let outpoint = |first, vout| OutPoint::new(Txid::from_byte_array(bytes(first)), vout);
    WatchRow {
        owner,
        subject: Subject::Process(Rule { state: 2, carry: 3 }),
        start: outpoint(0x40, vout),
        tip: outpoint(0x80, 5),
        is_over: true,
        confirmations: 6,
        unknown_below: 0x0708,
        steps: 9,
        tag: b"tag".to_vec(),
    }
}

fn confirmed(height: u32) -> Confirmed {
    Confirmed {
        block: BlockId {
            height,
            hash: BlockHash::from_byte_array(bytes(0x20)),
        },
        spender: Spender {
            transaction: 0x0b0a,
            input: 0x0d0c,
        },
        txid: Some(Txid::from_byte_array(bytes(0x60))),
        spent: OutPoint::new(Txid::from_byte_array(bytes(0xa0)), 4),
        state: Some(State {
            vout: 1,
            id: bytes(0xc0),
        }),
        next: Some(3),
        confirmations: 6,
    }
}

fn counting(first: u8) -> String {
    hex(&bytes::<32>(first))
}

#[test]
fn watch_row() {
    let encoded = row(1, 2).encode();
    let expected = [
        "01000000",
        "01",
        "02000000",
        "03000000",
        "01",
        "06000000",
        "08070000",
        "0900000000000000",
        &counting(0x40),
        "02000000",
        &counting(0x80),
        "05000000",
        "746167",
    ];
    assert_eq!(hex(&encoded), expected.concat());
    assert_eq!(WatchRow::decode(&encoded), Ok(row(1, 2)));
}

#[test]
fn confirmed_event() {
    let event = Event {
        watch: 7,
        owner: 9,
        what: Happening::Confirmed(confirmed(0x0102)),
    };
    let expected = [
        "01",
        "0700000000000000",
        "09000000",
        "02010000",
        &counting(0x20),
        "0a0b",
        "0c0d",
        "06000000",
        &counting(0xa0),
        "04000000",
        "01",
        &counting(0x60),
        "01",
        "01000000",
        &counting(0xc0),
        "01",
        "03000000",
    ];
    assert_eq!(hex(&event.encode()), expected.concat());
    let tip = confirmed(1).next_tip();
    assert_eq!(
        tip,
        Some(OutPoint::new(Txid::from_byte_array(bytes(0x60)), 3))
    );
}

fn nothing() -> Committed {
    Box::new(|| ())
}

/// Two watches, and an event that is true, one that is not, and what these are about.
fn fill(store: &Store) {
    let filled = store.write_watches(|_, log| {
        let (first, second) = (log.add(&row(0, 1))?, log.add(&row(0, 2))?);
        let owner = 0;
        let mut say = |watch, what| log.append(&Event { watch, owner, what });
        let of = say(first, Happening::Confirmed(confirmed(8)))?;
        let gone = say(second, Happening::Confirmed(confirmed(9)))?;
        say(second, Happening::Reorged { of: gone })?;
        // As whoever takes it back does.
        let taken = log.take_events_of(9)?;
        assert_eq!(taken.len(), 1);
        log.put_consumer("somebody", of)?;
        let token = TokenRow {
            number: 1,
            scopes: 1,
            watches_max: 5,
            owner: Some(2),
            streams_max: 3,
            name: "x".to_owned(),
        };
        log.put_token(&[9; 32], &token)?;
        Ok::<_, StoreError>(((), nothing()))
    });
    filled.expect("written");
}

#[test]
fn odd_rows_are_named_and_nothing_else_is_touched() {
    type Change = fn(&redb::WriteTransaction);
    let changes: [(&str, Change); 14] = [
        ("watches", |write| {
            let mut table = write.open_table(WATCHES).expect("table");
            table.insert(1, [7; 5].as_slice()).expect("insert");
        }),
        ("watches", |write| {
            let mut table = write.open_table(WATCHES).expect("table");
            let row = table
                .remove(2)
                .expect("row")
                .expect("watch")
                .value()
                .to_vec();
            table.insert(40, row.as_slice()).expect("insert");
        }),
        ("watch_starts", |write| {
            let mut table = write.open_table(WATCH_STARTS).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("watch_starts", |write| {
            let mut table = write.open_table(WATCH_STARTS).expect("table");
            table.insert(&[9; 40], 1).expect("insert");
        }),
        ("events", |write| {
            let mut table = write.open_table(EVENTS).expect("table");
            table.insert(3, [9; 17].as_slice()).expect("insert");
        }),
        ("events", |write| {
            let mut table = write.open_table(EVENTS).expect("table");
            let row = table.get(3).expect("row").expect("event").value().to_vec();
            table.insert(4, row.as_slice()).expect("insert");
        }),
        ("events", |write| {
            let mut table = write.open_table(EVENTS).expect("table");
            let later = Event {
                watch: 1,
                owner: 0,
                what: Happening::Reorged { of: 3 },
            };
            table.insert(3, later.encode().as_slice()).expect("insert");
        }),
        ("event_blocks", |write| {
            let mut table = write.open_table(EVENT_BLOCKS).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("event_blocks", |write| {
            let mut table = write.open_table(EVENT_BLOCKS).expect("table");
            table.insert(&event_key(9, 2), ()).expect("insert");
        }),
        ("deep_due", |write| {
            let mut table = write.open_table(DEEP_DUE).expect("table");
            drop(table.pop_first().expect("pop"));
        }),
        ("consumers", |write| {
            let mut table = write.open_table(CONSUMERS).expect("table");
            table.insert("somebody", 4).expect("insert");
        }),
        ("tokens", |write| {
            let mut table = write.open_table(TOKENS).expect("table");
            table.insert(&[9; 32], [0; 20].as_slice()).expect("insert");
        }),
        ("meta", |write| {
            let mut table = write.open_table(META).expect("table");
            table
                .insert("next_event", [7; 3].as_slice())
                .expect("insert");
        }),
        ("meta", |write| {
            let mut table = write.open_table(META).expect("table");
            table
                .insert("watched_to", [7; 35].as_slice())
                .expect("insert");
        }),
    ];
    for (expected, change) in changes {
        let (_directory, path) = place();
        small_index(&path, false);
        let store = Store::open(&path, &options(3)).expect("index");
        let before = content(&store);
        fill(&store);
        assert_eq!(content(&store), before);
        drop(store);
        tamper(&path, change);
        let store = Store::open(&path, &options(3)).expect("index");
        let audit = store.snapshot().expect("snapshot").audit(|_, _| {});
        let wrong = audit.expect("audit").wrong;
        assert!(
            wrong.iter().any(|row| row.table == expected),
            "{expected}: {wrong:?}"
        );
        // What is wrong here is wrong of no block, and can be left out.
        assert!(wrong.iter().all(|row| row.follows && row.height.is_none()));

        // Another file that takes it over is right.
        let (_directory, path) = place();
        small_index(&path, false);
        let new = Store::open(&path, &options(3)).expect("index");
        new.take_over_watches(&store).expect("what can be read");
        assert_eq!(content(&new), before, "{expected}");
    }
}

#[test]
fn all_is_taken_over_where_nothing_is_wrong() {
    let (_directory, path) = place();
    small_index(&path, false);
    let store = Store::open(&path, &options(3)).expect("index");
    fill(&store);
    let (_other, path) = place();
    small_index(&path, false);
    let new = Store::open(&path, &options(3)).expect("index");
    let taken = new.take_over_watches(&store).expect("taken over");
    assert_eq!((taken.watches, taken.events, taken.left_out), (2, 3, 0));
    let [old, new] = [&store, &new].map(|store| store.snapshot().expect("snapshot"));
    assert_eq!(
        old.watches(0, 9).expect("rows"),
        new.watches(0, 9).expect("rows")
    );
    let events = |of: &spindex::store::Snapshot| of.events_after(0, 9).expect("rows");
    assert_eq!(events(&old), events(&new));
    assert_eq!(
        old.last_event().expect("a cursor"),
        new.last_event().expect("a cursor")
    );
    assert_eq!(
        old.watched_to().expect("a block"),
        new.watched_to().expect("a block")
    );
    assert_eq!(
        old.consumers().expect("rows"),
        new.consumers().expect("rows")
    );
    assert_eq!(old.tokens().expect("rows"), new.tokens().expect("rows"));
}
