//! The bodies as they stand in docs/native.md, both ways.

use super::*;

const TXID: &str = "15dfa37d4b1e5b6e8b4d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d";

fn outpoint(vout: u32) -> OutPoint {
    OutPoint::new(TXID.parse().unwrap(), vout)
}

#[test]
fn registrations() {
    let registrations = vec![
        Registration {
            outpoint: outpoint(0),
            follow: Follow::Process(Rule { state: 1, carry: 2 }),
            created: Some(812_000),
            confirmations: 6,
            tag: "order \"17\"".to_owned(),
        },
        Registration {
            outpoint: outpoint(1),
            follow: Follow::Outpoint,
            created: None,
            confirmations: 0,
            tag: String::new(),
        },
    ];
    let text = format!(
        r#"{{"watches":[{{"outpoint":"{TXID}:0","kind":"process","state":1,"output":2,"created":812000,"confirmations":6,"tag":"order \"17\""}},{{"outpoint":"{TXID}:1","kind":"outpoint","confirmations":0,"tag":""}}]}}"#
    );
    let encoded = Registration::encode_all(&registrations).unwrap();
    assert_eq!(String::from_utf8(encoded).unwrap(), text);
    assert_eq!(
        Registration::decode_all(text.as_bytes()),
        Ok(registrations.clone())
    );
    // All but the outpoint may be left out.
    let short = format!(r#"{{"watches":[{{"outpoint":"{TXID}:7"}}]}}"#);
    let expected = Registration {
        outpoint: outpoint(7),
        follow: Follow::Process(Rule::default()),
        created: None,
        confirmations: 0,
        tag: String::new(),
    };
    assert_eq!(
        Registration::decode_all(short.as_bytes()),
        Ok(vec![expected])
    );
}

#[test]
fn registrations_that_are_none() {
    let of = |fields: &str| {
        let text = format!(r#"{{"watches":[{{"outpoint":"{TXID}:0"{fields}}}]}}"#);
        Registration::decode_all(text.as_bytes())
    };
    assert!(of("").is_ok());
    let tag = format!(r#","tag":"{}""#, "é".repeat(TAG_BYTES_MAX / 2));
    assert!(of(&tag).is_ok());
    for (wrong, why) in [
        (r#","kind":"script""#.to_owned(), "unknown variant"),
        (
            r#","kind":"outpoint","output":1"#.to_owned(),
            "of processes",
        ),
        (r#","confirmation":6"#.to_owned(), "unknown field"),
        (r#","confirmations":-1"#.to_owned(), "invalid value"),
        (r#","state":4294967296"#.to_owned(), "invalid value"),
        (format!(r#","tag":"{}""#, "x".repeat(65)), "65 bytes"),
    ] {
        let error = of(&wrong).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let many = format!(r#"{{"outpoint":"{TXID}:0"}}"#);
    let listed = |count| {
        format!(
            r#"{{"watches":[{}]}}"#,
            vec![many.as_str(); count].join(",")
        )
    };
    let most = Registration::decode_all(listed(REGISTRATIONS_MAX).as_bytes());
    assert_eq!(most.unwrap().len(), REGISTRATIONS_MAX);
    let error = Registration::decode_all(listed(REGISTRATIONS_MAX + 1).as_bytes()).unwrap_err();
    assert!(error.contains("10001 watches"), "{error}");
}

#[test]
fn as_many_as_there_may_be_fit_in_a_body() {
    let longest = Registration {
        outpoint: outpoint(u32::MAX),
        follow: Follow::Process(Rule {
            state: u32::MAX,
            carry: u32::MAX,
        }),
        created: Some(u32::MAX),
        confirmations: u32::MAX,
        // Six characters each.
        tag: "\u{1}".repeat(TAG_BYTES_MAX),
    };
    let encoded = Registration::encode_all(&vec![longest; REGISTRATIONS_MAX]).unwrap();
    assert!(encoded.len() <= REGISTRATION_BYTES_MAX, "{}", encoded.len());
    let removal = Removal {
        watches: vec![u64::MAX; REGISTRATIONS_MAX],
    };
    let encoded = removal.encode().unwrap();
    assert!(encoded.len() <= REMOVAL_BYTES_MAX, "{}", encoded.len());
    assert_eq!(Removal::decode(&encoded), Ok(removal));
}

#[test]
fn registered() {
    let registered = [(17, true), (3, false)].map(|(watch, is_new)| Registered { watch, is_new });
    let text = r#"{"watches":[{"watch":17,"new":true},{"watch":3,"new":false}]}"#;
    let encoded = Registered::encode_all(&registered).unwrap();
    assert_eq!(String::from_utf8(encoded).unwrap(), text);
    let decoded = Registered::decode_all(text.as_bytes(), 2);
    assert_eq!(decoded, Ok(registered.to_vec()));
    assert!(Registered::decode_all(text.as_bytes(), 3).is_err());
}

#[test]
fn removals() {
    let removal = Removal {
        watches: vec![3, 17],
    };
    let text = r#"{"watches":[3,17]}"#;
    assert_eq!(String::from_utf8(removal.encode().unwrap()).unwrap(), text);
    assert_eq!(Removal::decode(text.as_bytes()), Ok(removal));
    assert!(Removal::decode(br#"{"watches":[3],"all":true}"#).is_err());
}

#[test]
fn pages() {
    let watch = Watch {
        watch: 17,
        outpoint: outpoint(0),
        follow: Follow::Process(Rule::default()),
        tip: outpoint(4),
        is_over: false,
        steps: 3,
        unknown_below: Some(900_001),
        confirmations: 6,
        tag: "order".to_owned(),
    };
    let text = format!(
        r#"{{"watch":17,"outpoint":"{TXID}:0","kind":"process","state":0,"output":0,"tip":"{TXID}:4","over":false,"steps":3,"unknown_below":900001,"confirmations":6,"tag":"order"}}"#
    );
    let encoded = watch.encode().unwrap();
    assert_eq!(String::from_utf8(encoded).unwrap(), text);
    assert_eq!(Watch::decode(text.as_bytes()), Ok(watch.clone()));
    let single = Watch {
        watch: 18,
        follow: Follow::Outpoint,
        is_over: true,
        unknown_below: None,
        ..watch.clone()
    };
    let other = format!(
        r#"{{"watch":18,"outpoint":"{TXID}:0","kind":"outpoint","state":null,"output":null,"tip":"{TXID}:4","over":true,"steps":3,"unknown_below":null,"confirmations":6,"tag":"order"}}"#
    );
    let page = WatchPage {
        watches: vec![watch, single],
        next: Some(19),
    };
    let both = format!(r#"{{"watches":[{text},{other}],"next":19}}"#);
    assert_eq!(String::from_utf8(page.encode().unwrap()).unwrap(), both);
    assert_eq!(WatchPage::decode(both.as_bytes()), Ok(page));
    let end = format!(r#"{{"watches":[{text},{other}],"next":null}}"#);
    assert!(WatchPage::decode(end.as_bytes()).is_ok());
    for wrong in [
        format!(r#"{{"watches":[{other},{text}],"next":null}}"#),
        format!(r#"{{"watches":[{text},{text}],"next":null}}"#),
        format!(r#"{{"watches":[{text}],"next":17}}"#),
    ] {
        assert!(WatchPage::decode(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
