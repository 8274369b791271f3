//! A server's events: what is taken of them, and what becomes of a stream that is none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};
use spindex::BlockId;
use spindex::client::native::{EventSettings, follow_events};
use spindex::client::{HttpOracle, HttpSettings, NativeOracle};
use spindex::wire::native::{Event, Told, write_cursor};
use tokio::task::JoinHandle;

use super::liar::Liar;
use super::lies::{falsify, lies};
use crate::support::teller::{Teller, Telling};

const ROUTE: &str = "/spindex/v1/events";

fn block(height: u32) -> BlockId {
    let hash = BlockHash::from_byte_array([height as u8; 32]);
    BlockId { height, hash }
}

fn tip(height: u32) -> Told {
    let (block, skipped) = (block(height), 0);
    Told {
        event: Event::Tip { block, skipped },
        cursor: block,
    }
}

fn bytes(told: &[Told]) -> Vec<u8> {
    let told = told.iter().map(|told| told.encode().unwrap());
    told.collect::<String>().into_bytes()
}

/// The route of a server, with this block as the cursor.
fn from(height: u32) -> String {
    format!("{ROUTE}?cursor={}", write_cursor(&block(height)))
}

fn impatient() -> EventSettings {
    EventSettings {
        silence: Duration::from_millis(300),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        ..EventSettings::default()
    }
}

/// Somebody who listens until he is dropped.
struct Listener {
    told: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<()>,
}

impl Listener {
    fn to(url: &str, settings: EventSettings) -> Self {
        let http = HttpSettings {
            timeout: Duration::from_millis(500),
            ..HttpSettings::default()
        };
        let http = HttpOracle::new(url, http).unwrap();
        let server = NativeOracle::new(Arc::new(http), Network::Regtest);
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = told.clone();
        let task = tokio::spawn(async move {
            let tell = move |event: &Event| telling.lock().unwrap().push(event.clone());
            follow_events(&server, settings, tell).await;
        });
        Self { told, task }
    }

    fn told(&self) -> Vec<Event> {
        self.told.lock().unwrap().clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves nothing but events.
async fn serve(teller: &Teller) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = teller.around(axum::Router::new());
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_however_it_does_is_gone_on_with() {
    let lagged = Told {
        event: Event::Lagged { missed: 3 },
        cursor: block(5),
    };
    let reorg = Told {
        event: Event::Reorg {
            fork: Some(block(3)),
            disconnected: vec![block(5), block(4)],
            connected: vec![block(14)],
        },
        cursor: block(14),
    };
    let half = bytes(&[tip(9)]);
    let tellings = [
        // Whoever has no place waits for one.
        (Telling::Busy(1), ROUTE.to_owned()),
        (
            Telling::Cut(bytes(&[tip(1), tip(2), tip(3)])),
            ROUTE.to_owned(),
        ),
        // With the cursor of what came last, also if nothing came any more.
        (Telling::Held(bytes(&[tip(4), tip(5), lagged])), from(3)),
        (Telling::Cut(half[..half.len() - 1].to_vec()), from(5)),
        (Telling::Withheld, from(5)),
        (Telling::Held(bytes(&[reorg])), from(5)),
        (Telling::Endless(b":\n".repeat(1000)), from(14)),
    ];
    let (tellings, expected): (Vec<_>, Vec<_>) = tellings.into_iter().unzip();
    let teller = Teller::new(tellings);
    let listener = Listener::to(&serve(&teller).await, impatient());
    assert_eq!(teller.asked(expected.len()).await, expected);
    let of_tip = |event: &Event| match event {
        Event::Tip { block, .. } => Some(block.height),
        _ => None,
    };
    let tips = listener.told();
    assert_eq!(tips.len(), 7);
    let tips: Vec<u32> = tips.iter().filter_map(of_tip).collect();
    assert_eq!(tips, [1, 2, 3, 4, 5]);
}

/// What is no stream of events is left, and asked for anew without what it said.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_taken_back_to_the_beginning() {
    let teller = Teller::new([
        Telling::Cut(bytes(&[tip(1)])),
        Telling::Absent,
        Telling::Cut(bytes(&[tip(2)])),
        Telling::Page,
        Telling::Cut(bytes(&[tip(3)])),
        Telling::Endless(b"data: and so on ".repeat(1000)),
        Telling::Endless(b"data: and so on\n".repeat(1000)),
        Telling::Cut(bytes(&[tip(4)])),
        Telling::Held([&bytes(&[tip(5)])[..], b"event: tip\ndata: {}\nid: 5\n\n"].concat()),
        Telling::Held(bytes(&[tip(6)])),
    ]);
    let listener = Listener::to(&serve(&teller).await, impatient());
    let asked = teller.asked(11).await;
    let first = ROUTE.to_owned();
    let expected = [
        first.clone(),
        from(1),
        first.clone(),
        from(2),
        first.clone(),
        from(3),
        first.clone(),
        first.clone(),
        from(4),
        first,
        from(6),
    ];
    assert_eq!(asked, expected);
    let expected: Vec<Event> = (1..=6).map(|height| tip(height).event).collect();
    assert_eq!(listener.told(), expected);
}

/// A server that sends its clients away is asked less and less.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_grow_until_a_stream_holds() {
    let teller = Teller::new([Telling::Cut(bytes(&[tip(1)]))]);
    let settings = EventSettings {
        first_pause: Duration::from_millis(40),
        longest_pause: Duration::from_millis(160),
        ..EventSettings::default()
    };
    let _listener = Listener::to(&serve(&teller).await, settings);
    let mut tries = Vec::new();
    for times in 1..=5 {
        teller.asked(times).await;
        tries.push(tokio::time::Instant::now());
    }
    // Half of 40, 80, 160 and 160 ms at least: the first try may be noticed late, which the sum is not.
    let least = Duration::from_millis((80 + 160 + 160) / 2);
    assert!(*tries.last().unwrap() - tries[1] >= least, "{tries:?}");
}

/// One field of one event is another one: what contradicts itself ends the stream, and anything else is a look in vain. A scan
/// after it finds what it would have found.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_in_an_event_is_named_or_costs_a_look() {
    let liar = Liar::new(1012).await;
    let truth = liar.scan().await.unwrap();
    let reset = Told {
        event: Event::Reset {
            cursor: block(7),
            tip: block(8),
        },
        cursor: block(8),
    };
    let reorg = Told {
        event: Event::Reorg {
            fork: None,
            disconnected: (1..=8).rev().map(block).collect(),
            connected: (1..=30).map(block).collect(),
        },
        cursor: block(30),
    };
    let honest = [tip(6), tip(7), reset, reorg, tip(31)];
    let (mut named, mut vain) = (0, 0);
    for seed in 0..lies(40) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut text = bytes(&honest);
        match rng.gen_range(0..3) {
            0 => {
                // A value of some field, whatever it is.
                let at = rng.gen_range(0..text.len());
                let length = rng.gen_range(1..=8.min(text.len() - at));
                falsify(&mut text[at..at + length], &mut rng);
            }
            1 => {
                let digits = (0..text.len()).filter(|at| text[*at].is_ascii_digit());
                let digits: Vec<usize> = digits.collect();
                text[*digits.choose(&mut rng).unwrap()] = rng.gen_range(b'0'..=b'9');
            }
            _ => text.truncate(rng.gen_range(0..text.len())),
        }
        let teller = Teller::new([Telling::Cut(text), Telling::Held(Vec::new())]);
        let listener = Listener::to(&serve(&teller).await, impatient());
        let again = teller.asked(2).await.pop().unwrap();
        let told = listener.told();
        assert!(told.len() <= honest.len(), "seed {seed}: {told:?}");
        match again == ROUTE && !told.is_empty() {
            true => named += 1,
            false => vain += 1,
        }
        // Once for each word is more than a follower looks.
        if seed % 10 == 0 {
            assert_eq!(liar.scan().await.unwrap(), truth, "seed {seed}");
        }
    }
    assert!(named > 0 && vain > 0, "{named} named, {vain} in vain");
    println!("{named} named, {vain} in vain");
}
