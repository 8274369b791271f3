//! How much of the log stays.

use super::error::WatchError;
use super::registry::Registry;

impl Registry {
    /// Cuts all but the last `most` events off the log, and of those not what [`cut`](Self::cut) keeps; gives how many went.
    ///
    /// # Errors
    /// [`WatchError::Store`].
    pub fn keep_last(&self, most: u64) -> Result<u64, WatchError> {
        let snapshot = self.store().snapshot()?;
        let before = (snapshot.last_event()? + 1).saturating_sub(most);
        let first = snapshot.first_event()?;
        drop(snapshot);
        // No commit where there is nothing to do.
        let Some(first) = first.filter(|first| *first < before) else {
            return Ok(0);
        };
        Ok(self.cut(before)?.saturating_sub(first))
    }
}
