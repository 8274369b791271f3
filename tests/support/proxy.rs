//! A reverse proxy that serves an index under a path, as public servers are deployed.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

const PREFIX: &str = "/blindbit/signet";

#[derive(Clone)]
struct Upstream {
    client: reqwest::Client,
    address: SocketAddr,
}

/// Strips the prefix and passes everything else on as it is.
async fn pass_on(State(upstream): State<Upstream>, request: Request) -> Response {
    let target = request.uri().to_string();
    let Some(path) = target.strip_prefix(PREFIX) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let url = format!("http://{}{path}", upstream.address);
    let request = upstream
        .client
        .request(request.method().clone(), url)
        .headers(request.headers().clone());
    let Ok(response) = request.send().await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let mut answer = Response::new(Body::from_stream(response.bytes_stream()));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// Serves what `upstream` serves, under a path; the base address with that path.
pub(crate) async fn start_proxy(upstream: SocketAddr) -> String {
    // A second installation is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let upstream = Upstream {
        client: reqwest::Client::builder()
            .no_proxy()
            .no_gzip()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client"),
        address: upstream,
    };
    let router = Router::new().fallback(pass_on).with_state(upstream);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}{PREFIX}")
}
