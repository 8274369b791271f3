//! The pattern of a syncing wallet: 200 blocks in flight, three requests each, through a reverse proxy that serves
//! the index under a path.

use bitcoin::Network;
use futures::StreamExt;
use serde_json::Value;

use super::fixture::{Server, TestChain, TestStore, json_of, pays, sweeps};
use super::proxy::start_proxy;

const BLOCKS: u32 = 260;

fn busy_chain() -> TestChain {
    let mut chain = TestChain::new(1);
    let mut last = chain.mine(&[pays(&[5000, 300])]).outpoint(0, 0);
    while chain.tip().id().height < BLOCKS {
        let height = chain.tip().id().height;
        let mut plans = vec![pays(&[u64::from(height), 900]); (height % 7) as usize];
        plans.push(pays(&[1000]));
        if height.is_multiple_of(3) {
            plans.push(sweeps(&[last]));
        }
        let paying = plans.iter().position(|plan| plan.is_eligible);
        let block = chain.mine(&plans);
        if height.is_multiple_of(3) {
            last = block.outpoint(paying.expect("one pays"), 0);
        }
    }
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_syncs_with_200_blocks_in_flight_behind_a_proxy() {
    let chain = busy_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let base = start_proxy(server.address).await;
    // A wallet's client asks for gzip and decodes it.
    let wallet = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    for list in ["tweaks", "tweak-index"] {
        let (base, wallet) = (&base, &wallet);
        let mut answers: Vec<(u32, [Value; 3])> = futures::stream::iter(1..=BLOCKS)
            .map(|height| async move {
                let get = async |path: String| {
                    let response = wallet.get(format!("{base}/{path}")).send().await;
                    let response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
                    let (status, body) = json_of(response).await;
                    assert_eq!(status, 200, "{path}: {body}");
                    body
                };
                let tweaks = get(format!("{list}/{height}?dustLimit=600")).await;
                let new_utxos = get(format!("filter/new-utxos/{height}")).await;
                let spent = get(format!("filter/spent/{height}")).await;
                (height, [tweaks, new_utxos, spent])
            })
            .buffer_unordered(200)
            .collect()
            .await;
        answers.sort_by_key(|(height, _)| *height);
        assert_eq!(answers.len(), BLOCKS as usize);
        for (height, [tweaks, new_utxos, spent]) in answers {
            let expected = chain.expected(height);
            let of = |path: String| {
                let found = expected.iter().find(|(known, _)| *known == path);
                found.map(|(_, value)| value.clone())
            };
            let path = format!("{list}/{height}?dustLimit=600");
            assert_eq!(Some(&tweaks), of(path.clone()).as_ref(), "{path}");
            assert_eq!(tweaks, server.ok(&path).await);
            for (kind, body) in [("new-utxos", new_utxos), ("spent", spent)] {
                let path = format!("filter/{kind}/{height}");
                assert_eq!(Some(&body), of(path.clone()).as_ref(), "{path}");
                assert_eq!(body, server.ok(&path).await);
            }
        }
    }
}
