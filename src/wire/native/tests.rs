use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Txid};

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
