//! A redirect is followed to the same question on the same server, and nowhere else.

use axum::http::HeaderValue;
use axum::response::Response;
use spindex::client::{Oracle, OracleError};

use super::FULL;
use super::server::{Server, oracle, response};

fn redirect(status: u16, target: &str) -> Response {
    let mut response = response(status, "");
    let target = HeaderValue::from_str(target).unwrap();
    response.headers_mut().insert("location", target);
    response
}

#[tokio::test]
async fn a_server_may_tidy_up_its_own_paths() {
    for target in ["/v1/tweak-index/7", "/tweak-index/7/", "./7"] {
        let server = Server::start(move |number| match number {
            0 => redirect(301, target),
            _ => response(200, "[]"),
        })
        .await;
        assert_eq!(
            server.oracle().tweaks(7, FULL).await,
            Ok(vec![]),
            "{target}"
        );
        assert_eq!(server.asked().len(), 2);
    }
}

#[tokio::test]
async fn another_server_is_never_asked() {
    let other = Server::start(|_| response(200, "[]")).await;
    let elsewhere = format!("http://user:s3cret@{}/tweak-index/7", other.address);
    for status in [301, 302, 303, 307, 308] {
        let target = elsewhere.clone();
        let server = Server::start(move |_| redirect(status, &target)).await;
        let error = server.oracle().tweaks(7, FULL).await.unwrap_err();
        assert_eq!(
            error,
            OracleError::Redirected {
                url: format!("http://{}/tweak-index/7", server.address),
                target: format!("http://{}/tweak-index/7", other.address),
            }
        );
        assert_eq!(server.asked().len(), 1);
    }
    assert_eq!(other.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn another_question_is_never_answered() {
    // An empty list of another block, or of another kind, would read as "nothing to find".
    for target in [
        "/tweak-index/8",
        "/tweaks/7",
        "/",
        "/tweak-index/7?dustLimit=9",
    ] {
        let server = Server::start(move |number| match number {
            0 => redirect(302, target),
            _ => response(200, "[]"),
        })
        .await;
        let error = server.oracle().tweaks(7, FULL).await.unwrap_err();
        assert!(
            matches!(error, OracleError::Redirected { .. }),
            "{target}: {error}"
        );
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn redirects_without_end_are_an_error() {
    let server = Server::start(|_| redirect(301, "/tweak-index/7")).await;
    let oracle = oracle(&format!("http://{}", server.address));
    let error = oracle.tweaks(7, FULL).await.unwrap_err();
    assert!(matches!(error, OracleError::Redirected { .. }), "{error}");
    assert!(server.asked().len() < 6);
}
