//! What a node says of its mempool as it happens, whoever brings the word: a node by ZMQ ([`zmq`](super::zmq)), or whoever
//! plays one.
//!
//! Words are numbered, so that whoever hears them knows whether one is missing; then he has to look for himself
//! ([`Node::mempool`](super::Node::mempool)). Few may wait to be heard: who brings more waits too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitcoin::{BlockHash, Txid};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Words that wait to be heard.
const WAITING: usize = 4096;

/// Bytes of transactions that wait with them. Where there are more, words come without.
const WAITING_BYTES: usize = 16 << 20;

/// A change of a node's mempool, or of its chain as far as that changes the mempool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MempoolChange {
    /// A transaction was accepted.
    Accepted {
        /// Its id.
        txid: Txid,
        /// Which change of the mempool it is.
        sequence: u64,
        /// Its bytes, if whoever brought the word had them.
        raw: Option<Vec<u8>>,
    },
    /// A transaction was removed, and not because a block has it.
    Removed {
        /// Its id.
        txid: Txid,
        /// Which change of the mempool it is.
        sequence: u64,
    },
    /// A block was connected: what it has is gone from the mempool, each a change that nobody tells.
    Connected(BlockHash),
    /// A block was disconnected.
    Disconnected(BlockHash),
}

/// A word of a node's mempool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MempoolWord {
    /// Words may have been missed: whatever comes is numbered anew.
    Anew,
    /// Nobody hears the node any more, until [`MempoolWord::Anew`].
    CutOff,
    /// A change.
    Change {
        /// One more than that of the word before, or 0 after the highest.
        number: u32,
        /// What happened.
        change: MempoolChange,
    },
}

/// Brings word of a node's mempool in the background, until it is dropped.
#[derive(Debug)]
pub struct MempoolSignal {
    words: mpsc::Receiver<MempoolWord>,
    waiting_bytes: Arc<AtomicUsize>,
    bringing: JoinHandle<()>,
}

/// Gives words to be heard.
#[derive(Debug, Clone)]
pub struct MempoolTeller {
    words: mpsc::Sender<MempoolWord>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl MempoolTeller {
    /// Gives a word, once there is room for it. False if nobody listens any more.
    pub async fn tell(&self, mut word: MempoolWord) -> bool {
        if let MempoolWord::Change {
            change: MempoolChange::Accepted { raw, .. },
            ..
        } = &mut word
        {
            let waiting = self.waiting_bytes.load(Ordering::Relaxed);
            *raw = raw
                .take()
                .filter(|raw| waiting + raw.len() <= WAITING_BYTES);
        }
        let bytes = raw_bytes(&word);
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.words.send(word).await.is_ok()
    }
}

impl MempoolSignal {
    /// A signal for which somebody brings words. To be called on a tokio runtime.
    pub fn new<B>(bring: impl FnOnce(MempoolTeller) -> B) -> Self
    where
        B: Future<Output = ()> + Send + 'static,
    {
        let (sender, words) = mpsc::channel(WAITING);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let teller = MempoolTeller {
            words: sender,
            waiting_bytes: Arc::clone(&waiting_bytes),
        };
        Self {
            words,
            waiting_bytes,
            bringing: tokio::spawn(bring(teller)),
        }
    }

    /// The next word; `None` if nobody brings any more. Nothing is lost if this is given up.
    pub async fn next(&mut self) -> Option<MempoolWord> {
        let word = self.words.recv().await?;
        Some(self.heard(word))
    }

    /// The next word if one waits.
    pub fn waiting(&mut self) -> Option<MempoolWord> {
        let word = self.words.try_recv().ok()?;
        Some(self.heard(word))
    }

    fn heard(&self, word: MempoolWord) -> MempoolWord {
        let bytes = raw_bytes(&word);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        word
    }
}

impl Drop for MempoolSignal {
    fn drop(&mut self) {
        self.bringing.abort();
    }
}

fn raw_bytes(word: &MempoolWord) -> usize {
    match word {
        MempoolWord::Change {
            change: MempoolChange::Accepted { raw: Some(raw), .. },
            ..
        } => raw.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    fn accepted(number: u32, bytes: usize) -> MempoolWord {
        MempoolWord::Change {
            number,
            change: MempoolChange::Accepted {
                txid: Txid::all_zeros(),
                sequence: u64::from(number),
                raw: Some(vec![0; bytes]),
            },
        }
    }

    #[tokio::test]
    async fn words_wait_in_order_and_their_bytes_are_bounded() {
        let (done, all_told) = tokio::sync::oneshot::channel();
        let mut signal = MempoolSignal::new(|teller| async move {
            for number in 0..5 {
                assert!(teller.tell(accepted(number, WAITING_BYTES / 3)).await);
            }
            let _ = done.send(());
        });
        all_told.await.unwrap();
        let mut with_bytes = Vec::new();
        for expected in 0..5 {
            let word = signal.next().await.unwrap();
            let bytes = raw_bytes(&word);
            assert!(matches!(word, MempoolWord::Change { number, .. } if number == expected));
            with_bytes.push(bytes > 0);
        }
        assert_eq!(with_bytes, [true, true, true, false, false]);
        assert_eq!(signal.waiting(), None);
        assert_eq!(signal.next().await, None);
        assert_eq!(signal.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
