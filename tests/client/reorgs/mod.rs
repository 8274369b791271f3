//! Random reorganisations under a light client: a simulated chain, its index, the server and the client, all real. Payments
//! are spent before the first scan and revived later. The judge is the chain itself, which knows what it has paid, and a
//! client that scans everything anew.
//!
//! `SPINDEX_CLIENT_REORGS` sequences of events are played, some few without it.

pub(crate) mod scene;

use std::collections::BTreeSet;

use bitcoin::{BlockHash, OutPoint};
use secp256k1::rand::Rng;
use secp256k1::rand::rngs::StdRng;
use spindex::client::{ClientError, OracleError};

use scene::{FIRST, Scene, state};

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

/// Plays one sequence.
async fn play(seed: u64, protocol: Protocol, sum: &mut Sum) {
    let mut scene = Scene::new(seed).await;
    let mut kept = state();
    let mut known: BTreeSet<OutPoint> = BTreeSet::new();
    let mut unresolved: BTreeSet<BlockHash> = BTreeSet::new();
    for step in 0..scene.rng.gen_range(3..7) {
        let what = format!("seed {seed}, {protocol:?}, step {step}");
        // Now and then only part of the chain is scanned before something happens, perhaps not for the first time.
        let tip = scene.chain.tip_id().height;
        let (to, is_again) = match scene.rng.gen_range(0..10) {
            0..3 => (Some(scene.rng.gen_range(FIRST..tip)), false),
            3..5 => (Some(scene.rng.gen_range(FIRST..tip)), true),
            5 => (None, true),
            _ => (None, false),
        };
        let by = protocol.dialect(&mut scene.rng);
        let mut client = scene.client(by, kept, to, is_again);
        client.run(&mut |_| ()).await.unwrap();
        kept = client.into_state();

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
        let mut client = scene.client(by, kept, None, false);
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
        let report = client.run(&mut |_| ()).await.unwrap();
        scene.assert_true(by, &report, &what);
        kept = client.into_state();
        sum.scans += 1;
        let new = report.found.iter().filter(|f| !known.contains(&f.outpoint));
        sum.revived += new.filter(|f| unresolved.contains(&f.block_hash)).count();
        known = report.found.iter().map(|f| f.outpoint).collect();
        unresolved = report
            .unresolved
            .iter()
            .map(|block| block.block_hash)
            .collect();
        sum.found += report.found.len();
        sum.unresolved += report.unresolved.len();
        sum.payments = sum.payments.max(scene.chain.paid_outputs().len());
        if step % 3 == 0 {
            scene.assert_like_fresh(by, &report, &what).await;
        }
    }
}

async fn play_all(protocol: Protocol, few: u64) -> Sum {
    let sequences = match std::env::var("SPINDEX_CLIENT_REORGS") {
        Ok(count) => count.parse().expect("SPINDEX_CLIENT_REORGS is a number"),
        Err(_) => few,
    };
    let mut sum = Sum::default();
    for seed in 0..sequences {
        play(seed, protocol, &mut sum).await;
    }
    assert!(sum.found > 50, "{sum:?}");
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn after_reorganisations_the_state_is_that_of_a_fresh_scan() {
    let sum = play_all(Protocol::V1, 8).await;
    println!("{sum:?}");
    assert!(sum.unresolved > 10 && sum.revived > 0, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn natively_nothing_is_unresolved_whatever_is_spent_and_revived() {
    let sum = play_all(Protocol::Native, 2).await;
    println!("{sum:?}");
    assert_eq!(sum.unresolved, 0, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_goes_on_in_either_protocol() {
    let sum = play_all(Protocol::Either, 3).await;
    println!("{sum:?}");
    assert!(sum.unresolved > 0, "{sum:?}");
}
