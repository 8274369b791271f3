//! Room for answers that are made and not taken yet, so that slow readers, however many, do not use up the memory, and one
//! of them not what others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::ServeSettings;
use crate::api::desk::DeskError;
use crate::api::traffic::Peer;

/// What permits for room count.
const PAGE_BYTES: u64 = 4 << 10;

/// Of four quarters of the room, how many one peer may have.
const OWN_QUARTERS: u32 = 3;

/// How many pieces what is free is worth.
const PIECES: u64 = 512;

/// Smallest piece: some blocks, or one that is larger.
const LEAST_PIECE: u64 = 32 << 10;

/// The room.
#[derive(Clone)]
pub(super) struct Outgoing {
    pages: Arc<Semaphore>,
    all: u32,
    /// What one peer may have of it.
    own: u32,
    shares: Arc<Mutex<HashMap<Peer, Weak<Semaphore>>>>,
    patience: Duration,
}

/// Why there is no room.
#[derive(Debug)]
pub(super) enum NoRoom {
    /// Nobody has made any for long.
    Crowded,
    /// The server is at its end.
    Closed(DeskError),
}

/// Some of the room.
pub(super) struct Roomed(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// Some of what a peer may have of it.
pub(super) struct Share(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Outgoing {
    /// Half of the room for what is under way, and the room for what is kept.
    pub(super) fn for_chunks(settings: &ServeSettings) -> Self {
        // What is kept has its room as long as it is, and leaves the others theirs.
        Self::new(
            settings.outgoing_bytes / 2,
            settings.kept_answer_bytes,
            settings,
        )
    }

    /// The other half.
    pub(super) fn for_ranges(settings: &ServeSettings) -> Self {
        Self::new(settings.outgoing_bytes / 2, 0, settings)
    }

    fn new(bytes: u64, kept: u64, settings: &ServeSettings) -> Self {
        let pages = |bytes: u64| (bytes / PAGE_BYTES).min(1 << 28) as u32;
        let own = (pages(bytes) / 4 * OWN_QUARTERS).max(1);
        let all = (pages(bytes) + pages(kept)).max(own);
        Self {
            pages: Arc::new(Semaphore::new(all as usize)),
            all,
            own,
            shares: Arc::default(),
            patience: settings.outgoing_patience,
        }
    }

    /// How many bytes whoever takes one piece after the other is to take at a time: the more are under way, the fewer, so that
    /// there is something for all.
    pub(super) fn fitting(&self, peer: Option<Peer>) -> u64 {
        (self.free(peer) / PIECES).max(LEAST_PIECE)
    }

    /// Whether there is less left than half of what a peer may have.
    pub(super) fn is_scarce(&self, peer: Option<Peer>) -> bool {
        self.free(peer) < u64::from(self.own) * PAGE_BYTES / 2
    }

    fn free(&self, peer: Option<Peer>) -> u64 {
        let own = peer.map_or(usize::MAX, |peer| self.share_of(peer).available_permits());
        self.pages.available_permits().min(own) as u64 * PAGE_BYTES
    }

    /// Room for an answer, when its turn comes; one alone may take more than there is.
    ///
    /// # Errors
    /// That it does not come soon.
    pub(super) async fn room(&self, bytes: u64) -> Result<Roomed, NoRoom> {
        let permit = self.take(&self.pages, self.all, bytes);
        Ok(Roomed(permit.await?))
    }

    /// What an answer takes of the share of a peer, when its turn comes, before there is room for it.
    ///
    /// # Errors
    /// As [`room`](Self::room).
    pub(super) async fn share(
        &self,
        peer: Option<Peer>,
        bytes: u64,
    ) -> Result<Option<Share>, NoRoom> {
        let Some(peer) = peer else {
            return Ok(None);
        };
        let share = self.share_of(peer);
        let permit = self.take(&share, self.own, bytes);
        Ok(Some(Share(permit.await?)))
    }

    async fn take(
        &self,
        pages: &Arc<Semaphore>,
        most: u32,
        bytes: u64,
    ) -> Result<OwnedSemaphorePermit, NoRoom> {
        let wanted = bytes.div_ceil(PAGE_BYTES).min(most.into()) as u32;
        let permit = pages.clone().acquire_many_owned(wanted);
        match tokio::time::timeout(self.patience, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(error)) => Err(NoRoom::Closed(DeskError::Internal(error.to_string()))),
            Err(_) => Err(NoRoom::Crowded),
        }
    }

    fn share_of(&self, peer: Peer) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&peer).and_then(Weak::upgrade) {
            return share;
        }
        // Those of whom nothing is under way any more.
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.own as usize));
        shares.insert(peer, Arc::downgrade(&share));
        share
    }
}

struct WithRoom<T> {
    bytes: Vec<u8>,
    _room: Roomed,
    _held: T,
}

impl<T> AsRef<[u8]> for WithRoom<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Roomed {
    /// Bytes that have this room, and whatever else there is to hold, as long as they are somewhere.
    pub(super) fn holding<T: Send + 'static>(self, bytes: Vec<u8>, held: T) -> Bytes {
        Bytes::from_owner(WithRoom {
            bytes,
            _room: self,
            _held: held,
        })
    }
}

impl Share {
    /// An answer that has the share until it is taken, or given up.
    pub(super) fn until_taken(self, mut response: Response) -> Response {
        let Some(length) = response
            .body()
            .size_hint()
            .exact()
            .filter(|length| *length > 0)
        else {
            return response;
        };
        // A stream does not say how long it is.
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response.map(|body| {
            let pieces = body.into_data_stream();
            Body::from_stream(pieces.map(move |piece| {
                let _held = &self;
                piece
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn outgoing(kept_pages: u64) -> Outgoing {
        let settings = ServeSettings {
            outgoing_bytes: 16 * PAGE_BYTES,
            kept_answer_bytes: kept_pages * PAGE_BYTES,
            ..ServeSettings::default()
        };
        Outgoing::for_chunks(&settings)
    }

    fn peer(last: u8) -> Option<Peer> {
        Some(SocketAddr::from(([10, 0, 0, last], 1)).into())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_holds_up_the_next_answer() {
        let outgoing = outgoing(2);
        let first = outgoing.room(9 * PAGE_BYTES + 1).await.ok();
        assert!(matches!(outgoing.room(1).await, Err(NoRoom::Crowded)));
        let bytes = first.expect("room").holding(vec![1, 2], ());
        let kept = bytes.clone();
        drop(bytes);
        assert!(outgoing.room(1).await.is_err());
        drop(kept);
        // More than there is takes all of it.
        let all = outgoing.room(1 << 40).await.ok();
        assert!(all.is_some() && outgoing.room(1).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_more_than_three_quarters_and_what_is_kept_has_its_own() {
        let outgoing = outgoing(4);
        let mut held = Vec::new();
        let mut take = async |peer: Option<Peer>| {
            let share = outgoing.share(peer, PAGE_BYTES).await?;
            held.push((outgoing.room(PAGE_BYTES).await?, share));
            Ok::<_, NoRoom>(())
        };
        for _ in 0..6 {
            assert!(take(peer(1)).await.is_ok());
        }
        assert!(take(peer(1)).await.is_err(), "its share");
        // With all that may be kept there is something left for others.
        for _ in 0..4 {
            assert!(take(None).await.is_ok());
        }
        for last in 2..4 {
            assert!(take(peer(last)).await.is_ok());
        }
        assert!(take(peer(4)).await.is_err(), "all");
        held.clear();
        // As much as there is, and whoever was there before is forgotten.
        let share = outgoing.share(peer(1), 1 << 40).await.ok();
        assert!(share.is_some() && outgoing.share(peer(1), 1).await.is_err());
        assert!(outgoing.share(peer(9), 1).await.is_ok());
        let shares = outgoing.shares.lock().expect("not poisoned");
        assert_eq!(shares.len(), 2);
    }

    #[tokio::test]
    async fn pieces_become_smaller_as_the_room_does() {
        let settings = ServeSettings {
            outgoing_bytes: 2 << 30,
            ..ServeSettings::default()
        };
        let outgoing = Outgoing::for_ranges(&settings);
        assert_eq!(outgoing.fitting(None), 2 << 20);
        assert_eq!(outgoing.fitting(peer(1)), (2 << 20) / 4 * 3);
        let share = outgoing.share(peer(1), 512 << 20).await;
        assert!(share.is_ok());
        assert_eq!(outgoing.fitting(peer(1)), 512 << 10);
        assert!(outgoing.is_scarce(peer(1)) && !outgoing.is_scarce(peer(2)));
        assert_eq!(outgoing.fitting(peer(2)), (2 << 20) / 4 * 3);
        let room = outgoing.room(1020 << 20).await;
        assert!(room.is_ok());
        assert_eq!(outgoing.fitting(peer(2)), LEAST_PIECE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_share_until_it_is_taken() {
        let outgoing = outgoing(0);
        for is_given_up in [true, false] {
            let share = outgoing.share(peer(1), 6 * PAGE_BYTES).await.ok().flatten();
            let response = Response::new(Body::from(vec![7; 10]));
            let response = share.expect("a share").until_taken(response);
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "10");
            assert!(outgoing.share(peer(1), 1).await.is_err());
            match is_given_up {
                true => drop(response),
                false => {
                    let bytes = axum::body::to_bytes(response.into_body(), 10).await;
                    assert_eq!(bytes.expect("short"), vec![7; 10]);
                }
            }
        }
        assert!(outgoing.share(peer(1), 6 * PAGE_BYTES).await.is_ok());
    }
}
