//! A pruned node that fetched blocks again, by `getblockfrompeer`.

use std::net::TcpListener;

use bitcoin::{Network, ScriptBuf};
use serde_json::json;
use spindex::chain::{BlockSource, ChainError};

use super::folder::blocks_folder;
use super::scene::{active_ids, files, files_with};
use crate::support::node::TestNode;

/// The node has the block then, but not what it spends: whoever wants it has to begin above it, or to ask another node.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_were_fetched_again_lack_what_they_spend() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (bind, on) = (format!("-bind=127.0.0.1:{port}"), "-listen=1");
    let full = TestNode::start(&[on, &bind]);
    let pruned = TestNode::start(&["-fastprune", "-prune=1"]);
    let address = json!(format!("127.0.0.1:{port}"));
    full.mine(700, &ScriptBuf::new_op_return([1]));
    pruned.call("addnode", &[address, json!("onetry")]);
    let tip = full.tip();
    while pruned.tip() != tip {
        // Blocks come one by one: this waits for each.
        pruned.call("waitforblock", &[json!(tip.hash), json!(1000)]);
    }
    pruned.call("pruneblockchain", &[json!(400)]);
    let info = pruned.call("getblockchaininfo", &[]);
    let first = u32::try_from(info["pruneheight"].as_u64().unwrap()).unwrap();
    let ids = active_ids(&pruned, 0);
    let peer = pruned.call("getpeerinfo", &[])[0]["id"].clone();
    for height in [first - 1, first - 2, first - 5] {
        let hash = json!(ids[height as usize].hash);
        pruned.call("getblockfrompeer", &[hash.clone(), peer.clone()]);
        while pruned.rpc("getblock", &[hash.clone(), json!(0)]).is_err() {
            pruned.call("ping", &[]);
        }
    }

    let folder = blocks_folder(&pruned);
    let (alone, beside) = (files(&folder), files_with(&folder, &pruned.url()));
    for source in [&alone, &beside] {
        source.check(Network::Regtest).await.unwrap();
        assert_eq!(source.tip().await.unwrap(), tip);
        assert!(source.block(ids[first as usize]).await.is_ok());
        for height in [first - 1, first - 2, first - 3, first - 5] {
            let error = source.block(ids[height as usize]).await.unwrap_err();
            assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
            let text = error.to_string();
            let cure = format!("--first-height {first}");
            assert!(text.contains(&cure), "{cure:?} is not in: {text}");
            assert!(!text.contains("-reindex"), "{text}");
        }
    }
    // One that still has them has them.
    let with_full = files_with(&folder, &full.url());
    with_full.check(Network::Regtest).await.unwrap();
    for height in [first - 1, first - 3] {
        let id = ids[height as usize];
        assert_eq!(with_full.block(id).await.unwrap().id, id);
    }
}
