//! What a server sees of two wallets, of which one has matches and the other none.

use std::sync::Arc;

use bitcoin::Network;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::client::{
    HttpOracle, HttpSettings, Identity, LightClient, LightSettings, NativeOracle, ScanReport,
    State, WalletId,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;

use super::between::Between;
use crate::reorgs::scene::{FIRST, Scene, keys};
use crate::support::served::serve;

fn stranger() -> ReceiverKeys {
    let spend_key = SpendKey::from_bytes([14; 32]).unwrap();
    let scan_key = ScanKey::from_bytes([13; 32]).unwrap();
    ReceiverKeys::new(scan_key, spend_key.public_key(), [1])
}

/// A server whose requests are written down.
struct Watched {
    between: Between,
    server: Arc<NativeOracle>,
}

impl Watched {
    async fn over(scene: &Scene) -> Self {
        let between = Between::default();
        let router = |router| between.around(router);
        let address = serve(&scene.chain, scene.store.clone(), router).await;
        let url = format!("http://{address}");
        let http = HttpOracle::new(&url, HttpSettings::default()).unwrap();
        let server = Arc::new(NativeOracle::new(Arc::new(http), Network::Regtest));
        Self { between, server }
    }
}

async fn scan(
    keys: ReceiverKeys,
    server: &Watched,
    follow_ups: Option<&Watched>,
    private: bool,
) -> ScanReport {
    let identity = Identity {
        network: Network::Regtest,
        wallet: Some(WalletId::of(&keys)),
    };
    let settings = LightSettings {
        from: Some(FIRST),
        private,
        ..LightSettings::new(Network::Regtest)
    };
    let mut client = LightClient::native(
        server.server.clone(),
        follow_ups.map(|other| other.server.clone()),
        Some(Scanner::new(Arc::new(LibSecp256k1), keys).unwrap()),
        [],
        State::in_memory(identity).unwrap(),
        settings,
    )
    .unwrap();
    client.run(&mut |_| ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_depends_on_the_wallet_but_those_for_the_chunk_of_a_match() {
    let scene = Scene::new(1004).await;
    // Each scan has servers of its own: what one keeps of chunks, the other shall not spare.
    for private in [false, true] {
        for is_split in [false, true] {
            let mut logs = Vec::new();
            for keys in [keys(), stranger()] {
                let is_paid = keys.spend_pubkey == self::keys().spend_pubkey;
                let server = Watched::over(&scene).await;
                let other = Watched::over(&scene).await;
                let follow_ups = is_split.then_some(&other);
                let report = scan(keys, &server, follow_ups, private).await;
                assert_eq!(report.found.is_empty(), !is_paid);
                logs.push((server.between.take_log(), other.between.take_log()));
            }
            let [(paid, paid_other), (stranger, stranger_other)] = logs.try_into().unwrap();
            let what = format!("private {private}, split {is_split}");
            // A wallet without matches asks for nothing else.
            assert_eq!(stranger_other, Vec::<String>::new(), "{what}");
            let (follow_ups, scan): (Vec<_>, Vec<_>) =
                paid.into_iter().partition(|asked| is_follow_up(asked));
            assert_eq!(scan, stranger, "{what}");
            let follow_ups = [follow_ups, paid_other].concat();
            // Of what is kept for further matches each chunk is asked for once in each column.
            let mut once = follow_ups.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), follow_ups.len(), "{what}: {follow_ups:?}");
            assert!(follow_ups.iter().all(|asked| is_follow_up(asked)), "{what}");
            assert_eq!(follow_ups.is_empty(), private, "{what}");
        }
    }
}

/// Whether a request is one for a whole chunk: as such, or where the index begins or ends by its heights.
fn is_follow_up(asked: &str) -> bool {
    let columns = ["headers,outputs", "headers,spends"];
    columns.iter().any(|columns| {
        let chunk = asked.strip_prefix("/spindex/v1/chunk/");
        let is_chunk = chunk.is_some_and(|chunk| chunk.ends_with(&format!("/{columns}")));
        let range = asked.strip_prefix(&format!("/spindex/v1/range/{columns}?from="));
        let is_aligned = range.is_some_and(|range| {
            let (from, to) = range.split_once("&to=").unwrap();
            let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
            from % 64 == 0 && to == from + 63
        });
        is_chunk || is_aligned
    })
}
