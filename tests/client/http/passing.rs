//! What passes is tried again, whatever text comes with it, and at the pace the server asks for.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::Response;
use spindex::client::{HttpOracle, HttpSettings, Oracle, OracleError};

use super::FULL;
use super::server::{Server, response, settings};

const COMPACTING: &str = r#"{"error":"the index is being compacted, try again in a few minutes"}"#;

fn later(status: u16, body: &'static str, retry_after: &'static str) -> Response {
    let mut response = response(status, body);
    let headers = response.headers_mut();
    headers.insert("retry-after", HeaderValue::from_static(retry_after));
    response
}

#[tokio::test]
async fn passing_faults_are_tried_again_and_lasting_ones_named() {
    let server = Server::start(|number| match number {
        0 => response(500, ""),
        1 => response(503, "busy"),
        _ => response(200, r#"{"block_height":7}"#),
    })
    .await;
    assert_eq!(server.oracle().tip().await, Ok(7));
    assert_eq!(server.asked().len(), 3);

    let server = Server::start(|_| response(500, "")).await;
    let error = server.oracle().tip().await.unwrap_err();
    assert_eq!(
        error,
        OracleError::Busy {
            url: format!("http://{}/block-height", server.address),
            attempts: 3,
            status: 500,
            reason: "status 500 Internal Server Error".to_owned(),
        }
    );
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_passing_status_counts_before_the_text_under_it() {
    for status in [408, 425, 429, 500, 502, 503, 504, 520] {
        for body in [COMPACTING, r#"{"error":"no"}"#, "<html>", "", r#"["00"]"#] {
            let server = Server::start(move |number| match number {
                0 | 1 => response(status, body),
                _ => response(200, "[]"),
            })
            .await;
            let tweaks = server.oracle().tweaks(3, FULL).await;
            assert_eq!(tweaks, Ok(vec![]), "{status} {body}");
            assert_eq!(server.asked().len(), 3);
        }
        // The server's words are told once the attempts are used up.
        let server = Server::start(move |_| response(status, COMPACTING)).await;
        let error = server.oracle().tweaks(3, FULL).await.unwrap_err();
        assert!(
            matches!(error, OracleError::Busy { attempts: 3, status: told, .. } if told == status),
            "{error}"
        );
        for part in [&server.address, "tweak-index/3", "is being compacted"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[tokio::test]
async fn a_long_page_under_a_passing_status_is_no_answer_either() {
    let server = Server::start(|number| match number {
        0 => response(502, "x".repeat(1 << 20)),
        _ => response(200, r#"{"block_height":7}"#),
    })
    .await;
    assert_eq!(server.oracle().tip().await, Ok(7));
}

#[tokio::test]
async fn an_empty_answer_is_asked_for_again() {
    let server = Server::start(|number| match number {
        0 => response(200, ""),
        _ => response(200, "[]"),
    })
    .await;
    assert_eq!(server.oracle().utxos(3).await, Ok(vec![]));
    let server = Server::start(|_| response(200, "")).await;
    let error = server.oracle().utxos(3).await.unwrap_err();
    assert!(
        matches!(&error, OracleError::Unreachable { attempts: 3, reason, .. } if reason.contains("no body")),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_is_left_alone_for_as_long_as_it_asks() {
    // More refusals than there are attempts: waiting as asked uses up none.
    let server = Server::start(|number| match number {
        0..5 => later(429, r#"{"error":"slow down"}"#, "0"),
        5 => later(503, COMPACTING, "1"),
        _ => response(200, r#"{"block_height":7}"#),
    })
    .await;
    let start = std::time::Instant::now();
    assert_eq!(server.oracle().tip().await, Ok(7));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.asked().len(), 7);
}

#[tokio::test]
async fn a_longer_wait_than_patience_allows_is_an_error_that_says_so() {
    let server = Server::start(|_| later(503, COMPACTING, "86400")).await;
    let error = server.oracle().tip().await.unwrap_err();
    assert!(
        matches!(error, OracleError::Busy { attempts: 1, .. }),
        "{error}"
    );
    for part in ["is being compacted", "86400 s", "later"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // And so are short ones that add up.
    let server = Server::start(|_| later(503, COMPACTING, "0")).await;
    let settings = HttpSettings {
        patience: Duration::from_millis(5),
        ..settings()
    };
    let oracle = HttpOracle::new(&format!("http://{}", server.address), settings).unwrap();
    let error = oracle.tip().await.unwrap_err();
    assert!(matches!(error, OracleError::Busy { .. }), "{error}");
    assert!(server.asked().len() > 1);
}

#[tokio::test]
async fn a_node_that_cannot_tell_who_spent_is_not_asked_again_and_again() {
    for (status, words) in [
        (503, "this server has no node to ask"),
        (502, "the node could not give the block, try again later"),
        (502, "the node's block does not fit the index"),
    ] {
        let body: String = format!(r#"{{"error":"{words}"}}"#);
        let server = Server::start(move |_| response(status, body.clone())).await;
        assert_eq!(server.oracle().spend_details(3).await, Ok(None));
        assert_eq!(server.asked().len(), 1);
    }
    // Any other trouble is no reason to do without.
    let server = Server::start(|_| response(503, r#"{"error":"busy"}"#)).await;
    let error = server.oracle().spend_details(3).await.unwrap_err();
    assert!(matches!(error, OracleError::Busy { .. }), "{error}");
}
