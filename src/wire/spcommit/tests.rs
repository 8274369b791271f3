use bitcoin::hex::{DisplayHex, FromHex};
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../fixtures/spcommit/spcommit-test-vectors.json");

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    let digits = value.as_str().expect("a text");
    <[u8; N]>::from_hex(digits).expect("hex")
}

fn prefixes(value: &Value) -> Vec<[u8; 8]> {
    let bytes = Vec::from_hex(value.as_str().expect("a text")).expect("hex");
    let (prefixes, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    prefixes.to_vec()
}

fn transaction(value: &Value) -> Transaction {
    Transaction {
        txid: value["txid"]
            .as_str()
            .expect("a text")
            .parse()
            .expect("txid"),
        tweak: bytes(&value["tweak"]),
        key_prefixes: prefixes(&value["outputs_short"]),
    }
}

#[test]
fn blocks_of_mainnet() {
    assert_eq!(
        sha256::Hash::hash(VECTORS.as_bytes()).to_string(),
        "e51877630b42c670aec1f4ef77a855c37c3798300072956fdc6ebb76b3d2df5d"
    );
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    let blocks = vectors["vectors"].as_array().expect("a list");
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        let height = block["height"].as_u64().expect("a number") as u32;
        let hash = BlockHash::from_byte_array(bytes(&block["blockhash"]));
        let tweaks = block["v1"]["tweaks"].as_array().expect("a list");
        let mut tweaks: Vec<[u8; 33]> = tweaks.iter().map(bytes).collect();
        let expected: [u8; 32] = bytes(&block["v1"]["expected_commitment"]);
        for _ in 0..2 {
            let text = text_v1(height, &hash, &tweaks);
            assert_eq!(commitment(&text), expected, "{height}");
            tweaks.reverse();
        }
        let transactions = block["v2"]["txs"].as_array().expect("a list");
        let mut transactions: Vec<Transaction> = transactions.iter().map(transaction).collect();
        let spent = prefixes(&block["v2"]["spent_outputs"]);
        let expected: [u8; 32] = bytes(&block["v2"]["expected_commitment"]);
        for _ in 0..2 {
            let text = text_v2(height, &hash, &transactions, &spent);
            assert_eq!(commitment(&text), expected, "{height}");
            transactions.reverse();
        }
        if height == MAINNET_FIRST_HEIGHT {
            let first = &vectors["chain_bootstrap"];
            for (version, name, expected) in [
                (
                    Version::One,
                    "v1",
                    commitment(&text_v1(height, &hash, &tweaks)),
                ),
                (
                    Version::Two,
                    "v2",
                    commitment(&text_v2(height, &hash, &transactions, &spent)),
                ),
            ] {
                assert_eq!(
                    version.genesis(),
                    bytes(&vectors["genesis"][name]["head"]),
                    "{name}"
                );
                let head = next_head(&version.genesis(), &expected);
                assert_eq!(head, bytes(&first[name]["head_after"]), "{name}");
            }
        }
    }
}

/// The worked example of the text, with its line ends.
#[test]
fn the_worked_example() {
    let hash = bytes(&Value::from(
        "0000000000000000000320283a032748cef8227873ff4872689bf23f1cda83a5",
    ));
    let hash = BlockHash::from_byte_array(hash);
    // 32 bytes where tweaks have 33: the example is made up. Its text is the same but for that.
    let (a, b) = (
        "aa17b3e63e9ea3a10ca55e29cf1a08bb59dc23a99b8ba2a35a83c765a273bdaf",
        "bb45a1e6237c25f0a716a2a132e37e10917db00fda1c542947c322a41b7fbc07",
    );
    let with = |digits: &str| bytes(&Value::from(format!("02{digits}")));
    let text = String::from_utf8(text_v1(840_000, &hash, &[with(b), with(a)])).expect("text");
    let text = text.replace("\n02", "\n");
    let expected = "2bbaec4f3a0197f095d23063945344164cba7f3c549359e7e40e757d929094a7";
    assert_eq!(commitment(text.as_bytes()).to_lower_hex_string(), expected);

    let transaction = |digit: &str, tweak, key| Transaction {
        txid: digit.repeat(64).parse().expect("txid"),
        tweak: with(tweak),
        key_prefixes: vec![bytes(&Value::from(key))],
    };
    let transactions = [
        transaction("2", b, "0188b8ed6c5b9db7"),
        transaction("1", a, "983f0dbc51af457b"),
    ];
    let spent = [bytes(&Value::from("907b775220939dfc"))];
    let text = String::from_utf8(text_v2(840_000, &hash, &transactions, &spent)).expect("text");
    let text = text.replace("\n02", "\n");
    let expected = "5b1298779e2a89a80d749f1a7933cb41e5bc0c65d22bf0e6b8d65d979e89204f";
    assert_eq!(commitment(text.as_bytes()).to_lower_hex_string(), expected);
}
