use super::*;

/// x = 1 is on the curve, x = 5 is not.
fn point(x: u8) -> String {
    format!("02{x:064x}")
}

const HASH: &str = "0000007d60f5ffc47975418ac8331c0ea52cf551730ef7ead7ff9082a536f13c";

#[test]
fn tweaks_are_valid_points_or_an_error() {
    let good = format!(
        "[\"{}\", \"{}\"]",
        point(1),
        point(2).replacen("02", "03", 1)
    );
    let tweaks = Tweaks::decode(good.as_bytes()).expect("two points");
    assert_eq!(tweaks.len(), 2);
    let mut expected = [0; 33];
    (expected[0], expected[32]) = (2, 1);
    assert_eq!(tweaks[0].to_compressed(), expected);
    assert_eq!(tweaks[1].to_compressed()[0], 3);
    assert_eq!(Tweaks::decode(b"[]"), Ok(vec![]));

    for bad in [
        format!("[\"{}\"]", point(5)),
        format!("[\"{}\"]", &point(1)[..64]),
        format!("[\"{}0\"]", point(1)),
        format!("[\"{}00\"]", point(1)),
        format!("[\"04{}\"]", &point(1)[2..]),
        format!("[\"0g{}\"]", &point(1)[2..]),
        format!("[\"{}\"", point(1)),
        format!("[\"{}\"]x", point(1)),
        "[null]".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        "\"\"".to_owned(),
        String::new(),
        // 66 bytes that are fewer characters.
        format!("[\"é{}\"]", &point(1)[2..]),
    ] {
        assert!(Tweaks::decode(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn error_objects_are_told_from_everything_else() {
    let text = |body: &str| decode_error(body.as_bytes());
    assert_eq!(text(r#"{"error":"no"}"#).as_deref(), Some("no"));
    assert_eq!(text(r#" {"x":1,"error":"no"}"#).as_deref(), Some("no"));
    assert_eq!(
        text(r#"{"error":{"code":7}}"#).as_deref(),
        Some(r#"{"code":7}"#)
    );
    // The native protocol's, with a message for people.
    assert_eq!(
        text(r#"{"error":{"code":"busy","message":"not now"}}"#).as_deref(),
        Some("not now")
    );
    for other in ["", "[]", "{}", "no", r#"{"error":null}"#, r#"{"error":"#] {
        assert_eq!(text(other), None, "{other}");
    }
    let long = text(&format!("{{\"error\":\"a\\nb{}\"}}", "x".repeat(1000))).expect("an error");
    assert_eq!(long.chars().count(), 201);
    assert!(long.starts_with("a bxx") && long.ends_with("x…"));
}

#[test]
fn info_knows_every_name_of_a_network() {
    let body = |network: &str| {
        format!(
            r#"{{"network":"{network}","height":7,"tweaks_only":false,"tweaks_full_basic":true,
            "tweaks_full_with_dust_filter":false,"tweaks_cut_through_with_dust_filter":true,"more":[]}}"#
        )
    };
    for (name, network) in [
        ("main", Network::Bitcoin),
        ("bitcoin", Network::Bitcoin),
        ("test", Network::Testnet),
        ("testnet", Network::Testnet),
        ("testnet4", Network::Testnet4),
        ("signet", Network::Signet),
        ("regtest", Network::Regtest),
    ] {
        let info = Info::decode(body(name).as_bytes()).expect("a known name");
        assert_eq!(info.network, network);
        assert_eq!(info.height, 7);
        assert!(info.full_list && info.cut_through);
        assert!(!info.full_list_with_dust_limit && !info.tweaks_only);
    }
    assert!(Info::decode(body("liquid").as_bytes()).is_err());
    assert!(Info::decode(br#"{"network":"main","height":7}"#).is_err());
}

#[test]
fn height_has_two_spellings() {
    assert_eq!(
        BlockHeight::decode(br#"{"block_height":5}"#),
        Ok(BlockHeight(5))
    );
    assert_eq!(BlockHeight::decode(br#"{"height":5}"#), Ok(BlockHeight(5)));
    assert_eq!(
        BlockHeight::decode(br#"{"block_height":5,"height":5}"#),
        Ok(BlockHeight(5))
    );
    for bad in [
        &br#"{"block_height":5,"height":6}"#[..],
        br#"{}"#,
        br#"{"block_height":-1}"#,
        br#"{"block_height":4294967296}"#,
        br#"{"block_height":"5"}"#,
        br#"[]"#,
    ] {
        assert!(BlockHeight::decode(bad).is_err());
    }
}

#[test]
fn filters_are_of_the_height_asked_for() {
    let body = format!(
        r#"{{"filter_type":4,"block_height":9,"block_hash":"{HASH}","data":"00ff","more":1}}"#
    );
    let filter = Filter::decode(body.as_bytes(), 9).expect("a filter");
    assert_eq!(
        (filter.block_hash.to_string().as_str(), &filter.data[..]),
        (HASH, &[0, 0xff][..])
    );
    assert!(Filter::decode(body.as_bytes(), 10).is_err());
    let spelled = body.replace("block_height", "height");
    assert!(Filter::decode(spelled.as_bytes(), 9).is_ok());
    for (from, to) in [
        ("00ff", "0ff"),
        ("00ff", "0x"),
        (":4", ":3"),
        ("0000007d", "7d"),
        ("data", "date"),
        ("\"00ff\"", "[]"),
    ] {
        let bad = body.replace(from, to);
        assert!(Filter::decode(bad.as_bytes(), 9).is_err(), "{bad}");
    }
}

#[test]
fn utxos_are_taproot_outputs() {
    let body = format!(
        r#"[{{"txid":"{HASH}","vout":3,"value":5,"scriptpubkey":"5120{}","block_height":0,
        "block_hash":"{HASH}","timestamp":0,"spent":true}}]"#,
        "ab".repeat(32)
    );
    let utxos = Utxo::decode_all(body.as_bytes()).expect("one output");
    assert_eq!(utxos.len(), 1);
    assert_eq!(utxos[0].outpoint.to_string(), format!("{HASH}:3"));
    assert_eq!((utxos[0].key, utxos[0].value_sat), ([0xab; 32], 5));
    assert!(utxos[0].spent);
    assert_eq!(Utxo::decode_all(b"[]"), Ok(vec![]));
    // Neither of these fields is needed.
    assert!(Utxo::decode_all(body.replace("\"timestamp\":0,", "").as_bytes()).is_ok());
    for (from, to) in [
        ("5120", "0014"),
        ("5120ab", "5120"),
        ("5120ab", "5120abab"),
        ("\"vout\":3", "\"vout\":-1"),
        ("\"value\":5", "\"value\":0.5"),
        (",\"spent\":true", ""),
        ("[{", "{"),
    ] {
        let bad = body.replace(from, to);
        assert!(Utxo::decode_all(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn spent_index_is_an_object_or_an_empty_array() {
    let body = format!(r#"{{"block_hash":"{HASH}","data":["5ea6df04ec36f675"]}}"#);
    let index = SpentIndex::decode(body.as_bytes()).expect("one item");
    assert_eq!(
        index.block_hash.map(|hash| hash.to_string()).as_deref(),
        Some(HASH)
    );
    assert_eq!(
        index.items,
        [[0x5e, 0xa6, 0xdf, 0x04, 0xec, 0x36, 0xf6, 0x75]]
    );
    let empty = SpentIndex::decode(b" []").expect("an empty index");
    assert_eq!((empty.block_hash, empty.items.len()), (None, 0));
    for bad in [
        body.replace("f675", "f6"),
        body.replace("f675", "f67500"),
        body.replace("data", "item"),
        r#"["5ea6df04ec36f675"]"#.to_owned(),
        "null".to_owned(),
        String::new(),
    ] {
        assert!(SpentIndex::decode(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn spend_details_carry_data() {
    let body = format!(
        r#"{{"block_hash":"{HASH}","block_height":4,"data":[{{"txid":"{HASH}","vout":1,
        "spending_txid":"{HASH}","input":2,"op_return":["","c0de"]}}]}}"#
    );
    let details = Spends::decode(body.as_bytes(), 4).expect("one spend");
    assert_eq!(details.spends.len(), 1);
    assert_eq!(details.spends[0].input, 2);
    assert_eq!(*details.spends[0].op_return, [vec![], vec![0xc0, 0xde]]);
    assert!(Spends::decode(body.as_bytes(), 5).is_err());
    assert!(Spends::decode(body.replace("c0de", "c0d").as_bytes(), 4).is_err());
    assert!(Spends::decode(b"[]", 4).is_err());
}

#[test]
fn forwarding_answers_a_txid_or_nothing() {
    assert_eq!(decode_forwarded(b""), Ok(None));
    let txid = decode_forwarded(format!("\"{HASH}\"\n").as_bytes()).expect("a txid");
    assert_eq!(txid.map(|txid| txid.to_string()).as_deref(), Some(HASH));
    assert!(decode_forwarded(b"\"ok\"").is_err());
    assert!(decode_forwarded(b"{}").is_err());
}
