//! The mempool's comings and goings by ZMQ.

use std::sync::{Mutex, PoisonError};

use bitcoin::Transaction;
use bitcoin::consensus::deserialize;

use super::listening::{Ear, keep_listening};
use super::message::Message;
use super::{MEMPOOL, ZmqAddress, ZmqSettings};
use crate::chain::mempool_signal::{MempoolChange, MempoolSignal, MempoolTeller, MempoolWord};

impl MempoolSignal {
    /// Listens to a node that publishes `sequence`, and best `rawtx` too, at this address. To be called on a tokio runtime.
    pub fn listen(address: ZmqAddress) -> Self {
        Self::listen_with(address, ZmqSettings::default())
    }

    /// Listens to a node, with other times than the usual ones. To be called on a tokio runtime.
    pub fn listen_with(address: ZmqAddress, settings: ZmqSettings) -> Self {
        Self::new(|teller| {
            let ear = MempoolEar {
                teller,
                last: Mutex::default(),
            };
            keep_listening(address, settings, &MEMPOOL, ear)
        })
    }
}

struct MempoolEar {
    teller: MempoolTeller,
    /// The last transaction: the node publishes each just before it says that it has accepted it. Those of blocks come in
    /// the same topic, and are of no use.
    last: Mutex<Vec<u8>>,
}

impl MempoolEar {
    fn last(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear for MempoolEar {
    async fn may_have_missed(&self) {
        self.teller.tell(MempoolWord::Anew).await;
    }

    async fn cut_off(&self) {
        self.teller.tell(MempoolWord::CutOff).await;
    }

    async fn hear(&self, message: Message) {
        let message = match message.into_raw_transaction() {
            Ok(raw) => {
                *self.last() = raw;
                return;
            }
            Err(message) => message,
        };
        let Some((number, mut change)) = message.change() else {
            return;
        };
        if let MempoolChange::Accepted { txid, raw, .. } = &mut change {
            let last = std::mem::take(&mut *self.last());
            let transaction = deserialize::<Transaction>(&last).ok();
            *raw = transaction
                .is_some_and(|tx| tx.compute_txid() == *txid)
                .then_some(last);
        }
        self.teller
            .tell(MempoolWord::Change { number, change })
            .await;
    }
}
