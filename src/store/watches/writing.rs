//! Changes of watches and of the log beside the updates of the chain.

use std::sync::Arc;

use redb::Durability;

use super::change::{Committed, Watcher};
use super::log::WatchLog;
use crate::store::Store;
use crate::store::error::{Fault, StoreError};
use crate::store::snapshot::Snapshot;

impl Store {
    /// From now on `watcher` is handed each update of the chain, in the transaction that writes it. There is one at most: whoever
    /// comes later is not taken, and hears `false`.
    pub fn set_watcher(&self, watcher: Arc<dyn Watcher>) -> bool {
        self.watcher.set(watcher).is_ok()
    }

    /// Who is handed each update, if anybody is.
    pub fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        self.watcher.get().map(Arc::clone)
    }

    pub(in crate::store) fn active_watcher(&self) -> Option<&Arc<dyn Watcher>> {
        self.watcher.get().filter(|watcher| watcher.is_active())
    }

    /// Changes watches, and appends to the log, in one durable transaction of its own, all of it or nothing. No update of the
    /// chain comes between the snapshot that `write` gets, what it writes, and what it wants to be done once that is
    /// durable.
    ///
    /// # Errors
    /// What `write` returns: nothing was written then. Else as [`apply`](Self::apply).
    pub fn write_watches<T, E: From<StoreError>>(
        &self,
        write: impl FnOnce(&Snapshot, &mut WatchLog<'_>) -> Result<(T, Committed), E>,
    ) -> Result<T, E> {
        let mut writer = self.writer()?;
        let told = |fault: Fault| fault.in_file(&self.file);
        let snapshot = self.snapshot()?;
        let database = self.database.read().map_err(|_| self.halted())?;
        let _writing = self.start_writing()?;
        let begin = || -> Result<redb::WriteTransaction, Fault> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_quick_repair(true);
            Ok(transaction)
        };
        let transaction = begin().map_err(told)?;
        let mut log = WatchLog::open(&transaction, &self.file).map_err(told)?;
        let (value, committed) = write(&snapshot, &mut log)?;
        let tip = snapshot.tip();
        drop(snapshot);
        let finished = log.finish(tip);
        let finished = finished.and_then(|()| Ok(transaction.commit()?));
        if let Err(fault) = finished {
            writer.halted = true;
            return Err(told(fault).into());
        }
        committed();
        Ok(value)
    }
}
