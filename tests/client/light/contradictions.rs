//! Answers for one block that cannot all be true are errors that name the server and the height.

use bitcoin::hex::DisplayHex;
use spindex::filter::{new_utxos_filter, spent_filter, spent_item};

use spindex::client::ClientError;

use super::scene::{Run, assert_report, world};
use super::server::{Fault, Served, Server};
use super::world::World;

/// An answer for a filter, and the scan's error with it: a contradiction in that block.
async fn contradicts(world: &World, path: String, body: String, height: u32) {
    let mut served = Served::new(world.clone());
    let body: &'static str = body.leak();
    let broken = path.clone();
    served.hook = Some(Box::new(move |_, path| {
        (path == broken).then_some(Fault::Answer(200, body))
    }));
    let server = Server::start(served).await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.redb");
    let run = Run::new(&world.keys).state(&state);
    let error = run.run(&server).await.expect_err(&path);
    assert!(
        matches!(&error, ClientError::Contradiction { height: at, oracle, .. } if *at == height && server.url.starts_with(oracle.trim_end_matches('/'))),
        "{path}: {error}"
    );
    // Nothing of the block has been stored.
    server.with(|served| served.hook = None);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, world, 1..=45, |_| true);
}

fn filter_body(world: &World, height: u32, data: &[u8]) -> String {
    let hash = world.block(height).unwrap().hash;
    let data = data.to_lower_hex_string();
    format!(r#"{{"filter_type":4,"block_height":{height},"block_hash":"{hash}","data":"{data}"}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_with_fewer_outputs_than_the_block_has_tweaks() {
    let world = world(30, 45);
    let tweaks = |height: u32| {
        let block = world.block(height).unwrap();
        block.txs.iter().filter(|tx| tx.tweak.is_some()).count()
    };
    let height = (2..=45).find(|height| tweaks(*height) >= 2).unwrap();
    let hash = world.block(height).unwrap().hash;
    for elements in 0..tweaks(height) {
        let keys = vec![[7; 32]; elements];
        let data = new_utxos_filter(&hash, &keys);
        let body = filter_body(&world, height, &data);
        contradicts(&world, format!("filter/new-utxos/{height}"), body, height).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_index_that_is_not_what_the_spent_filter_was_made_of() {
    let world = world(31, 45);
    let own = |height: u32| {
        let mut spent = world.spent.iter();
        spent.any(|(o, s)| s.height == height && world.expected.contains_key(o))
    };
    let height = (2..=45).find(|height| own(*height)).unwrap();
    let block = world.block(height).unwrap();
    let items: Vec<[u8; 8]> = block
        .txs
        .iter()
        .flat_map(|tx| tx.spends.iter().map(|o| spent_item(o, &block.hash)))
        .collect();
    let index = |items: &[[u8; 8]]| {
        let items: Vec<String> = items.iter().map(|i| i.to_lower_hex_string()).collect();
        serde_json::json!({ "block_hash": block.hash.to_string(), "data": items }).to_string()
    };
    let path = format!("spent-index/{height}");
    // One item less, one more, another one, the same one twice, none at all.
    let less = &items[1..];
    let more = [&items[..], &[[9; 8]]].concat();
    let other = [less, &[[9; 8]]].concat();
    let twice = [&items[..], &items[..1]].concat();
    for wrong in [less, &more, &other, &twice, &[]] {
        contradicts(&world, path.clone(), index(wrong), height).await;
    }
    contradicts(&world, path, "[]".to_owned(), height).await;
    // And a filter that is not that of the index, though it holds what was spent.
    let body = filter_body(&world, height, &spent_filter(&block.hash, &more));
    contradicts(&world, format!("filter/spent/{height}"), body, height).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_block_that_no_chain_has() {
    let world = world(32, 45);
    for height in [u32::MAX, u32::MAX - 1, 1 << 31] {
        let mut served = Served::new(world.clone());
        served.height = height;
        let server = Server::start(served).await;
        for to in [None, Some(30), Some(u32::MAX)] {
            let run = Run::new(&world.keys).set(|s| s.to = to);
            let error = run.run(&server).await.unwrap_err().to_string();
            assert!(error.contains(&height.to_string()), "{error}");
            assert!(error.contains("no chain has"), "{error}");
        }
    }
}
