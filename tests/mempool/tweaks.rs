//! Tweaks of unconfirmed transactions, against those of the index once they are confirmed, and of the `silentpayments` crate.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hashes::Hash;
use bitcoin::{Transaction, TxOut, Txid};
use secp256k1::PublicKey;
use silentpayments::utils::OutPoint;
use silentpayments::utils::receiving::{calculate_tweak_data, get_pubkey_from_input};
use spindex::chain::made::simulated::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output,
};
use spindex::mempool::UnconfirmedTweak;
use spindex::process::State;
use spindex::store::RowFilter;

use super::scene::{FEE_SAT, Scene, by_lists, spend};
use crate::support::index::fresh_store;

/// By that crate; `None` where no input has a key, or they sum to infinity.
fn library_tweak(tx: &Transaction, coins: &[SpendableOutput]) -> Option<[u8; 33]> {
    let inputs = tx.input.iter().zip(coins);
    let keys: Vec<PublicKey> = inputs
        .filter_map(|(input, coin)| {
            let script = coin.txout.script_pubkey.as_bytes();
            let witness = input.witness.to_vec();
            get_pubkey_from_input(input.script_sig.as_bytes(), &witness, script).unwrap()
        })
        .collect();
    if keys.is_empty() {
        return None;
    }
    let keys: Vec<&PublicKey> = keys.iter().collect();
    let outpoints = tx.input.iter().map(|input| {
        let outpoint = input.previous_output;
        OutPoint::from_txid_bytes_and_vout(outpoint.txid.to_byte_array(), outpoint.vout)
    });
    let outpoints: Vec<OutPoint> = outpoints.collect();
    let tweak = calculate_tweak_data(&keys, &outpoints).ok()?;
    Some(tweak.serialize())
}

/// Spends of outputs of every kind, one by one and all together, confirmed and not.
#[tokio::test(flavor = "multi_thread")]
async fn they_are_those_of_the_index_and_of_another_library() {
    let mut scene = Scene::new(&["-acceptnonstdtxn=1"]);
    let mut following = scene.follow_words().await;
    // No node takes one that it may have to take for invalid some day.
    let kinds: Vec<InputKind> = InputKind::ALL
        .into_iter()
        .filter(|k| !k.disqualifies())
        .collect();
    let (tx, confirmed) = spend(&[scene.coin()], &kinds, FEE_SAT);
    scene.send(&tx);
    scene.mine();
    let (tx, unconfirmed) = spend(&[scene.coin()], &kinds, FEE_SAT);
    scene.send(&tx);

    let mut wanted: BTreeMap<Txid, UnconfirmedTweak> = BTreeMap::new();
    let mut sent = BTreeSet::from([tx.compute_txid()]);
    let mut refused = BTreeSet::new();
    let mut spend_together = |scene: &Scene, coins: &[SpendableOutput]| {
        let (tx, _) = spend(coins, &[InputKind::P2tr, InputKind::P2wpkh], FEE_SAT);
        let Ok(txid) = scene.try_send(&tx) else {
            refused.extend(coins.iter().map(|coin| coin.kind));
            return;
        };
        sent.insert(txid);
        let tweak = library_tweak(&tx, coins);
        let tweak = tweak.map_or(UnconfirmedTweak::NotEligible, UnconfirmedTweak::Tweak);
        wanted.insert(txid, tweak);
    };
    for coin in &confirmed {
        spend_together(&scene, std::slice::from_ref(coin));
    }
    for coins in unconfirmed.chunks(3) {
        spend_together(&scene, coins);
    }
    // Some nodes refuse an annex.
    assert!(
        wanted.len() >= 14,
        "{} sent, {refused:?} refused",
        wanted.len()
    );

    // Without a taproot output none is eligible, whatever it spends; and state ids are seen.
    let coin = scene.coin();
    let value = TxOut {
        value: bitcoin::Amount::from_sat(1_000_000_000),
        script_pubkey: InputKind::P2wpkh.script_pubkey(&super::scene::secret()),
    };
    let outputs = [&[7; 31][..], &[8; 32], &[9; 33], &[10; 32]].map(op_return_output);
    let outputs = [&outputs[..], &[value]].concat();
    let tx = build_transaction(&[coin], outputs).unwrap();
    let sent_states = scene.node.rpc(
        "sendrawtransaction",
        &[
            bitcoin::consensus::encode::serialize_hex(&tx).into(),
            0.into(),
        ],
    );
    sent_states.unwrap();
    sent.insert(tx.compute_txid());
    wanted.insert(tx.compute_txid(), UnconfirmedTweak::NotEligible);
    following.until_here(sent.iter().copied()).await;
    let states = [(1, [8; 32]), (3, [10; 32])];
    let states = states.map(|(vout, id)| State { vout, id });
    assert_eq!(*following.here[&tx.compute_txid()].states, states);

    for (txid, tweak) in &wanted {
        assert_eq!(following.here[txid].tweak, *tweak, "{txid}");
    }
    // A view by lists, which asks the node for all of it, has the same.
    let mut by_list = scene.follow(None, by_lists());
    by_list.until_only(&scene.in_mempool()).await;
    for (txid, tx) in &by_list.here {
        assert_eq!(tx.tweak, following.here[txid].tweak);
        assert_eq!(tx.spends, following.here[txid].spends);
        assert_eq!(by_list.raw[txid], following.raw[txid]);
    }

    let block = scene.mine();
    let store = fresh_store(scene.source()).await;
    let snapshot = store.snapshot().unwrap();
    let block = snapshot.block(block.height).unwrap().unwrap();
    let indexed = block.transactions(RowFilter::default()).unwrap();
    let indexed: BTreeMap<Txid, [u8; 33]> = indexed.into_iter().collect();
    assert!(indexed.len() >= 10);
    for (txid, tx) in &by_list.here {
        let tweak = match tx.tweak {
            UnconfirmedTweak::Tweak(tweak) => Some(tweak),
            _ => None,
        };
        assert_eq!(indexed.get(txid), tweak.as_ref(), "{txid}");
    }
}
