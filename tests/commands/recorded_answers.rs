//! Every answer of the version 1 routes and of our own over a chain with all corner cases, against what was recorded
//! in `fixtures/api_v1/answers.txt`: whatever moves inside, deployed clients see the same bytes.
//!
//! A change that is meant writes the record anew: `SPINDEX_WRITE_ANSWERS=1 cargo test --test commands recorded_answers`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::support::index::{fill, options};
use super::support::served;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, ScriptBuf, TxOut};
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::made::simulated::{Orphaned, PaymentRequest, SimulatedChain};
use spindex::store::{Keep, Store, StoreOptions, TweakForm};

/// Where the indexes begin: blocks below it are unknown to them.
const FIRST_HEIGHT: u32 = 3;

/// `{}` stands for a height. Lists, filters, refusals, and the same under the prefix and with a slash at the end.
const PATHS: [&str; 24] = [
    "/block-hash/{}",
    "/tweaks/{}",
    "/tweaks/{}?dustLimit=0",
    "/tweaks/{}?dustLimit=331",
    "/tweaks/{}?dustLimit=100000",
    "/tweaks/{}?dustLimit=18446744073709551615",
    "/tweaks/{}?dustLimit=-1",
    "/tweak-index/{}",
    "/tweak-index/{}?dustLimit=0",
    "/tweak-index/{}?dustLimit=331",
    "/tweak-index/{}?dustLimit=100000",
    "/tweak-index/{}?dustLimit=18446744073709551615",
    "/tweak-index/{}?other=1&dustLimit=331&dustLimit=0",
    "/utxos/{}",
    "/filter/new-utxos/{}",
    "/filter/spent/{}",
    "/filter/both/{}",
    "/spent-index/{}",
    "/spends/{}",
    "/digest/{}",
    "/v1/tweaks/{}",
    "/v1/utxos/{}",
    "/v1/filter/spent/{}",
    "/utxos/{}/",
];

/// Asked once.
const SINGLE_PATHS: [&str; 12] = [
    "/info",
    "/v1/info",
    "/block-height",
    "/block-height/",
    "/",
    "/nothing",
    "/tweaks",
    "/tweaks/",
    "/tweaks/-1",
    "/tweaks/%ff",
    "/utxos/4294967296",
    "/spends/tip",
];

/// Inputs of every kind, dust, keys that are no points, outputs spent in part, whole, in their own block and by a process
/// with a state id, coinbases, blocks without anything, and a reorganisation that revives what was spent.
pub(crate) fn chain() -> Arc<SimulatedChain> {
    let chain = served::chain(14, 130);
    let address = |label| {
        let keys = served::keys();
        keys.address(label, bitcoin::Network::Regtest).unwrap()
    };
    let taproot = |key: [u8; 32], value_sat| TxOut {
        value: Amount::from_sat(value_sat),
        script_pubkey: ScriptBuf::from_bytes([&[0x51, 0x20], &key[..]].concat()),
    };
    for kind in InputKind::ALL.into_iter().filter(|kind| kind.yields_key()) {
        let request = PaymentRequest {
            recipients: vec![
                (address(None), 330),
                (address(None), 331),
                (address(Some(1)), 100_000),
            ],
            ..PaymentRequest::default()
        };
        chain
            .pay(&request.from_inputs(&[kind, InputKind::P2wsh]))
            .unwrap();
    }
    // x = 5 is on no point of the curve; neither is what is not below p.
    let mut five = [0; 32];
    five[31] = 5;
    let no_points = PaymentRequest {
        outputs: vec![
            taproot(five, 5_000),
            taproot([0xff; 32], 6_000),
            taproot([0x79; 32], 0),
        ],
        keep: vec![
            (InputKind::P2tr, 70_000),
            (InputKind::P2trScript, 80_000),
            (InputKind::P2tr, 90_000),
        ],
        ..PaymentRequest::default()
    };
    let first = chain.pay(&no_points).unwrap();
    // Spent in the block that makes it.
    let spend = |outpoint, data: &[u8]| PaymentRequest {
        spend: vec![outpoint],
        keep: vec![(InputKind::P2tr, 40_000)],
        op_return: Some(data.to_vec()),
        ..PaymentRequest::default()
    };
    let second = chain
        .pay(&spend(first.kept[0].outpoint, &[0x5a; 32]))
        .unwrap();
    chain.mine(1);
    // A process moves on by a block, another output of the same transaction goes on a branch that is left.
    let third = chain
        .pay(&spend(second.kept[0].outpoint, &[0xa5; 32]))
        .unwrap();
    chain.mine(2);
    chain
        .pay(&spend(first.kept[1].outpoint, b"left behind"))
        .unwrap();
    chain.mine(2);
    chain.reorganize(2, 3, Orphaned::Drop).unwrap();
    chain.pay(&spend(third.kept[0].outpoint, &[])).unwrap();
    chain.mine(2);
    chain
}

async fn index(chain: &Arc<SimulatedChain>, keep: Keep, form: TweakForm) -> Arc<Store> {
    let options = StoreOptions {
        first_height: Some(FIRST_HEIGHT),
        keep: Some(keep),
        tweak_form: Some(form),
        ..options()
    };
    let backend = redb::backends::InMemoryBackend::new();
    let store = Arc::new(Store::open_with_backend(backend, &options).unwrap());
    fill(store, chain.clone()).await
}

/// First four bytes of a hash over status, content type, place to go to, and body.
async fn answer(client: &reqwest::Client, url: &str) -> String {
    let response = client.get(url).send().await.unwrap();
    let mut seen = response.status().as_str().as_bytes().to_vec();
    for name in ["content-type", "location"] {
        seen.push(b'\n');
        seen.extend(
            response
                .headers()
                .get(name)
                .map_or(&[][..], |value| value.as_bytes()),
        );
    }
    seen.push(b'\n');
    seen.extend(response.bytes().await.unwrap());
    let hash = sha256::Hash::hash(&seen).to_byte_array();
    hash[..4].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What each path is answered, by the path: one hash, or one for each height from 0 to two above the tip.
async fn answers() -> BTreeMap<String, String> {
    let chain = chain();
    let client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let mut answers = BTreeMap::new();
    for (name, keep, form) in [
        ("full", Keep::Full, TweakForm::Point),
        ("compressed", Keep::Full, TweakForm::Compressed),
        ("tweaks", Keep::Tweaks, TweakForm::Compressed),
    ] {
        let store = index(&chain, keep, form).await;
        let address = served::serve(&chain, store, |router| router).await;
        for path in SINGLE_PATHS {
            let hash = answer(&client, &format!("http://{address}{path}")).await;
            answers.insert(format!("{name} {path}"), hash);
        }
        for path in PATHS {
            let mut hashes = Vec::new();
            for height in 0..=chain.tip_id().height + 2 {
                let path = path.replace("{}", &height.to_string());
                hashes.push(answer(&client, &format!("http://{address}{path}")).await);
            }
            answers.insert(format!("{name} {path}"), hashes.join(" "));
        }
    }
    answers
}

#[tokio::test]
async fn answers_are_those_that_were_recorded() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/api_v1/answers.txt");
    let answers = answers().await;
    if std::env::var_os("SPINDEX_WRITE_ANSWERS").is_some() {
        let lines = answers
            .iter()
            .map(|(path, hashes)| format!("{path}: {hashes}\n"));
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(&file).unwrap();
    let recorded: BTreeMap<&str, &str> = recorded
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    assert_eq!(recorded.len(), answers.len(), "one answer for each path");
    for (path, hashes) in &answers {
        let old = recorded
            .get(path.as_str())
            .expect("every path was recorded");
        let differing: Vec<usize> = hashes
            .split(' ')
            .zip(old.split(' '))
            .enumerate()
            .filter_map(|(height, (new, old))| (new != old).then_some(height))
            .collect();
        assert!(
            differing.is_empty(),
            "{path} is answered differently at {differing:?}"
        );
        assert_eq!(hashes.len(), old.len(), "{path}: as many heights");
    }
}
