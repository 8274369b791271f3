//! What stands around the answers: content type, compression, CORS, redirects, methods.

use bitcoin::Network;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::{Server, TestChain, TestStore, pays, sample_chain};

async fn start() -> (TestStore, Server) {
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&sample_chain().records());
    let server = Server::start(&store, None).await;
    (store, server)
}

async fn request(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> (u16, HeaderMap, Vec<u8>) {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a header value");
            (HeaderName::from_static(name), value)
        })
        .collect();
    let request = server.client.request(method, server.url(path));
    let response = request.headers(headers).send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("a whole body").to_vec();
    (status, headers, body)
}

/// The whole answer to raw bytes; the server must close the connection.
async fn raw(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    let written = stream.write_all(request.as_bytes()).await;
    written.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    String::from_utf8(answer).expect("text")
}

/// The body as a client gets it that asks for gzip and decodes it.
async fn decoded(server: &Server, path: &str) -> Vec<u8> {
    let client = reqwest::Client::builder().no_proxy().build();
    let request = client.expect("a client").get(server.url(path));
    let response = request.send().await.expect("an answer");
    response.bytes().await.expect("decodes").to_vec()
}

#[tokio::test]
async fn gzip_is_used_when_asked_for_small_bodies_and_errors_too() {
    let (_store, server) = start().await;
    for path in [
        "tweaks/1",
        "block-height",
        "tweaks/2",
        "utxos/2",
        "filter/new-utxos/2",
        "spent-index/x",
        "tweaks/4000000000",
    ] {
        let (status, plain_headers, plain) = request(&server, Method::GET, path, &[]).await;
        assert!(!plain_headers.contains_key("content-encoding"), "{path}");
        assert_eq!(plain_headers["vary"], "Accept-Encoding, Origin", "{path}");
        for accept in ["gzip", "deflate, gzip;q=0.5, br"] {
            let headers = [("accept-encoding", accept)];
            let (zipped_status, headers, zipped) =
                request(&server, Method::GET, path, &headers).await;
            assert_eq!(zipped_status, status, "{path}");
            assert_eq!(headers["content-encoding"], "gzip", "{path}");
            assert_eq!(headers["vary"], "Accept-Encoding, Origin", "{path}");
            assert_eq!(headers["content-type"], "application/json; charset=utf-8");
            assert_eq!(headers.get_all("vary").iter().count(), 1);
            assert_eq!(zipped[..2], [0x1f, 0x8b], "{path}");
        }
        assert_eq!(decoded(&server, path).await, plain, "{path}");
        for accept in ["identity", "br", "gzip;q=0"] {
            let headers = [("accept-encoding", accept)];
            let (_, headers, body) = request(&server, Method::GET, path, &headers).await;
            assert!(!headers.contains_key("content-encoding"), "{path} {accept}");
            assert_eq!(body, plain);
        }
    }
}

#[tokio::test]
async fn a_large_body_survives_compression() {
    let mut chain = TestChain::new(1);
    chain.mine(&vec![pays(&[1000]); 3000]);
    let store = TestStore::new(Network::Regtest, 1);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let headers = [("accept-encoding", "gzip")];
    let (_, headers, zipped) = request(&server, Method::GET, "utxos/1", &headers).await;
    assert_eq!(headers["content-encoding"], "gzip");
    let plain = decoded(&server, "utxos/1").await;
    assert!(zipped.len() < plain.len());
    let plain: serde_json::Value = serde_json::from_slice(&plain).expect("JSON");
    assert_eq!(plain, chain.utxos(1));
}

#[tokio::test]
async fn cors_is_for_foreign_origins_only() {
    let (_store, server) = start().await;
    let own_http = format!("http://{}", server.address);
    let own_https = format!("https://{}", server.address);
    for path in ["tweaks/2", "tweaks/x", "nowhere"] {
        for origin in [None, Some(own_http.as_str()), Some(own_https.as_str())] {
            let headers: Vec<_> = origin.iter().map(|origin| ("origin", *origin)).collect();
            let (_, headers, _) = request(&server, Method::GET, path, &headers).await;
            assert!(!headers.contains_key("access-control-allow-origin"));
            assert!(!headers.contains_key("access-control-allow-credentials"));
            // A cache must not give it to a page of another origin.
            assert_eq!(headers["vary"], "Accept-Encoding, Origin", "{path}");
        }
        for origin in ["https://wallet.example", "null", "http://127.0.0.1"] {
            let headers = [("origin", origin)];
            let (_, headers, _) = request(&server, Method::GET, path, &headers).await;
            assert_eq!(headers["access-control-allow-origin"], "*", "{path}");
            assert_eq!(headers["access-control-allow-credentials"], "true");
        }
    }
}

#[tokio::test]
async fn a_preflight_is_answered_on_any_path() {
    let (_store, server) = start().await;
    for path in [
        "forward-tx",
        "tweaks/2",
        "v1/info",
        "nowhere/at/all",
        "info/",
    ] {
        let headers = [
            ("origin", "https://wallet.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ];
        let (status, headers, body) = request(&server, Method::OPTIONS, path, &headers).await;
        assert_eq!((status, body.len()), (204, 0), "{path}");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["access-control-allow-methods"], "GET,POST,PUT");
        assert_eq!(
            headers["access-control-allow-headers"],
            "Content-Type,Authorization"
        );
        assert_eq!(headers["access-control-allow-credentials"], "true");
        // Without an origin it is a method like any other that is not served.
        let (status, _, _) = request(&server, Method::OPTIONS, path, &[]).await;
        assert_eq!(status, 404, "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_404_in_plain_text() {
    let (_store, server) = start().await;
    let cases = [
        (Method::GET, ""),
        (Method::GET, "nowhere"),
        (Method::GET, "tweaks"),
        (Method::GET, "tweaks/"),
        (Method::GET, "tweaks/2/3"),
        (Method::GET, "/tweaks/2"),
        (Method::GET, "nowhere/"),
        (Method::GET, "filter/spent"),
        (Method::GET, "forward-tx"),
        (Method::GET, "v1"),
        (Method::GET, "v1/v1/info"),
        (Method::POST, "info"),
        (Method::PUT, "tweaks/2"),
        (Method::DELETE, "utxos/2"),
        (Method::PATCH, "block-height"),
        (Method::OPTIONS, "info"),
        (Method::PUT, "info/"),
    ];
    for (method, path) in cases {
        let (status, headers, body) = request(&server, method.clone(), path, &[]).await;
        assert_eq!(status, 404, "{method} /{path}");
        assert_eq!(body, b"404 page not found", "{method} /{path}");
        let content_type = headers["content-type"].to_str().expect("text");
        assert!(content_type.starts_with("text/plain"), "{method} /{path}");
        assert!(!headers.contains_key("allow"), "{method} /{path}");
    }
}

#[tokio::test]
async fn head_is_not_served() {
    let (_store, server) = start().await;
    for path in ["info", "tweaks/2", "nowhere", "info/"] {
        let answer = raw(
            &server,
            &format!("HEAD /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
        assert!(!answer.to_lowercase().contains("\r\nallow:"), "{answer}");
    }
}

#[tokio::test]
async fn a_slash_at_the_end_is_redirected_away() {
    let (_store, server) = start().await;
    for (method, path, status, target) in [
        (Method::GET, "info/", 301, "/info"),
        (Method::GET, "v1/info/", 301, "/v1/info"),
        (
            Method::GET,
            "tweaks/2/?dustLimit=600&x=%20",
            301,
            "/tweaks/2?dustLimit=600&x=%20",
        ),
        (Method::GET, "filter/spent/2/", 301, "/filter/spent/2"),
        (Method::GET, "tweaks/x/", 301, "/tweaks/x"),
        (Method::POST, "forward-tx/", 307, "/forward-tx"),
    ] {
        let (answer, headers, _) = request(&server, method, path, &[]).await;
        assert_eq!(
            (answer, &headers["location"]),
            (status, &target.parse().expect("a value"))
        );
    }
    let following = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let response = following.get(server.url("block-height/")).send().await;
    let body = response.expect("an answer").text().await.expect("a body");
    assert!(body.contains("\"block_height\":6"), "{body}");
}

#[tokio::test]
async fn a_request_of_the_old_protocol_is_answered() {
    let (_store, server) = start().await;
    let answer = raw(&server, "GET /block-height HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    assert!(answer.contains("\"block_height\":6"), "{answer}");
}
