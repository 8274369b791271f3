//! Several servers, of which some tell something else from some block on.

use std::sync::Arc;

use bitcoin::Network;
use serde_json::{Value, json};
use spindex::client::witnesses::{Disagreement, compare};
use spindex::client::{HttpOracle, HttpSettings, NativeOracle};

use super::between::Between;
use crate::reorgs::scene::Scene;
use crate::support::index::fresh_store_from;
use crate::support::served::serve;

/// A server whose heads are others from a height on.
async fn server(scene: &Scene, lies_from: Option<u32>) -> Arc<NativeOracle> {
    let between = Between::default();
    let address = serve(&scene.chain, scene.store.clone(), |router| {
        between.around(router)
    })
    .await;
    if let Some(lies_from) = lies_from {
        between.change(move |_, asked, body| {
            if !asked.contains("/commitments") {
                return body;
            }
            let mut answer: Value = serde_json::from_slice(&body).unwrap();
            for block in answer["blocks"].as_array_mut().unwrap() {
                if block["height"].as_u64().unwrap() >= lies_from.into() {
                    block["columns_head"] = json!("ab".repeat(32));
                }
            }
            serde_json::to_vec(&answer).unwrap()
        });
    }
    native(format!("http://{address}"))
}

fn native(url: String) -> Arc<NativeOracle> {
    let http = HttpOracle::new(&url, HttpSettings::default()).unwrap();
    Arc::new(NativeOracle::new(Arc::new(http), Network::Regtest))
}

fn positions(found: &Disagreement) -> Vec<Vec<usize>> {
    let parties = found.parties.iter();
    parties.map(|party| party.servers.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_block_that_differs_is_found_and_who_says_what() {
    let scene = Scene::new(1007).await;
    let tip = scene.chain.tip_id().height;
    let honest = [server(&scene, None).await, server(&scene, None).await];
    assert_eq!(compare(&honest, None).await, Ok(None));
    for lies_from in [0, 1, 77, tip - 1, tip] {
        let liar = server(&scene, Some(lies_from)).await;
        let servers = [honest[0].clone(), liar.clone(), honest[1].clone()];
        let found = compare(&servers, None).await.unwrap().expect("they differ");
        assert_eq!(found.height, lies_from);
        assert_eq!(positions(&found), [vec![0, 2], vec![1]]);
        assert_eq!(found.majority(), Some(&[0, 2][..]));
        let text = found.to_string();
        assert!(text.contains(&liar.describe()), "{text}");
        // Below nothing differs.
        if let Some(below) = lies_from.checked_sub(1) {
            assert_eq!(compare(&servers, Some(below)).await, Ok(None));
        }
        let two = compare(&servers[..2], Some(tip)).await.unwrap().unwrap();
        assert_eq!((two.height, two.majority()), (lies_from, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_begin_elsewhere_are_compared_by_their_blocks() {
    let scene = Scene::new(1008).await;
    let store = fresh_store_from(scene.chain.clone(), 90).await;
    let address = serve(&scene.chain, store, |router| router).await;
    let later = native(format!("http://{address}"));
    let other = Scene::new(1009).await;
    let servers = [server(&scene, None).await, later];
    assert_eq!(compare(&servers, None).await, Ok(None));
    // Another chain from its first blocks on.
    let servers = [servers[1].clone(), server(&other, None).await];
    let found = compare(&servers, Some(150))
        .await
        .unwrap()
        .expect("they differ");
    assert_eq!(found.height, 90);
}
