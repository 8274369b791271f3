//! Bodies of requests: taken in before anything scarce is, in a short time and in bounded memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::V1Error;
use crate::api::desk::DeskError;
use crate::api::traffic::Peer;

/// Largest body of a transaction. Nodes relay up to 400,000 weight units, so 400,000 bytes or 800,000 hex digits at most; the
/// rest is room for the frame.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// Up to this size a body needs no permit: the number of connections bounds the memory that such bodies take.
pub(super) const SMALL_BODY_BYTES: usize = 64 << 10;
/// Larger bodies that are held at the same time, which bounds their memory.
const MAX_LARGE: usize = 16;
/// Of these, most of one peer.
const MAX_LARGE_PER_PEER: usize = 4;

/// What takes bodies in.
pub(in crate::api::http) struct Receiver {
    time: Duration,
    large: Semaphore,
    by_peer: Mutex<HashMap<Option<Peer>, usize>>,
}

/// A body, and its share of what may be held.
pub(in crate::api::http) struct Received<'a> {
    pub(in crate::api::http) bytes: Bytes,
    _large: Option<Large<'a>>,
}

/// A permit to hold a large body.
struct Large<'a> {
    _counted: PeerCount<'a>,
    _permit: SemaphorePermit<'a>,
}

/// One of the large bodies of a peer, until it is dropped.
struct PeerCount<'a> {
    receiver: &'a Receiver,
    peer: Option<Peer>,
}

impl Drop for PeerCount<'_> {
    fn drop(&mut self) {
        let mut by_peer = self.receiver.lock();
        if let Some(held) = by_peer.get_mut(&self.peer) {
            *held -= 1;
            if *held == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

impl Receiver {
    /// Bodies may take so long to arrive.
    pub(in crate::api::http) fn new(time: Duration) -> Self {
        Self {
            time,
            large: Semaphore::new(MAX_LARGE),
            by_peer: Mutex::default(),
        }
    }

    /// Takes a body of `most` bytes in; `peer` is where it comes from, where that is known.
    ///
    /// # Errors
    /// [`V1Error::BodyTooLarge`], [`V1Error::BodyTooSlow`]; [`V1Error::TooManyBodies`] for a large one while others
    /// are held; [`V1Error::BodyLost`] if it ends early.
    pub(in crate::api::http) async fn receive(
        &self,
        body: Body,
        peer: Option<Peer>,
        most: usize,
    ) -> Result<Received<'_>, V1Error> {
        let deadline = Instant::now() + self.time;
        let mut stream = body.into_data_stream();
        let mut bytes = Vec::new();
        let mut large = None;
        loop {
            let next = timeout_at(deadline, stream.next()).await;
            let Some(next) = next.map_err(|_| V1Error::BodyTooSlow)? else {
                break;
            };
            let next = next.map_err(|_| V1Error::BodyLost)?;
            let length = bytes.len() + next.len();
            if length > most {
                return Err(V1Error::BodyTooLarge { limit_bytes: most });
            }
            if length > SMALL_BODY_BYTES && large.is_none() {
                large = Some(self.hold_large(peer, deadline).await?);
            }
            bytes.extend_from_slice(&next);
        }
        Ok(Received {
            bytes: bytes.into(),
            _large: large,
        })
    }

    async fn hold_large(
        &self,
        peer: Option<Peer>,
        deadline: Instant,
    ) -> Result<Large<'_>, V1Error> {
        {
            let mut by_peer = self.lock();
            let held = by_peer.entry(peer).or_default();
            if *held >= MAX_LARGE_PER_PEER {
                return Err(V1Error::TooManyBodies);
            }
            *held += 1;
        }
        let counted = PeerCount {
            receiver: self,
            peer,
        };
        let permit = timeout_at(deadline, self.large.acquire()).await;
        let permit = permit.map_err(|_| V1Error::TooManyBodies)?;
        let permit = permit.map_err(|error| DeskError::Internal(error.to_string()))?;
        Ok(Large {
            _counted: counted,
            _permit: permit,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<Peer>, usize>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
