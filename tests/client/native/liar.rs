//! A server whose answers are not what they should be, and a scan that does not wait long for it.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::Network;
use spindex::client::{
    ClientError, HttpOracle, HttpSettings, LightClient, LightSettings, NativeOracle, ScanReport,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;

use super::between::Between;
use crate::reorgs::scene::{FIRST, Scene, keys, state};
use crate::support::served::serve;

/// A scene with a server that may lie, and a scan of it.
pub(super) struct Liar {
    /// Keeps the chain going.
    _scene: Scene,
    pub(super) between: Between,
    url: String,
}

impl Liar {
    pub(super) async fn new(seed: u64) -> Self {
        let scene = Scene::new(seed).await;
        let between = Between::default();
        let router = |router| between.around(router);
        let address = serve(&scene.chain, scene.store.clone(), router).await;
        let url = format!("http://{address}");
        Self {
            _scene: scene,
            between,
            url,
        }
    }

    pub(super) async fn scan(&self) -> Result<ScanReport, ClientError> {
        let http = HttpSettings {
            attempts: 2,
            first_delay: Duration::from_millis(1),
            timeout: Duration::from_secs(5),
            ..HttpSettings::default()
        };
        let http = HttpOracle::new(&self.url, http).unwrap();
        let settings = LightSettings {
            from: Some(FIRST),
            settling: Duration::ZERO,
            ..LightSettings::new(Network::Regtest)
        };
        LightClient::native(
            Arc::new(NativeOracle::new(Arc::new(http), Network::Regtest)),
            None,
            Some(Scanner::new(Arc::new(LibSecp256k1), keys()).unwrap()),
            [],
            state(),
            settings,
        )
        .unwrap()
        .run(&mut |_| ())
        .await
    }

    #[track_caller]
    pub(super) fn assert_names_the_server(&self, error: &ClientError, what: &str) {
        let text = error.to_string();
        assert!(text.contains(&self.url), "{what}: {text}");
    }
}
