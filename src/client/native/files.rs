//! What a server has, exported as files ([`export`](crate::exported)): the same answers without anybody who answers.
//!
//! Every file is held against the list that names it, and a chunk against itself, before anybody is given it (`check`); what
//! is missing, broken or contradicts itself is named, and taken from whoever is behind these files, where somebody is.

mod check;
mod listed;
mod location;
mod range;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::Network;
use futures::future::try_join_all;
use tokio::time::Instant;

use super::super::http::HttpOracle;
use super::super::{OracleError, off_worker};
use super::chunk::Came;
use super::parts::Parts;
use super::{ColumnsHead, Extent, NativeOracle, route};
use crate::exported::FaultKind;
use crate::wire::native::column::{CHUNK_BLOCKS, Column};
use crate::wire::native::manifest::{MANIFEST, Manifest, chunk_file};

use check::{Checked, Claims, check};
use listed::{Listed, MANIFEST_BYTES};
pub(super) use location::Location;
pub(super) use range::FileRange;

/// Faults that are remembered, so that each is said once.
const TOLD: usize = 4096;

/// How long files are not asked for whose server does not answer, as long as somebody is behind them.
const AWAY: Duration = Duration::from_secs(60);

/// Whether an address has exported files behind it, by their manifest.
///
/// # Errors
/// No answer.
pub(super) async fn are_at(http: &HttpOracle) -> Result<bool, OracleError> {
    match http.get(&route(MANIFEST), MANIFEST_BYTES).await {
        // One that is broken is one all the same; some servers answer anything with a page.
        Ok(answer) => {
            let key = b"\"chunk_blocks\"";
            Ok(answer.body.windows(key.len()).any(|bytes| bytes == key)
                || Manifest::decode(&answer.body).is_ok())
        }
        Err(
            OracleError::NotFound { .. }
            | OracleError::Declined { .. }
            | OracleError::Refused { .. },
        ) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Exported files, and who has what they lack.
pub(super) struct Exported {
    listed: Listed,
    behind: Option<Arc<NativeOracle>>,
    /// Faults that were said.
    told: Mutex<BTreeSet<String>>,
    /// Until when they are left alone.
    away: Mutex<Option<Instant>>,
}

impl Exported {
    pub(super) fn new(at: Location, network: Network, behind: Option<Arc<NativeOracle>>) -> Self {
        Self {
            listed: Listed::new(at, network),
            behind,
            told: Mutex::default(),
            away: Mutex::default(),
        }
    }

    fn describe(&self) -> String {
        self.listed.at.describe()
    }

    /// Who is behind them.
    pub(super) fn behind(&self) -> Option<&Arc<NativeOracle>> {
        self.behind.as_ref()
    }

    /// Whether they did not answer a moment ago, and somebody else is asked.
    fn are_away(&self) -> bool {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        self.behind.is_some() && away.is_some_and(|until| Instant::now() < until)
    }

    /// Says what is wrong, once, and who is asked instead.
    pub(super) fn tell(&self, error: &OracleError, behind: &NativeOracle) {
        if matches!(
            error,
            OracleError::Unreachable { .. } | OracleError::Busy { .. }
        ) {
            let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
            *away = Instant::now().checked_add(AWAY);
        }
        let what = match error {
            OracleError::File(fault) => fault.to_string(),
            error => error.to_string(),
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD && told.insert(what.clone()) {
            tracing::warn!(
                "{what}: what it should have is taken from {}",
                behind.describe()
            );
        }
    }

    /// What there is: of the files, and up to where somebody behind them goes on.
    pub(super) async fn extent(&self) -> Result<Extent, OracleError> {
        if let Some(behind) = self.behind.as_ref().filter(|_| self.are_away()) {
            return behind.info().await;
        }
        let own = self.listed.renew().await.map(|manifest| Extent {
            network: manifest.network,
            first_height: manifest.first_height,
            tip: manifest.last_block,
            tweaks_only: !manifest.columns.contains(&Column::Outputs),
            spenders_from: manifest.spenders_from,
        });
        let Some(behind) = &self.behind else {
            return own;
        };
        let own = match own {
            Ok(own) => own,
            Err(error) => {
                self.tell(&error, behind);
                return behind.info().await;
            }
        };
        match behind.info().await {
            Ok(there) if there.network != own.network => Err(OracleError::Setup(format!(
                "{} is of {}, and {} behind it of {}: name oracles of one network",
                self.describe(),
                own.network,
                behind.describe(),
                there.network
            ))),
            Ok(there) if there.tip.height > own.tip.height => Ok(Extent {
                tip: there.tip,
                spenders_from: own.spenders_from.max(there.spenders_from),
                ..own
            }),
            Ok(_) => Ok(own),
            // Files that cannot be read have nothing that is missed yet.
            Err(error) if behind.is_files() => {
                tracing::warn!("{error}");
                Ok(own)
            }
            Err(error) => Err(error),
        }
    }

    /// Columns of blocks of one chunk; `None` where neither the files nor those behind them reach.
    pub(super) async fn blocks(
        &self,
        columns: &[Column],
        first: u32,
        last: u32,
    ) -> Result<Option<Came>, OracleError> {
        let own = self.own(columns, first, last).await;
        let Some(behind) = &self.behind else {
            return own;
        };
        match own {
            Ok(Some(came)) => Ok(Some(came)),
            Ok(None) => behind.blocks(columns, first, last).await,
            Err(error) => {
                self.tell(&error, behind);
                match behind.blocks(columns, first, last).await? {
                    Some(came) => Ok(Some(came)),
                    None => Err(error),
                }
            }
        }
    }

    /// A column of the chunk of a height, of the files alone; `None` where they do not have it.
    pub(super) async fn chunk_around(
        &self,
        height: u32,
        column: Column,
    ) -> Result<Option<Came>, OracleError> {
        if self.are_away() {
            return Ok(None);
        }
        let manifest = self.listed.manifest().await?;
        let begin = height / CHUNK_BLOCKS * CHUNK_BLOCKS;
        let first = begin.max(manifest.first_height.min(height));
        let columns = [Column::Headers, column];
        self.own(&columns, first, begin.saturating_add(CHUNK_BLOCKS - 1))
            .await
    }

    /// That the files have the block of a height.
    ///
    /// # Errors
    /// [`OracleError::NotInFiles`] if not.
    pub(super) async fn has(&self, height: u32) -> Result<(), OracleError> {
        let manifest = self.listed.manifest().await?;
        let (first, end) = (manifest.first_height, manifest.last_block.height);
        match (first..=end).contains(&height) {
            true => Ok(()),
            false => Err(OracleError::NotInFiles {
                files: self.describe(),
                first,
                end,
                height,
            }),
        }
    }

    /// The head over the columns at a height; `None` where nobody has the block.
    pub(super) async fn head(&self, height: u32) -> Result<Option<ColumnsHead>, OracleError> {
        let own = self.own_head(height).await;
        let Some(behind) = &self.behind else {
            return own;
        };
        match own {
            Ok(Some(head)) => return Ok(Some(head)),
            Ok(None) => {}
            Err(error) => self.tell(&error, behind),
        }
        let head = behind.links(height).await?;
        let (Some(head), Some(manifest)) = (head, self.listed.known()) else {
            return Ok(head);
        };
        // The heads of indexes that begin at different heights are not the same, but on mainnet.
        let same_start = manifest.network == Network::Bitcoin
            || behind.info().await?.first_height == manifest.first_height;
        Ok(Some(ColumnsHead {
            columns_head: head.columns_head.filter(|_| same_start),
            ..head
        }))
    }

    /// Blocks from a height on.
    pub(super) async fn range(
        this: &Arc<Self>,
        columns: &[Column],
        from: u32,
        to: u32,
    ) -> Result<Parts, OracleError> {
        let manifest = match this.are_away() {
            true => Ok(None),
            false => this.listed.manifest().await.map(Some),
        };
        let end = match (manifest, &this.behind) {
            (Ok(None), _) => None,
            (Ok(Some(manifest)), _) => {
                let end = manifest.last_block.height;
                Some(end).filter(|end| (manifest.first_height..=*end).contains(&from))
            }
            (Err(error), Some(behind)) => {
                this.tell(&error, behind);
                None
            }
            (Err(error), None) => return Err(error),
        };
        let beyond = match (end, &this.behind) {
            (None, Some(behind)) => Some(behind.range(columns, from, to).await?),
            (None, None) => {
                this.has(from).await?;
                None
            }
            (Some(_), _) => None,
        };
        let range = FileRange::new(this.clone(), columns, from, to, end, beyond);
        Ok(Parts::of_files(this.describe(), range))
    }

    /// What somebody else has behind the end of the files.
    async fn beyond(
        &self,
        columns: &[Column],
        from: u32,
        to: u32,
    ) -> Result<Option<Parts>, OracleError> {
        let Some(behind) = &self.behind else {
            return Ok(None);
        };
        match behind.info().await {
            Ok(info) if info.tip.height >= from => behind.range(columns, from, to).await.map(Some),
            Ok(_) => Ok(None),
            Err(error) if behind.is_files() => {
                tracing::warn!("{error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Bytes of columns of a chunk, as far as they are listed.
    async fn bytes_of(&self, chunk: u32, columns: &[Column]) -> u64 {
        let listed = async {
            let manifest = self.listed.manifest().await?;
            let listed = self.listed.chunk(&manifest, chunk).await?;
            let of = manifest.columns.iter().zip(&listed.files);
            let of = of.filter(|(column, _)| columns.contains(column));
            Ok::<u64, OracleError>(of.map(|(_, sum)| sum.bytes).fold(0, u64::saturating_add))
        };
        listed.await.unwrap_or_default()
    }

    async fn own(
        &self,
        columns: &[Column],
        first: u32,
        last: u32,
    ) -> Result<Option<Came>, OracleError> {
        if self.are_away() {
            return Ok(None);
        }
        let manifest = self.listed.manifest().await?;
        if first < manifest.first_height || last > manifest.last_block.height {
            return Ok(None);
        }
        let chunk = first / CHUNK_BLOCKS;
        let mut blocks = self.checked(chunk, columns).await?.blocks;
        blocks.retain(|block| (first..=last).contains(&block.height));
        let url = self.listed.at.name_of(&format!("chunk/{chunk}"));
        Ok(Some(Came { url, blocks }))
    }

    async fn own_head(&self, height: u32) -> Result<Option<ColumnsHead>, OracleError> {
        if self.are_away() {
            return Ok(None);
        }
        let manifest = self.listed.manifest().await?;
        if height < manifest.first_height || height > manifest.last_block.height {
            return Ok(None);
        }
        let checked = self
            .checked(height / CHUNK_BLOCKS, &[Column::Headers])
            .await?;
        let mut blocks = checked.blocks.iter().zip(checked.heads);
        let at = blocks.find(|(block, _)| block.height == height);
        Ok(at.map(|(block, columns_head)| ColumnsHead {
            block: block.id(),
            columns_head,
        }))
    }

    /// Columns of a chunk that are as they should be.
    async fn checked(&self, chunk: u32, columns: &[Column]) -> Result<Checked, OracleError> {
        let manifest = self.listed.manifest().await?;
        match self.read(&manifest, chunk, columns).await {
            Err(OracleError::File(fault)) => {
                // Exports go on meanwhile, and what a manifest names need not be there any more once the next but one is.
                match self.listed.renew().await {
                    Ok(manifest) => self.read(&manifest, chunk, columns).await,
                    Err(_) => Err(OracleError::File(fault)),
                }
            }
            read => read,
        }
    }

    async fn read(
        &self,
        manifest: &Arc<Manifest>,
        chunk: u32,
        columns: &[Column],
    ) -> Result<Checked, OracleError> {
        let listed = self.listed.chunk(manifest, chunk).await?;
        let before = match chunk.checked_sub(1) {
            // That its list cannot be read is said where that one is asked for.
            Some(before) if before >= manifest.first_chunk() => {
                self.listed.chunk(manifest, before).await.ok()
            }
            _ => None,
        };
        let claims = Claims {
            manifest: manifest.clone(),
            listed,
            before,
        };
        let files = columns.iter().map(|column| {
            let file = chunk_file(chunk, *column);
            let most = claims.most_bytes(*column);
            async move {
                match most {
                    Some(most) => self.listed.at.read(&file, most).await,
                    None => Err(self.listed.at.fault(&file, FaultKind::Missing)),
                }
            }
        });
        let files = try_join_all(files).await?;
        let (at, columns) = (self.listed.at.clone(), columns.to_vec());
        off_worker(move || check(&at, &claims, &columns, files)).await
    }
}
