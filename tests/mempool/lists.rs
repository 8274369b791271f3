//! A real node without words: lists alone, and nodes that come and go.

use std::slice::from_ref;
use std::sync::Arc;

use bitcoin::Transaction;
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::mempool::{Departure, Mempool, Progress};

use super::scene::{FEE_SAT, PATIENCE, Scene, by_lists, secret, spend, txids};
use crate::support::log::Log;

const P2TR: &[InputKind] = &[InputKind::P2tr];

#[tokio::test(flavor = "multi_thread")]
async fn lists_alone_tell_the_same() {
    let mut scene = Scene::new(&[]);
    let mut following = scene.follow(None, by_lists());
    let coin = scene.coin();
    let (first, outputs) = spend(from_ref(&coin), P2TR, FEE_SAT);
    let (child, _) = spend(&outputs, P2TR, FEE_SAT);
    let (second, _) = spend(&[coin], P2TR, 9 * FEE_SAT);
    let chain = scene.chain(25);
    for tx in [&first, &child].into_iter().chain(&chain) {
        scene.send(tx);
    }
    following.until_only(&scene.in_mempool()).await;
    scene.send(&second);
    let by = second.compute_txid();
    for tx in [&first, &child] {
        let why = following.until_gone(tx.compute_txid()).await;
        assert_eq!(why, Departure::Replaced { by });
    }
    following.until_only(&scene.in_mempool()).await;
    let block = scene.mine();
    for txid in txids(&chain).into_iter().chain([by]) {
        let why = following.until_gone(txid).await;
        assert_eq!(why, Departure::Confirmed { block });
    }

    let coin = scene.coin();
    let (ours, _) = spend(from_ref(&coin), P2TR, FEE_SAT);
    let (theirs, _) = spend(&[coin], &[InputKind::P2wpkh], FEE_SAT);
    scene.send(&ours);
    following.until_here([ours.compute_txid()]).await;
    let script = InputKind::P2wpkh.script_pubkey(&secret());
    let in_block = scene.node.generate_block(&script, from_ref(&theirs));
    in_block.unwrap();
    let conflicted = Departure::Conflicted {
        by: theirs.compute_txid(),
        block: scene.node.tip(),
    };
    assert_eq!(following.until_gone(ours.compute_txid()).await, conflicted);

    // A reorganisation by two blocks brings them back, but for the one that another one has replaced.
    scene.node.invalidate_block(block.hash);
    let before = scene.in_mempool();
    assert!(before.contains(&by) && before.len() >= chain.len());
    following.until_only(&before).await;
    let other = scene.mine_to(InputKind::P2pkh);
    following.until_only(&scene.in_mempool()).await;
    for txid in txids(&chain) {
        assert_eq!(following.gone[&txid], Departure::Confirmed { block: other });
    }
}

/// A node that restarts has what it had; one that lost its mempool has evicted it. Words come again after both.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_restarts_with_its_mempool_and_without() {
    let mut scene = Scene::new(&[]);
    let mut following = scene.follow_words().await;
    let chain = scene.chain(5);
    for tx in &chain {
        scene.send(tx);
    }
    following.until_here(txids(&chain)).await;

    let zmq = Scene::zmq_args(&scene.zmq);
    let zmq: Vec<&str> = zmq.iter().map(String::as_str).collect();
    scene.node.stop();
    scene.node.start_again(&[&["-rest"], &*zmq].concat());
    let (tx, _) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&tx);
    following.until_here([tx.compute_txid()]).await;
    // With the two that showed that it hears.
    assert_eq!(following.here.len(), 8);
    assert!(following.gone.is_empty(), "{:?}", following.gone);

    scene.node.stop();
    let lost = [&["-rest", "-persistmempool=0"], &*zmq].concat();
    scene.node.start_again(&lost);
    for txid in txids(&chain) {
        assert_eq!(following.until_gone(txid).await, Departure::Evicted);
    }
    let (tx, _) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&tx);
    following.until_here([tx.compute_txid()]).await;
    following.until_only(&scene.in_mempool()).await;
}

/// Blocks that came while nobody looked explain what went meanwhile; so does a pruned node's UTXO set what is spent.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_did_while_it_was_away_is_found_out() {
    let mut scene = Scene::new(&["-fastprune", "-prune=1"]);
    let mut following = scene.follow_words().await;
    let txs: Vec<Transaction> = (0..3)
        .map(|_| spend(&[scene.coin()], P2TR, FEE_SAT).0)
        .collect();
    for tx in &txs {
        scene.send(tx);
    }
    following.until_here(txids(&txs)).await;
    scene.node.stop();
    // Without ZMQ, so that nothing is heard of what it does.
    let quiet = ["-rest", "-fastprune", "-prune=1"];
    scene.node.start_again(&quiet);
    let block = scene.mine();
    let (late, _) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&late);
    for _ in 0..3 {
        scene.mine();
    }
    scene.node.stop();
    let zmq = Scene::zmq_args(&scene.zmq);
    let zmq: Vec<&str> = zmq.iter().map(String::as_str).collect();
    scene.node.start_again(&[&quiet, &*zmq].concat());
    for txid in txids(&txs) {
        let why = following.until_gone(txid).await;
        assert_eq!(why, Departure::Confirmed { block });
    }
    let (tx, _) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&tx);
    following.until_only(&scene.in_mempool()).await;
}

#[tokio::test]
async fn a_node_without_rpc_is_a_clear_word() {
    let scene = Scene::new(&[]);
    let log = Log::catch();
    let source = RestSource::new(RestSettings::new(scene.node.url())).unwrap();
    let mempool = Mempool::follow(
        Arc::new(source),
        None,
        Arc::new(LibSecp256k1),
        None,
        by_lists(),
    );
    let said = async {
        while log.lines("mempool:").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap();
    let lines = log.lines("mempool:");
    assert!(lines[0].contains("no RPC credentials"), "{lines:?}");
    assert!(lines[0].contains("--rpc-cookie"), "{lines:?}");
    assert_eq!(mempool.status().progress, Progress::Waiting);
}
