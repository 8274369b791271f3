//! How many requests a node is given at a time: as many as it may have, and fewer while it says that these are too many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ChainError;
use super::http::Reply;

/// Answers in a row after which one more request at a time is tried.
const RAISE_AFTER: usize = 200;

/// How often a request is sent that the node has no room for, with pauses that double from the first to the longest: for
/// about ten seconds.
const TRIES: u32 = 15;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Longest time of all pauses of a request, however often a server asks for more: whoever waits for the answer has a limit
/// of his own.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The places of the requests under way.
#[derive(Debug)]
pub(super) struct InFlight {
    places: Arc<Semaphore>,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that may be under way.
    limit: usize,
    /// Places in use that are to go when they are given back.
    surplus: usize,
    /// How often the limit was lowered.
    lowered: u64,
    /// Answers since the limit changed.
    answered: usize,
}

/// A place of a request under way, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    in_flight: Arc<InFlight>,
    permit: Option<OwnedSemaphorePermit>,
    /// How often the limit had been lowered when the request began.
    lowered: u64,
}

/// The tries of one request.
pub(super) struct Attempts<'a> {
    in_flight: &'a Arc<InFlight>,
    url: &'a str,
    tries: u32,
    pause: Duration,
    /// Of all pauses so far.
    waited: Duration,
}

impl Attempts<'_> {
    /// Waits for a place to send it from.
    pub(super) async fn place(&self) -> Result<Place, ChainError> {
        self.in_flight.place().await
    }

    /// Gives the answer back, and the place, which is kept as long as the caller holds it; or `None`, after a pause, where
    /// the node had no room for the request and it is to be sent again.
    ///
    /// # Errors
    /// `Unreachable` where the node has no room even for a few.
    pub(super) async fn through(
        &mut self,
        reply: Reply,
        place: Place,
    ) -> Result<Option<(Reply, Place)>, ChainError> {
        if !reply.is_overload() {
            self.in_flight.answered();
            return Ok(Some((reply, place)));
        }
        self.tries += 1;
        let url = self.url;
        if let Some(limit) = self.in_flight.overloaded(&place) {
            tracing::debug!(
                "{url}: {}; {limit} requests at a time from now on",
                reply.reason()
            );
        }
        // Others may use the place meanwhile.
        drop(place);
        let asked = reply.retry_after.unwrap_or_default();
        let pause = self.pause.max(asked).min(LONGEST_WAIT);
        if self.tries == TRIES || self.waited + pause > LONGEST_WAIT {
            let limit = self.in_flight.state().limit;
            return Err(ChainError::Unreachable(format!(
                "{url} has no room for another request (HTTP {}: {}), though no more than {limit} are under way; raise the node's -rpcworkqueue, or lower --in-flight",
                reply.status.as_u16(),
                reply.reason()
            )));
        }
        tokio::time::sleep(pause).await;
        self.waited += pause;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        Ok(None)
    }
}

impl InFlight {
    /// At most so many requests at a time, at least 1.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            state: Mutex::new(State {
                limit: most,
                surplus: 0,
                lowered: 0,
                answered: 0,
            }),
        })
    }

    /// One request, to be sent until it is through. `url` names it in errors.
    pub(super) fn request<'a>(self: &'a Arc<Self>, url: &'a str) -> Attempts<'a> {
        Attempts {
            in_flight: self,
            url,
            tries: 0,
            pause: FIRST_PAUSE,
            waited: Duration::ZERO,
        }
    }

    async fn place(self: &Arc<Self>) -> Result<Place, ChainError> {
        let permit = self.places.clone().acquire_owned().await.map_err(|_| {
            ChainError::Unreachable("requests to the node have been stopped".into())
        })?;
        Ok(Place {
            in_flight: self.clone(),
            permit: Some(permit),
            lowered: self.state().lowered,
        })
    }

    /// Lowers the limit to half, once for all requests that were under way together. Answers what it is then.
    fn overloaded(&self, place: &Place) -> Option<usize> {
        let mut state = self.state();
        state.answered = 0;
        if place.lowered != state.lowered || state.limit == 1 {
            return None;
        }
        let lower = state.limit / 2;
        let fewer = state.limit - lower;
        state.surplus += fewer - self.places.forget_permits(fewer);
        state.limit = lower;
        state.lowered += 1;
        Some(lower)
    }

    fn answered(&self) {
        let mut state = self.state();
        state.answered += 1;
        if state.answered < RAISE_AFTER || state.limit == self.most {
            return;
        }
        state.answered = 0;
        state.limit += 1;
        match state.surplus.checked_sub(1) {
            Some(fewer) => state.surplus = fewer,
            None => self.places.add_permits(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.in_flight.state();
        if let Some(fewer) = state.surplus.checked_sub(1) {
            state.surplus = fewer;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use tokio::time::Instant;

    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.into(),
            retry_after: None,
        }
    }

    fn full() -> Reply {
        reply(503, "Work queue depth exceeded")
    }

    /// How many places can be had without waiting.
    async fn free(in_flight: &Arc<InFlight>) -> usize {
        let mut places = Vec::new();
        while let Ok(place) = tokio::time::timeout(Duration::ZERO, in_flight.place()).await {
            places.push(place.unwrap());
        }
        places.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_halves_the_requests_and_answers_bring_them_back_one_by_one() {
        let in_flight = InFlight::new(8);
        assert_eq!(free(&in_flight).await, 8);
        let mut attempts: Vec<_> = (0..8).map(|_| in_flight.request("url")).collect();
        let mut places = Vec::new();
        for attempt in &attempts {
            places.push(attempt.place().await.unwrap());
        }
        // All were under way together: that is one lesson.
        for (attempt, place) in attempts.iter_mut().zip(places) {
            assert!(attempt.through(full(), place).await.unwrap().is_none());
        }
        assert_eq!(free(&in_flight).await, 4);
        // The next one is another.
        let place = attempts[0].place().await.unwrap();
        assert!(attempts[0].through(full(), place).await.unwrap().is_none());
        assert_eq!(free(&in_flight).await, 2);

        for expected in 2..=8 {
            assert_eq!(free(&in_flight).await, expected);
            for _ in 0..RAISE_AFTER {
                let place = attempts[0].place().await.unwrap();
                let through = attempts[0].through(reply(200, ""), place).await.unwrap();
                assert_eq!(through.unwrap().0.status, StatusCode::OK);
            }
        }
        // No more than it may have.
        assert_eq!(free(&in_flight).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_given_up_after_a_while_and_one_place_is_left() {
        let in_flight = InFlight::new(3);
        let mut attempt = in_flight.request("http://node");
        let started = Instant::now();
        let error = loop {
            let place = attempt.place().await.unwrap();
            match attempt.through(full(), place).await {
                Ok(through) => assert!(through.is_none()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
        for part in ["http://node", "-rpcworkqueue", "--in-flight"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(started.elapsed() > Duration::from_secs(5));
        assert_eq!(free(&in_flight).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_counts_requests_is_left_alone_as_long_as_it_asks() {
        let in_flight = InFlight::new(2);
        for (asked, waited) in [(7, 7), (1_000_000, 60)] {
            let mut attempt = in_flight.request("url");
            let place = attempt.place().await.unwrap();
            let started = Instant::now();
            let too_many = Reply {
                retry_after: Some(Duration::from_secs(asked)),
                ..reply(429, "")
            };
            assert!(attempt.through(too_many, place).await.unwrap().is_none());
            assert_eq!(started.elapsed(), Duration::from_secs(waited));
        }

        // But not again and again.
        let mut attempt = in_flight.request("url");
        let started = Instant::now();
        let error = loop {
            let place = attempt.place().await.unwrap();
            let too_many = Reply {
                retry_after: Some(Duration::from_secs(25)),
                ..reply(429, "")
            };
            match attempt.through(too_many, place).await {
                Ok(through) => assert!(through.is_none()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");
        assert_eq!(started.elapsed(), Duration::from_secs(50));
    }

    /// A node that is starting says 503 too.
    #[tokio::test(start_paused = true)]
    async fn other_refusals_are_left_to_the_caller() {
        let in_flight = InFlight::new(2);
        for other in [
            reply(503, "Loading block index"),
            reply(500, ""),
            reply(404, ""),
        ] {
            let mut attempt = in_flight.request("url");
            let place = attempt.place().await.unwrap();
            assert!(attempt.through(other, place).await.unwrap().is_some());
        }
        assert_eq!(free(&in_flight).await, 2);
    }
}
