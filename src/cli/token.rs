//! `spindex token`: who may watch, in the index file or through the server that has it open.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use reqwest::{Client, Method, Url};
use zeroize::Zeroizing;

use super::config::{self, CommonSettings, ServerSettings, usage};
use super::output::write_stdout;
use super::server::{block_on, index_file};
use crate::private_file;
use crate::store::{Store, StoreError};
use crate::watch::{Registry, Token, token_entry, token_row};
use crate::wire::native::{MadeToken, NewToken, PREFIX, Refusal, Scope, TokenEntry};

/// The token that lets one make others, where a server is asked. Never a flag.
const TOKEN_VARIABLE: &str = "SPINDEX_TOKEN";
/// Longest answer of a server that is read.
const ANSWER_BYTES_MAX: usize = 8 << 20;

#[derive(Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token and print it; it is shown this once, and kept as a hash
    Create {
        #[command(flatten)]
        place: PlaceArgs,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// What it allows: watch (to register and to remove watches), read (to list them and to read the log), admin (to
        /// make, list and revoke tokens)
        #[arg(
            long,
            value_name = "SCOPE",
            value_delimiter = ',',
            default_value = "watch,read",
            value_parser = scope
        )]
        scope: Vec<Scope>,
        /// How many watches its owner may have
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        watches: u64,
        /// How many streams it may have open at a time
        #[arg(long, value_name = "N", default_value_t = 16)]
        streams: u32,
        /// Whose watches it is about: the number of another token, or 0 for those that were registered without one
        /// [default: its own]
        #[arg(long, value_name = "NUMBER")]
        owner: Option<u32>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print what there is, without the tokens themselves
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token; its watches stay
    Revoke {
        #[command(flatten)]
        place: PlaceArgs,
        /// The number that `list` shows
        number: u32,
    },
}

#[derive(Args)]
struct PlaceArgs {
    #[command(flatten)]
    common: CommonSettings,
    /// Ask the server at this address [default: the index file, or the server on this machine that has it open]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// File with a token that has the scope admin, which nobody else may read, for a server [default: SPINDEX_TOKEN]
    #[arg(long, env = "SPINDEX_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

fn scope(name: &str) -> Result<Scope, String> {
    Scope::named(name).ok_or_else(|| format!("unknown scope {name:?}; choose watch, read or admin"))
}

pub(super) fn token(args: TokenArgs) -> Result<()> {
    let (Action::Create { place, .. } | Action::List { place, .. } | Action::Revoke { place, .. }) =
        &args.action;
    let compute = place.common.compute.clone();
    block_on(&compute, run(args.action))
}

async fn run(action: Action) -> Result<()> {
    match action {
        Action::Create {
            place,
            name,
            scope,
            watches,
            streams,
            owner,
            json,
        } => {
            let new = NewToken {
                name,
                scopes: scope,
                watches_max: watches,
                streams_max: streams,
                owner,
            };
            new.check().map_err(|text| usage!("{text}"))?;
            let place = Place::of(place)?;
            let made = place.make(&new).await?;
            tracing::info!("token {} made {place}; it is not shown again", made.number);
            write_stdout(|out| match json {
                true => {
                    let body = made.encode().map_err(std::io::Error::other)?;
                    out.write_all(&body)?;
                    writeln!(out)
                }
                false => writeln!(out, "{}", &*made.token),
            })
        }
        Action::List { place, json } => {
            let place = Place::of(place)?;
            let tokens = place.list().await?;
            tracing::info!("{} tokens {place}", tokens.len());
            write_stdout(|out| {
                tokens.iter().try_for_each(|token| match json {
                    true => writeln!(out, "{}", serde_json::to_string(token)?),
                    false => {
                        let scopes: Vec<&str> =
                            token.scopes.iter().map(|scope| scope.name()).collect();
                        writeln!(
                            out,
                            "{} owner {} {} watches {} streams {} {}",
                            token.number,
                            token.owner,
                            scopes.join(","),
                            token.watches_max,
                            token.streams_max,
                            token.name
                        )
                    }
                })
            })
        }
        Action::Revoke { place, number } => {
            let place = Place::of(place)?;
            place.revoke(number).await?;
            tracing::info!("token {number} revoked {place}");
            Ok(())
        }
    }
}

/// Where tokens are kept.
enum Place {
    /// In an index that nobody else has open.
    File(Registry, PathBuf),
    /// With a server.
    Server(Server),
}

/// A server that is asked.
struct Server {
    url: Url,
    client: Client,
    token: Option<Zeroizing<String>>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(_, path) => write!(f, "in the index file {}", path.display()),
            Self::Server(server) => write!(f, "by the server at {}", server.shown()),
        }
    }
}

impl Place {
    fn of(args: PlaceArgs) -> Result<Self> {
        let token_file = args.token_file;
        if let Some(server) = &args.server {
            let url = Url::parse(server).map_err(|error| usage!("--server: {error}"))?;
            return Server::new(url, token_file).map(Self::Server);
        }
        let (common, server) = config::complete(args.common, ServerSettings::default())?;
        let (path, options) = index_file(&common, &server)?;
        match Store::open_existing(&path, &options) {
            Ok(store) => Ok(Self::File(Registry::attach(Arc::new(store))?, path)),
            Err(StoreError::InUse { .. }) => {
                let mut address = match server.http_bind {
                    Some(address) => address,
                    None => super::server::DEFAULT_BIND.parse()?,
                };
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                tracing::info!(
                    "the index file is open elsewhere: asking the server at {address} (another one: --server)"
                );
                let url = Url::parse(&format!("http://{address}"))?;
                Server::new(url, token_file).map(Self::Server)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn make(&self, new: &NewToken) -> Result<MadeToken> {
        match self {
            Self::File(registry, _) => {
                let token = Token::random();
                let number = registry.put_token(&token.hash(), &token_row(new))?;
                let token = token.text();
                Ok(MadeToken { number, token })
            }
            Self::Server(server) => {
                let body = new.encode().map_err(anyhow::Error::msg)?;
                let answer = server.ask(Method::POST, "tokens", Some(body)).await?;
                MadeToken::decode(&answer).map_err(anyhow::Error::msg)
            }
        }
    }

    async fn list(&self) -> Result<Vec<TokenEntry>> {
        match self {
            Self::File(registry, _) => {
                let tokens = registry.store().snapshot()?.tokens()?;
                let tokens = tokens.iter().map(|(_, row)| token_entry(row));
                let mut tokens: Vec<TokenEntry> = tokens.collect();
                tokens.sort_unstable_by_key(|token| token.number);
                Ok(tokens)
            }
            Self::Server(server) => {
                let answer = server.ask(Method::GET, "tokens", None).await?;
                TokenEntry::decode_all(&answer).map_err(anyhow::Error::msg)
            }
        }
    }

    async fn revoke(&self, number: u32) -> Result<()> {
        match self {
            Self::File(registry, _) => match registry.revoke_token_of(number)? {
                true => Ok(()),
                false => bail!("there is no token {number}"),
            },
            Self::Server(server) => {
                let route = format!("tokens/{number}");
                server.ask(Method::DELETE, &route, None).await.map(drop)
            }
        }
    }
}

impl Server {
    fn new(url: Url, token_file: Option<PathBuf>) -> Result<Self> {
        let token = match token_file {
            Some(path) => {
                let content = private_file::read(&path)?;
                let text = std::str::from_utf8(&content).ok();
                let text = text.with_context(|| format!("{} holds no token", path.display()))?;
                Some(Zeroizing::new(text.trim().to_owned()))
            }
            None => std::env::var(TOKEN_VARIABLE).ok().map(Zeroizing::new),
        };
        if token
            .as_ref()
            .is_some_and(|token| Token::parse(token).is_none())
        {
            bail!("what was given as a token is none: it is spx_ and 64 hex digits");
        }
        // A second installation is refused, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(std::time::Duration::from_secs(30))
            .build()
            .context("HTTP cannot be set up")?;
        Ok(Self { url, client, token })
    }

    /// Its address without what may be secret in it.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        // Neither can be refused of an address that has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    async fn ask(
        &self,
        method: Method,
        route: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let base = self.url.as_str().trim_end_matches('/');
        let url = format!("{base}{PREFIX}/{route}");
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(&**token);
        }
        if let Some(body) = body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let failed = || format!("the server at {} cannot be asked", self.shown());
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        let mut response = sent.with_context(failed)?;
        let status = response.status();
        let mut answer = Zeroizing::new(Vec::new());
        while let Some(bytes) = response.chunk().await.with_context(failed)? {
            if answer.len() + bytes.len() > ANSWER_BYTES_MAX {
                bail!("the answer of {} is too long", self.shown());
            }
            answer.extend_from_slice(&bytes);
        }
        if status.is_success() {
            return Ok(answer);
        }
        match Refusal::decode(&answer) {
            Ok(refusal) => bail!("{}: {}", self.shown(), refusal.message),
            Err(_) => bail!("{} answers with status {status}", self.shown()),
        }
    }
}
