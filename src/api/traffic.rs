//! What a connection is doing, how long it may, and when it gives way to others.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

/// Slowest pace in bytes a second at which an answer may be taken, on the average, once [`Bounds::silence`] is used up.
const SLOWEST_PACE: f64 = 256.0;

/// How long connections may do what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Nothing at all, or an answer with no byte taken.
    pub(super) silence: Duration,
    /// From the first byte of a request to the end of its head.
    pub(super) head: Duration,
    /// Nothing at all, before it gives way to another one.
    pub(super) grace: Duration,
}

/// Who is at the other end, as shares are counted: an IPv4 address, or the 64 bits of an IPv6 address that one subscriber
/// is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl Peer {
    /// Whether it is this machine.
    pub(super) fn is_loopback(self) -> bool {
        match self.0 {
            IpAddr::V4(address) => address.is_loopback(),
            // The network of ::1, in which there is nobody else.
            IpAddr::V6(address) => address.is_unspecified(),
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing, since it began.
    Fresh,
    /// Some of a request has come, and its head has not ended.
    Head,
    /// The request is worked on: whoever does that bounds the time.
    Working,
    /// The answer is taken, or has been.
    Answer,
    /// The answer goes on for as long as the peer likes, with something to take now and then.
    Stream,
}

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    /// Since when nothing has happened, or nothing that counts.
    quiet_since: Instant,
    /// When the head has taken too long.
    head_until: Instant,
    /// When the answer, or the silence after it, has.
    answer_until: Instant,
}

/// A connection as the others see it.
#[derive(Debug)]
pub(super) struct Activity {
    peer: Peer,
    bounds: Bounds,
    state: Mutex<State>,
    gives_way: AtomicBool,
    waker: AtomicWaker,
}

impl Activity {
    pub(super) fn new(peer: Peer, bounds: Bounds) -> Self {
        let now = Instant::now();
        Self {
            peer,
            bounds,
            state: Mutex::new(State {
                phase: Phase::Fresh,
                quiet_since: now,
                head_until: now,
                answer_until: after(now, bounds.silence),
            }),
            gives_way: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Bytes came in. Only the first ones of a request move the clock: one that trickles in has the same time as others.
    pub(super) fn received(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Fresh | Phase::Answer) {
            let now = Instant::now();
            state.phase = Phase::Head;
            state.quiet_since = now;
            state.head_until = after(now, self.bounds.head);
        }
    }

    /// The head of a request is complete.
    pub(super) fn request_begins(&self) {
        self.lock().phase = Phase::Working;
    }

    /// There is an answer to it.
    pub(super) fn answer_begins(&self) {
        let mut state = self.lock();
        if state.phase != Phase::Stream {
            self.begin(&mut state, Phase::Answer);
        }
    }

    /// The answer will be one that goes on. It counts as quiet from its beginning on, so that it gives way like a connection
    /// that is idle.
    pub(super) fn stream_begins(&self) {
        self.begin(&mut self.lock(), Phase::Stream);
    }

    /// It does not go on any more.
    pub(super) fn stream_ends(&self) {
        self.begin(&mut self.lock(), Phase::Answer);
    }

    fn begin(&self, state: &mut State, phase: Phase) {
        let now = Instant::now();
        state.phase = phase;
        state.quiet_since = now;
        state.answer_until = after(now, self.bounds.silence);
    }

    /// `bytes` went out. Each is worth some time, so that what is taken too slowly comes to an end.
    pub(super) fn sent(&self, bytes: usize) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.phase == Phase::Working {
            // That it may send its body.
            return;
        }
        if state.phase == Phase::Stream {
            // However little there is to take, it is taken.
            state.answer_until = after(now, self.bounds.silence);
            return;
        }
        // With a head begun it is still the answer before that.
        state.phase = Phase::Answer;
        state.quiet_since = now;
        let worth = Duration::from_secs_f64(bytes as f64 / SLOWEST_PACE);
        state.answer_until = after(state.answer_until, worth).min(after(now, self.bounds.silence));
    }

    /// When the connection is to be closed as it is now; `None` while a request is worked on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        match state.phase {
            Phase::Head => Some(state.head_until),
            Phase::Working => None,
            Phase::Fresh | Phase::Answer | Phase::Stream => Some(state.answer_until),
        }
    }

    /// From when on it may have to give way; `None` while a request is worked on.
    pub(super) fn yields_from(&self) -> Option<Instant> {
        let state = self.lock();
        let quiet_since = (state.phase != Phase::Working).then_some(state.quiet_since)?;
        Some(after(quiet_since, self.bounds.grace))
    }

    /// Makes it end.
    pub(super) fn give_way(&self) {
        self.gives_way.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Whether it is to end. `waker` is woken when that changes.
    pub(super) fn is_giving_way(&self, waker: Option<&Waker>) -> bool {
        if let Some(waker) = waker {
            self.waker.register(waker);
        }
        self.gives_way.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time so far away that adding to the clock overflows counts as never (a year).
fn after(start: Instant, time: Duration) -> Instant {
    let never = || start + Duration::from_secs(365 * 24 * 3600);
    start.checked_add(time).unwrap_or_else(never)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds {
        silence: Duration::from_secs(120),
        head: Duration::from_secs(10),
        grace: Duration::from_secs(5),
    };

    fn activity() -> Activity {
        let address: SocketAddr = "10.0.0.1:1000".parse().expect("an address");
        Activity::new(address.into(), BOUNDS)
    }

    fn left(activity: &Activity) -> Option<Duration> {
        let deadline = activity.deadline()?;
        Some(deadline.duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_however_it_trickles_in() {
        let activity = activity();
        advance(100 * SECOND).await;
        for second in 0..10 {
            activity.received();
            assert_eq!(left(&activity), Some((10 - second) * SECOND));
            advance(SECOND).await;
        }
        activity.request_begins();
        assert_eq!(left(&activity), None);
        // Its body is no head.
        activity.received();
        assert_eq!(left(&activity), None);
        activity.answer_begins();
        activity.sent(100);
        assert_eq!(left(&activity), Some(120 * SECOND));
        advance(50 * SECOND).await;
        activity.received();
        assert_eq!(left(&activity), Some(10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_of_a_byte_now_and_then_comes_to_an_end() {
        for (bytes, is_ended) in [(1, true), (128, true), (256, false), (100_000, false)] {
            let activity = activity();
            activity.received();
            activity.request_begins();
            activity.answer_begins();
            let mut ended = false;
            for _ in 0..3600 {
                advance(SECOND).await;
                ended |= left(&activity) == Some(Duration::ZERO);
                // A pipelined request does not buy time for the answer before it.
                activity.received();
                activity.sent(bytes);
            }
            assert_eq!(ended, is_ended, "{bytes} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_while_what_there_is_is_taken_and_yields_all_the_same() {
        let activity = activity();
        activity.received();
        activity.request_begins();
        activity.stream_begins();
        activity.answer_begins();
        let begun = Instant::now();
        for _ in 0..1_000 {
            advance(15 * SECOND).await;
            activity.sent(3);
            assert_eq!(left(&activity), Some(120 * SECOND));
            // What comes in meanwhile is no head whose time would run out.
            activity.received();
            assert_eq!(left(&activity), Some(120 * SECOND));
            assert_eq!(activity.yields_from(), Some(begun + 5 * SECOND));
        }
        advance(120 * SECOND).await;
        assert_eq!(left(&activity), Some(Duration::ZERO));
        activity.stream_ends();
        activity.sent(3);
        assert_eq!(activity.yields_from(), Some(Instant::now() + 5 * SECOND));
        activity.received();
        assert_eq!(left(&activity), Some(10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_idle_yields_and_who_is_served_does_not() {
        let activity = activity();
        let yields_in = || {
            let from = activity.yields_from()?;
            Some(from.saturating_duration_since(Instant::now()))
        };
        assert_eq!(yields_in(), Some(5 * SECOND));
        advance(5 * SECOND).await;
        assert_eq!(yields_in(), Some(Duration::ZERO));
        activity.received();
        advance(3 * SECOND).await;
        activity.received();
        assert_eq!(yields_in(), Some(2 * SECOND));
        activity.request_begins();
        assert_eq!(yields_in(), None);
        activity.answer_begins();
        advance(4 * SECOND).await;
        activity.sent(1);
        assert_eq!(yields_in(), Some(5 * SECOND));
    }

    #[test]
    fn peers_are_addresses_or_networks_of_64_bits() {
        let peer = |text: &str| Peer::from(text.parse::<SocketAddr>().expect("an address"));
        assert_eq!(peer("10.0.0.1:1"), peer("10.0.0.1:2"));
        assert_eq!(peer("10.0.0.1:1"), peer("[::ffff:10.0.0.1]:1"));
        assert_ne!(peer("10.0.0.1:1"), peer("10.0.0.2:1"));
        assert_eq!(peer("[2001:db8::1]:1"), peer("[2001:db8::ffff:0:0:2]:1"));
        assert_ne!(peer("[2001:db8::1]:1"), peer("[2001:db8:0:1::1]:1"));
    }
}
