//! Version 1 of the HTTP interface, and the native routes of spindex servers.

mod file;
mod pause;
mod proxy;
mod redirect;
mod transport;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{BlockHash, Transaction, Txid};
use futures::future::{BoxFuture, FutureExt, try_join};
use reqwest::{Client, Method, Url};

use super::{
    BlockFilters, Oracle, OracleError, OracleInfo, OracleUtxo, SpendDetails, SpentIndex, TweakQuery,
};
use crate::curve::TweakPoint;
use crate::wire::native;
use crate::wire::v1::{self, words};

use pause::Pause;
use proxy::Way;
pub use transport::HttpSettings;
use transport::{Answer, reason, shown};
pub(super) use transport::{Incoming, Unheard};

/// Longest body of an answer that is one small object.
const SMALL_BYTES: usize = 64 << 10;

/// Longest body of a filter, a list of tweaks or a spent index. A block of 4 MWU holds at most some 10,000 tweaks
/// (69 bytes each in a body), 23,300 outputs (6 bytes in a filter) and 17,400 inputs (19 bytes).
const LIST_BYTES: usize = 4 << 20;

/// Longest body of a list of outputs or spends, of which each takes up to 400 bytes, and OP_RETURN data beside.
const ROWS_BYTES: usize = 32 << 20;

/// A server behind a base address.
pub struct HttpOracle {
    client: Client,
    /// Ends with a slash, so that routes join below it.
    base: Url,
    settings: HttpSettings,
    way: Way,
    pause: Pause,
    /// Whether it has been logged that the server tells no details of spends.
    told_no_details: AtomicBool,
}

impl fmt::Debug for HttpOracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOracle")
            .field("base", &shown(&self.base))
            .finish_non_exhaustive()
    }
}

impl HttpOracle {
    /// A server at a base address such as `https://host/some/prefix`, with or without a slash at the end.
    ///
    /// # Errors
    /// [`OracleError::Setup`] for an address or a proxy that cannot be used.
    pub fn new(base_url: &str, settings: HttpSettings) -> Result<Self, OracleError> {
        let mut base = Url::parse(base_url.trim()).map_err(|error| {
            OracleError::Setup(format!(
                "the oracle's address is no URL ({error}): give one like http://host:8000"
            ))
        })?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(OracleError::Setup(
                "the oracle's address must begin with http:// or https:// and a host".to_owned(),
            ));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(OracleError::Setup(
                "the oracle's address must not hold ? or #: give the base address alone".to_owned(),
            ));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }

        // A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let proxy = settings.proxy.as_deref();
        let authorization = settings
            .token
            .as_ref()
            .map(|token| transport::authorization(token))
            .transpose()?;
        let way = Way::to(&base, proxy);
        if let Way::Environment(proxy) = &way {
            let server = shown(&base);
            tracing::info!(
                "asking {server} through the proxy {proxy} that the environment sets, which sees what is asked"
            );
        }
        let builder = Client::builder()
            .user_agent(&settings.user_agent)
            .timeout(settings.timeout)
            .http1_only()
            .redirect(redirect::policy(&base));
        let builder = match authorization {
            Some(headers) => builder.default_headers(headers),
            None => builder,
        };
        let builder = way.take(builder, proxy)?;
        let client = builder.build().map_err(|error| {
            OracleError::Setup(format!("HTTP cannot be set up: {}", reason(error)))
        })?;
        Ok(Self {
            client,
            base,
            settings,
            way,
            pause: Pause::default(),
            told_no_details: AtomicBool::new(false),
        })
    }

    /// Block hash and rolling digest ([`roll_digest`](crate::store::roll_digest)) at a height; `None` from a server that
    /// has no such route, as version 1 does not.
    ///
    /// # Errors
    /// As all of [`Oracle`].
    pub async fn digest(&self, height: u32) -> Result<Option<(BlockHash, [u8; 32])>, OracleError> {
        match self.get(&format!("digest/{height}"), SMALL_BYTES).await {
            Ok(answer) => v1::Digest::decode(&answer.body, height)
                .map(|digest| Some((digest.block.hash, digest.digest)))
                .map_err(|what| answer.malformed(what)),
            Err(
                OracleError::NotFound { .. }
                | OracleError::Refused {
                    status: 404 | 405 | 501,
                    ..
                },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the chains of hashes that others compute too commit to at a height, and their heads there; `None` from a server
    /// that has no native routes.
    ///
    /// # Errors
    /// [`OracleError::Declined`] where the server's chains do not reach; as all of [`Oracle`].
    pub async fn commitments(&self, height: u32) -> Result<Option<native::Links>, OracleError> {
        let route = format!(
            "{}/commitments?from={height}&to={height}",
            native::PREFIX.trim_start_matches('/')
        );
        match self.get(&route, SMALL_BYTES).await {
            Ok(answer) => native::Commitments::decode(&answer.body, height, height)
                .map(|commitments| commitments.blocks.into_iter().next())
                .map_err(|what| answer.malformed(what)),
            Err(OracleError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn filter(&self, route: String, height: u32) -> Result<FilterAnswer, OracleError> {
        let answer = self.get(&route, LIST_BYTES).await?;
        let filter =
            v1::Filter::decode(&answer.body, height).map_err(|what| answer.malformed(what))?;
        Ok(FilterAnswer { answer, filter })
    }

    /// What it means that there is no filter: `Ok` where it may be there the next time.
    ///
    /// Version 1 servers have the same words for a filter that they could not read and for one of a block they never
    /// indexed. Of such a block they have neither spends nor tweaks, though, and say so by bare lists.
    async fn no_filter(&self, error: OracleError, height: u32) -> Result<OracleError, OracleError> {
        let OracleError::Refused { url, message, .. } = &error else {
            return Err(error);
        };
        let is_unknown = match message.as_str() {
            words::UNKNOWN_HEADER => self.block_hash(height).await?.is_none(),
            words::NO_FILTER => {
                let spent = self.spent_index(height).await?;
                let all = TweakQuery {
                    dust_limit_sat: 0,
                    cut_through: false,
                };
                spent.block_hash.is_none()
                    && spent.items.is_empty()
                    && self.tweaks(height, all).await?.is_empty()
            }
            _ => return Err(error),
        };
        if is_unknown {
            return Err(OracleError::UnknownHeight {
                url: url.clone(),
                height,
                message: message.clone(),
            });
        }
        Ok(error)
    }

    /// `None` for a server that cannot tell, and once a line in the log.
    fn no_details(&self, why: &OracleError) {
        if !self.told_no_details.swap(true, Ordering::Relaxed) {
            tracing::info!("no spending transactions and OP_RETURN data from this server: {why}");
        }
    }
}

/// Whether a server has no route for the details of spends, or says in words that it cannot give them.
fn tells_no_details(error: &OracleError) -> bool {
    match error {
        OracleError::NotFound { .. } => true,
        OracleError::Refused {
            status, message, ..
        } => matches!(status, 404 | 405 | 501) || words::lack_details(message),
        _ => false,
    }
}

struct FilterAnswer {
    answer: Answer,
    filter: v1::Filter,
}

impl Oracle for HttpOracle {
    fn describe(&self) -> String {
        self.way.name(&self.base)
    }

    fn info(&self) -> BoxFuture<'_, Result<OracleInfo, OracleError>> {
        async move {
            let answer = self.get("info", SMALL_BYTES).await?;
            v1::Info::decode(&answer.body).map_err(|what| answer.malformed(what))
        }
        .boxed()
    }

    fn tip(&self) -> BoxFuture<'_, Result<u32, OracleError>> {
        async move {
            let answer = self.get("block-height", SMALL_BYTES).await?;
            v1::BlockHeight::decode(&answer.body)
                .map(|v1::BlockHeight(height)| height)
                .map_err(|what| answer.malformed(what))
        }
        .boxed()
    }

    fn block_hash(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockHash>, OracleError>> {
        async move {
            match self.get(&format!("block-hash/{height}"), SMALL_BYTES).await {
                Ok(answer) => v1::decode_block_hash(&answer.body)
                    .map(Some)
                    .map_err(|what| answer.malformed(what)),
                Err(OracleError::Refused { message, .. }) if message == words::UNKNOWN_HEADER => {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn tweaks(
        &self,
        height: u32,
        query: TweakQuery,
    ) -> BoxFuture<'_, Result<Vec<TweakPoint>, OracleError>> {
        async move {
            let list = if query.cut_through {
                "tweaks"
            } else {
                "tweak-index"
            };
            // Some servers refuse the parameter altogether, so it is not sent without need.
            let route = match query.dust_limit_sat {
                0 => format!("{list}/{height}"),
                limit => format!("{list}/{height}?dustLimit={limit}"),
            };
            self.get(&route, LIST_BYTES)
                .await?
                .parse(v1::Tweaks::decode)
                .await
        }
        .boxed()
    }

    fn filters(&self, height: u32) -> BoxFuture<'_, Result<BlockFilters, OracleError>> {
        async move {
            let mut attempt = 1;
            let (new_utxos, spent) = loop {
                let both = try_join(
                    self.filter(format!("filter/new-utxos/{height}"), height),
                    self.filter(format!("filter/spent/{height}"), height),
                );
                let error = match both.await {
                    Ok((new_utxos, spent))
                        if new_utxos.filter.block_hash == spent.filter.block_hash =>
                    {
                        break (new_utxos.filter, spent.filter);
                    }
                    // The server changed branches between the two answers, and gives no signal when it has settled.
                    Ok((new_utxos, spent)) => spent.answer.malformed(format!(
                        "block {} where the new-utxos filter names {}",
                        spent.filter.block_hash, new_utxos.filter.block_hash
                    )),
                    Err(error) => self.no_filter(error, height).await?,
                };
                if attempt >= self.settings.attempts {
                    return Err(error);
                }
                tokio::time::sleep(self.delay(attempt)).await;
                attempt += 1;
            };
            Ok(BlockFilters {
                block_hash: new_utxos.block_hash,
                new_utxos: new_utxos.data,
                spent: spent.data,
            })
        }
        .boxed()
    }

    fn utxos(&self, height: u32) -> BoxFuture<'_, Result<Vec<OracleUtxo>, OracleError>> {
        async move {
            let answer = self.get(&format!("utxos/{height}"), ROWS_BYTES).await?;
            answer.parse(v1::Utxo::decode_all).await
        }
        .boxed()
    }

    fn spent_index(&self, height: u32) -> BoxFuture<'_, Result<SpentIndex, OracleError>> {
        async move {
            let answer = self
                .get(&format!("spent-index/{height}"), LIST_BYTES)
                .await?;
            answer.parse(v1::SpentIndex::decode).await
        }
        .boxed()
    }

    fn spend_details(
        &self,
        height: u32,
    ) -> BoxFuture<'_, Result<Option<SpendDetails>, OracleError>> {
        async move {
            match self.get(&format!("spends/{height}"), ROWS_BYTES).await {
                Ok(answer) => answer
                    .parse(move |body| v1::Spends::decode(body, height))
                    .await
                    .map(Some),
                Err(why) if tells_no_details(&why) => {
                    self.no_details(&why);
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn forward_tx<'a>(
        &'a self,
        tx: &'a Transaction,
    ) -> BoxFuture<'a, Result<Option<Txid>, OracleError>> {
        async move {
            let data = serialize_hex(tx);
            let body = v1::ForwardTx { data }.encode().map_err(|error| {
                OracleError::Setup(format!("the transaction cannot be sent: {error}"))
            })?;
            let answer = self
                .request(
                    Method::POST,
                    self.url("forward-tx")?,
                    Some(body),
                    SMALL_BYTES,
                )
                .await?;
            v1::decode_forwarded(&answer.body).map_err(|what| answer.malformed(what))
        }
        .boxed()
    }
}
