//! Answers that break off: the scan goes on where they did.

use std::collections::BTreeSet;

use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};

use super::liar::Liar;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_off_is_asked_for_again() {
    let liar = Liar::new(1010).await;
    let truth = liar.scan().await.unwrap();
    let honest = liar.between.take_log();
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        // Two attempts are made, and a cut behind some blocks is none that failed.
        let mut cut = BTreeSet::new();
        liar.between.change(move |_, asked, mut body| {
            let route = asked.split('?').next().unwrap().to_owned();
            let is_next = cut.remove(&route);
            if body.starts_with(b"spix") && !is_next && rng.gen_bool(0.7) {
                cut.insert(route);
                body.truncate(rng.gen_range(1..body.len()));
            }
            body
        });
        let report = liar.scan().await.unwrap();
        assert_eq!(report, truth, "seed {seed}");
        let asked = liar.between.take_log();
        assert!(asked.len() > honest.len(), "seed {seed}: nothing was cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_ends_an_answer_is_given_up() {
    let liar = Liar::new(1011).await;
    let log = {
        liar.scan().await.unwrap();
        liar.between.take_log()
    };
    // With nothing, and without the mark alone.
    for kept in [1, usize::MAX] {
        liar.between.change(move |_, _, mut body| {
            if body.starts_with(b"spix") {
                body.truncate(kept.min(body.len() - 60));
            }
            body
        });
        let scanned = liar.scan().await;
        match kept {
            1 => {
                let error = scanned.unwrap_err();
                liar.assert_names_the_server(&error, "nothing");
                assert!(error.to_string().contains("2 attempts"), "{error}");
            }
            _ => {
                // All blocks came, but for the last chunk that a match needs: no mark says that it is whole.
                let is_marked = |asked: &String| asked.contains("/range/headers,outputs");
                assert_eq!(scanned.is_err(), log.iter().any(is_marked));
            }
        }
    }
}
