//! `spindex run --mempool` as a process, with a real node: what waits is heard of over HTTP, and over restarts.

use bitcoin::Transaction;
use reqwest::{Client, Response, header};
use serde_json::{Value, json};
use spindex::chain::made::simulated::builder::InputKind;

use super::scene::{FEE_SAT, PATIENCE, Scene, spend};
use super::support::spindex::{Spindex, command};

/// A server, once its index is at a height.
fn serve(home: &std::path::Path, scene: &Scene, height: u32, flags: &[&str]) -> (Spindex, String) {
    let mut args = vec![
        "run".to_owned(),
        "--network=regtest".to_owned(),
        "--first-height=0".to_owned(),
        "--poll-ms=20".to_owned(),
        "--http-bind=127.0.0.1:0".to_owned(),
        format!("--node-url={}", scene.node.url()),
        format!("--rpc-cookie={}", scene.node.cookie_path().display()),
    ];
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut server = Spindex::start(command(home, &args));
    let url = server.url();
    if height > 0 {
        server.wait_for_height(height);
    }
    (server, format!("{url}/spindex/v1"))
}

/// The log from a cursor on, as it goes on.
struct Log {
    response: Response,
    text: String,
}

impl Log {
    async fn read(client: &Client, url: &str, after: u64) -> Self {
        let asked = client.get(format!("{url}/events?after={after}"));
        let asked = asked.header(header::ACCEPT, "text/event-stream");
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let text = String::new();
        Self { response, text }
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let found = line.strip_prefix("data:").map(str::to_owned);
                self.text = rest.to_owned();
                match found {
                    Some(data) => return serde_json::from_str(&data).unwrap(),
                    None => continue,
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.unwrap().unwrap().expect("the log goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn says(&mut self, event: &str, cursor: u64, tx: &Transaction) {
        let said = self.next().await;
        let found = (&said["event"], &said["cursor"], &said["txid"]);
        let txid = json!(tx.compute_txid());
        assert_eq!(found, (&json!(event), &json!(cursor), &txid), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_heard_of_over_http() {
    let mut scene = Scene::new(&[]);
    let home = tempfile::tempdir().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().build().unwrap();
    let (server, url) = serve(home.path(), &scene, 170, &["--mempool"]);
    let coin = scene.coin();
    let body = json!({"watches": [{"outpoint": coin.outpoint.to_string(), "kind": "outpoint"}]});
    let registered = client
        .post(format!("{url}/watches"))
        .json(&body)
        .send()
        .await;
    let registered = registered.unwrap();
    assert_eq!(registered.status(), 200, "{:?}", registered.text().await);
    let mut log = Log::read(&client, &url, 0).await;
    let kinds = &[InputKind::P2tr];
    let (first, _) = spend(std::slice::from_ref(&coin), kinds, FEE_SAT);
    scene.send(&first);
    log.says("seen", 1, &first).await;
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");

    // Replaced meanwhile; and what is kept of the log is what is still to be told the end of.
    let (second, _) = spend(&[coin], kinds, 9 * FEE_SAT);
    scene.send(&second);
    let flags = ["--mempool=true", "--keep-events=0"];
    let (server, url) = serve(home.path(), &scene, 0, &flags);
    let mut log = Log::read(&client, &url, 1).await;
    let replaced = log.next().await;
    let by = json!(second.compute_txid());
    assert_eq!(
        (&replaced["event"], &replaced["of"], &replaced["by"]),
        (&json!("replaced"), &json!(1), &by),
        "{replaced}"
    );
    log.says("seen", 3, &second).await;
    scene.mine();
    log.says("confirmed", 4, &second).await;
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
}
