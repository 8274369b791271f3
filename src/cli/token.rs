//! `spindex token`: who may watch, in the index file or through the server that has it open.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::config::{self, CommonSettings, ServerSettings, usage};
use super::output::write_stdout;
use super::server::{block_on, index_file};
use super::token_source::TokenSource;
use crate::client::watching::WatchServer;
use crate::client::{HttpOracle, HttpSettings};
use crate::store::{Store, StoreError};
use crate::watch::{Registry, Token, token_entry, token_row};
use crate::wire::native::{MadeToken, NewToken, Scope, TokenEntry};

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
    #[command(flatten)]
    token: TokenSource,
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
    Server(WatchServer),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(_, path) => write!(f, "in the index file {}", path.display()),
            Self::Server(server) => write!(f, "by the server at {}", server.describe()),
        }
    }
}

impl Place {
    fn of(args: PlaceArgs) -> Result<Self> {
        if let Some(server) = &args.server {
            return asked(server, &args.token).map(Self::Server);
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
                asked(&format!("http://{address}"), &args.token).map(Self::Server)
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
            Self::Server(server) => Ok(server.make_token(new).await?),
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
            Self::Server(server) => Ok(server.tokens().await?),
        }
    }

    async fn revoke(&self, number: u32) -> Result<()> {
        match self {
            Self::File(registry, _) => match registry.revoke_token_of(number)? {
                true => Ok(()),
                false => bail!("there is no token {number}"),
            },
            Self::Server(server) => Ok(server.revoke_token(number).await?),
        }
    }
}

/// A server at an address; nothing has been asked of it yet.
fn asked(address: &str, token: &TokenSource) -> Result<WatchServer> {
    let settings = HttpSettings {
        token: token.token()?,
        // A token that was made and whose answer was lost would be made twice.
        attempts: 1,
        ..HttpSettings::default()
    };
    let http = HttpOracle::new(address, settings).map_err(|error| usage!("--server: {error}"))?;
    Ok(WatchServer::new(Arc::new(http)))
}
