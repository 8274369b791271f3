//! Word that the tip of a chain may have changed, whoever brings it: a node by ZMQ ([`zmq`](super::zmq)), another server by
//! its events.
//!
//! It saves time and nothing else: whoever follows a chain also looks by itself, so that a word that is lost, late or wrong
//! costs nothing but a look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Tells when the tip may have changed. Word is brought in the background, until it is dropped.
#[derive(Debug)]
pub struct TipSignal {
    changed: Arc<Notify>,
    bringing: JoinHandle<()>,
}

/// Word to be given, as often as one likes.
#[derive(Debug, Clone)]
pub struct TipWord(Arc<Notify>);

impl TipWord {
    /// Says that the tip may have changed.
    pub fn give(&self) {
        self.0.notify_one();
    }
}

impl TipSignal {
    /// Time between two words that is usual.
    pub const GATHER: Duration = Duration::from_secs(1);

    /// A signal for which somebody brings word, that is passed on at once and then not again for `gather`, however often it
    /// is given: who connects many blocks in a row says so of each. To be called on a tokio runtime.
    pub fn new<B>(gather: Duration, bring: impl FnOnce(TipWord) -> B) -> Self
    where
        B: Future<Output = ()> + Send + 'static,
    {
        let (changed, given) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let bring = bring(TipWord(given.clone()));
        let passed_on = changed.clone();
        let pass_on = async move {
            loop {
                given.notified().await;
                passed_on.notify_one();
                tokio::time::sleep(gather).await;
            }
        };
        let bringing = tokio::spawn(async move {
            tokio::join!(bring, pass_on);
        });
        Self { changed, bringing }
    }

    /// Returns when the tip may have changed since the last call: at once if word has come meanwhile.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for TipSignal {
    fn drop(&mut self) {
        self.bringing.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_words_are_few_and_the_last_one_is_passed_on() {
        const SPAN: Duration = Duration::from_secs(1);
        let signal = TipSignal::new(SPAN, |word| async move {
            for _ in 0..100 {
                word.give();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        let started = Instant::now();
        let mut heard = Vec::new();
        let longest = Duration::from_secs(60);
        while tokio::time::timeout(longest, signal.changed())
            .await
            .is_ok()
        {
            heard.push(started.elapsed().as_secs());
        }
        assert_eq!(heard, [0, 1, 2, 3]);
    }
}
