//! Answers that go on for as long as a client likes: how many there may be, and what ends them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::api::ServeSettings;
use crate::api::connection::Traffic;
use crate::api::desk::Bearer;
use crate::api::traffic::{Activity, Peer};

/// Longest time for which a stream says nothing: less than what proxies take for a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The streams of one router.
pub(super) struct Streams {
    /// A quarter of all connections, so that others find room.
    places: usize,
    /// Of these, a quarter for one peer.
    own_places: usize,
    pub(super) heartbeat: Duration,
    /// `None` if nothing ends them.
    is_stopping: Option<watch::Receiver<bool>>,
    open: Mutex<Open>,
}

/// How many are open.
#[derive(Default)]
struct Open {
    by_peer: HashMap<Option<Peer>, usize>,
    by_token: HashMap<u32, usize>,
}

/// One less.
fn leave<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Streams {
    pub(super) fn new(
        settings: &ServeSettings,
        is_stopping: Option<watch::Receiver<bool>>,
    ) -> Self {
        let places = (settings.max_connections / 4).max(1);
        Self {
            places,
            own_places: (places / 4).max(1),
            // Something has to be taken before the connection counts as dead.
            heartbeat: HEARTBEAT.min(settings.silence_timeout / 4),
            is_stopping,
            open: Mutex::default(),
        }
    }

    /// A place for a stream over a connection; `None` if there is none.
    pub(super) fn take(self: &Arc<Self>, traffic: Option<&Traffic>) -> Option<StreamPlace> {
        self.take_some(traffic, None)
    }

    /// A place for somebody's stream over a connection; `None` if there is none, or the token has as many as it may.
    pub(super) fn take_for(
        self: &Arc<Self>,
        traffic: Option<&Traffic>,
        bearer: &Bearer,
    ) -> Option<StreamPlace> {
        let token = bearer.token.map(|token| (token, bearer.streams_max));
        self.take_some(traffic, token)
    }

    fn take_some(
        self: &Arc<Self>,
        traffic: Option<&Traffic>,
        token: Option<(u32, u32)>,
    ) -> Option<StreamPlace> {
        let activity = traffic.map(|Traffic(activity)| activity.clone());
        let peer = activity.as_ref().map(|activity| activity.peer());
        let mut open = self.lock();
        let own = open.by_peer.get(&peer).copied().unwrap_or_default();
        let all = open.by_peer.values().sum::<usize>();
        // Whoever has a token counts by that: many of them may stand behind one address.
        let has_share = match token {
            Some((token, most)) => {
                let own = open.by_token.get(&token).copied().unwrap_or_default();
                u32::try_from(own).is_ok_and(|own| own < most)
            }
            None => own < self.own_places,
        };
        if !has_share || all >= self.places {
            return None;
        }
        let token = token.map(|(token, _)| token);
        *open.by_peer.entry(peer).or_default() += 1;
        if let Some(token) = token {
            *open.by_token.entry(token).or_default() += 1;
        }
        drop(open);
        if let Some(activity) = &activity {
            activity.stream_begins();
        }
        Some(StreamPlace {
            streams: self.clone(),
            peer,
            token,
            activity,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place, until it is dropped.
pub(super) struct StreamPlace {
    streams: Arc<Streams>,
    peer: Option<Peer>,
    token: Option<u32>,
    activity: Option<Arc<Activity>>,
}

impl StreamPlace {
    /// Comes when the server stops, if it ever does.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let is_stopping = self.streams.is_stopping.clone();
        async move {
            match is_stopping {
                // An error means that the server is gone.
                Some(mut is_stopping) => drop(is_stopping.wait_for(|stopping| *stopping).await),
                None => std::future::pending().await,
            }
        }
    }

    /// Whether the connection has to end for another one. It notices by itself, but not while bytes that the peer has sent too
    /// early wait to be read.
    pub(super) fn is_giving_way(&self) -> bool {
        let activity = self.activity.as_ref();
        activity.is_some_and(|activity| activity.is_giving_way(None))
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.stream_ends();
        }
        let mut open = self.streams.lock();
        leave(&mut open.by_peer, &self.peer);
        if let Some(token) = &self.token {
            leave(&mut open.by_token, token);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::api::traffic::Bounds;

    fn traffic(last: u8) -> Traffic {
        let bounds = Bounds {
            silence: Duration::from_secs(120),
            head: Duration::from_secs(10),
            grace: Duration::from_secs(5),
        };
        let peer = SocketAddr::from(([10, 0, 0, last], 1)).into();
        Traffic(Arc::new(Activity::new(peer, bounds)))
    }

    #[tokio::test]
    async fn nobody_has_more_than_a_quarter_of_a_quarter() {
        let settings = ServeSettings {
            max_connections: 64,
            ..ServeSettings::default()
        };
        let streams = Arc::new(Streams::new(&settings, None));
        let mut places = Vec::new();
        for last in 0..4 {
            for _ in 0..4 {
                places.push(streams.take(Some(&traffic(last))).expect("room"));
            }
            assert!(streams.take(Some(&traffic(last))).is_none(), "its share");
        }
        assert!(streams.take(Some(&traffic(9))).is_none(), "all");
        places.remove(0);
        drop(streams.take(Some(&traffic(9))).expect("one is free"));
        places.push(streams.take(Some(&traffic(0))).expect("one is free"));
        drop(places);

        // Tokens have shares of their own, from wherever they come.
        let bearer = |token, streams_max| Bearer {
            owner: token,
            token: Some(token),
            watches_max: 0,
            streams_max,
        };
        let mut places = Vec::new();
        for last in 0..6 {
            let place = streams.take_for(Some(&traffic(last)), &bearer(1, 6));
            places.push(place.expect("room"));
        }
        let seventh = |token| streams.take_for(Some(&traffic(7)), &bearer(token, 6));
        assert!(seventh(1).is_none(), "its share");
        drop(seventh(2).expect("another one's"));
        places.pop();
        drop(seventh(1).expect("one is free"));
        drop(places);
        assert!(streams.lock().by_token.is_empty());
        assert!(streams.lock().by_peer.is_empty());
    }
}
