//! Scans of exported files: what a scan of the server finds whose files they are.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, OutPoint};
use spindex::client::{
    ClientError, HttpOracle, HttpSettings, LightClient, LightSettings, NativeOracle, OracleError,
    ScanReport, State,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;

use crate::reorgs::scene::{FIRST, Scene, keys, state};
use crate::support::files::{FileServer, Files};
use crate::support::served::serve;

/// The last block of the files of a scene.
pub(super) const END: u32 = 191;

/// A scene, a server over its index, and its files.
pub(super) struct Exported {
    pub(super) scene: Scene,
    pub(super) files: Files,
    pub(super) live: Arc<NativeOracle>,
}

impl Exported {
    pub(super) async fn new(seed: u64) -> Self {
        let scene = Scene::new(seed).await;
        let files = Files::of(&scene.store, 0).await;
        assert_eq!(files.manifest().last_block.height, END);
        let address = serve(&scene.chain, scene.store.clone(), |router| router).await;
        let live = Arc::new(NativeOracle::new(
            http(&format!("http://{address}")),
            Network::Regtest,
        ));
        Self { scene, files, live }
    }

    pub(super) fn folder(&self) -> Arc<NativeOracle> {
        Arc::new(NativeOracle::files(self.files.place(), Network::Regtest))
    }

    pub(super) fn tip(&self) -> u32 {
        self.scene.chain.tip_id().height
    }

    /// What a scan of the server up to a height says, as one that ends there says it.
    pub(super) async fn truth(&self, to: u32) -> ScanReport {
        let settings = LightSettings {
            to: Some(to),
            ..settings()
        };
        let report = scan(&self.live, None, settings).await.unwrap();
        assert!(report.found.len() > 10, "too few to be a test");
        let mut spent = report.found.iter().filter(|found| found.spent.is_some());
        assert!(spent.next().is_some());
        ScanReport {
            oracle_height: to,
            ..report
        }
    }
}

pub(super) fn http(url: &str) -> Arc<HttpOracle> {
    let settings = HttpSettings {
        attempts: 2,
        first_delay: Duration::from_millis(1),
        timeout: Duration::from_secs(5),
        ..HttpSettings::default()
    };
    Arc::new(HttpOracle::new(url, settings).unwrap())
}

/// Files below an address, which are not known to be files.
pub(super) fn behind(server: &FileServer) -> Arc<NativeOracle> {
    Arc::new(NativeOracle::at(http(&server.url), Network::Regtest))
}

pub(super) fn settings() -> LightSettings {
    LightSettings {
        from: Some(FIRST),
        settling: Duration::ZERO,
        ..LightSettings::new(Network::Regtest)
    }
}

pub(super) fn client(
    oracle: &Arc<NativeOracle>,
    follow_ups: Option<&Arc<NativeOracle>>,
    watched: Vec<OutPoint>,
    state: State,
    settings: LightSettings,
) -> LightClient {
    let scanner = Scanner::new(Arc::new(LibSecp256k1), keys()).unwrap();
    LightClient::native(
        oracle.clone(),
        follow_ups.cloned(),
        Some(scanner),
        watched,
        state,
        settings,
    )
    .unwrap()
}

pub(super) async fn scan(
    oracle: &Arc<NativeOracle>,
    follow_ups: Option<&Arc<NativeOracle>>,
    settings: LightSettings,
) -> Result<ScanReport, ClientError> {
    client(oracle, follow_ups, Vec::new(), state(), settings)
        .run(&mut |_| ())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_scanned_like_the_server_that_they_are_of() {
    let exported = Exported::new(1100).await;
    let server = exported.files.serve().await;
    let truth = exported.truth(END).await;
    for oracle in [exported.folder(), behind(&server)] {
        for private in [false, true] {
            let settings = LightSettings {
                private,
                ..settings()
            };
            let report = scan(&oracle, None, settings).await.unwrap();
            assert_eq!(report, truth, "{oracle:?}, private {private}");
        }
        // What a match needs from files alone, of the server that is scanned, and the other way round.
        let settings = LightSettings {
            to: Some(END),
            ..settings()
        };
        let report = scan(&exported.live, Some(&oracle), settings.clone()).await;
        let report = report.unwrap();
        assert_eq!(report.found, truth.found);
        assert_eq!(report.head, truth.head);
        let report = scan(&oracle, Some(&exported.live), settings).await;
        assert_eq!(report.unwrap(), truth);
    }
    // Each file is asked for once in a scan, but for what is looked at again at its end.
    server.take_log();
    let private = LightSettings {
        private: true,
        ..settings()
    };
    let oracle = behind(&server);
    scan(&oracle, None, private).await.unwrap();
    let log = server.take_log();
    for chunk in [1, 2] {
        for column in ["tweaks", "prefixes", "spent", "outputs", "spends"] {
            let file = format!("/spindex/v1/chunk/{chunk}/{column}");
            let asked = log.iter().filter(|asked| **asked == file);
            assert_eq!(asked.count(), 1, "{file}: {log:?}");
        }
    }
    assert!(!log.iter().any(|asked| asked.contains("new-utxos")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_files_goes_on_at_the_server_behind_them_and_ends_without_one() {
    let exported = Exported::new(1101).await;
    let tip = exported.tip();
    assert!(tip > END);
    let truth = exported.truth(tip).await;
    let together = Arc::new(exported.folder().before(exported.live.clone()));
    assert_eq!(scan(&together, None, settings()).await.unwrap(), truth);
    // In parts: files first, then both, with outpoints that are watched from before the scan on.
    let paid = exported.scene.chain.paid_outputs();
    let watched: Vec<OutPoint> = paid.iter().take(5).map(|paid| paid.outpoint).collect();
    let all = client(&exported.live, None, watched.clone(), state(), settings());
    let all = { all }.run(&mut |_| ()).await.unwrap();
    let alone = exported.folder();
    let mut first = client(&alone, None, watched.clone(), state(), settings());
    let report = first.run(&mut |_| ()).await.unwrap();
    assert_eq!(report.scanned_to, Some(END));
    let mut then = client(&together, None, watched, first.into_state(), settings());
    assert_eq!(then.run(&mut |_| ()).await.unwrap(), all);
    // Blocks that nobody has are no empty answer.
    let settings = LightSettings {
        from: Some(END + 1),
        ..settings()
    };
    match scan(&alone, None, settings.clone()).await {
        Err(ClientError::BeyondTip { tip: END, .. }) => {}
        other => panic!("{other:?}"),
    }
    match scan(&exported.live, Some(&alone), settings.clone()).await {
        Err(ClientError::Oracle(OracleError::NotInFiles { end: END, .. })) => {}
        other => panic!("{other:?}"),
    }
    let report = scan(&exported.live, Some(&together), settings).await;
    assert!(!report.unwrap().found.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_do_not_say_is_an_error_with_its_cure() {
    let exported = Exported::new(1102).await;
    let settings = LightSettings {
        ask_spenders: true,
        ..settings()
    };
    let error = scan(&exported.folder(), None, settings.clone()).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("--ask-spenders"), "{text}");
    let together = Arc::new(exported.folder().before(exported.live.clone()));
    let report = scan(&together, None, settings).await.unwrap();
    let spent = report.found.iter().filter_map(|found| found.spent.as_ref());
    assert!(spent.clone().count() > 0);
    assert!(spent.clone().all(|spend| spend.spending_txid.is_some()));

    let other = Arc::new(NativeOracle::files(exported.files.place(), Network::Signet));
    let settings = LightSettings {
        from: Some(FIRST),
        ..LightSettings::new(Network::Regtest)
    };
    let text = scan(&other, None, settings).await.unwrap_err().to_string();
    assert!(text.contains("of regtest, and not of signet"), "{text}");
}
