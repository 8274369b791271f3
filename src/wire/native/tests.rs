use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint, Txid};

use super::*;
use crate::BlockId;

fn block(height: u32) -> BlockId {
    BlockId {
        height,
        hash: BlockHash::from_byte_array([height as u8; 32]),
    }
}

#[test]
fn refusals_name_their_code() {
    let refusal = Refusal {
        code: Code::NotYetIndexed,
        message: "height 7 is above the tip, 6".to_owned(),
    };
    let body = refusal.encode();
    let expected =
        r#"{"error":{"code":"not_yet_indexed","message":"height 7 is above the tip, 6"}}"#;
    assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
    assert_eq!(Refusal::decode(&body), Ok(refusal));
    assert!(Refusal::decode(br#"{"error":"busy"}"#).is_err());
}

#[test]
fn commitments_come_back_for_the_heights_asked_for() {
    let link = |byte| Link {
        commitment: [byte; 32],
        head: [byte + 1; 32],
    };
    let links = |height, v2| Links {
        block: block(height),
        v1: link(1),
        v2,
        columns_head: v2.map(|_| [9; 32]),
    };
    let commitments = Commitments {
        blocks: vec![links(5, Some(link(3))), links(6, None)],
    };
    let body = commitments.encode().unwrap();
    let text = String::from_utf8(body.clone()).unwrap();
    let start = format!(
        r#"{{"blocks":[{{"height":5,"block_hash":"{0}","v1":{{"commitment":"{1}","head":"{2}"}},"v2":{{"#,
        "05".repeat(32),
        "01".repeat(32),
        "02".repeat(32)
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(
        text.ends_with(r#","v2":null,"columns_head":null}]}"#),
        "{text}"
    );
    assert_eq!(Commitments::decode(&body, 5, 6), Ok(commitments));
    for (from, to) in [(5, 5), (5, 7), (4, 6), (6, 5)] {
        assert!(Commitments::decode(&body, from, to).is_err(), "{from}-{to}");
    }
}

#[test]
fn a_process_comes_back_for_the_outpoint_asked_for() {
    let start = OutPoint::new(Txid::from_byte_array([7; 32]), 3);
    let process = Process {
        start,
        steps: vec![Step {
            block: block(9),
            txid: Txid::from_byte_array([8; 32]),
            transaction: 4,
            input: 1,
            vout: 2,
            state_id: [0xab; 32],
        }],
        tip: Some(OutPoint::new(Txid::from_byte_array([8; 32]), 0)),
        more: false,
        known_from: Some(4),
    };
    let body = process.encode().unwrap();
    let expected = format!(
        r#"{{"start":"{0}:3","steps":[{{"height":9,"block_hash":"{1}","txid":"{2}","transaction":4,"input":1,"vout":2,"state_id":"{3}"}}],"tip":"{2}:0","more":false,"known_from":4}}"#,
        "07".repeat(32),
        "09".repeat(32),
        "08".repeat(32),
        "ab".repeat(32)
    );
    assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
    assert_eq!(Process::decode(&body, start), Ok(process));
    assert!(Process::decode(&body, OutPoint::null()).is_err());
}

/// Of the genesis block, so that the header is one.
fn genesis() -> Block {
    let genesis = bitcoin::constants::genesis_block(Network::Bitcoin);
    let link = |byte| Link {
        commitment: [byte; 32],
        head: [byte + 1; 32],
    };
    Block {
        block: BlockId {
            height: 0,
            hash: genesis.block_hash(),
        },
        header: genesis.header,
        transactions: 3,
        counts: Some(Counts {
            outputs: 4,
            unspent: 1,
            spends: 5,
            states: 2,
        }),
        digest: [9; 32],
        links: Some(Links {
            block: BlockId {
                height: 0,
                hash: genesis.block_hash(),
            },
            v1: link(1),
            v2: Some(link(3)),
            columns_head: Some([7; 32]),
        }),
        settled: true,
    }
}

#[test]
fn infos_come_back_and_columns_that_are_not_known_are_left_out() {
    let info = Info {
        network: Network::Signet,
        genesis_hash: block(1).hash,
        first_height: 7,
        tip: block(9),
        tweaks_only: true,
        columns: vec![column::Column::Headers, column::Column::Tweaks],
        chunk_blocks: 64,
        horizon: 100,
        spenders_from: Some(8),
        digest: [3; 32],
        heads: Some(Heads {
            v1: [4; 32],
            v2: None,
            columns: Some([5; 32]),
        }),
        server: Server {
            name: "s".to_owned(),
            version: "1.2.3".to_owned(),
        },
    };
    let body = info.encode().unwrap();
    let expected = format!(
        r#"{{"network":"signet","genesis_hash":"{0}","first_height":7,"tip":{{"height":9,"block_hash":"{1}"}},"keeps":"tweaks","columns":["headers","tweaks"],"chunk_blocks":64,"horizon":100,"spenders_from":8,"digest":"{2}","heads":{{"v1":"{3}","v2":null,"columns":"{4}"}},"server":{{"name":"s","version":"1.2.3"}}}}"#,
        "01".repeat(32),
        "09".repeat(32),
        "03".repeat(32),
        "04".repeat(32),
        "05".repeat(32)
    );
    assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
    assert_eq!(Info::decode(&body), Ok(info.clone()));
    let newer = expected.replace(r#""tweaks"],"#, r#""tweaks","words"],"more":1,"#);
    assert_eq!(Info::decode(newer.as_bytes()), Ok(info));
    for (good, bad) in [
        (r#""signet""#, r#""moon""#),
        (r#""keeps":"tweaks""#, r#""keeps":"all""#),
        (r#""first_height":7,"#, ""),
    ] {
        let wrong = expected.replace(good, bad);
        assert_ne!(wrong, expected);
        assert!(Info::decode(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn blocks_come_back_with_the_header_that_they_are_named_by() {
    let block = genesis();
    let body = block.encode().unwrap();
    assert_eq!(Block::decode(&body), Ok(block.clone()));
    let tweaks_only = Block {
        counts: None,
        links: None,
        ..block
    };
    let body = tweaks_only.encode().unwrap();
    let text = String::from_utf8(body.clone()).unwrap();
    let nulls = r#""transactions":3,"outputs":null,"unspent":null,"spends":null,"states":null,"#;
    assert!(text.contains(nulls), "{text}");
    assert!(text.contains(r#""time":1231006505,"#), "{text}");
    assert_eq!(Block::decode(&body), Ok(tweaks_only));
    for (good, bad) in [
        (r#""outputs":null"#, r#""outputs":4"#),
        (r#""time":1231006505"#, r#""time":1231006506"#),
        (r#""header":"01"#, r#""header":"02"#),
        (r#""previous_hash":"00"#, r#""previous_hash":"01"#),
    ] {
        let wrong = text.replace(good, bad);
        assert_ne!(wrong, text);
        assert!(Block::decode(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn digests_come_back_for_the_height_asked_for() {
    let digest = Digest {
        block: block(5),
        digest: [0xab; 32],
    };
    let body = digest.encode().unwrap();
    let expected = format!(
        r#"{{"height":5,"block_hash":"{}","digest":"{}"}}"#,
        "05".repeat(32),
        "ab".repeat(32)
    );
    assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
    assert_eq!(Digest::decode(&body, 5), Ok(digest));
    assert!(Digest::decode(&body, 6).is_err());
}

fn step() -> Step {
    Step {
        block: block(9),
        txid: Txid::from_byte_array([8; 32]),
        transaction: 4,
        input: 1,
        vout: 2,
        state_id: [0xab; 32],
    }
}

#[test]
fn states_of_outpoints_come_back_and_fit_what_stands_beside_them() {
    let outpoint = OutPoint::new(Txid::from_byte_array([7; 32]), 3);
    let created = Created {
        block: block(5),
        value_sat: 2_100_000_000_000_000,
        key: [6; 32],
    };
    let spent = |created, spent| OutpointState::Spent { created, spent };
    for (state, name) in [
        (OutpointState::Unspent(created), "unspent"),
        (spent(Some(created), Some(step())), "spent"),
        (spent(None, Some(step())), "spent"),
        (spent(Some(created), None), "spent"),
        (OutpointState::Unknown, "unknown"),
        (OutpointState::SpentOrUnknown, "spent_or_unknown"),
    ] {
        let known = Outpoint {
            outpoint,
            state,
            known_from: None,
        };
        let body = known.encode().unwrap();
        let text = String::from_utf8(body.clone()).unwrap();
        let start = format!(r#"{{"outpoint":"{outpoint}","state":"{name}","created":"#);
        assert!(text.starts_with(&start), "{text}");
        assert_eq!(Outpoint::decode(&body, outpoint), Ok(known));
        assert!(Outpoint::decode(&body, OutPoint::null()).is_err());
        // What an unspent output has does not fit any other state but one.
        let other = text.replace(&format!(r#""state":"{name}""#), r#""state":"unspent""#);
        let fits = Outpoint::decode(other.as_bytes(), outpoint).is_ok();
        let is_like = text.contains(r#""created":{"#) && text.contains(r#""spent":null"#);
        assert_eq!(fits, is_like, "{text}");
    }
}

#[test]
fn transactions_come_back_for_the_txid_asked_for() {
    let txid = Txid::from_byte_array([7; 32]);
    let output = |vout, is_spent, spent| Output {
        vout,
        value_sat: 546,
        key: [5; 32],
        is_spent,
        spent,
    };
    let transaction = Transaction {
        txid,
        block: block(5),
        tweak: [2; 33],
        outputs: vec![output(0, true, Some(step())), output(3, false, None)],
        known_from: Some(4),
    };
    let body = transaction.encode().unwrap();
    let text = String::from_utf8(body.clone()).unwrap();
    let end = format!(
        r#"{{"vout":3,"value":546,"key":"{}","is_spent":false,"spent":null}}],"known_from":4}}"#,
        "05".repeat(32)
    );
    assert!(text.ends_with(&end), "{text}");
    assert_eq!(Transaction::decode(&body, txid), Ok(transaction));
    assert!(Transaction::decode(&body, Txid::all_zeros()).is_err());
}

#[test]
fn heights_come_back_for_the_time_asked_for() {
    let birthday = Birthday {
        time: 1_700_000_000,
        block: block(5),
        block_time: 1_699_990_000,
    };
    let body = birthday.encode().unwrap();
    let expected = format!(
        r#"{{"time":1700000000,"height":5,"block_hash":"{}","block_time":1699990000}}"#,
        "05".repeat(32)
    );
    assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
    assert_eq!(Birthday::decode(&body, 1_700_000_000), Ok(birthday));
    assert!(Birthday::decode(&body, 1_700_000_001).is_err());
}

#[test]
fn events_come_back_and_leave_a_client_where_they_say() {
    let reorg = |fork, connected| Event::Reorg {
        fork,
        disconnected: vec![block(9), block(8)],
        connected,
    };
    let tip = Event::Tip {
        block: block(7),
        skipped: 2,
    };
    let reset = Event::Reset {
        cursor: block(3),
        tip: block(4),
    };
    for (event, name, cursor) in [
        (tip.clone(), "tip", Some(block(7))),
        (
            reorg(Some(block(6)), vec![block(5), block(4)]),
            "reorg",
            Some(block(4)),
        ),
        (reorg(Some(block(6)), vec![]), "reorg", Some(block(6))),
        (reorg(None, vec![block(4)]), "reorg", Some(block(4))),
        (reset, "reset", Some(block(4))),
        (Event::Lagged { missed: 3 }, "lagged", None),
    ] {
        assert_eq!((event.name(), event.cursor()), (name, cursor));
        let data = event.encode().unwrap();
        assert!(!data.contains('\n'));
        assert_eq!(Event::decode(name, &data), Ok(Some(event)));
    }
    let expected = format!(
        r#"{{"height":7,"block_hash":"{}","skipped":2}}"#,
        "07".repeat(32)
    );
    assert_eq!(tip.encode(), Ok(expected));
    assert_eq!(Event::decode("more", "{}"), Ok(None));
    assert!(Event::decode("tip", "{}").is_err());
}

#[test]
fn cursors_are_height_and_hash() {
    let text = format!("9:{}", "09".repeat(32));
    assert_eq!(write_cursor(&block(9)), text);
    assert_eq!(read_cursor(&text), Some(block(9)));
    for wrong in [
        "",
        "9",
        "9:",
        &text[1..],
        &format!("+{text}"),
        &format!("{text}0"),
    ] {
        assert_eq!(read_cursor(wrong), None, "{wrong}");
    }
}
