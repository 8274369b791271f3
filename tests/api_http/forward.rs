//! `POST /forward-tx` in every form a body can have.

use std::sync::Arc;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Network, Transaction};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::{RecordingNode, Server, TestStore, Verdict, json_of, sample_chain};

struct Setup {
    store: TestStore,
    server: Server,
    node: Arc<RecordingNode>,
    transaction: Transaction,
}

async fn start() -> Setup {
    let chain = sample_chain();
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let node = RecordingNode::new(&chain);
    let server = Server::start(&store, Some(node.clone())).await;
    let transaction = chain.at(2).block.txdata[1].clone();
    Setup {
        store,
        server,
        node,
        transaction,
    }
}

async fn post(
    server: &Server,
    content_type: Option<&str>,
    body: impl Into<String>,
) -> (u16, Value) {
    let mut request = server
        .client
        .post(server.url("forward-tx"))
        .body(body.into());
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    json_of(request.send().await.expect("an answer")).await
}

fn multipart(name: &str, value: &str) -> String {
    format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--xyz\r\n\
         Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--xyz--\r\n"
    )
}

#[tokio::test]
async fn a_transaction_is_broadcast_from_every_kind_of_body() {
    let setup = start().await;
    let hex = serialize_hex(&setup.transaction);
    let txid = Value::from(setup.transaction.compute_txid().to_string());
    let json_body = json!({"data": hex, "extra": 1}).to_string();
    let form = format!("other=1&data={hex}&data=second");
    let bodies = [
        (Some("application/json"), json_body.clone()),
        (Some("Application/JSON; charset=utf-8"), json_body),
        (Some("application/x-www-form-urlencoded"), form.clone()),
        (Some("text/plain"), form.clone()),
        (Some("nonsense"), form.clone()),
        (None, form),
        (
            Some("application/json"),
            json!({"data": format!(" {hex}\n")}).to_string(),
        ),
        (
            Some("application/json"),
            json!({"data": hex.to_uppercase()}).to_string(),
        ),
        (
            Some("multipart/form-data; boundary=xyz"),
            multipart("data", &hex),
        ),
    ];
    let count = bodies.len();
    for (content_type, body) in bodies {
        let answer = post(&setup.server, content_type, body).await;
        assert_eq!(answer, (200, txid.clone()), "{content_type:?}");
    }
    let sent = setup.node.sent.lock().expect("not poisoned").clone();
    assert_eq!(sent, vec![setup.transaction; count]);
}

#[tokio::test]
async fn bodies_without_a_transaction_are_refused_and_nothing_is_sent() {
    let setup = start().await;
    let hex = serialize_hex(&setup.transaction);
    let json = Some("application/json");
    let form = Some("application/x-www-form-urlencoded");
    let multi = Some("multipart/form-data; boundary=xyz");
    for (content_type, body) in [
        (json, String::new()),
        (json, "{}".into()),
        (json, "null".into()),
        (json, format!("\"{hex}\"")),
        (json, json!({"data": ""}).to_string()),
        (json, json!({"data": 5}).to_string()),
        (json, json!({"data": [hex]}).to_string()),
        (json, json!({"data": "zz"}).to_string()),
        (json, json!({"data": &hex[..hex.len() - 2]}).to_string()),
        (json, json!({"data": &hex[1..]}).to_string()),
        (json, json!({"data": format!("{hex}00")}).to_string()),
        (json, format!("{{\"data\":\"{hex}\"")),
        (json, format!("{}1", "[".repeat(100_000))),
        // A count of inputs that would not fit in memory.
        (json, json!({"data": "02000000feffffffff"}).to_string()),
        (
            json,
            json!({"data": "02000000ffffffffffffffffff"}).to_string(),
        ),
        (form, String::new()),
        (form, "data=".into()),
        (form, format!("Data={hex}")),
        (form, "data=%".into()),
        (None, json!({"data": hex}).to_string()),
        (multi, String::new()),
        (multi, multipart("other", &hex)),
        (
            multi,
            "--xyz\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n00".into(),
        ),
        (Some("multipart/form-data"), multipart("data", &hex)),
    ] {
        let (status, body_of_answer) = post(&setup.server, content_type, body.clone()).await;
        assert_eq!(status, 400, "{content_type:?} {body:.100}");
        assert_only_an_error(&body_of_answer);
    }
    assert!(setup.node.sent.lock().expect("not poisoned").is_empty());
}

fn assert_only_an_error(body: &Value) -> String {
    let fields = body.as_object().expect("an object");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["error"]);
    let text = body["error"].as_str().expect("a text");
    assert!(!text.is_empty());
    text.to_owned()
}

#[tokio::test]
async fn what_the_node_says_is_passed_on_but_not_where_it_is() {
    let setup = start().await;
    let body = json!({"data": serialize_hex(&setup.transaction)}).to_string();
    let verdicts = [
        (
            Verdict::Reject("bad-txns-inputs-missingorspent".into()),
            400,
            Some("bad-txns-inputs-missingorspent"),
        ),
        (Verdict::Unreachable, 500, None),
    ];
    for (verdict, status, text) in verdicts {
        *setup.node.verdict.lock().expect("not poisoned") = verdict;
        let (answer, error) = post(&setup.server, Some("application/json"), body.clone()).await;
        assert_eq!(answer, status);
        let error = assert_only_an_error(&error);
        assert!(!error.contains("10.1.2.3"), "{error}");
        if let Some(text) = text {
            assert_eq!(error, text);
        }
    }
}

#[tokio::test]
async fn without_a_node_nothing_is_forwarded() {
    let setup = start().await;
    let server = Server::start(&setup.store, None).await;
    let body = json!({"data": serialize_hex(&setup.transaction)}).to_string();
    let (status, error) = post(&server, Some("application/json"), body).await;
    assert_eq!(status, 503);
    assert_only_an_error(&error);
}

#[tokio::test]
async fn a_body_larger_than_any_relayed_transaction_is_refused_unread() {
    let setup = start().await;
    for content_type in [
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
    ] {
        let mut stream = TcpStream::connect(setup.server.address)
            .await
            .expect("connects");
        let head = format!(
            "POST /forward-tx HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n\
             Content-Length: 99999999\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("writes");
        let mut status = [0; 12];
        if content_type.starts_with("multipart") {
            // Judged as it comes in.
            let _ = stream.write_all(&vec![b'-'; 2 << 20]).await;
        }
        stream.read_exact(&mut status).await.expect("reads");
        assert_eq!(&status, b"HTTP/1.1 413", "{content_type}");
    }
    // The largest that a node relays fits: 800,000 hex digits, here of something else.
    let (status, _) = post(&setup.server, None, format!("data={}", "0".repeat(800_000))).await;
    assert_eq!(status, 400);
}
