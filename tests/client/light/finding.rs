//! Whole scans: everything that is there is found, and nothing else.

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Txid};
use spindex::client::LightClient;

use super::scene::{Run, assert_report, world};
use super::server::{Served, Server};
use super::world::{LABELS, Pay, World, wallet};

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_found_and_nothing_else() {
    for seed in 1..=3 {
        let world = world(seed, 60);
        let in_own_block = world.expected.iter().filter(|(o, e)| {
            world
                .spent
                .get(o)
                .is_some_and(|spend| spend.height == e.height)
        });
        assert!(
            in_own_block.count() > 0,
            "nothing is spent in its own block"
        );
        assert!(world.expected.values().any(|e| e.k > 1));
        let server = Server::start(Served::new(world.clone())).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_report(&report, &world, 1..=60, |_| true);
        assert_eq!(report.oracle_height, 60);
        assert_eq!(report.reorganised_above, None);
        // Outputs are fetched only where a filter matched, and spent indices alike.
        let blocks_with_finds = (1..=60)
            .filter(|h| world.expected.values().any(|e| e.height == *h))
            .count();
        assert_eq!(
            server.with(|served| served.count("utxos/")),
            blocks_with_finds
        );
        let blocks_with_spends = (1..=60)
            .filter(|h| {
                let mut own = world
                    .spent
                    .iter()
                    .filter(|(o, _)| world.expected.contains_key(o));
                own.any(|(_, spend)| spend.height == *h)
            })
            .count();
        assert_eq!(
            server.with(|served| served.count("spent-index/")),
            blocks_with_spends
        );
        // A stranger with the same server finds nothing.
        let other = wallet(9, LABELS);
        let report = Run::new(&other).run(&server).await.unwrap();
        assert_eq!(report.found, vec![]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_through_finds_what_still_has_an_unspent_output() {
    let world = world(4, 60);
    assert!(world.expected.keys().any(|o| world.is_gone(&o.txid)));
    for (cut_through, forgets) in [(true, false), (false, true), (true, true)] {
        let mut served = Served::new(world.clone());
        served.forgets = forgets;
        let server = Server::start(served).await;
        let run = Run::new(&world.keys).set(|s| s.cut_through = cut_through);
        let report = run.run(&server).await.unwrap();
        assert_report(&report, &world, 1..=60, |txid| !world.is_gone(txid));
        let list = if cut_through {
            "tweaks/"
        } else {
            "tweak-index/"
        };
        server.with(|served| {
            assert_eq!(served.count("tweak"), 60);
            assert_eq!(served.count(list), 60);
            assert!(!served.log.iter().any(|path| path.contains("dustLimit")));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dust_limit_leaves_out_whole_transactions() {
    let world = world(5, 60);
    let server = Server::start(Served::new(world.clone())).await;
    let limit = 600_000;
    let reaches = |txid: &Txid| {
        let txs = world.blocks.iter().flat_map(|block| &block.txs);
        let tx = txs.into_iter().find(|tx| tx.txid == *txid).unwrap();
        tx.outputs.iter().any(|output| output.value >= limit)
    };
    assert!(world.expected.keys().any(|o| !reaches(&o.txid)));
    let run = Run::new(&world.keys).set(|s| s.dust_limit_sat = limit);
    let report = run.run(&server).await.unwrap();
    assert_report(&report, &world, 1..=60, reaches);
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_outpoints_tell_who_spent_them_and_with_what_data() {
    let mut world = World::new(18, 1);
    world.grow(10);
    world.begin_block();
    let state = world.pay(&[Pay::Stranger, Pay::Stranger, Pay::Stranger], &[], &[]);
    let tip = OutPoint::new(state, 0);
    let other = OutPoint::new(state, 1);
    world.grow_without(&[tip, other], 4);
    world.begin_block();
    let spender = world.pay(&[Pay::Stranger], &[other, tip], &[b"first", b"\xc0\xde"]);
    world.grow(5);
    let never = *world.unspent.last().unwrap();

    let server = Server::start(Served::new(world.clone())).await;
    let report = Run::watching(&[tip, other, never])
        .run(&server)
        .await
        .unwrap();
    assert_eq!(report.found, vec![]);
    let spends: BTreeMap<_, _> = report
        .watched
        .iter()
        .map(|watched| (watched.outpoint, watched.spend.clone()))
        .collect();
    assert_eq!(spends.len(), 3);
    assert_eq!(spends[&never], None);
    let spend = spends[&tip].clone().unwrap();
    assert_eq!(spend.height, 16);
    assert_eq!((spend.spending_txid, spend.input), (Some(spender), Some(1)));
    assert_eq!(spend.op_return, [b"first".to_vec(), vec![0xc0, 0xde]]);
    assert_eq!(spends[&other].clone().unwrap().input, Some(0));
    // No tweak is needed for this, and no wallet.
    assert_eq!(server.with(|served| served.count("tweak")), 0);

    let shown = serde_json::to_value(&report).unwrap();
    let shown = shown["watched"]
        .as_array()
        .unwrap()
        .iter()
        .find(|watched| watched["outpoint"] == tip.to_string())
        .unwrap();
    assert_eq!(shown["spend"]["spending_txid"], spender.to_string());
    assert_eq!(
        shown["spend"]["op_return"],
        serde_json::json!(["6669727374", "c0de"])
    );
    let block_hash = world.block(16).unwrap().hash.to_string();
    assert_eq!(shown["spend"]["block_hash"], block_hash);
}

#[test]
fn a_scan_can_run_in_a_task() {
    fn assert_send<T: Send>(_: &T) {}
    #[allow(dead_code, reason = "compiling is the test")]
    fn check(
        client: &'static mut LightClient,
        progress: &'static mut (dyn FnMut(spindex::client::Progress) + Send),
    ) {
        assert_send(&client.run(progress));
    }
}
