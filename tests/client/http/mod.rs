//! How the HTTP client speaks and what it makes of all sorts of answers, on a real socket.

mod passing;
mod redirects;
mod server;

use std::time::Duration;

use bitcoin::{Transaction, absolute, consensus, transaction};
use server::{Server, oracle, response, settings};
use spindex::client::{HttpOracle, HttpSettings, Oracle, OracleError, TweakQuery};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const HASH: &str = "0000007d60f5ffc47975418ac8331c0ea52cf551730ef7ead7ff9082a536f13c";

const FULL: TweakQuery = TweakQuery {
    dust_limit_sat: 0,
    cut_through: false,
};

#[tokio::test]
async fn requests_are_those_of_version_1() {
    let server = Server::start(|_| response(200, "[]")).await;
    for base in ["", "/", "/a/b", "/a/b/"] {
        let oracle = oracle(&format!("http://{}{base}", server.address));
        for (limit, cut_through) in [(0, false), (546, true)] {
            let query = TweakQuery {
                dust_limit_sat: limit,
                cut_through,
            };
            assert_eq!(oracle.tweaks(7, query).await, Ok(vec![]));
        }
    }
    let asked: Vec<String> = server
        .asked()
        .iter()
        .map(|line| line.split(' ').nth(1).unwrap().to_owned())
        .collect();
    let expected = [
        "/tweak-index/7",
        "/tweaks/7?dustLimit=546",
        "/tweak-index/7",
        "/tweaks/7?dustLimit=546",
        "/a/b/tweak-index/7",
        "/a/b/tweaks/7?dustLimit=546",
        "/a/b/tweak-index/7",
        "/a/b/tweaks/7?dustLimit=546",
    ];
    assert_eq!(asked, expected);
    assert!(server.asked()[0].starts_with("GET "));
    assert!(server.asked()[0].contains("agent=spindex/"));
    assert!(server.asked()[0].contains("accept=gzip"));
}

#[tokio::test]
async fn compressed_answers_are_read_and_bounded() {
    // {"block_height":7} and 20,000 spaces, as gzip makes them.
    let gzip = |body: &str| {
        let mut compressed = Vec::new();
        // Stored blocks: a gzip member without compression needs no library.
        compressed.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        let length = u16::try_from(body.len()).unwrap();
        compressed.push(1);
        compressed.extend_from_slice(&length.to_le_bytes());
        compressed.extend_from_slice(&(!length).to_le_bytes());
        compressed.extend_from_slice(body.as_bytes());
        let crc = body.bytes().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        });
        compressed.extend_from_slice(&(!crc).to_le_bytes());
        compressed.extend_from_slice(&u32::from(length).to_le_bytes());
        compressed
    };
    let bodies = [
        gzip(r#"{"block_height":7}"#),
        gzip(&format!(r#"{{"block_height":7}}{}"#, " ".repeat(20_000))),
    ];
    let server = Server::start(move |number| {
        let mut response = response(200, bodies[number].clone());
        let gzip = axum::http::HeaderValue::from_static("gzip");
        response.headers_mut().insert("content-encoding", gzip);
        response
    })
    .await;
    let oracle = server.oracle();
    assert_eq!(oracle.tip().await, Ok(7));
    let error = oracle.tip().await.unwrap_err();
    assert!(
        matches!(&error, OracleError::Malformed { what, .. } if what.contains("10000 bytes")),
        "{error}"
    );
}

#[tokio::test]
async fn refusals_are_not_tried_again() {
    for (status, body) in [
        (200, r#"{"error":"no"}"#),
        (500, r#"{"error":"could not fetch header inv"}"#),
        (501, r#"{"error":"this server keeps tweaks only"}"#),
        (400, r#"{"error":"Invalid dustLimit parameter"}"#),
        (403, "go away\n"),
    ] {
        let server = Server::start(move |_| response(status, body)).await;
        let error = server.oracle().tweaks(3, FULL).await.unwrap_err();
        let OracleError::Refused {
            url,
            status: told,
            message,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (url, *told),
            (&format!("http://{}/tweak-index/3", server.address), status)
        );
        assert!(body.contains(message.trim()), "{message}");
        assert_eq!(server.asked().len(), 1);
    }
    let server = Server::start(|_| response(404, "404 page not found")).await;
    let oracle = server.oracle();
    let error = oracle.info().await.unwrap_err();
    assert!(matches!(error, OracleError::NotFound { .. }), "{error}");
    assert_eq!(oracle.spend_details(3).await, Ok(None));
}

#[tokio::test]
async fn an_unknown_height_has_no_hash_and_other_faults_are_errors() {
    let server = Server::start(|number| match number {
        0 => response(200, format!(r#"{{"block_hash":"{HASH}"}}"#)),
        1 => response(500, r#"{"error":"could not fetch header inv"}"#),
        2 => response(
            500,
            r#"{"error":"could could not retrieve data from database"}"#,
        ),
        _ => response(200, "[]"),
    })
    .await;
    let oracle = server.oracle();
    assert_eq!(oracle.block_hash(1).await, Ok(Some(HASH.parse().unwrap())));
    assert_eq!(oracle.block_hash(1).await, Ok(None));
    assert!(oracle.block_hash(1).await.is_err());
    assert!(oracle.block_hash(1).await.is_err());
}

#[tokio::test]
async fn filters_of_two_blocks_are_asked_for_again() {
    let other = HASH.replace("00000", "11111");
    // The second pair fits.
    let server = Server::start(move |number| {
        let hash = if number == 0 { &other } else { HASH };
        let body =
            format!(r#"{{"filter_type":4,"block_height":3,"block_hash":"{hash}","data":"00"}}"#);
        response(200, body)
    })
    .await;
    let filters = server.oracle().filters(3).await.unwrap();
    assert_eq!(filters.block_hash.to_string(), HASH);
    assert_eq!(server.asked().len(), 4);

    let server = Server::start(|number| {
        let hash = format!("{number:064x}");
        response(
            200,
            format!(r#"{{"filter_type":4,"block_height":3,"block_hash":"{hash}","data":"00"}}"#),
        )
    })
    .await;
    let error = server.oracle().filters(3).await.unwrap_err();
    assert!(matches!(error, OracleError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn transactions_are_forwarded_as_json() {
    let tx = Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![bitcoin::TxIn::default()],
        output: vec![],
    };
    let txid = tx.compute_txid();
    let server = Server::start(move |number| match number {
        0 => response(200, format!("\"{txid}\"")),
        1 => response(200, ""),
        _ => response(400, r#"{"error":"bad-txns-vout-empty"}"#),
    })
    .await;
    let oracle = server.oracle();
    assert_eq!(oracle.forward_tx(&tx).await, Ok(Some(txid)));
    assert_eq!(oracle.forward_tx(&tx).await, Ok(None));
    let error = oracle.forward_tx(&tx).await.unwrap_err();
    assert!(error.to_string().contains("bad-txns-vout-empty"), "{error}");
    let hex = consensus::encode::serialize_hex(&tx);
    let asked = &server.asked()[0];
    assert!(asked.starts_with("POST /forward-tx "), "{asked}");
    assert!(asked.contains("type=application/json"), "{asked}");
    assert!(
        asked.ends_with(&format!(r#"body={{"data":"{hex}"}}"#)),
        "{asked}"
    );
}

#[tokio::test]
async fn credentials_are_used_and_never_shown() {
    let server = Server::start(|_| response(400, "no")).await;
    let oracle = oracle(&format!("http://alice:s3cret@{}/x", server.address));
    let error = oracle.tip().await.unwrap_err();
    for shown in [
        error.to_string(),
        oracle.describe(),
        format!("{oracle:?} {error:?}"),
    ] {
        assert!(shown.contains(&server.address), "{shown}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("alice"),
            "{shown}"
        );
    }
    assert!(server.asked()[0].contains("auth=Basic YWxpY2U6czNjcmV0"));

    let with_proxy = HttpSettings {
        proxy: Some("socks5://bob:hunter2@127.0.0.1:1".to_owned()),
        ..settings()
    };
    assert!(!format!("{with_proxy:?}").contains("hunter2"));
    let oracle = HttpOracle::new("http://oracle.invalid", with_proxy).unwrap();
    let error = oracle.tip().await.unwrap_err();
    assert!(
        matches!(error, OracleError::Unreachable { attempts: 3, .. }),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_socks_proxy_is_given_the_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut hello = [0; 2];
        peer.read_exact(&mut hello).await.unwrap();
        let mut methods = vec![0; usize::from(hello[1])];
        peer.read_exact(&mut methods).await.unwrap();
        peer.write_all(&[5, 0]).await.unwrap();
        // Connect to a name, not to an address: nothing has been looked up outside of the proxy.
        let mut request = [0; 5];
        peer.read_exact(&mut request).await.unwrap();
        assert_eq!(request[..4], [5, 1, 0, 3]);
        let mut name = vec![0; usize::from(request[4]) + 2];
        peer.read_exact(&mut name).await.unwrap();
        assert_eq!(name, [&b"oracle.invalid"[..], &[0, 80]].concat());
        peer.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(peer.read_u8().await.unwrap());
        }
        let body = r#"{"height":9}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        peer.write_all(answer.as_bytes()).await.unwrap();
    });
    let settings = HttpSettings {
        proxy: Some(format!("socks5://{address}")),
        ..settings()
    };
    let oracle = HttpOracle::new("http://oracle.invalid", settings).unwrap();
    assert_eq!(oracle.tip().await, Ok(9));
    proxy.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let settings = HttpSettings {
        timeout: Duration::from_millis(20),
        attempts: 2,
        ..settings()
    };
    let oracle = HttpOracle::new(&url, settings).unwrap();
    let error = oracle.tip().await.unwrap_err();
    assert!(
        matches!(&error, OracleError::Unreachable { attempts: 2, reason, .. } if reason.contains("timed out")),
        "{error}"
    );
}

#[test]
fn unusable_addresses_are_refused() {
    for url in [
        "",
        "oracle.invalid:8000",
        "ftp://oracle.invalid",
        "http://",
        "http://oracle.invalid/?x=1",
        "http://oracle.invalid/#x",
    ] {
        let error = HttpOracle::new(url, settings()).unwrap_err();
        assert!(matches!(error, OracleError::Setup(_)), "{url}: {error}");
    }
    let settings = HttpSettings {
        proxy: Some("not a proxy".to_owned()),
        ..settings()
    };
    let error = HttpOracle::new("http://oracle.invalid", settings).unwrap_err();
    assert!(error.to_string().contains("proxy"), "{error}");
    assert!(HttpOracle::new(" https://oracle.invalid/x ", self::settings()).is_ok());
}
