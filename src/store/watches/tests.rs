use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Txid};
use proptest::prelude::*;

use super::*;
use crate::BlockId;
use crate::process::{End, Rule, State};
use crate::store::record::Spender;

fn outpoint() -> impl Strategy<Value = OutPoint> {
    (any::<[u8; 32]>(), any::<u32>())
        .prop_map(|(txid, vout)| OutPoint::new(Txid::from_byte_array(txid), vout))
}

fn txid() -> impl Strategy<Value = Txid> {
    any::<[u8; 32]>().prop_map(Txid::from_byte_array)
}

fn block() -> impl Strategy<Value = BlockId> {
    (any::<u32>(), any::<[u8; 32]>()).prop_map(|(height, hash)| BlockId {
        height,
        hash: BlockHash::from_byte_array(hash),
    })
}

fn state() -> impl Strategy<Value = Option<State>> {
    let state = (any::<u32>(), any::<[u8; 32]>()).prop_map(|(vout, id)| State { vout, id });
    proptest::option::of(state)
}

fn event() -> impl Strategy<Value = Event> {
    let next = || proptest::option::of(any::<u32>());
    let confirmed = (
        block(),
        any::<(u16, u16)>(),
        proptest::option::of(txid()),
        outpoint(),
        (state(), next(), any::<u32>()),
    );
    let confirmed = confirmed.prop_map(
        |(block, (transaction, input), txid, spent, (state, next, confirmations))| {
            Happening::Confirmed(Confirmed {
                block,
                spender: Spender { transaction, input },
                txid,
                spent,
                state,
                next,
                confirmations,
            })
        },
    );
    let seen = (txid(), outpoint(), state(), next()).prop_map(|(txid, spent, state, next)| {
        Happening::Seen(Seen {
            txid,
            spent,
            state,
            next,
        })
    });
    let end = prop_oneof![
        Just(End::NoState),
        Just(End::EndState),
        Just(End::NoSuccessor)
    ];
    let why = prop_oneof![
        Just(Gone::Evicted),
        Just(Gone::Expired),
        Just(Gone::Unknown)
    ];
    let what = prop_oneof![
        confirmed,
        (any::<u64>(), block(), end).prop_map(|(of, block, end)| Happening::Ended {
            of,
            block,
            end
        }),
        (any::<u64>(), block(), block()).prop_map(|(of, block, tip)| Happening::Deep {
            of,
            block,
            tip
        }),
        any::<u64>().prop_map(|of| Happening::Reorged { of }),
        seen,
        (any::<u64>(), proptest::option::of(txid()))
            .prop_map(|(of, by)| Happening::Replaced { of, by }),
        (any::<u64>(), why).prop_map(|(of, why)| Happening::Evicted { of, why }),
        (any::<u64>(), txid()).prop_map(|(of, by)| Happening::Conflict { of, by }),
    ];
    (any::<u64>(), any::<u32>(), what).prop_map(|(watch, owner, what)| Event { watch, owner, what })
}

fn watch() -> impl Strategy<Value = WatchRow> {
    let subject = prop_oneof![
        Just(Subject::Outpoint),
        any::<(u32, u32)>().prop_map(|(state, carry)| Subject::Process(Rule { state, carry })),
    ];
    let tag = proptest::collection::vec(any::<u8>(), 0..=TAG_BYTES_MAX);
    (
        any::<(u32, bool, u32, u32, u64)>(),
        subject,
        outpoint(),
        outpoint(),
        tag,
    )
        .prop_map(
            |((owner, is_over, confirmations, unknown_below, steps), subject, start, tip, tag)| {
                WatchRow {
                    owner,
                    subject,
                    start,
                    tip,
                    is_over,
                    confirmations,
                    unknown_below,
                    steps,
                    tag,
                }
            },
        )
}

proptest! {
    #[test]
    fn events_come_back(event in event(), junk in any::<u8>()) {
        let bytes = event.encode();
        prop_assert_eq!(Event::decode(&bytes), Ok(event));
        for len in 0..bytes.len() {
            prop_assert!(Event::decode(&bytes[..len]).is_err(), "{} bytes", len);
        }
        prop_assert!(Event::decode(&[&bytes[..], &[junk]].concat()).is_err());
    }

    #[test]
    fn watches_come_back(row in watch()) {
        let bytes = row.encode();
        prop_assert_eq!(bytes.len(), WatchRow::BYTES + row.tag.len());
        prop_assert_eq!(WatchRow::decode(&bytes), Ok(row));
        prop_assert!(WatchRow::decode(&bytes[..WatchRow::BYTES - 1]).is_err());
        let long = [&bytes[..WatchRow::BYTES], &[7; TAG_BYTES_MAX + 1]].concat();
        prop_assert!(WatchRow::decode(&long).is_err());
    }

    #[test]
    fn bytes_of_anybody_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        // Whatever is read is written as the same bytes.
        if let Ok(event) = Event::decode(&bytes) {
            prop_assert_eq!(event.encode(), bytes.clone());
        }
        if let Ok(row) = WatchRow::decode(&bytes) {
            prop_assert_eq!(row.encode(), bytes.clone());
        }
        if let Ok(row) = TokenRow::decode(&bytes) {
            prop_assert_eq!(row.encode(), bytes);
        }
    }

    #[test]
    fn keys_sort_as_what_is_in_them(a in any::<(u32, u64)>(), b in any::<(u32, u64)>()) {
        let [key_a, key_b] = [a, b].map(|(height, cursor)| event_key(height, cursor));
        prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
        prop_assert_eq!(split_event_key(&key_a), a);
    }
}

#[test]
fn tokens_come_back() {
    let row = TokenRow {
        number: 7,
        scopes: 1 << 40 | 3,
        watches_max: 1_000_000,
        owner: Some(2),
        streams_max: 3,
        name: "a relay".to_owned(),
    };
    assert_eq!(TokenRow::decode(&row.encode()), Ok(row.clone()));
    for wrong in [
        TokenRow {
            number: 0,
            ..row.clone()
        },
        TokenRow {
            name: "x".repeat(TOKEN_NAME_BYTES_MAX + 1),
            ..row.clone()
        },
    ] {
        assert!(TokenRow::decode(&wrong.encode()).is_err());
    }
    let mut bytes = row.encode();
    bytes.push(0xff);
    assert!(TokenRow::decode(&bytes).is_err());
}
