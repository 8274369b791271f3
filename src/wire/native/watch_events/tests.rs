//! Every event as it stands in docs/events.md, both ways.

use bitcoin::hashes::Hash;

use super::*;

fn txid(byte: u8) -> Txid {
    Txid::from_byte_array([byte; 32])
}

fn block(byte: u8) -> BlockId {
    BlockId {
        height: 900_000 + u32::from(byte),
        hash: BlockHash::from_byte_array([byte; 32]),
    }
}

/// Each kind of event, with what follows its name in JSON.
fn vectors() -> Vec<(WatchHappening, &'static str, String)> {
    let hex = |byte: &str| byte.repeat(32);
    let state = Some(State {
        vout: 1,
        id: [0x77; 32],
    });
    let spent = OutPoint::new(txid(5), 2);
    let (of, tip) = (41, block(3));
    vec![
        (
            WatchHappening::Confirmed(ConfirmedSpend {
                block: block(1),
                transaction: 41,
                input: 3,
                txid: Some(txid(9)),
                spent,
                state,
                next_tip: Some(OutPoint::new(txid(9), 0)),
            }),
            "confirmed",
            format!(
                r#""height":900001,"block_hash":"{}","transaction":41,"input":3,"txid":"{}","spent":"{}:2","vout":1,"state_id":"{}","next_tip":"{}:0""#,
                hex("01"),
                hex("09"),
                hex("05"),
                hex("77"),
                hex("09")
            ),
        ),
        (
            WatchHappening::Confirmed(ConfirmedSpend {
                block: block(1),
                transaction: 41,
                input: 3,
                txid: None,
                spent,
                state: None,
                next_tip: None,
            }),
            "confirmed",
            format!(
                r#""height":900001,"block_hash":"{}","transaction":41,"input":3,"txid":null,"spent":"{}:2","vout":null,"state_id":null,"next_tip":null"#,
                hex("01"),
                hex("05")
            ),
        ),
        (
            WatchHappening::Ended {
                of,
                block: block(1),
                end: End::NoSuccessor,
            },
            "ended",
            format!(
                r#""of":41,"height":900001,"block_hash":"{}","end":"no_successor""#,
                hex("01")
            ),
        ),
        (
            WatchHappening::Deep {
                of,
                block: block(1),
                tip,
            },
            "deep",
            format!(
                r#""of":41,"height":900001,"block_hash":"{}","tip":{{"height":900003,"block_hash":"{}"}}"#,
                hex("01"),
                hex("03")
            ),
        ),
        (
            WatchHappening::Reorged { of },
            "reorged",
            r#""of":41"#.to_owned(),
        ),
        (
            WatchHappening::Seen(SeenSpend {
                txid: txid(9),
                spent,
                state,
                next_tip: Some(OutPoint::new(txid(9), 0)),
            }),
            "seen",
            format!(
                r#""txid":"{}","spent":"{}:2","vout":1,"state_id":"{}","next_tip":"{}:0""#,
                hex("09"),
                hex("05"),
                hex("77"),
                hex("09")
            ),
        ),
        (
            WatchHappening::Replaced { of, by: None },
            "replaced",
            r#""of":41,"by":null"#.to_owned(),
        ),
        (
            WatchHappening::Replaced {
                of,
                by: Some(txid(9)),
            },
            "replaced",
            format!(r#""of":41,"by":"{}""#, hex("09")),
        ),
        (
            WatchHappening::Evicted {
                of,
                why: GoneWhy::TooOld,
            },
            "evicted",
            r#""of":41,"why":"too_old""#.to_owned(),
        ),
        (
            WatchHappening::Conflict { of, by: txid(9) },
            "conflict",
            format!(r#""of":41,"by":"{}""#, hex("09")),
        ),
    ]
}

fn event(what: WatchHappening) -> WatchEvent {
    WatchEvent {
        cursor: 42,
        watch: 17,
        tag: Some("order".to_owned()),
        what,
    }
}

#[test]
fn every_event_says_what_its_vector_says() {
    for (what, name, fields) in vectors() {
        assert_eq!(what.name(), name);
        let event = event(what);
        let text = format!(r#"{{"cursor":42,"watch":17,"tag":"order","event":"{name}",{fields}}}"#);
        assert_eq!(event.encode().unwrap(), text);
        assert_eq!(WatchEvent::decode(text.as_bytes()), Ok(Some(event)));
    }
}

#[test]
fn the_words_of_ends_and_reasons() {
    let text = |what| {
        let encoded = event(what).encode().unwrap();
        let value: serde_json::Value = serde_json::from_str(&encoded).unwrap();
        [&value["end"], &value["why"]].map(|word| word.as_str().unwrap_or_default().to_owned())
    };
    let of = 1;
    let block = block(1);
    for (end, word) in [
        (End::NoState, "no_state"),
        (End::EndState, "end_state"),
        (End::NoSuccessor, "no_successor"),
    ] {
        assert_eq!(text(WatchHappening::Ended { of, block, end })[0], word);
    }
    for (why, word) in [
        (GoneWhy::NoRoom, "no_room"),
        (GoneWhy::TooOld, "too_old"),
        (GoneWhy::NotKnown, "not_known"),
    ] {
        assert_eq!(text(WatchHappening::Evicted { of, why })[1], word);
    }
}

#[test]
fn events_that_are_none() {
    let unknown = br#"{"cursor":42,"watch":17,"tag":null,"event":"paid","of":3,"by":[]}"#;
    assert_eq!(WatchEvent::decode(unknown), Ok(None));
    let hash = "09".repeat(32);
    for wrong in [
        r#"{"cursor":42,"watch":17,"tag":null}"#.to_owned(),
        r#"{"cursor":42,"watch":17,"tag":null,"event":"reorged"}"#.to_owned(),
        r#"{"cursor":-1,"watch":17,"tag":null,"event":"reorged","of":1}"#.to_owned(),
        format!(
            r#"{{"cursor":1,"watch":1,"tag":null,"event":"seen","txid":"{hash}","spent":"{hash}:0","vout":1,"state_id":null,"next_tip":null}}"#
        ),
        format!(
            r#"{{"cursor":1,"watch":1,"tag":null,"event":"seen","txid":"{hash}","spent":"{hash}:0","vout":null,"state_id":null,"next_tip":"{}:0"}}"#,
            "08".repeat(32)
        ),
    ] {
        assert!(WatchEvent::decode(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn pages_ascend() {
    let reorged = |cursor| WatchEvent {
        cursor,
        ..event(WatchHappening::Reorged { of: 1 })
    };
    let page = EventPage {
        events: vec![reorged(3), reorged(7)],
        cursor: 9,
        first: Some(2),
        last: 12,
    };
    let encoded = page.encode().unwrap();
    assert_eq!(EventPage::decode(&encoded, 2), Ok(page.clone()));
    assert!(EventPage::decode(&encoded, 3).is_err(), "from before");
    for wrong in [
        EventPage {
            cursor: 6,
            ..page.clone()
        },
        EventPage {
            cursor: 13,
            ..page.clone()
        },
        EventPage {
            events: vec![reorged(7), reorged(3)],
            ..page.clone()
        },
    ] {
        assert!(
            EventPage::decode(&wrong.encode().unwrap(), 2).is_err(),
            "{wrong:?}"
        );
    }
    let nothing = br#"{"events":[],"cursor":0,"first":null,"last":0}"#;
    assert!(EventPage::decode(nothing, 0).is_ok());
    assert!(EventPage::decode(nothing, 1).is_err(), "back");
}
