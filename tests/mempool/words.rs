//! What a real node says by ZMQ, and what becomes of it. Lists come only where a word may have been missed.

use std::slice::from_ref;
use std::time::Duration;

use bitcoin::consensus::serialize;
use bitcoin::{OutPoint, Transaction};
use serde_json::json;
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::mempool_signal::{MempoolSignal, MempoolWord};
use spindex::mempool::{Departure, MempoolSettings, Progress};

use super::scene::{FEE_SAT, Scene, by_words, signal, spend, txids};

const P2TR: &[InputKind] = &[InputKind::P2tr];

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_is_heard_of_and_why_it_goes() {
    let mut scene = Scene::new(&[]);
    let mut following = scene.follow_words().await;

    // A chain of 25.
    let chain = scene.chain(25);
    for tx in &chain {
        scene.send(tx);
    }
    following.until_here(txids(&chain)).await;
    for tx in &chain {
        let txid = tx.compute_txid();
        let heard = &following.here[&txid];
        let spends: Vec<OutPoint> = tx.input.iter().map(|i| i.previous_output).collect();
        assert_eq!((&*heard.spends, heard.outputs), (&*spends, 1));
        assert_eq!(*following.raw[&txid], *serialize(tx));
        let spender = following.mempool.spender(&spends[0]).unwrap();
        assert_eq!(spender.txid, txid);
    }

    // Replaced, and all that builds on it.
    let coin = scene.coin();
    let (first, outputs) = spend(from_ref(&coin), P2TR, FEE_SAT);
    let (child, _) = spend(&outputs, P2TR, FEE_SAT);
    let (second, _) = spend(&[coin], P2TR, 9 * FEE_SAT);
    for tx in [&first, &child, &second] {
        scene.send(tx);
    }
    let replaced = Departure::Replaced {
        by: second.compute_txid(),
    };
    following.until_here([second.compute_txid()]).await;
    for tx in [&first, &child] {
        assert_eq!(following.until_gone(tx.compute_txid()).await, replaced);
        assert_eq!(
            following.mempool.departure(&tx.compute_txid()),
            Some(replaced)
        );
    }

    // Replaced by a package of two, of which the first pays less than what it replaces.
    let coin = scene.coin();
    let (old, _) = spend(from_ref(&coin), P2TR, 2 * FEE_SAT);
    let (parent, outputs) = spend(&[coin], &[InputKind::P2tr, InputKind::P2tr], FEE_SAT);
    let (child, _) = spend(&outputs[..1], P2TR, 20 * FEE_SAT);
    scene.send(&old);
    let answer = scene.submit_package(&[&parent, &child]);
    assert_eq!(answer["package_msg"], "success", "{answer}");
    following
        .until_here([&parent, &child].map(Transaction::compute_txid))
        .await;
    let by = parent.compute_txid();
    let why = following.until_gone(old.compute_txid()).await;
    assert_eq!(why, Departure::Replaced { by });

    // In a block, all of them.
    let before = scene.in_mempool();
    assert!(following.here.keys().eq(before.iter()));
    let block = scene.mine();
    following.until_only(&scene.in_mempool()).await;
    assert!(following.here.is_empty());
    for txid in &before {
        assert_eq!(following.gone[txid], Departure::Confirmed { block });
    }

    // Taken back they come again, all that the node has taken again.
    scene.node.invalidate_block(block.hash);
    following.until_only(&scene.in_mempool()).await;
    assert_eq!(following.here.len(), before.len());
    // And go into another block.
    let other = scene.mine_to(InputKind::P2pkh);
    assert_ne!(other, block);
    following.until_only(&scene.in_mempool()).await;
    for txid in &before {
        assert_eq!(following.gone[txid], Departure::Confirmed { block: other });
    }
    // Words alone did all that: the lists are those of the connection and of its subscriptions.
    let status = following.mempool.status();
    assert_eq!(status.gaps, 0, "{status:?}");
    assert!(status.lists <= 3, "{status:?}");
    assert_eq!(status.progress, Progress::Following);

    // A block has something else that spends the same.
    let coin = scene.coin();
    let (ours, outputs) = spend(from_ref(&coin), P2TR, FEE_SAT);
    let (child, _) = spend(&outputs, P2TR, FEE_SAT);
    let (theirs, _) = spend(&[coin], &[InputKind::P2wpkh], FEE_SAT);
    scene.send(&ours);
    scene.send(&child);
    following
        .until_here([&ours, &child].map(Transaction::compute_txid))
        .await;
    let script = InputKind::P2wpkh.script_pubkey(&super::scene::secret());
    scene
        .node
        .generate_block(&script, from_ref(&theirs))
        .unwrap();
    let conflicted = Departure::Conflicted {
        by: theirs.compute_txid(),
        block: scene.node.tip(),
    };
    for tx in [&ours, &child] {
        assert_eq!(following.until_gone(tx.compute_txid()).await, conflicted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mempool_evicts_and_an_old_transaction_expires() {
    let mut scene = Scene::new(&["-maxmempool=5"]);
    let mut following = scene.follow_words().await;

    // It waits for longer than two weeks, and so does what builds on it as long as it does.
    let (old, outputs) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&old);
    following.until_here([old.compute_txid()]).await;
    let time = scene
        .node
        .call("getmempoolentry", &[json!(old.compute_txid())])["time"]
        .clone();
    let later = time.as_u64().unwrap() + 15 * 24 * 3600;
    scene
        .node
        .call("setmocktime", &[json!(later - 3600 * 24 * 2)]);
    let (young, _) = spend(&outputs, P2TR, FEE_SAT);
    scene.send(&young);
    scene.node.call("setmocktime", &[json!(later)]);
    let (other, _) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&other);
    for tx in [&old, &young] {
        let why = following.until_gone(tx.compute_txid()).await;
        assert_eq!(why, Departure::Expired);
    }

    // Large ones, each of which pays more than the one before.
    let mut sent = vec![other];
    let kinds = [InputKind::P2tr; 2_000];
    let evicted = loop {
        let fee_sat = 200_000 * sent.len() as u64;
        let (tx, _) = spend(&[scene.coin()], &kinds, fee_sat);
        scene.send(&tx);
        sent.push(tx);
        let stay = scene.in_mempool();
        let gone = sent.iter().find(|tx| !stay.contains(&tx.compute_txid()));
        if let Some(gone) = gone {
            break gone.compute_txid();
        }
    };
    assert_eq!(following.until_gone(evicted).await, Departure::Evicted);
    following.until_only(&scene.in_mempool()).await;
    assert_eq!(following.mempool.status().gaps, 0);
}

/// Every third word is lost on the way.
#[tokio::test(flavor = "multi_thread")]
async fn lost_words_are_noticed_and_made_good() {
    let mut scene = Scene::new(&[]);
    let mut words = signal(&scene.zmq);
    let lossy = MempoolSignal::new(|teller| async move {
        let mut count = 0;
        while let Some(word) = words.next().await {
            count += usize::from(matches!(word, MempoolWord::Change { .. }));
            if count % 3 != 2 && !teller.tell(word).await {
                break;
            }
        }
    });
    // One that is lost shows with the next word, or with a list if none comes.
    let settings = MempoolSettings {
        list_interval: Duration::from_millis(500),
        ..by_words()
    };
    let mut following = scene.follow(Some(lossy), settings);
    for _ in 0..4 {
        let chain = scene.chain(10);
        for tx in &chain {
            scene.send(tx);
        }
        following.until_here(txids(&chain)).await;
        let block = scene.mine();
        for txid in txids(&chain) {
            let why = following.until_gone(txid).await;
            assert_eq!(why, Departure::Confirmed { block });
        }
    }
    let (tx, _) = spend(&[scene.coin()], P2TR, FEE_SAT);
    scene.send(&tx);
    following.until_only(&scene.in_mempool()).await;
    assert!(following.mempool.status().gaps > 0);
}
