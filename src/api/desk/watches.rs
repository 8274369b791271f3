//! What is watched, for those who may know of it.
//!
//! Whoever asks brings a [`Credential`], and gets what belongs to the owner that it stands for, nothing of anybody else. Changes
//! are made a few at a time on blocking threads; the log is read through one [`Feed`].

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::{Desk, DeskError, Reading};
use crate::store::Snapshot;
use crate::store::watches::TokenRow;
use crate::watch::feed::Feed;
use crate::watch::{NewWatch, Registered, Registry, Token, WatchError, allows, token_row, watch};
use crate::wire::native::{MadeToken, NewToken, Scope, TokenEntry, Watch, WatchPage};

/// Changes that are made at a time: each may look back over a long time, before it waits for the others.
const WRITERS: usize = 2;
/// Watches that are read at a time.
const READ: usize = 1_000;
/// Watches of anybody that one page looks through.
const LOOKED_THROUGH: usize = 20_000;

/// Why nothing is said of watches.
#[derive(Debug, thiserror::Error)]
pub enum WatchingError {
    /// This server does not follow what is watched.
    #[error("this server watches nothing: `spindex run` does")]
    NoWatches,
    /// Nobody known asks.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Whoever asks may not.
    #[error("this token does not allow that: it lacks the scope {}", .0.name())]
    Forbidden(Scope),
    /// It cannot be done.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// There is no such token.
    #[error("there is no token {0}")]
    NoToken(u32),
    /// The desk has no answer.
    #[error(transparent)]
    Desk(#[from] DeskError),
}

/// Who asks, as far as the request says.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Whoever has a token.
    Token(Token),
    /// Somebody on this machine, without one.
    Loopback,
    /// Somebody else, without one.
    Nobody,
    /// Somebody with something that is no token.
    Malformed,
}

/// Who asks, and what is allowed.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// Whose watches it is about.
    pub owner: u32,
    /// The token's number; `None` for whoever needs none.
    pub token: Option<u32>,
    /// How many watches the owner may have.
    pub watches_max: u64,
    /// How many streams the token may have open at a time.
    pub streams_max: u32,
}

impl Bearer {
    /// Whoever needs no token.
    const LOCAL: Self = Self {
        owner: 0,
        token: None,
        watches_max: u64::MAX,
        streams_max: u32::MAX,
    };

    fn of(row: &TokenRow) -> Self {
        Self {
            owner: row.owner(),
            token: Some(row.number),
            watches_max: row.watches_max,
            streams_max: row.streams_max,
        }
    }
}

/// What is watched in the index that a desk answers from.
pub struct Watching {
    registry: Registry,
    feed: Feed,
    writing: Arc<Semaphore>,
    /// Counts changes of tokens, for whoever was let in before.
    tokens: watch::Sender<u64>,
}

impl Watching {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            feed: Feed::new(&registry),
            registry,
            writing: Arc::new(Semaphore::new(WRITERS)),
            tokens: watch::Sender::new(0),
        }
    }

    /// The registry.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The log.
    pub const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Changes whenever a token is made or revoked.
    pub fn token_changes(&self) -> watch::Receiver<u64> {
        self.tokens.subscribe()
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Registry) -> Result<T, WatchError> + Send + 'static,
    ) -> Result<T, WatchingError> {
        let internal = |text: String| DeskError::Internal(text);
        let permit = Arc::clone(&self.writing).acquire_owned().await;
        let permit = permit.map_err(|error| internal(error.to_string()))?;
        let registry = self.registry.clone();
        let written = tokio::task::spawn_blocking(move || {
            // Kept until it is done, also if whoever asked has gone meanwhile.
            let _permit = permit;
            change(&registry)
        });
        let written = written.await.map_err(|error| internal(error.to_string()))?;
        Ok(written?)
    }
}

impl Desk {
    /// What is watched.
    ///
    /// # Errors
    /// [`WatchingError::NoWatches`].
    pub fn watching(&self) -> Result<&Watching, WatchingError> {
        self.watching.as_ref().ok_or(WatchingError::NoWatches)
    }

    /// Lets somebody in who wants to do something.
    ///
    /// # Errors
    /// [`WatchingError::NoWatches`], [`WatchingError::Unauthorized`], [`WatchingError::Forbidden`], [`WatchingError::Desk`].
    pub async fn admit(
        &self,
        credential: Credential,
        scope: Scope,
    ) -> Result<Bearer, WatchingError> {
        self.watching()?;
        self.read(move |reading| admit(reading.snapshot, &credential, scope))
            .await
    }

    /// Cursor of the oldest event that is kept; `None` if none is.
    ///
    /// # Errors
    /// [`WatchingError::NoWatches`], [`WatchingError::Desk`].
    pub async fn first_event(&self) -> Result<Option<u64>, WatchingError> {
        self.watching()?;
        self.read(|reading| Ok(reading.snapshot.first_event().map_err(DeskError::from)?))
            .await
    }

    /// Registers watches.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn register(
        &self,
        bearer: &Bearer,
        watches: Vec<NewWatch>,
    ) -> Result<Vec<Registered>, WatchingError> {
        let (owner, most) = (bearer.owner, bearer.watches_max);
        self.watching()?
            .write(move |registry| registry.register(owner, most, &watches, |_| ()))
            .await
    }

    /// Removes watches; says of each whether it was there.
    ///
    /// # Errors
    /// As [`Registry::remove`].
    pub async fn remove(
        &self,
        bearer: &Bearer,
        watches: Vec<u64>,
    ) -> Result<Vec<bool>, WatchingError> {
        let owner = bearer.owner;
        self.watching()?
            .write(move |registry| registry.remove(Some(owner), &watches))
            .await
    }

    /// Makes a token.
    ///
    /// # Errors
    /// As [`Registry::put_token`].
    pub async fn make_token(&self, new: &NewToken) -> Result<MadeToken, WatchingError> {
        let watching = self.watching()?;
        let row = token_row(new);
        let made = watching.write(move |registry| {
            let token = Token::random();
            let number = registry.put_token(&token.hash(), &row)?;
            let token = token.text();
            Ok(MadeToken { number, token })
        });
        let made = made.await?;
        watching.tokens.send_modify(|changes| *changes += 1);
        Ok(made)
    }

    /// Revokes a token by its number.
    ///
    /// # Errors
    /// [`WatchingError::NoToken`]; as [`Registry::revoke_token`].
    pub async fn revoke_token(&self, number: u32) -> Result<(), WatchingError> {
        let watching = self.watching()?;
        let revoked = watching.write(move |registry| registry.revoke_token_of(number));
        match revoked.await? {
            true => {
                watching.tokens.send_modify(|changes| *changes += 1);
                Ok(())
            }
            false => Err(WatchingError::NoToken(number)),
        }
    }
}

fn admit(
    snapshot: &Snapshot,
    credential: &Credential,
    scope: Scope,
) -> Result<Bearer, WatchingError> {
    let no = |text| Err(WatchingError::Unauthorized(text));
    match credential {
        Credential::Malformed => no("no token: give Authorization: Bearer spx_…"),
        Credential::Token(token) => {
            let row = snapshot.token(&token.hash()).map_err(DeskError::from)?;
            match row {
                Some(row) if allows(&row, scope) => Ok(Bearer::of(&row)),
                Some(_) => Err(WatchingError::Forbidden(scope)),
                None => no("this token is not known: it was revoked, or is another server's"),
            }
        }
        Credential::Loopback if snapshot.has_tokens().map_err(DeskError::from)? => {
            no("this server has tokens: give one, as Authorization: Bearer")
        }
        Credential::Loopback => Ok(Bearer::LOCAL),
        Credential::Nobody => no("give a token, as Authorization: Bearer"),
    }
}

impl Reading<'_> {
    /// A watch of an owner's.
    ///
    /// # Errors
    /// See [`Reading`].
    pub fn watch(&self, owner: u32, number: u64) -> Result<Option<Watch>, DeskError> {
        let row = self.snapshot.watch(number)?;
        let row = row.filter(|row| row.owner == owner);
        Ok(row.map(|row| watch(number, &row)))
    }

    /// An owner's watches from a number on, `most` at most, and fewer where there are many of others between them.
    ///
    /// # Errors
    /// See [`Reading`].
    pub fn watches(&self, owner: u32, from: u64, most: usize) -> Result<WatchPage, DeskError> {
        let mut page = WatchPage::default();
        let mut from = from;
        for _ in 0..LOOKED_THROUGH / READ {
            let rows = self.snapshot.watches(from, READ)?;
            let is_end = rows.len() < READ;
            for (number, row) in rows {
                if page.watches.len() == most {
                    page.next = Some(number);
                    return Ok(page);
                }
                from = number.saturating_add(1);
                if row.owner == owner {
                    page.watches.push(watch(number, &row));
                }
            }
            if is_end {
                return Ok(page);
            }
        }
        page.next = Some(from);
        Ok(page)
    }

    /// All tokens, by their numbers.
    ///
    /// # Errors
    /// See [`Reading`].
    pub fn tokens(&self) -> Result<Vec<TokenEntry>, DeskError> {
        let tokens = self.snapshot.tokens()?;
        let tokens = tokens.iter().map(|(_, row)| crate::watch::token_entry(row));
        let mut tokens: Vec<TokenEntry> = tokens.collect();
        tokens.sort_unstable_by_key(|token| token.number);
        Ok(tokens)
    }
}
