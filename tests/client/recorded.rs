//! The client against recorded answers of a deployed version 1 server, served again on a real socket.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bitcoin::hex::DisplayHex;
use serde_json::Value;
use spindex::client::{HttpOracle, HttpSettings, Oracle, TweakQuery};
use spindex::filter::{matches, spent_filter};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The recorded heights, with the number of tweaks, outputs and spent items that were recorded.
const HEIGHTS: [(u32, usize, usize, usize); 2] = [(200_000, 4, 7, 11), (295_125, 6, 9, 39)];

/// The folder of the recordings, or `None` with a note on stderr.
fn recordings() -> Option<PathBuf> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: ../shared/data is missing");
        return None;
    }
    Some(data.join("blindbit-v1-signet"))
}

fn recorded(folder: &Path, height: u32, name: &str) -> Value {
    let path = folder.join(height.to_string()).join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Serves the recordings below a prefix; the base address, with a slash at the end or without.
async fn serve(folder: &Path, slash: &str) -> (String, JoinSet<()>) {
    async fn answer(State(folder): State<PathBuf>, request: Request) -> Response {
        let path = request.uri().path().strip_prefix("/blindbit/signet/");
        let Some((route, height)) = path.and_then(|path| path.rsplit_once('/')) else {
            return (StatusCode::NOT_FOUND, "404 page not found").into_response();
        };
        let file = format!("{}.json", route.replace('/', "-"));
        match std::fs::read(folder.join(height).join(file)) {
            Ok(body) => body.into_response(),
            // No route of version 1.
            Err(_) if route == "spends" => {
                (StatusCode::NOT_FOUND, "404 page not found").into_response()
            }
            Err(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"{"error":"could not fetch header inv"}"#,
            )
                .into_response(),
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/blindbit/signet{slash}",
        listener.local_addr().unwrap()
    );
    let router = Router::new().fallback(answer).with_state(folder.to_owned());
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, task)
}

#[tokio::test]
async fn every_recorded_answer_is_parsed_and_fits_the_others() {
    let Some(folder) = recordings() else { return };
    for slash in ["", "/"] {
        let (url, _server) = serve(&folder, slash).await;
        let oracle = HttpOracle::new(&url, HttpSettings::default()).unwrap();
        for (height, tweak_count, utxo_count, item_count) in HEIGHTS {
            let query = TweakQuery {
                dust_limit_sat: 0,
                cut_through: true,
            };
            let tweaks = oracle.tweaks(height, query).await.unwrap();
            assert_eq!(tweaks.len(), tweak_count);
            let shown: Vec<String> = tweaks
                .iter()
                .map(|tweak| tweak.to_compressed().to_lower_hex_string())
                .collect();
            assert_eq!(
                serde_json::json!(shown),
                recorded(&folder, height, "tweaks.json")
            );

            let filters = oracle.filters(height).await.unwrap();
            for (filter, name) in [
                (&filters.new_utxos, "filter-new-utxos.json"),
                (&filters.spent, "filter-spent.json"),
            ] {
                let raw = recorded(&folder, height, name);
                assert_eq!(raw["data"], filter.to_lower_hex_string());
                assert_eq!(raw["block_hash"], filters.block_hash.to_string());
            }

            let index = oracle.spent_index(height).await.unwrap();
            assert_eq!(index.block_hash, Some(filters.block_hash));
            assert_eq!(index.items.len(), item_count);
            assert_eq!(
                spent_filter(&filters.block_hash, &index.items),
                filters.spent
            );
            let all: Vec<usize> = (0..item_count).collect();
            let found = matches(&filters.spent, &filters.block_hash, &index.items);
            assert_eq!(found, Ok(all));

            let utxos = oracle.utxos(height).await.unwrap();
            let raw = recorded(&folder, height, "utxos.json");
            assert_eq!(utxos.len(), utxo_count);
            assert_eq!(raw.as_array().unwrap().len(), utxo_count);
            for (utxo, raw) in utxos.iter().zip(raw.as_array().unwrap()) {
                assert_eq!(raw["txid"], utxo.outpoint.txid.to_string());
                assert_eq!(raw["vout"], utxo.outpoint.vout);
                assert_eq!(raw["value"], utxo.value_sat);
                assert_eq!(raw["spent"], utxo.spent);
                let script = format!("5120{}", utxo.key.to_lower_hex_string());
                assert_eq!(raw["scriptpubkey"], script);
                assert_eq!(utxo.block_hash, filters.block_hash);
            }
            let keys: Vec<[u8; 32]> = utxos.iter().map(|utxo| utxo.key).collect();
            let all: Vec<usize> = (0..utxo_count).collect();
            let found = matches(&filters.new_utxos, &filters.block_hash, &keys);
            assert_eq!(found, Ok(all));
            // One transaction for each tweak with cut-through.
            let txids: HashSet<_> = utxos.iter().map(|utxo| utxo.outpoint.txid).collect();
            assert_eq!(txids.len(), tweak_count);

            // This server knows nothing of the native route.
            assert_eq!(oracle.spend_details(height).await, Ok(None));
        }
        assert!(oracle.filters(1).await.is_err());
        assert_eq!(oracle.block_hash(1).await, Ok(None));
    }
}
