//! Waiting for a node that is away: backoff, few log lines, and an end where waiting cannot help.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::IndexError;
use crate::chain::ChainError;
use crate::runtime::Stop;

/// How often in a row an answer that does not fit is asked for again before the node is called broken.
const MISMATCH_TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// At most so many troubles are logged in so much time, so that a node that comes and goes fills no disk.
const LINES: usize = 8;
const LINES_TIME: Duration = Duration::from_secs(600);

/// Failures in a row, since the last success.
#[derive(Debug)]
pub(super) struct Patience {
    give_up_after: Option<Duration>,
    /// Whether the node has served well: what goes wrong from then on passes, whatever it is.
    is_settled: bool,
    /// When the first of the tries began that have failed in a row.
    since: Option<Instant>,
    pause: Duration,
    mismatches: u32,
    /// What was logged since the last success.
    said: Vec<String>,
    /// When the last lines were logged.
    lines: VecDeque<Instant>,
}

impl Patience {
    /// Without a limit it waits for the node for ever.
    pub(super) fn new(give_up_after: Option<Duration>, is_settled: bool) -> Self {
        Self {
            give_up_after,
            is_settled,
            since: None,
            pause: FIRST_PAUSE,
            mismatches: 0,
            said: Vec::new(),
            lines: VecDeque::new(),
        }
    }

    /// Notes that the node has served well.
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Notes the start of a try. The time it takes counts if it fails.
    pub(super) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Notes a success.
    pub(super) fn over(&mut self) {
        if !self.said.is_empty() {
            tracing::info!("the node answers again");
            self.said.clear();
        }
        self.progress();
    }

    /// Notes a success that ended in trouble: whatever waits next waits as if for the first time.
    pub(super) fn progress(&mut self) {
        self.since = None;
        self.pause = FIRST_PAUSE;
        self.mismatches = 0;
    }

    /// Waits before the next try, or until the stop.
    ///
    /// # Errors
    /// Gives `error` back where another try cannot help: a person has to act before anything can work, an answer has been
    /// wrong too often, or the node has been away for too long.
    pub(super) async fn wait(&mut self, error: IndexError, stop: &Stop) -> Result<(), IndexError> {
        let is_for_ever = self.is_settled && self.give_up_after.is_none();
        let retry = match &error {
            IndexError::Chain(ChainError::Mismatch(_)) => {
                self.mismatches += 1;
                is_for_ever || self.mismatches < MISMATCH_TRIES
            }
            IndexError::Chain(error) => self.is_settled || error.is_transient(),
            IndexError::ReorgTooDeep { .. } | IndexError::OtherChain { .. } => self.is_settled,
            IndexError::Store(_) | IndexError::Worker(_) => false,
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        if !retry
            || self
                .give_up_after
                .is_some_and(|limit| since.elapsed() >= limit)
        {
            return Err(error);
        }
        self.say(error.to_string());
        stop.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Logs a trouble once, however often it returns before the next success.
    fn say(&mut self, trouble: String) {
        let now = Instant::now();
        let is_old = |line: &Instant| now.duration_since(*line) >= LINES_TIME;
        while self.lines.front().is_some_and(is_old) {
            self.lines.pop_front();
        }
        if self.lines.len() >= LINES || self.said.contains(&trouble) {
            tracing::debug!("{trouble}");
            return;
        }
        tracing::warn!("{trouble}; trying again until it works");
        self.lines.push_back(now);
        self.said.push(trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockId;
    use crate::store::StoreError;

    fn unreachable() -> IndexError {
        ChainError::Unreachable("no answer".to_owned()).into()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_the_limit_and_start_again_after_a_success() {
        let mut patience = Patience::new(None, false);
        let stop = Stop::new();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let before = tokio::time::Instant::now();
            patience.wait(unreachable(), &stop).await.unwrap();
            pauses.push(before.elapsed().as_millis());
        }
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
        );
        patience.over();
        let before = tokio::time::Instant::now();
        patience.wait(unreachable(), &stop).await.unwrap();
        assert_eq!(before.elapsed().as_millis(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_comes_and_goes_fills_no_log() {
        let mut patience = Patience::new(None, false);
        let stop = Stop::new();
        let started = Instant::now();
        let mut said = 0;
        while started.elapsed() < Duration::from_secs(3600) {
            for url in ["first", "second"] {
                let error = ChainError::Unreachable(format!("no answer from {url}"));
                patience.wait(error.into(), &stop).await.unwrap();
            }
            said += patience.said.len();
            patience.over();
        }
        // Eight lines at once, and eight more every ten minutes.
        assert_eq!(said, 6 * LINES);
        // Then as before.
        tokio::time::sleep(LINES_TIME).await;
        for _ in 0..1000 {
            patience.wait(unreachable(), &stop).await.unwrap();
        }
        assert_eq!(patience.said, ["no answer"]);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_makes_patience_new() {
        let mut patience = Patience::new(Some(Duration::from_secs(10)), false);
        let stop = Stop::new();
        for _ in 0..3 * MISMATCH_TRIES {
            let error = ChainError::Mismatch("merkle root".to_owned());
            patience.wait(error.into(), &stop).await.unwrap();
            patience.wait(unreachable(), &stop).await.unwrap();
            patience.progress();
        }
        assert_eq!(patience.said, ["merkle root", "no answer"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_answer_is_asked_for_again_only_a_few_times() {
        let mut patience = Patience::new(None, false);
        let stop = Stop::new();
        let mut tries = 1;
        while patience
            .wait(ChainError::Mismatch("merkle root".to_owned()).into(), &stop)
            .await
            .is_ok()
        {
            tries += 1;
        }
        assert_eq!(tries, MISMATCH_TRIES);
    }

    #[tokio::test]
    async fn what_a_person_has_to_mend_is_not_tried_again() {
        let mut patience = Patience::new(None, false);
        let error = patience
            .wait(
                ChainError::Setup("wrong network".to_owned()).into(),
                &Stop::new(),
            )
            .await;
        assert_eq!(error.unwrap_err().to_string(), "wrong network");
    }

    /// Hours of service are not ended by what a proxy or a restarted node says for a while.
    #[tokio::test(start_paused = true)]
    async fn once_the_node_has_served_well_everything_is_waited_out() {
        let block = |height| BlockId {
            height,
            hash: bitcoin::hashes::Hash::all_zeros(),
        };
        let troubles = || -> [IndexError; 5] {
            [
                ChainError::Setup("forbidden".to_owned()).into(),
                ChainError::Conflict("two nodes".to_owned()).into(),
                ChainError::Mismatch("merkle root".to_owned()).into(),
                IndexError::ReorgTooDeep {
                    tip: block(9),
                    lowest: 5,
                },
                IndexError::OtherChain {
                    ours: block(1),
                    theirs: block(1),
                },
            ]
        };
        for trouble in troubles() {
            let mut patience = Patience::new(Some(Duration::from_secs(60)), false);
            let is_tried_again = matches!(trouble, IndexError::Chain(ChainError::Mismatch(_)));
            let waited = patience.wait(trouble, &Stop::new()).await;
            assert_eq!(waited.is_ok(), is_tried_again);
        }
        for trouble in troubles() {
            let mut patience = Patience::new(Some(Duration::from_secs(60)), false);
            patience.settle();
            assert!(patience.wait(trouble, &Stop::new()).await.is_ok());
        }
        let mut patience = Patience::new(None, true);
        for _ in 0..100 {
            for trouble in troubles() {
                patience.wait(trouble, &Stop::new()).await.unwrap();
            }
        }
        assert_eq!(patience.said.len(), 5, "{:?}", patience.said);
        let error = StoreError::Missing {
            file: "index".into(),
        };
        assert!(patience.wait(error.into(), &Stop::new()).await.is_err());
    }

    /// A try that takes long counts from its start.
    #[tokio::test(start_paused = true)]
    async fn the_limit_counts_the_time_of_the_tries() {
        let mut patience = Patience::new(Some(Duration::from_secs(60)), true);
        let stop = Stop::new();
        let started = Instant::now();
        loop {
            patience.begin();
            tokio::time::sleep(Duration::from_secs(30)).await;
            if patience.wait(unreachable(), &stop).await.is_err() {
                break;
            }
        }
        assert_eq!(started.elapsed(), Duration::from_millis(60_500));
    }

    #[tokio::test]
    async fn a_limit_of_zero_gives_up_at_the_first_failure() {
        let mut patience = Patience::new(Some(Duration::ZERO), false);
        assert!(patience.wait(unreachable(), &Stop::new()).await.is_err());
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait() {
        let mut patience = Patience::new(None, false);
        patience.pause = Duration::from_secs(3600);
        let stop = Stop::new();
        stop.request();
        patience.wait(unreachable(), &stop).await.unwrap();
    }
}
