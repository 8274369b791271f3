//! Random reorganisations under a light client: a simulated chain, its index, the server and the client, all real. Payments
//! are spent before the first scan and revived later. The judge is the chain itself, which knows what it has paid, and a
//! client that scans everything anew. Wallets that share their passes are each compared with a client of their own.
//!
//! `SPINDEX_CLIENT_REORGS` sequences of events are played, some few without it.

pub(crate) mod scene;

use std::collections::BTreeSet;

use bitcoin::{BlockHash, OutPoint};
use secp256k1::rand::Rng;
use secp256k1::rand::rngs::StdRng;
use spindex::client::{ClientError, OracleError, Reports, State, WalletReport};

use scene::{FIRST, Scene, settings, state_of, wallet};

/// What a scan speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V1,
    Native,
}

/// What the scans of a sequence speak.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    V1,
    Native,
    /// Now this, now that, over one state.
    Either,
}

impl Protocol {
    fn dialect(self, rng: &mut StdRng) -> Dialect {
        match self {
            Self::V1 => Dialect::V1,
            Self::Native => Dialect::Native,
            Self::Either if rng.gen_bool(0.5) => Dialect::V1,
            Self::Either => Dialect::Native,
        }
    }
}

/// What happened in all sequences together, so that the test cannot come to test nothing.
#[derive(Debug, Default)]
struct Sum {
    scans: usize,
    scans_during_changes: usize,
    payments: usize,
    found: usize,
    unresolved: usize,
    /// Outputs found late, in blocks that the report before called unresolved.
    revived: usize,
    deepest: u32,
}

/// Plays one sequence, for so many wallets that share their passes.
async fn play(seed: u64, protocol: Protocol, wallets: u8, sum: &mut Sum) {
    let mut scene = Scene::with_wallets(seed, wallets).await;
    let mut kept: Vec<(u8, State)> = (0..wallets).map(|who| (who, state_of(who))).collect();
    let mut known: BTreeSet<OutPoint> = BTreeSet::new();
    let mut unresolved: BTreeSet<BlockHash> = BTreeSet::new();
    for step in 0..scene.rng.gen_range(3..7) {
        let what = format!("seed {seed}, {protocol:?}, {wallets} wallets, step {step}");
        // Now and then only part of the chain is scanned before something happens, perhaps not for the first time, and not
        // for all wallets.
        let tip = scene.chain.tip_id().height;
        let (to, is_again) = match scene.rng.gen_range(0..10) {
            0..3 => (Some(scene.rng.gen_range(FIRST..tip)), false),
            3..5 => (Some(scene.rng.gen_range(FIRST..tip)), true),
            5 => (None, true),
            _ => (None, false),
        };
        let by = protocol.dialect(&mut scene.rng);
        let (chosen, mut others): (Vec<_>, Vec<_>) = kept
            .into_iter()
            .partition(|_| wallets == 1 || scene.rng.gen_bool(0.6));
        kept = match chosen.is_empty() {
            true => chosen,
            false => {
                let who: Vec<u8> = chosen.iter().map(|(who, _)| *who).collect();
                let settings = settings(by, Some(FIRST), to, is_again);
                let chosen = chosen.into_iter().map(|(who, state)| wallet(who, state));
                let mut client = scene.together(by, chosen.collect(), settings);
                client.run(&mut |_| ()).await.unwrap();
                who.into_iter().zip(client.into_states()).collect()
            }
        };
        kept.append(&mut others);

        let indexed = scene.chain.active_blocks();
        for _ in 0..scene.rng.gen_range(1..3) {
            let deep = scene.happen();
            sum.deepest = sum.deepest.max(deep);
        }
        // Away and back to where a branch was once: for the index the node went back on its own, and is waited for.
        let tip = scene.chain.tip_id();
        if indexed.iter().any(|block| block.id == tip) {
            scene.chain.mine(1);
        }
        // The scan may be under way when it happens.
        let by = protocol.dialect(&mut scene.rng);
        let who: Vec<u8> = kept.iter().map(|(who, _)| *who).collect();
        let all = kept.into_iter().map(|(who, state)| wallet(who, state));
        let mut client = scene.together(by, all.collect(), settings(by, Some(FIRST), None, false));
        if scene.rng.gen_bool(0.3) {
            let mut ignore = |_| ();
            let (scanned, ()) = tokio::join!(client.run(&mut ignore), scene.sync());
            match scanned {
                // The chain may be shorter than it was when the scan began.
                Ok(_)
                | Err(
                    ClientError::Contradiction { .. }
                    | ClientError::Oracle(
                        OracleError::UnknownHeight { .. } | OracleError::Declined { .. },
                    ),
                ) => sum.scans_during_changes += 1,
                Err(error) => panic!("{what}: {error}"),
            }
        } else {
            scene.sync().await;
        }
        let Reports(reports) = client.run(&mut |_| ()).await.unwrap();
        kept = who.iter().copied().zip(client.into_states()).collect();
        sum.scans += 1;
        let mut now = (BTreeSet::new(), BTreeSet::new());
        for (who, WalletReport { wallet, report }) in who.into_iter().zip(&reports) {
            assert_eq!(*wallet, Some(format!("wallet {who}")), "{what}");
            scene.assert_true_of(who, by, report, &what);
            let new = report.found.iter().filter(|f| !known.contains(&f.outpoint));
            sum.revived += new.filter(|f| unresolved.contains(&f.block_hash)).count();
            now.0.extend(report.found.iter().map(|f| f.outpoint));
            now.1.extend(report.unresolved.iter().map(|b| b.block_hash));
            sum.found += report.found.len();
            sum.unresolved += report.unresolved.len();
            if step % 3 == 0 {
                scene.assert_like_fresh(who, by, report, &what).await;
            }
        }
        (known, unresolved) = now;
        sum.payments = sum.payments.max(scene.chain.paid_outputs().len());
    }
}

async fn play_all(protocol: Protocol, wallets: u8, few: u64) -> Sum {
    let sequences = match std::env::var("SPINDEX_CLIENT_REORGS") {
        Ok(count) => count.parse().expect("SPINDEX_CLIENT_REORGS is a number"),
        Err(_) => few,
    };
    let mut sum = Sum::default();
    for seed in 0..sequences {
        play(seed, protocol, wallets, &mut sum).await;
    }
    assert!(sum.found > 50, "{sum:?}");
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn after_reorganisations_the_state_is_that_of_a_fresh_scan() {
    let sum = play_all(Protocol::V1, 1, 8).await;
    println!("{sum:?}");
    assert!(sum.unresolved > 10 && sum.revived > 0, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn natively_nothing_is_unresolved_whatever_is_spent_and_revived() {
    let sum = play_all(Protocol::Native, 1, 2).await;
    println!("{sum:?}");
    assert_eq!(sum.unresolved, 0, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_goes_on_in_either_protocol() {
    let sum = play_all(Protocol::Either, 1, 3).await;
    println!("{sum:?}");
    assert!(sum.unresolved > 0, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_that_share_a_pass_have_what_each_of_them_would_alone() {
    let sum = play_all(Protocol::Either, 3, 3).await;
    println!("{sum:?}");
    assert!(sum.unresolved > 0, "{sum:?}");
}
