//! Several wallets that share one download and one pass: each has what a scan of its own has, whatever it has been scanned
//! for before and wherever a crash has left it, and the server is asked as if there were one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bitcoin::{Network, OutPoint};
use secp256k1::rand::Rng;
use spindex::client::{
    ClientError, HttpOracle, HttpSettings, Identity, LightSettings, NativeOracle, Reports, State,
    WalletReport, WalletScan, WalletsClient,
};
use spindex::curve::libsecp256k1::LibSecp256k1;

use crate::native::between::Between;
use crate::reorgs::Dialect;
use crate::reorgs::scene::{FIRST, Scene, identity_of, settings, state_of, wallet};
use crate::support::served::serve;

const DIALECTS: [Dialect; 2] = [Dialect::V1, Dialect::Native];

/// The state of outpoints without a wallet.
fn outpoints_state() -> State {
    let identity = Identity {
        network: Network::Regtest,
        wallet: None,
    };
    State::in_memory(identity).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wallet_has_what_a_scan_of_its_own_has_wherever_it_was() {
    for (seed, wallets) in [(2000, 1), (2001, 3), (2002, 20)] {
        let mut scene = Scene::with_wallets(seed, wallets).await;
        let tip = scene.chain.tip_id().height;
        for by in DIALECTS {
            let (mut alone, mut together) = (Vec::new(), Vec::new());
            for who in 0..wallets {
                let mut states = [state_of(who), state_of(who)];
                // Some have been scanned before, from somewhere to somewhere, in either protocol.
                if scene.rng.gen_bool(0.7) {
                    let from = scene.rng.gen_range(FIRST..tip);
                    let to = scene.rng.gen_range(from..=tip);
                    let before = DIALECTS[scene.rng.gen_range(0..2)];
                    let settings = settings(before, Some(from), Some(to), false);
                    for state in &mut states {
                        let scanned = std::mem::replace(state, state_of(who));
                        let scanned = wallet(who, scanned);
                        let mut client = scene.alone(before, scanned, settings.clone());
                        client.run(&mut |_| ()).await.unwrap();
                        *state = client.into_state();
                    }
                }
                let [one, other] = states;
                // Some watch what another one is paid.
                let watched = match scene.rng.gen_bool(0.3) {
                    true => outpoints(&scene, (who + 1) % wallets),
                    false => Vec::new(),
                };
                let scan = |state| WalletScan {
                    watched: watched.clone(),
                    ..wallet(who, state)
                };
                alone.push(scan(one));
                together.push(scan(other));
            }
            let of_outpoints = |state| WalletScan {
                name: Some("outpoints".to_owned()),
                keys: None,
                watched: outpoints(&scene, 0),
                state,
            };
            alone.push(of_outpoints(outpoints_state()));
            together.push(of_outpoints(outpoints_state()));

            let settings = settings(by, None, None, false);
            let mut client = scene.together(by, together, settings.clone());
            let Reports(reports) = client.run(&mut |_| ()).await.unwrap();
            let mut found = 0;
            for (scan, WalletReport { wallet, report }) in alone.into_iter().zip(reports) {
                assert_eq!(scan.name, wallet);
                let mut client = scene.alone(by, scan, settings.clone());
                let single = client.run(&mut |_| ()).await.unwrap();
                assert_eq!(report, single, "seed {seed}, {by:?}, {wallet:?}");
                found += report.found.len();
            }
            assert!(found > 10, "seed {seed}, {by:?}: too few payments");
        }
        // By the chain itself, not by another scan.
        for by in DIALECTS {
            let all = (0..wallets).map(|who| wallet(who, state_of(who)));
            let settings = settings(by, Some(FIRST), None, false);
            let mut client = scene.together(by, all.collect(), settings);
            let Reports(reports) = client.run(&mut |_| ()).await.unwrap();
            for (who, report) in (0..).zip(&reports) {
                scene.assert_true_of(who, by, &report.report, &format!("seed {seed}"));
            }
        }
    }
}

/// What a wallet is paid, spent or not.
fn outpoints(scene: &Scene, who: u8) -> Vec<OutPoint> {
    let paid = scene.paid_to(who).into_iter();
    paid.map(|paid| paid.outpoint).take(5).collect()
}

/// How often each of some requests was made.
fn count(log: &[String], is_counted: impl Fn(&str) -> bool) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for asked in log.iter().filter(|asked| is_counted(asked)) {
        *counts.entry(asked.as_str()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_asked_as_if_there_were_one_wallet() {
    let scene = Scene::with_wallets(2003, 8).await;
    for private in [false, true] {
        for by in DIALECTS {
            if private && by == Dialect::V1 {
                continue;
            }
            let mut logs = Vec::new();
            for wallets in [1, 8] {
                let between = Between::default();
                let around = |router| between.around(router);
                let address = serve(&scene.chain, scene.store.clone(), around).await;
                let url = format!("http://{address}");
                let http = Arc::new(HttpOracle::new(&url, HttpSettings::default()).unwrap());
                let all = (0..wallets).map(|who| wallet(who, state_of(who))).collect();
                let settings = LightSettings {
                    private,
                    ..settings(by, Some(FIRST), None, false)
                };
                let engine = Arc::new(LibSecp256k1);
                let client = match by {
                    Dialect::V1 => WalletsClient::new(http, engine, all, settings),
                    Dialect::Native => {
                        let server = Arc::new(NativeOracle::new(http, Network::Regtest));
                        WalletsClient::native(server, None, engine, all, settings)
                    }
                };
                let Reports(reports) = client.unwrap().run(&mut |_| ()).await.unwrap();
                assert!(reports.iter().all(|of| !of.report.found.is_empty()));
                logs.push(between.take_log());
            }
            let what = format!("{by:?}, private {private}");
            let of_a_match = |asked: &str| {
                let routes = ["/utxos/", "/spent-index/", "/spends/", "/chunk/"];
                let columns = ["/headers,outputs?", "/headers,spends?"];
                let mut parts = routes.iter().chain(&columns);
                parts.any(|part| asked.contains(part))
            };
            // Asked around matches, however many there are in a window.
            let of_a_tip = |asked: &str| {
                by == Dialect::V1 && (asked.contains("block-hash/") || asked.ends_with("height"))
            };
            let is_scan = |asked: &str| !of_a_match(asked) && !of_a_tip(asked);
            let [one, eight] = [&logs[0], &logs[1]].map(|log| count(log, is_scan));
            assert_eq!(one, eight, "{what}");
            let many = count(&logs[1], of_a_match);
            assert!(many.values().all(|times| *times == 1), "{what}: {many:?}");
            assert_eq!(many.is_empty(), private, "{what}");
        }
    }
}

/// Copies of all state files after each window of a shared scan, before the first one too.
async fn copies(
    scene: &Scene,
    by: Dialect,
    wallets: u8,
    folder: &Path,
) -> Vec<Vec<std::path::PathBuf>> {
    let path = |who: u8| folder.join(format!("{who}.redb"));
    let copy = |window: usize| -> Vec<std::path::PathBuf> {
        (0..wallets)
            .map(|who| {
                let copy = folder.join(format!("{who}-after-{window}.redb"));
                std::fs::copy(path(who), &copy).unwrap();
                copy
            })
            .collect()
    };
    let states = (0..wallets).map(|who| State::open(&path(who), identity_of(who)).unwrap());
    let scans = (0..).zip(states).map(|(who, state)| wallet(who, state));
    let mut client = scene.together(by, scans.collect(), settings(by, Some(FIRST), None, false));
    let mut copies = vec![copy(0)];
    let mut done = None;
    // Nothing is written between two windows.
    let mut progress = |progress: spindex::client::Progress| {
        if progress.done != done {
            done = progress.done;
            copies.push(copy(copies.len()));
        }
    };
    client.run(&mut progress).await.unwrap();
    copies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_two_commits_loses_and_doubles_nothing() {
    const WALLETS: u8 = 3;
    let scene = Scene::with_wallets(2004, WALLETS).await;
    for by in DIALECTS {
        let folder = tempfile::tempdir().unwrap();
        let copies = copies(&scene, by, WALLETS, folder.path()).await;
        assert!(copies.len() > 3, "{by:?}: too few windows");
        let mut cursors = BTreeSet::new();
        for (window, pair) in copies.windows(2).enumerate() {
            // The first of the wallets have committed the window, the others have not.
            for committed in 0..=WALLETS {
                let scans = (0..WALLETS).map(|who| {
                    let copy = &pair[usize::from(who < committed)][usize::from(who)];
                    let at = folder
                        .path()
                        .join("crashed")
                        .with_extension(format!("{who}"));
                    std::fs::copy(copy, &at).unwrap();
                    wallet(who, State::open(&at, identity_of(who)).unwrap())
                });
                let scans: Vec<WalletScan> = scans.collect();
                cursors.extend(scans.iter().map(|scan| scan.state.scanned_to()));
                let settings = settings(by, Some(FIRST), None, false);
                let mut client = scene.together(by, scans, settings);
                let Reports(reports) = client.run(&mut |_| ()).await.unwrap();
                for (who, WalletReport { report, .. }) in (0..).zip(&reports) {
                    let what = format!("{by:?}, {committed} committed of window {window}");
                    scene.assert_true_of(who, by, report, &what);
                }
            }
        }
        assert_eq!(cursors.len(), copies.len(), "{by:?}: {cursors:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_wallet_is_told_with_its_name() {
    let settings = || settings(Dialect::Native, Some(FIRST), None, false);
    let error = |wallets, settings| {
        let http = HttpOracle::new("http://127.0.0.1:1", HttpSettings::default()).unwrap();
        let client = WalletsClient::new(Arc::new(http), Arc::new(LibSecp256k1), wallets, settings);
        client.unwrap_err()
    };
    let refused = error(Vec::new(), settings());
    assert!(matches!(refused, ClientError::NothingToDo));
    let twice = WalletScan {
        name: Some("the other file".to_owned()),
        ..wallet(0, state_of(0))
    };
    let all = vec![wallet(0, state_of(0)), wallet(1, state_of(1)), twice];
    let text = error(all, settings()).to_string();
    assert!(
        text.starts_with("wallet 0 and the other file are one wallet"),
        "{text}"
    );
    let foreign = wallet(1, state_of(0));
    let text = error(vec![wallet(0, state_of(0)), foreign], settings()).to_string();
    assert!(
        text.starts_with("wallet 1: the state belongs to wallet "),
        "{text}"
    );
    let nothing = WalletScan {
        keys: None,
        name: Some("outpoints".to_owned()),
        ..wallet(0, outpoints_state())
    };
    let text = error(vec![wallet(0, state_of(0)), nothing], settings()).to_string();
    assert!(text.starts_with("outpoints: nothing to scan for"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_is_ahead_stays_where_it_is() {
    let scene = Scene::with_wallets(2005, 2).await;
    let settings = || settings(Dialect::Native, Some(FIRST), None, false);
    let tip = scene.chain.tip_id().height;
    let mut high = scene.alone(
        Dialect::Native,
        wallet(1, state_of(1)),
        LightSettings {
            from: Some(tip),
            ..settings()
        },
    );
    high.run(&mut |_| ()).await.unwrap();
    let all = vec![wallet(0, state_of(0)), wallet(1, high.into_state())];
    let low = LightSettings {
        from: None,
        to: Some(FIRST),
        ..settings()
    };
    let mut client = scene.together(Dialect::Native, all, low);
    let Reports(reports) = client.run(&mut |_| ()).await.unwrap();
    let reached: Vec<_> = reports.iter().map(|of| of.report.scanned_to).collect();
    assert_eq!(reached, [Some(FIRST), Some(tip)]);
}
