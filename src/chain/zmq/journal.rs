//! What the log says of a publisher: the first of each trouble, and few lines of one that comes and goes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::ZmqAddress;
use super::connection::Fault;

/// At most so many lines in so much time, whatever happens.
const LINES: usize = 8;
const LINES_TIME: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Journal {
    address: ZmqAddress,
    /// Whether the last trouble was said, and no good connection has been since.
    complained: bool,
    /// Whether it was said that there is a connection, and no trouble was said since.
    announced: bool,
    /// When lines were written.
    lines: VecDeque<Instant>,
}

impl Journal {
    pub(super) fn new(address: ZmqAddress) -> Self {
        Self {
            address,
            complained: false,
            announced: false,
            lines: VecDeque::new(),
        }
    }

    /// There is a connection, and it has not ended at once.
    pub(super) fn announce(&mut self) {
        if !self.announced && self.has_room() {
            tracing::info!("ZMQ: listening to {}", self.address);
            self.announced = true;
        }
    }

    /// The connection that ended now was a good one.
    pub(super) fn forgive(&mut self) {
        self.complained = false;
    }

    /// There is no connection, or no longer.
    pub(super) fn complain(&mut self, reason: &Fault) {
        let is_news = !self.complained && self.has_room();
        let address = &self.address;
        if !is_news {
            tracing::debug!("ZMQ: no connection to {address} ({reason})");
            return;
        }
        tracing::warn!(
            "ZMQ: no connection to {address} ({reason}); trying again, and polling meanwhile"
        );
        self.complained = true;
        self.announced = false;
    }

    fn has_room(&mut self) -> bool {
        let now = Instant::now();
        let is_old = |line: &Instant| now.duration_since(*line) >= LINES_TIME;
        while self.lines.front().is_some_and(is_old) {
            self.lines.pop_front();
        }
        let has_room = self.lines.len() < LINES;
        if has_room {
            self.lines.push_back(now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the log has of a publisher that is left after each of these times.
    async fn lines_of(holds: Duration, hours: u64) -> usize {
        let mut journal = Journal::new("tcp://127.0.0.1:1".parse().unwrap());
        let started = Instant::now();
        let mut written = 0;
        while started.elapsed() < Duration::from_secs(3600 * hours) {
            let before = (journal.announced, journal.complained);
            tokio::time::sleep(holds).await;
            if !holds.is_zero() {
                journal.announce();
            }
            written += usize::from(journal.announced != before.0);
            if holds >= Duration::from_secs(60) {
                journal.forgive();
            }
            let before = (journal.complained, journal.announced);
            journal.complain(&Fault::Silent);
            written += usize::from((journal.complained, journal.announced) != before);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_comes_and_goes_fills_no_log() {
        // One that greets and closes is complained of once.
        assert_eq!(lines_of(Duration::ZERO, 24).await, 1);
        // One that holds for a moment is heard and lost, and then heard again.
        assert_eq!(lines_of(Duration::from_secs(2), 24).await, 3);
        // One that holds for a minute is news each time, up to eight lines in ten minutes.
        let most = 24 * 6 * LINES;
        let lines = lines_of(Duration::from_secs(61), 24).await;
        assert!((most * 9 / 10..=most).contains(&lines), "{lines}");
    }
}
