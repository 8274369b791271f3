use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bitcoin::hashes::Hash;
use bitcoin::{Amount, TxOut};
use secp256k1::{SECP256K1, Scalar, SecretKey};

use super::builder::{BuildError, InputKind, SpendableOutput, build_transaction, op_return_output};
use super::*;
use crate::bip352::hash::output_tweak;
use crate::bip352::inputs::{taproot_output_key, tweak_inputs};
use crate::bip352::keys::{ReceiverKeys, ScanKey};
use crate::bip352::tweak::transaction_tweak;
use crate::curve::libsecp256k1::LibSecp256k1;

fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

fn receiver(byte: u8) -> ReceiverKeys {
    let scan_key = ScanKey::from_bytes([byte; 32]).unwrap();
    ReceiverKeys::new(scan_key, secret(byte + 1).public_key(SECP256K1), [1])
}

fn address(byte: u8) -> Address {
    receiver(byte).address(None, Network::Regtest).unwrap()
}

fn busy_chain(seed: u64) -> SimulatedChain {
    SimulatedChain::new(SimulationSettings {
        seed,
        transactions_per_block: 10,
        recipients: vec![address(11), address(21)],
        payment_percent: 20,
    })
}

#[test]
fn same_seed_and_calls_make_the_same_blocks() {
    let play = |seed| {
        let chain = busy_chain(seed);
        let mut ids = chain.mine(115);
        let (id, _) = chain
            .mine_with(&[PaymentRequest::to(address(11), 50_000)])
            .unwrap();
        ids.push(id);
        ids.extend(
            chain
                .reorganize(4, 6, Orphaned::Resubmit)
                .unwrap()
                .connected,
        );
        (ids, chain.paid_outputs())
    };
    let first = play(7);
    assert_eq!(first, play(7));
    assert_ne!(first.0.last(), play(8).0.last());
    assert!(!first.1.is_empty());
}

#[test]
fn traffic_covers_every_kind_of_input_and_pattern() {
    let chain = busy_chain(3);
    chain.mine(200);
    let blocks = chain.active_blocks();

    let mut kinds = BTreeSet::new();
    let mut created_at: HashMap<OutPoint, u32> = HashMap::new();
    let (mut same_block_spends, mut transactions, mut op_returns) = (0, 0, 0);
    let mut partially_spent = HashSet::new();
    let mut taproot_outputs: HashMap<Txid, (usize, usize)> = HashMap::new();
    let state = chain.state();
    for stored in state.ledger.active() {
        let height = stored.data.id.height;
        for pending in &stored.transactions {
            transactions += 1;
            for (outpoint, _) in &pending.created {
                created_at.insert(*outpoint, height);
            }
            let taproot = pending
                .tx
                .output
                .iter()
                .filter(|output| output.script_pubkey.is_p2tr());
            taproot_outputs.insert(pending.txid, (taproot.count(), 0));
            op_returns += pending
                .tx
                .output
                .iter()
                .filter(|output| output.script_pubkey.is_op_return())
                .count();
            for (outpoint, coin) in &pending.spent {
                kinds.insert(coin.owner.as_ref().unwrap().kind);
                same_block_spends += usize::from(created_at.get(outpoint) == Some(&height));
                if let Some((made, spent)) = taproot_outputs.get_mut(&outpoint.txid)
                    && coin.txout.script_pubkey.is_p2tr()
                {
                    *spent += 1;
                    if *made >= 3 && *spent >= 1 {
                        partially_spent.insert(outpoint.txid);
                    }
                }
            }
        }
    }
    partially_spent.retain(|txid| taproot_outputs[txid].1 < taproot_outputs[txid].0);

    assert_eq!(blocks.len(), 201);
    assert!((700..=1100).contains(&transactions), "{transactions}");
    assert_eq!(kinds, BTreeSet::from(InputKind::ALL));
    assert!(same_block_spends > 20, "{same_block_spends}");
    assert!(partially_spent.len() > 5, "{}", partially_spent.len());
    assert!(op_returns > 5, "{op_returns}");
}

/// The protocol's own reading of inputs is written independently of the builder.
#[test]
fn each_kind_counts_for_silent_payments_as_it_says() {
    for kind in InputKind::ALL {
        let outpoint = OutPoint::new(bitcoin::hashes::Hash::all_zeros(), 1);
        let input = SpendableOutput::new(kind, secret(5), outpoint, 10_000);
        let output = TxOut {
            value: Amount::from_sat(9_000),
            script_pubkey: InputKind::P2tr.script_pubkey(&secret(6)),
        };
        let tx = build_transaction(std::slice::from_ref(&input), vec![output]).unwrap();
        let found = tweak_inputs(&tx, std::slice::from_ref(&input.txout));
        assert_eq!(found.is_some(), kind.yields_key(), "{kind:?}");
        assert_eq!(
            taproot_output_key(&input.txout.script_pubkey).is_some(),
            kind.is_taproot(),
            "{kind:?}"
        );
        let sender = input.sender_input();
        assert_eq!(sender.is_some(), kind.yields_key(), "{kind:?}");
        if let (Some(found), Some(sender)) = (found, sender) {
            let key = sender.secret.public_key(SECP256K1);
            let key = match sender.taproot {
                true => key
                    .x_only_public_key()
                    .0
                    .public_key(secp256k1::Parity::Even),
                false => key,
            };
            assert_eq!(found.keys, [key.serialize()], "{kind:?}");
        }

        // One disqualifying input is enough, and no other kind is.
        let other = SpendableOutput::new(
            InputKind::P2wpkh,
            secret(7),
            OutPoint {
                vout: 2,
                ..outpoint
            },
            10_000,
        );
        let inputs = [input, other];
        let prevouts = inputs.clone().map(|input| input.txout);
        let tx = build_transaction(&inputs, tx.output).unwrap();
        assert_eq!(
            tweak_inputs(&tx, &prevouts).is_none(),
            kind.disqualifies(),
            "{kind:?}"
        );
    }
}

/// P_0 of a transaction.
fn first_output_key(
    keys: &ReceiverKeys,
    tx: &Transaction,
    prevouts: &[TxOut],
) -> secp256k1::XOnlyPublicKey {
    let tweak = transaction_tweak(&LibSecp256k1, tx, prevouts).unwrap();
    let shared_secret = keys.scan_key.shared_secret(&tweak).unwrap();
    let t_0 = output_tweak(&shared_secret, 0).unwrap();
    let key = keys.spend_pubkey.add_exp_tweak(SECP256K1, &t_0).unwrap();
    key.x_only_public_key().0
}

/// Finds the payment as a receiver does, from public data and the scan key alone.
#[test]
fn payments_from_every_kind_of_input_can_be_found() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(101);
    let keys = receiver(31);
    for kind in InputKind::ALL {
        let kinds = [kind, InputKind::Anchor];
        let request = PaymentRequest::to(address(31), 40_000).from_inputs(&kinds);
        let result = chain.mine_with(&[request]);
        if !kind.yields_key() {
            assert_eq!(
                result.unwrap_err(),
                SimulationError::Send(SendError::NoInput),
                "{kind:?}"
            );
            continue;
        }
        let (id, paid) = result.unwrap();
        let output = &paid[0].outputs[0];
        let block = chain.stored_block(id.hash).unwrap();
        let at = block
            .txids
            .iter()
            .position(|txid| *txid == paid[0].txid)
            .unwrap();
        let found = first_output_key(&keys, &block.block.txdata[at], &block.prevouts[at]);
        assert_eq!(found, output.output_key, "{kind:?}");

        let txout = &block.block.txdata[at].output[output.outpoint.vout as usize];
        assert_eq!(txout.value.to_sat(), 40_000);
        assert_eq!(
            taproot_output_key(&txout.script_pubkey),
            Some(output.output_key.serialize())
        );
        assert_eq!(output.block, Some(id));
        assert_eq!(block.block.txdata[at].input.len(), 2);
    }
}

#[test]
fn one_transaction_pays_many_and_carries_a_state_id() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(105);
    let labelled = receiver(11).address(Some(1), Network::Regtest).unwrap();
    let request = PaymentRequest {
        recipients: vec![
            (address(11), 10_000),
            (address(21), 20_000),
            (labelled, 30_000),
            (address(11), 40_000),
        ],
        inputs: vec![InputKind::P2tr, InputKind::P2wsh, InputKind::P2pkh],
        keep: vec![(InputKind::P2tr, 5_000)],
        op_return: Some(b"state 1".to_vec()),
        ..PaymentRequest::default()
    };
    let (id, paid) = chain.mine_with(std::slice::from_ref(&request)).unwrap();
    let block = chain.stored_block(id.hash).unwrap();
    let at = block
        .txids
        .iter()
        .position(|txid| *txid == paid[0].txid)
        .unwrap();
    let tx = &block.block.txdata[at];
    assert!(tx.output.contains(&op_return_output(b"state 1")));
    assert_eq!(tx.output.len(), 4 + 1 + 1 + 1);
    for (output, (address, value_sat)) in paid[0].outputs.iter().zip(&request.recipients) {
        assert_eq!((output.address, output.value_sat), (*address, *value_sat));
    }
    let keys: HashSet<_> = paid[0]
        .outputs
        .iter()
        .map(|output| output.output_key)
        .collect();
    assert_eq!(keys.len(), 4);
    let found = first_output_key(&receiver(11), tx, &block.prevouts[at]);
    assert_eq!(found, paid[0].outputs[0].output_key);

    // Traffic leaves the kept output alone until it is spent by name.
    let tip = paid[0].kept[0].clone();
    chain.mine(20);
    assert_eq!(chain.spender(tip.outpoint), None);
    let next = PaymentRequest {
        spend: vec![tip.outpoint],
        keep: vec![(InputKind::P2tr, 4_000)],
        op_return: Some(b"state 2".to_vec()),
        ..PaymentRequest::default()
    };
    let (id, paid) = chain.mine_with(std::slice::from_ref(&next)).unwrap();
    assert_eq!(chain.spender(tip.outpoint), Some((paid[0].txid, id)));
    assert_eq!(
        chain.pay(&next).unwrap_err(),
        SimulationError::NotOurs(tip.outpoint)
    );
}

#[test]
fn without_mature_coins_there_is_nothing_to_pay_with() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    let request = PaymentRequest::to(address(11), 1_000);
    chain.mine(99);
    assert!(matches!(
        chain.pay(&request),
        Err(SimulationError::NoFunds { have_sat: 0, .. })
    ));
    chain.mine(1);
    chain.pay(&request).unwrap();
    assert_eq!(chain.mempool().len(), 2);
    assert_eq!(chain.paid_outputs()[0].block, None);
    let id = chain.mine(1)[0];
    assert!(chain.mempool().is_empty());
    assert_eq!(chain.paid_outputs()[0].block, Some(id));
}

/// A received payment is spent by its receiver, as a wallet would do it.
#[test]
fn submitted_transactions_are_checked_and_mined() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(101);
    let (_, paid) = chain
        .mine_with(&[PaymentRequest::to(address(31), 40_000)])
        .unwrap();
    let received = &paid[0].outputs[0];
    let (block_id, txid) = (received.block.unwrap(), paid[0].txid);
    let block = chain.stored_block(block_id.hash).unwrap();
    let at = block.txids.iter().position(|id| *id == txid).unwrap();
    let keys = receiver(31);
    let tweak = transaction_tweak(&LibSecp256k1, &block.block.txdata[at], &block.prevouts[at]);
    let shared_secret = keys.scan_key.shared_secret(&tweak.unwrap()).unwrap();
    let t_0: Scalar = output_tweak(&shared_secret, 0).unwrap();
    let output_secret = secret(32).add_tweak(&t_0).unwrap();

    let spend = |secret: SecretKey, value_sat: u64, outpoint: OutPoint| {
        let input = SpendableOutput::new(InputKind::P2tr, secret, outpoint, 40_000);
        let script_pubkey = InputKind::P2wpkh.script_pubkey(&secret);
        let value = Amount::from_sat(value_sat);
        build_transaction(
            &[input],
            vec![TxOut {
                value,
                script_pubkey,
            }],
        )
    };
    let refused = |tx: &Transaction| match chain.submit(tx).unwrap_err() {
        BroadcastError::Rejected(reason) => reason,
        e => panic!("{e}"),
    };
    let wrong_key = spend(secret(32), 39_000, received.outpoint).unwrap();
    assert!(refused(&wrong_key).contains("Invalid Schnorr signature"));
    let nowhere = OutPoint {
        vout: 99,
        ..received.outpoint
    };
    assert_eq!(
        refused(&spend(output_secret, 39_000, nowhere).unwrap()),
        "bad-txns-inputs-missingorspent"
    );
    assert!(matches!(
        spend(output_secret, 40_001, received.outpoint),
        Err(BuildError::Overspent {
            inputs_sat: 40_000,
            outputs_sat: 40_001
        })
    ));
    let mut inflated = spend(output_secret, 40_000, received.outpoint).unwrap();
    inflated.output[0].value = Amount::from_sat(40_001);
    assert_eq!(refused(&inflated), "bad-txns-in-belowout");
    let immature = chain.active_blocks()[50].txids[0];
    let immature = spend(
        output_secret,
        1_000,
        OutPoint {
            txid: immature,
            vout: 0,
        },
    );
    assert_eq!(
        refused(&immature.unwrap()),
        "bad-txns-premature-spend-of-coinbase"
    );

    let good = spend(output_secret, 39_000, received.outpoint).unwrap();
    let txid = chain.submit(&good).unwrap();
    assert_eq!(chain.submit(&good), Ok(txid));
    let other = spend(output_secret, 38_000, received.outpoint).unwrap();
    assert_eq!(refused(&other), "txn-mempool-conflict");

    let id = chain.mine(1)[0];
    assert!(chain.stored_block(id.hash).unwrap().txids.contains(&txid));
    assert_eq!(chain.spender(received.outpoint), Some((txid, id)));
    let truth = chain.paid_outputs();
    let truth = truth.iter().find(|paid| paid.outpoint == received.outpoint);
    assert_eq!(truth.unwrap().spent_by, Some((txid, id)));
}

/// Unspent outputs, with the height of those of coinbases.
type Coins = BTreeMap<OutPoint, (TxOut, Option<u32>)>;

fn coins(chain: &SimulatedChain) -> Coins {
    let state = chain.state();
    let coins = state.ledger.coins();
    coins
        .map(|(outpoint, coin)| (*outpoint, (coin.txout.clone(), coin.coinbase_height)))
        .collect()
}

/// The oracle: the coins that follow from the active blocks alone.
fn coins_of_blocks(chain: &SimulatedChain) -> Coins {
    let mut coins = Coins::new();
    for block in chain.active_blocks().iter().skip(1) {
        for ((tx, txid), prevouts) in block
            .block
            .txdata
            .iter()
            .zip(&block.txids)
            .zip(&block.prevouts)
        {
            for (input, prevout) in tx.input.iter().zip(prevouts) {
                let (txout, coinbase_height) = coins.remove(&input.previous_output).unwrap();
                assert_eq!(txout, *prevout);
                assert!(coinbase_height.is_none_or(|height| height + 100 <= block.id.height));
            }
            for (vout, output) in (0..).zip(&tx.output) {
                if !output.script_pubkey.is_op_return() {
                    let height = tx.is_coinbase().then_some(block.id.height);
                    coins.insert(OutPoint { txid: *txid, vout }, (output.clone(), height));
                }
            }
        }
    }
    coins
}

#[test]
fn branches_can_be_left_and_taken_again() {
    let chain = busy_chain(5);
    chain.mine(130);
    let old_tip = chain.tip_id();
    let (old_coins, old_truth) = (coins(&chain), chain.paid_outputs());
    assert_eq!(old_coins, coins_of_blocks(&chain));

    let reorganization = chain.reorganize(12, 14, Orphaned::Drop).unwrap();
    assert_eq!(reorganization.fork.height, 118);
    assert_eq!(reorganization.disconnected.len(), 12);
    assert_eq!(reorganization.disconnected[0], old_tip);
    assert_eq!(reorganization.connected.len(), 14);
    let new_tip = chain.tip_id();
    assert_eq!(reorganization.connected.last(), Some(&new_tip));
    assert_eq!(new_tip.height, 132);
    let new_coins = coins(&chain);
    assert_eq!(new_coins, coins_of_blocks(&chain));
    assert_ne!(new_coins, old_coins);
    // Both branches answer, and only one is active.
    assert!(chain.stored_block(old_tip.hash).is_some());
    assert_eq!(chain.active_blocks().last().unwrap().id, new_tip);

    let back = chain.activate(old_tip.hash).unwrap();
    assert_eq!(back.fork, reorganization.fork);
    assert_eq!(back.connected.last(), Some(&old_tip));
    assert_eq!(coins(&chain), old_coins);
    assert_eq!(chain.paid_outputs(), old_truth);

    chain.disconnect(30, Orphaned::Drop).unwrap();
    assert_eq!(chain.tip_id().height, 100);
    assert_eq!(coins(&chain), coins_of_blocks(&chain));
    chain.activate(new_tip.hash).unwrap();
    assert_eq!(coins(&chain), new_coins);
    chain.mine(10);
    assert_eq!(coins(&chain), coins_of_blocks(&chain));

    assert_eq!(
        chain.disconnect(143, Orphaned::Drop),
        Err(SimulationError::TooDeep {
            depth: 143,
            height: 142
        })
    );
    let unknown = BlockHash::all_zeros();
    assert_eq!(
        chain.activate(unknown),
        Err(SimulationError::UnknownBlock(unknown))
    );
}

#[test]
fn orphaned_transactions_are_dropped_or_mined_again() {
    for orphaned in [Orphaned::Drop, Orphaned::Resubmit] {
        let chain = SimulatedChain::new(SimulationSettings::default());
        chain.mine(140);
        let (_, paid) = chain
            .mine_with(&[PaymentRequest::to(address(11), 70_000)])
            .unwrap();
        let outpoint = paid[0].outputs[0].outpoint;
        let waiting = chain.pay(&PaymentRequest::to(address(21), 80_000)).unwrap();
        let connected = chain.reorganize(3, 4, orphaned).unwrap().connected;
        let truth = chain.paid_outputs();
        let block = |outpoint| {
            let paid = truth.iter().find(|paid| paid.outpoint == outpoint);
            paid.map(|paid| paid.block)
        };
        match orphaned {
            Orphaned::Drop => assert_eq!(block(outpoint), None),
            Orphaned::Resubmit => {
                assert_eq!(block(outpoint), Some(Some(connected[0])));
                assert_eq!(block(waiting.outputs[0].outpoint), Some(Some(connected[0])));
            }
        }
        assert_eq!(coins(&chain), coins_of_blocks(&chain));
    }
}

#[tokio::test]
async fn as_a_source_it_serves_the_active_chain_and_old_branches() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(104);
    let old = chain.tip().await.unwrap();
    chain.reorganize(2, 1, Orphaned::Drop).unwrap();
    assert_eq!(chain.tip().await.unwrap().height, 103);
    assert_eq!(chain.block_at(104).await.unwrap(), None);
    assert_eq!(chain.block_at(103).await.unwrap(), Some(chain.tip_id()));
    assert_eq!(chain.block(old).await.unwrap().id, old);
    let wrong_height = BlockId { height: 5, ..old };
    assert!(chain.block(wrong_height).await.unwrap_err().is_transient());
    assert_eq!(chain.check(Network::Regtest).await, Ok(()));
    let error = chain.check(Network::Signet).await.unwrap_err();
    assert!(
        matches!(&error, ChainError::Setup(text) if text.contains("\"signet\"")),
        "{error}"
    );
}
