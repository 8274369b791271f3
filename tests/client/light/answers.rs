//! Servers that fail, answer wrongly, or do not serve what a scan needs.

use std::sync::Arc;

use bitcoin::Txid;
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};
use spindex::client::{ClientError, LightClient, LightSettings, State};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;

use super::scene::{Run, assert_report, identity, oracle, settings, world};
use super::server::{Fault, Served, Server};
use super::world::wallet;

#[tokio::test(flavor = "multi_thread")]
async fn passing_faults_are_sat_out() {
    let world = world(14, 50);
    for seed in 0..3 {
        let mut served = Served::new(world.clone());
        let mut rng = StdRng::seed_from_u64(seed);
        served.hook = Some(Box::new(move |_, _| match rng.gen_range(0..20) {
            0 => Some(Fault::Answer(500, "")),
            1 => Some(Fault::Answer(502, "<html>bad gateway</html>")),
            2 => Some(Fault::Answer(429, "slow down")),
            3 => Some(Fault::Cut),
            _ => None,
        }));
        let server = Server::start(served).await;
        let report = Run::new(&world.keys).run(&server).await.unwrap();
        assert_report(&report, &world, 1..=50, |_| true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fails_is_never_an_empty_block() {
    let world = world(15, 40);
    let height = world
        .expected
        .values()
        .map(|e| e.height)
        .find(|h| *h > 20)
        .unwrap();
    let spend = world
        .spent
        .iter()
        .filter(|(outpoint, _)| world.expected.contains_key(outpoint))
        .map(|(_, spend)| spend.height)
        .find(|h| *h > 8)
        .unwrap();
    let faults = [
        Fault::Answer(
            500,
            r#"{"error":"could could not retrieve data from database"}"#,
        ),
        Fault::Answer(200, r#"{"error":"could not fetch header inv"}"#),
        Fault::Answer(400, r#"{"error":"Server does not allow dustLimits"}"#),
        Fault::Answer(404, "404 page not found"),
        Fault::Answer(500, ""),
        Fault::Answer(200, ""),
        Fault::Answer(200, "null"),
        Fault::Answer(200, "{}"),
        Fault::Answer(200, "[1]"),
        Fault::Answer(200, r#"["00"]"#),
        Fault::Answer(200, "<html></html>"),
        Fault::Cut,
    ];
    for (route, height) in [
        ("tweak-index", height),
        ("filter/new-utxos", height),
        ("filter/spent", height),
        ("utxos", height),
        ("spent-index", spend),
        ("block-hash", height),
    ] {
        // An empty array is a fair answer for lists, and for nothing else.
        let empty = (!matches!(route, "tweak-index" | "utxos")).then_some(Fault::Answer(200, "[]"));
        for fault in faults.iter().cloned().chain(empty) {
            let path = format!("{route}/{height}");
            if route == "block-hash" && matches!(fault, Fault::Answer(200, r) if r.contains("inv"))
            {
                continue;
            }
            let mut served = Served::new(world.clone());
            let (broken, wrong) = (path.clone(), fault.clone());
            served.hook = Some(Box::new(move |_, path| {
                (path == broken).then(|| wrong.clone())
            }));
            let server = Server::start(served).await;
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path().join("state.redb");
            let run = Run::new(&world.keys).state(&state);
            let error = run
                .run(&server)
                .await
                .expect_err(&format!("{path} {fault:?}"));
            // The text leads to the server or to the block.
            let text = error.to_string();
            assert!(text.contains(&server.url), "{text}");
            assert!(text.contains(&height.to_string()), "{text}");
            assert!(!text.contains('\n'), "{text}");

            // The scan stopped before the block, and goes on once the server is well.
            server.with(|served| served.hook = None);
            let opened = State::open(&state, identity(Some(&world.keys))).unwrap();
            assert!(
                opened.scanned_to().is_none_or(|to| to < height),
                "{path} {fault:?}"
            );
            drop(opened);
            let report = run.run(&server).await.unwrap();
            assert_report(&report, &world, 1..=40, |_| true);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_filter_is_an_error() {
    let world = world(16, 30);
    let height = world
        .expected
        .values()
        .map(|e| e.height)
        .find(|h| *h > 5)
        .unwrap();
    let hash = world.block(height).unwrap().hash;
    for data in ["", "ff", "05aabb"] {
        let body: &'static str = Box::leak(
            format!(r#"{{"filter_type":4,"block_height":{height},"block_hash":"{hash}","data":"{data}"}}"#)
                .into_boxed_str(),
        );
        let mut served = Served::new(world.clone());
        served.hook = Some(Box::new(move |_, path| {
            (path == format!("filter/new-utxos/{height}")).then_some(Fault::Answer(200, body))
        }));
        let server = Server::start(served).await;
        let error = Run::new(&world.keys).run(&server).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Filter { height: at, block_hash, .. } if at == height && block_hash == hash),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_different_blocks_are_never_mixed() {
    let world = world(17, 30);
    let height = world
        .expected
        .values()
        .map(|e| e.height)
        .find(|h| *h > 5)
        .unwrap();
    // Outputs of another block, again and again: a server whose parts disagree.
    let elsewhere = world.block(height - 1).unwrap().hash;
    let txid = Txid::from_raw_hash(elsewhere.to_raw_hash());
    let body: &'static str = Box::leak(
        format!(
            r#"[{{"txid":"{txid}","vout":0,"value":1,"scriptpubkey":"5120{}","block_height":0,
            "block_hash":"{elsewhere}","timestamp":0,"spent":false}}]"#,
            "01".repeat(32)
        )
        .into_boxed_str(),
    );
    let mut served = Served::new(world.clone());
    served.hook = Some(Box::new(move |_, path| {
        (path == format!("utxos/{height}")).then_some(Fault::Answer(200, body))
    }));
    let server = Server::start(served).await;
    let error = Run::new(&world.keys).run(&server).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Contradiction { height: at, .. } if at == height),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unfit_servers_and_settings_are_refused_before_anything_is_scanned() {
    let world = world(23, 30);
    let refused = async |change: fn(&mut Served), set: fn(&mut LightSettings), part: &str| {
        let mut served = Served::new(world.clone());
        change(&mut served);
        let server = Server::start(served).await;
        let error = Run::new(&world.keys)
            .set(set)
            .run(&server)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(server.with(|served| served.count("filter/")), 0);
    };
    refused(
        |s| s.network = "main",
        |_| (),
        "serves bitcoin, not regtest",
    )
    .await;
    refused(|s| s.network = "moon", |_| (), "unknown network").await;
    refused(|s| s.tweaks_only = true, |_| (), "no filters").await;
    refused(
        |s| s.cut_through = false,
        |s| s.cut_through = true,
        "without cut-through",
    )
    .await;
    refused(
        |s| (s.full_list, s.dust_list) = (false, false),
        |_| (),
        "with cut-through",
    )
    .await;
    refused(
        |s| s.dust_list = false,
        |s| s.dust_limit_sat = 1,
        "dust limit",
    )
    .await;
    refused(
        |_| (),
        |s| (s.from, s.to) = (Some(9), Some(8)),
        "from 9 to 8",
    )
    .await;

    let server = Server::start(Served::new(world.clone())).await;
    let error = Run::watching(&[]).run(&server).await.unwrap_err();
    assert!(matches!(error, ClientError::NothingToDo), "{error}");
    let other = State::in_memory(identity(Some(&wallet(5, [])))).unwrap();
    let scanner = Scanner::new(Arc::new(LibSecp256k1), world.keys.clone()).unwrap();
    let error =
        LightClient::new(oracle(&server), Some(scanner), [], other, settings()).unwrap_err();
    assert!(matches!(error, ClientError::ForeignState { .. }), "{error}");
}
