//! A node that does not answer: pauses, and few lines in the log.

use std::time::Duration;

use tokio::time::Instant;

use crate::chain::ChainError;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// At most one line about trouble in so much time.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Debug)]
pub(super) struct Trouble {
    pause: Duration,
    said: Option<Instant>,
    /// Whether the trouble that lasts was said.
    is_known: bool,
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            pause: FIRST_PAUSE,
            said: None,
            is_known: false,
        }
    }
}

impl Trouble {
    /// The node answered.
    pub(super) fn over(&mut self) {
        if self.is_known {
            tracing::info!("mempool: the node answers again");
        }
        self.is_known = false;
        self.pause = FIRST_PAUSE;
    }

    /// Says a trouble that is news, and how long to wait before the next try.
    pub(super) fn pause_after(&mut self, error: &ChainError) -> Duration {
        let now = Instant::now();
        let is_due = self.said.is_none_or(|said| now - said >= LINE_EVERY);
        match is_due && !self.is_known {
            true => {
                tracing::warn!("mempool: {error}; trying again until it works");
                (self.said, self.is_known) = (Some(now), true);
            }
            false => tracing::debug!("mempool: {error}"),
        }
        let pause = self.pause;
        self.pause = (2 * pause).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_a_node_that_comes_and_goes_fills_no_log() {
        let mut trouble = Trouble::default();
        let error = ChainError::Unreachable("no answer".to_owned());
        let pauses: Vec<_> = (0..8)
            .map(|_| trouble.pause_after(&error).as_millis())
            .collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        let mut said = 0;
        for _ in 0..600 {
            trouble.over();
            let before = trouble.said;
            assert_eq!(trouble.pause_after(&error), FIRST_PAUSE);
            said += u32::from(trouble.said != before);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(said, 9);
    }
}
