//! Whom a scan is for, each with its state.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bitcoin::OutPoint;

use super::ScanArgs;
use crate::cli::config::{CommonSettings, usage};
use crate::cli::wallet::Wallet;
use crate::client::{Identity, State, WalletId, WalletScan};

/// What stands for a wallet's name where outpoints are watched beside several wallets.
const OUTPOINTS: &str = "outpoints";

/// Opens the states. Of one wallet outpoints are watched with it, of several beside them, with a state of their own. None of
/// those that have nothing to look for.
pub(super) fn open(
    args: &ScanArgs,
    common: &CommonSettings,
    wallets: Vec<Wallet>,
    are_many: bool,
    outpoints: Vec<OutPoint>,
) -> Result<Vec<WalletScan>> {
    let mut states = States {
        args,
        common,
        are_many,
        members: Vec::new(),
    };
    let is_about_state = args.watched || !args.unwatch.is_empty();
    if are_many {
        for wallet in wallets {
            states.add(Some(wallet), Vec::new())?;
        }
        if !outpoints.is_empty() || is_about_state {
            states.add(None, outpoints)?;
        }
    } else {
        states.add(wallets.into_iter().next(), outpoints)?;
    }
    let mut members = states.members;
    members.retain(|member| member.keys.is_some() || !member.watched.is_empty());
    Ok(members)
}

struct States<'a> {
    args: &'a ScanArgs,
    common: &'a CommonSettings,
    are_many: bool,
    members: Vec<WalletScan>,
}

impl States<'_> {
    fn add(&mut self, wallet: Option<Wallet>, mut watched: Vec<OutPoint>) -> Result<()> {
        let id = wallet.as_ref().map(|wallet| WalletId::of(&wallet.keys));
        let identity = Identity {
            network: self.common.network(),
            wallet: id,
        };
        let mut state = State::open(&self.path(id)?, identity)?;
        state.unwatch(&self.args.unwatch)?;
        if self.args.watched {
            watched.extend(state.watched());
        }
        let path = wallet.as_ref().and_then(|wallet| wallet.path.as_deref());
        let name = path.map_or_else(|| OUTPOINTS.to_owned(), |path| path.display().to_string());
        self.members.push(WalletScan {
            name: self.are_many.then_some(name),
            keys: wallet.map(|wallet| wallet.keys),
            watched,
            state,
        });
        Ok(())
    }

    /// Where the state of a wallet is, or that of outpoints alone; its folder exists.
    fn path(&self, wallet: Option<WalletId>) -> Result<PathBuf> {
        let name = match wallet {
            Some(wallet) => format!("scan-{:.16}.redb", wallet.to_string()),
            None => "scan-outpoints.redb".to_owned(),
        };
        let path = match &self.args.state {
            None => self.common.network_dir()?.join(name),
            Some(path) if path.is_dir() => path.join(name),
            Some(path) if self.are_many && path.exists() => {
                return Err(usage!(
                    "--state {} is a file, and several wallets have a file each: name a folder, or leave it out",
                    path.display()
                ));
            }
            Some(path) if self.are_many => path.join(name),
            Some(path) => path.clone(),
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(path)
    }
}
