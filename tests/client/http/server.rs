//! A server that answers as it is told and writes down what it was asked, and clients of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use spindex::client::{HttpOracle, HttpSettings};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

type Asked = Arc<Mutex<Vec<String>>>;

/// A server whose n-th answer is `answers(n)`, counted from 0; what it was asked is written down.
pub(crate) struct Server {
    pub(crate) address: String,
    asked: Asked,
    _task: JoinSet<()>,
}

type Answers = Arc<dyn Fn(usize) -> Response + Send + Sync>;

impl Server {
    pub(crate) async fn start(answers: impl Fn(usize) -> Response + Send + Sync + 'static) -> Self {
        async fn answer(
            State((asked, answers)): State<(Asked, Answers)>,
            request: Request,
        ) -> Response {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let number = {
                let mut asked = asked.lock().unwrap();
                let header = |name| head.headers.get(name).map_or("", |v| v.to_str().unwrap());
                asked.push(format!(
                    "{} {} agent={} accept={} type={} auth={} body={}",
                    head.method,
                    head.uri,
                    header("user-agent"),
                    header("accept-encoding"),
                    header("content-type"),
                    header("authorization"),
                    String::from_utf8_lossy(&body),
                ));
                asked.len() - 1
            };
            answers(number)
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Asked::default();
        let state = (asked.clone(), Arc::new(answers) as Answers);
        let router = Router::new().fallback(answer).with_state(state);
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            asked,
            _task: task,
        }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn oracle(&self) -> HttpOracle {
        oracle(&format!("http://{}", self.address))
    }
}

pub(crate) fn settings() -> HttpSettings {
    HttpSettings {
        timeout: Duration::from_secs(20),
        attempts: 3,
        first_delay: Duration::from_micros(100),
        max_body_bytes: 10_000,
        ..HttpSettings::default()
    }
}

pub(crate) fn oracle(url: &str) -> HttpOracle {
    HttpOracle::new(url, settings()).unwrap()
}

pub(crate) fn response(status: u16, body: impl Into<Body>) -> Response {
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}
