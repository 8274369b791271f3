//! Who may be connected: a number of places, some of them kept for peers that have few, and who gives way to whom.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::traffic::{Activity, Bounds, Peer};

/// Shortest time between two looks at who gives way.
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// The places.
pub(super) struct Room {
    /// At least 1.
    places: usize,
    /// How many of them are kept for peers that have few.
    reserved: usize,
    bounds: Bounds,
    taken: Mutex<Vec<Arc<Activity>>>,
    /// A place became free.
    freed: watch::Sender<()>,
}

/// A place, until it is dropped.
pub(super) struct Place {
    pub(super) activity: Arc<Activity>,
    room: Arc<Room>,
}

impl Room {
    pub(super) fn new(places: usize, reserved: usize, bounds: Bounds) -> Arc<Self> {
        let places = places.max(1);
        Arc::new(Self {
            places,
            reserved: reserved.min(places - 1),
            bounds,
            taken: Mutex::default(),
            freed: watch::Sender::default(),
        })
    }

    /// What changes whenever a place becomes free.
    pub(super) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// Takes a place.
    ///
    /// If there is none left for the peer, a connection on which nothing has happened for some time has to give way: one of
    /// the peer's own, or of others that have more; of these, one of whoever has most.
    ///
    /// # Errors
    /// There is no place yet: to be tried again when one is freed, and at the time given.
    pub(super) fn take(self: &Arc<Self>, peer: Peer) -> Result<Place, Instant> {
        let now = Instant::now();
        let mut taken = self.lock();
        let mut held: HashMap<Peer, usize> = HashMap::new();
        for activity in taken.iter() {
            *held.entry(activity.peer()).or_default() += 1;
        }
        let own = held.get(&peer).copied().unwrap_or_default();
        let has_few = own < (self.reserved / 4).max(1);
        let open = match has_few {
            true => self.places,
            false => self.places - self.reserved,
        };
        if taken.len() < open {
            let activity = Arc::new(Activity::new(peer, self.bounds));
            taken.push(activity.clone());
            let room = self.clone();
            return Ok(Place { activity, room });
        }
        let most = |activity: &Activity| held.get(&activity.peer()).copied().unwrap_or_default();
        let may_go = |activity: &Activity| activity.peer() == peer || most(activity) > own;
        let again = now + self.bounds.grace.max(LEAST_WAIT);
        // One that is leaving already makes room enough for now.
        if taken
            .iter()
            .any(|activity| may_go(activity) && activity.is_giving_way(None))
        {
            return Err(again);
        }
        let quiet = taken
            .iter()
            .filter(|activity| may_go(activity))
            .filter_map(|activity| Some((activity, activity.yields_from()?)));
        let (ready, later): (Vec<_>, Vec<_>) = quiet.partition(|(_, from)| *from <= now);
        if let Some((activity, _)) = ready
            .into_iter()
            .min_by_key(|(activity, from)| (Reverse(most(activity)), *from))
        {
            activity.give_way();
        }
        let next = later.into_iter().map(|(_, from)| from).min();
        Err(next.map_or(again, |next| next.min(again)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Activity>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.retain(|activity| !Arc::ptr_eq(activity, &self.activity));
        drop(taken);
        self.room.freed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use tokio::time::advance;

    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn room(places: usize, reserved: usize) -> Arc<Room> {
        let bounds = Bounds {
            silence: Duration::from_secs(120),
            head: Duration::from_secs(10),
            grace: GRACE,
        };
        Room::new(places, reserved, bounds)
    }

    fn peer(last: u8) -> Peer {
        SocketAddr::from(([10, 0, 0, last], 1)).into()
    }

    fn leaving(places: &[Place]) -> Vec<usize> {
        let places = places.iter().enumerate();
        let leaving = places.filter(|(_, place)| place.activity.is_giving_way(None));
        leaving.map(|(at, _)| at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_for_those_who_have_few() {
        let room = room(10, 7);
        // Two who wait, both of whom hear of it.
        let mut freed = [room.freed(), room.freed()];
        let own: Vec<Place> = (0..3).map(|_| room.take(peer(1)).expect("room")).collect();
        assert!(room.take(peer(1)).is_err());
        assert_eq!(leaving(&own), [0; 0], "nobody has been quiet for long");
        let others: Vec<Place> = (2..9)
            .map(|last| room.take(peer(last)).expect("room"))
            .collect();
        advance(GRACE).await;
        // Its own have to go, the one that was quiet longest first.
        own[0].activity.received();
        assert!(room.take(peer(1)).is_err());
        assert_eq!((leaving(&own), leaving(&others)), (vec![1], vec![]));
        // One at a time.
        assert!(room.take(peer(1)).is_err());
        assert_eq!(leaving(&own), [1]);
        assert!(
            freed
                .iter()
                .all(|freed| !freed.has_changed().expect("the room is there"))
        );
        drop(own);
        for freed in &mut freed {
            freed.changed().await.expect("the room is there");
        }
        assert!(room.take(peer(1)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_most_gives_way_when_all_is_taken() {
        let room = room(6, 0);
        let take = |last| room.take(peer(last)).expect("room");
        let places = [take(1), take(2), take(3), take(2), take(2), take(1)];
        advance(GRACE).await;
        places[1].activity.request_begins();
        places[3].activity.answer_begins();
        assert!(room.take(peer(4)).is_err());
        // Peer 2 has most: one is served, one was just answered, the third is idle.
        assert_eq!(leaving(&places), [4]);
        // A peer with as many as the others pushes nobody out but itself.
        let [a, b, c, d, e, f] = places;
        drop(e);
        let places = [a, b, c, d, f, take(3)];
        assert!(room.take(peer(3)).is_err());
        assert_eq!(leaving(&places), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_served_gives_way_to_nobody() {
        let room = room(2, 0);
        let places: Vec<Place> = (0..2).map(|_| room.take(peer(1)).expect("room")).collect();
        for place in &places {
            place.activity.request_begins();
        }
        advance(100 * GRACE).await;
        let again = room.take(peer(2)).err().expect("no room");
        assert_eq!(again, Instant::now() + GRACE);
        assert_eq!(leaving(&places), [0; 0]);
        places[1].activity.answer_begins();
        let again = room.take(peer(2)).err().expect("no room");
        advance(again - Instant::now()).await;
        assert!(room.take(peer(2)).is_err());
        assert_eq!(leaving(&places), [1]);
    }
}
