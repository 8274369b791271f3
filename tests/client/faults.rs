//! A scan through a server that fails now and then, in every way there is: the full result or an error, never less.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};
use spindex::chain::made::simulated::SimulatedChain;
use spindex::client::{
    ClientError, Found, HttpOracle, HttpSettings, Identity, LightClient, LightSettings, ScanReport,
    State, WalletId, Watched,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;

use crate::support::random_seed;
use crate::support::served::{chain, index, keys, serve};

const BLOCKS: u32 = 150;

/// Where the server begins; the client has to find it.
const FIRST: u32 = 96;

/// One in so many requests fails.
const ONE_IN: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A status and no text, or a page.
    Status(u16),
    /// A status and an error object.
    Json(u16),
    /// A status and for how long to wait.
    Later(u16),
    /// Half an answer.
    Cut,
    /// No answer, or half of one, and no end.
    Stalled,
    /// To another server, another block, or the same with a slash at the end.
    Redirect,
    Empty,
    /// The words for a block that is not there.
    Unknown,
}

const KINDS: [Kind; 15] = [
    Kind::Status(429),
    Kind::Status(500),
    Kind::Status(502),
    Kind::Status(503),
    Kind::Json(429),
    Kind::Json(500),
    Kind::Json(502),
    Kind::Json(503),
    Kind::Later(429),
    Kind::Later(503),
    Kind::Cut,
    Kind::Stalled,
    Kind::Redirect,
    Kind::Empty,
    Kind::Unknown,
];

/// What goes wrong at present.
struct Weather {
    kinds: Vec<Kind>,
    rng: StdRng,
    /// A server that has an empty list for everything.
    trap: SocketAddr,
}

impl Weather {
    fn next(&mut self) -> Option<(Kind, u32)> {
        if self.kinds.is_empty() || self.rng.gen_range(0..ONE_IN) != 0 {
            return None;
        }
        let kind = *self.kinds.choose(&mut self.rng).unwrap();
        Some((kind, self.rng.r#gen()))
    }
}

fn answer(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn error(status: u16, text: &str) -> Response {
    answer(status, serde_json::json!({ "error": text }).to_string())
}

/// The answer with something wrong about it. `choice` picks a variant.
async fn spoil(
    kind: Kind,
    choice: u32,
    trap: SocketAddr,
    request: Request,
    next: Next,
) -> Response {
    let pick = |texts: &[&'static str]| texts[choice as usize % texts.len()];
    match kind {
        Kind::Status(status) => answer(status, pick(&["", "busy\n", "<html></html>", "[]"])),
        Kind::Json(status) => error(
            status,
            pick(&[
                "the index is being compacted, try again in a few minutes",
                "could could not retrieve data from database",
                "rate limit exceeded",
            ]),
        ),
        Kind::Later(status) => {
            let mut response = error(status, "slow down");
            let wait = HeaderValue::from_static("0");
            response.headers_mut().insert("retry-after", wait);
            response
        }
        Kind::Empty => answer(200, ""),
        Kind::Unknown => error(
            500,
            pick(&["could not fetch header inv", "could not get filter from db"]),
        ),
        Kind::Redirect => {
            let path = request.uri().path().to_owned();
            let target = match choice % 4 {
                0 => format!("http://{trap}{path}"),
                1 => format!("{path}/"),
                2 => format!("{}/{FIRST}", path.rsplit_once('/').unwrap().0),
                _ => format!("http://{trap}/"),
            };
            let mut response = answer(302, "");
            let target = HeaderValue::from_str(&target).unwrap();
            response.headers_mut().insert("location", target);
            response
        }
        Kind::Stalled if choice.is_multiple_of(2) => std::future::pending().await,
        Kind::Cut | Kind::Stalled => {
            let response = next.run(request).await;
            let (head, body) = response.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let half = body.slice(..body.len() / 2);
            let end = async move {
                match kind {
                    Kind::Cut => Err(std::io::Error::other("the connection is cut")),
                    _ => std::future::pending().await,
                }
            };
            let half = futures::stream::iter([Ok::<Bytes, std::io::Error>(half)]);
            let parts = futures::StreamExt::chain(half, futures::stream::once(end));
            Response::from_parts(head, Body::from_stream(parts))
        }
    }
}

/// What must be found, by the chain and not by any index: outputs with their heights and spenders.
type Truth = BTreeMap<OutPoint, (u64, u32, Option<(Txid, u32, BlockHash)>)>;

fn paid(chain: &SimulatedChain) -> Truth {
    let paid = chain.paid_outputs();
    let truth: Truth = paid
        .iter()
        .filter_map(|paid| {
            let height = paid.block.unwrap().height;
            let spent = paid.spent_by.map(|(txid, id)| (txid, id.height, id.hash));
            (height >= FIRST).then_some((paid.outpoint, (paid.value_sat, height, spent)))
        })
        .collect();
    assert!(truth.len() > 20, "too few payments: {}", truth.len());
    truth
}

/// Some taproot outputs that are spent in the scanned blocks, and one that nobody made.
fn watched(chain: &SimulatedChain) -> Vec<OutPoint> {
    let mut watched: Vec<OutPoint> = chain
        .active_blocks()
        .iter()
        .filter(|block| block.id.height >= FIRST)
        .flat_map(|block| {
            let inputs = block.block.txdata.iter().zip(&block.prevouts);
            inputs
                .flat_map(|(tx, prevouts)| tx.input.iter().zip(prevouts))
                .filter(|(_, prevout)| prevout.script_pubkey.is_p2tr())
                .map(|(input, _)| input.previous_output)
                .collect::<Vec<_>>()
        })
        .step_by(9)
        .take(12)
        .collect();
    assert!(watched.len() > 5, "too few taproot spends");
    watched.push(OutPoint::null());
    watched
}

/// Whether a report says what the chain says; every part that a lesser scan would lack.
#[track_caller]
fn assert_full(report: &ScanReport, chain: &SimulatedChain, truth: &Truth, watched: &[OutPoint]) {
    assert_eq!((report.from, report.scanned_to), (FIRST, Some(BLOCKS)));
    let spend = |spend: &spindex::client::Spend| {
        let txid = spend.spending_txid.expect("the server tells");
        (txid, spend.height, spend.block_hash)
    };
    let found: Truth = report
        .found
        .iter()
        .map(|found: &Found| {
            let spent = found.spent.as_ref().map(spend);
            (found.outpoint, (found.value_sat, found.height, spent))
        })
        .collect();
    assert_eq!(&found, truth);
    let followed: BTreeMap<OutPoint, _> = report
        .watched
        .iter()
        .map(|watched: &Watched| (watched.outpoint, watched.spend.as_ref().map(spend)))
        .collect();
    let expected: BTreeMap<OutPoint, _> = watched
        .iter()
        .map(|outpoint| {
            let spender = chain.spender(*outpoint);
            (
                *outpoint,
                spender.map(|(txid, id)| (txid, id.height, id.hash)),
            )
        })
        .collect();
    assert_eq!(followed, expected);
}

/// A scan's result and the state it leaves. `timeout` is that of one request.
async fn scan(
    url: &str,
    watched: &[OutPoint],
    state: State,
    timeout: Duration,
    rng: &mut StdRng,
) -> (Result<ScanReport, ClientError>, State) {
    let http = HttpSettings {
        timeout,
        attempts: 8,
        first_delay: Duration::from_micros(200),
        ..HttpSettings::default()
    };
    let settings = LightSettings {
        concurrency: rng.gen_range(1..24),
        window_blocks: rng.gen_range(3..60),
        settling: Duration::from_millis(1),
        ..LightSettings::new(Network::Regtest)
    };
    let oracle = Arc::new(HttpOracle::new(url, http).unwrap());
    let scanner = Scanner::new(Arc::new(LibSecp256k1), keys()).unwrap();
    let watched = watched.iter().copied();
    let mut client = LightClient::new(oracle, Some(scanner), watched, state, settings).unwrap();
    let report = client.run(&mut |_| ()).await;
    (report, client.into_state())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_through_a_failing_server_is_full_or_an_error() {
    // Each kind alone, and all together now and then.
    let runs = std::env::var("SPINDEX_FAULT_RUNS").map_or(20, |runs| runs.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(random_seed());
    let chain = chain(9, BLOCKS);
    let (truth, watched) = (paid(&chain), watched(&chain));

    let trapped = Arc::new(AtomicUsize::new(0));
    let counted = trapped.clone();
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trap_address = trap.local_addr().unwrap();
    let empty = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { "[]".into_response() }
    });
    tokio::spawn(async move { axum::serve(trap, empty).await });

    let weather = Arc::new(Mutex::new(Weather {
        kinds: Vec::new(),
        rng: StdRng::seed_from_u64(rng.r#gen()),
        trap: trap_address,
    }));
    let above = weather.clone();
    let address = serve(&chain, index(&chain, FIRST).await, |router| {
        router.layer(middleware::from_fn(move |request, next: Next| {
            let mut weather = above.lock().unwrap();
            let (fault, trap) = (weather.next(), weather.trap);
            drop(weather);
            async move {
                match fault {
                    Some((kind, choice)) => spoil(kind, choice, trap, request, next).await,
                    None => next.run(request).await,
                }
            }
        }))
    })
    .await;
    let url = format!("http://{address}");
    let identity = Identity {
        network: Network::Regtest,
        wallet: Some(WalletId::of(&keys())),
    };

    let mut tally: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for run in 0..runs {
        let is_passing =
            |kind: &Kind| !matches!(kind, Kind::Redirect | Kind::Unknown | Kind::Stalled);
        let (name, kinds) = match run % (KINDS.len() + 5) {
            at if at < KINDS.len() => (format!("{:?}", KINDS[at]), vec![KINDS[at]]),
            at if at < KINDS.len() + 3 => {
                let passing = KINDS.into_iter().filter(is_passing);
                ("all that pass".to_owned(), passing.collect())
            }
            _ => ("all".to_owned(), KINDS.to_vec()),
        };
        let must_be_full = kinds.iter().all(is_passing);
        // A machine that is busy may take longer for an answer, and then what is no fault of the server's looks like one.
        let timeout = match kinds.contains(&Kind::Stalled) {
            true => Duration::from_millis(300),
            false => Duration::from_secs(60),
        };
        weather.lock().unwrap().kinds = kinds;
        let state = State::in_memory(identity).unwrap();
        let (report, state) = scan(&url, &watched, state, timeout, &mut rng).await;
        let is_full = match &report {
            Ok(report) => {
                assert_full(report, &chain, &truth, &watched);
                true
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!must_be_full, "{name}: {text}");
                assert!(text.contains(&url), "{text}");
                false
            }
        };
        tally.entry(name).or_default()[usize::from(!is_full)] += 1;

        // What is stored is right too, as far as it goes: once the server is well the scan goes on to the full result.
        weather.lock().unwrap().kinds.clear();
        let (report, _) = scan(&url, &watched, state, Duration::from_secs(60), &mut rng).await;
        assert_full(&report.unwrap(), &chain, &truth, &watched);
    }
    let full: usize = tally.values().map(|[full, _]| full).sum();
    println!("{runs} runs: {full} full, {} errors", runs - full);
    for (name, [full, errors]) in tally {
        println!("{name:>14}: {full} full, {errors} errors");
    }
    assert_eq!(
        trapped.load(Ordering::Relaxed),
        0,
        "another server was asked"
    );
}
