//! What stands between a client and a server: it writes down what is asked, and may change one answer.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use futures::StreamExt;

/// What becomes of an answer: its bytes, by its number and what was asked.
type Change = Box<dyn FnMut(usize, &str, Vec<u8>) -> Vec<u8> + Send>;

/// What is asked, and what is changed.
#[derive(Clone, Default)]
pub(crate) struct Between(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    log: Vec<String>,
    change: Option<Change>,
}

impl Between {
    /// Puts it around the routes of a server.
    pub(crate) fn around(&self, router: Router) -> Router {
        let between = self.clone();
        router.layer(from_fn(move |request, next| {
            let between = between.clone();
            async move { between.pass(request, next).await }
        }))
    }

    /// What was asked since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }

    /// Has answers changed from now on, counted from 0.
    pub(crate) fn change(
        &self,
        change: impl FnMut(usize, &str, Vec<u8>) -> Vec<u8> + Send + 'static,
    ) {
        let mut inner = self.0.lock().unwrap();
        inner.log.clear();
        inner.change = Some(Box::new(change));
    }

    async fn pass(&self, mut request: Request, next: Next) -> Response {
        let asked = request.uri().path_and_query().unwrap().to_string();
        // What comes is changed as it is.
        request.headers_mut().remove(ACCEPT_ENCODING);
        let (mut parts, answer) = next.run(request).await.into_parts();
        // Each piece is let go of when it has come, as a connection does: a server sends no more while too many are held.
        let mut pieces = answer.into_data_stream();
        let mut body = Vec::new();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece.unwrap());
        }
        let mut inner = self.0.lock().unwrap();
        let number = inner.log.len();
        inner.log.push(asked.clone());
        let body = match &mut inner.change {
            Some(change) => change(number, &asked, body),
            None => body,
        };
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(ETAG);
        Response::from_parts(parts, Body::from(body))
    }
}
