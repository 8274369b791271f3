//! Where `spindex scan` takes its wallets from: never from arguments, which every user of the machine can see.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitcoin::Network;
use bitcoin::hex::FromHex;
use clap::Args;
use secp256k1::PublicKey;
use zeroize::Zeroizing;

use super::{WalletFile, read_secret, with_cure};
use crate::bip352::descriptor::DescriptorKey;
use crate::bip352::keys::{ReceiverKeys, ScanKey};
use crate::cli::config::usage;
use crate::client::{ClientError, WalletId};
use crate::private_file;

/// What names the wallets of a scan.
#[derive(Args)]
pub(in crate::cli) struct WalletSource {
    /// Wallet file (see `spindex wallet`), or a folder in which every file is one (may be repeated: all are looked for with
    /// one download and in one pass)
    #[arg(long, env = "SPINDEX_WALLET", value_name = "FILE|FOLDER")]
    wallet: Vec<PathBuf>,
    /// Ask for the descriptor (spscan1… or sp(spscan1…)) on the terminal, or read it from stdin
    #[arg(long, conflicts_with = "wallet")]
    prompt: bool,
    /// Also look for the labels 1 to N; change (label 0) is always looked for
    #[arg(
        long,
        env = "SPINDEX_LABELS",
        value_name = "N",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=MAX_LABELS)
    )]
    labels: u32,
}

/// Most labels to look for by number: with a million the scan takes some 500 MB, and for each tweak a million times as
/// long as for one label.
const MAX_LABELS: i64 = 1_000_000;

/// The descriptor itself, or scan key and spend public key in hex.
const DESCRIPTOR_VARIABLE: &str = "SPINDEX_DESCRIPTOR";
const SCAN_KEY_VARIABLE: &str = "SPINDEX_SCAN_KEY";
const SPEND_PUBKEY_VARIABLE: &str = "SPINDEX_SPEND_PUBKEY";

/// A wallet to scan for.
pub(in crate::cli) struct Wallet {
    /// Its file, as it was named or found; `None` where it comes from elsewhere.
    pub(in crate::cli) path: Option<PathBuf>,
    pub(in crate::cli) keys: Arc<ReceiverKeys>,
}

/// The wallet files that were named, read.
pub(in crate::cli) struct WalletFiles {
    files: Vec<(PathBuf, WalletFile)>,
    are_many: bool,
}

impl WalletFiles {
    /// Whether there may be several, whatever their number is today: a folder is named, or more than one file.
    pub(in crate::cli) fn are_many(&self) -> bool {
        self.are_many
    }

    /// Their network, if there are any.
    ///
    /// # Errors
    /// Wallets of different networks.
    pub(in crate::cli) fn network(&self) -> Result<Option<Network>> {
        let mut of_first: Option<(&Path, Network)> = None;
        for (path, wallet) in &self.files {
            let network = wallet.network()?.0;
            match of_first {
                None => of_first = Some((path, network)),
                Some((first, other)) if other != network => bail!(
                    "{} is for {}, and {} for {}: scan for the wallets of one network at a time",
                    first.display(),
                    other.to_core_arg(),
                    path.display(),
                    network.to_core_arg()
                ),
                Some(_) => {}
            }
        }
        Ok(of_first.map(|(_, network)| network))
    }
}

impl WalletSource {
    /// Reads the wallet files that are named.
    ///
    /// # Errors
    /// One that cannot be read, or a file in a folder that is none.
    pub(in crate::cli) fn files(&self) -> Result<WalletFiles> {
        let mut files = Vec::new();
        let mut are_many = self.wallet.len() > 1;
        for path in &self.wallet {
            match path.is_dir() {
                true => {
                    files.extend(wallets_in(path)?);
                    are_many = true;
                }
                false => files.push((path.clone(), WalletFile::read(path)?)),
            }
        }
        Ok(WalletFiles { files, are_many })
    }

    /// The wallets; none if the user names none.
    ///
    /// # Errors
    /// A wallet that cannot be read, is for another network, or is named twice.
    pub(in crate::cli) fn wallets(
        &self,
        files: WalletFiles,
        network: Network,
    ) -> Result<Vec<Wallet>> {
        if files.files.is_empty() {
            let wallet = self.keys_of_one(network)?.map(|keys| Wallet {
                path: None,
                keys: Arc::new(keys),
            });
            return Ok(wallet.into_iter().collect());
        }
        let mut wallets: Vec<(WalletId, Wallet)> = Vec::new();
        for (path, file) in files.files {
            let theirs = file.network()?;
            if theirs.0 != network {
                bail!(
                    "the wallet {} is for {theirs}, not for {}",
                    path.display(),
                    network.to_core_arg()
                );
            }
            let key: DescriptorKey = file
                .key
                .expose()
                .parse()
                .with_context(|| format!("{} has no usable key", path.display()))?;
            let labels = (1..=self.labels).chain(file.labels.iter().copied());
            let keys = ReceiverKeys::new(key.scan_key().clone(), key.spend_pubkey(), labels);
            let keys = Arc::new(keys);
            let id = WalletId::of(&keys);
            if let Some((_, other)) = wallets.iter().find(|(other, _)| *other == id) {
                let first = other.path.as_deref().unwrap_or(Path::new(""));
                return Err(ClientError::SameWallet {
                    first: first.display().to_string(),
                    second: path.display().to_string(),
                }
                .into());
            }
            let path = Some(path);
            wallets.push((id, Wallet { path, keys }));
        }
        Ok(wallets.into_iter().map(|(_, wallet)| wallet).collect())
    }

    /// The keys of a wallet that comes from no file.
    fn keys_of_one(&self, network: Network) -> Result<Option<ReceiverKeys>> {
        let labels = 1..=self.labels;
        let descriptor = match std::env::var(DESCRIPTOR_VARIABLE) {
            _ if self.prompt => Some(read_secret("descriptor (not shown): ")?),
            Ok(descriptor) => Some(Zeroizing::new(descriptor)),
            Err(_) => None,
        };
        if let Some(descriptor) = descriptor {
            let key: DescriptorKey = descriptor.trim().parse()?;
            if !key.fits(network) {
                bail!("the descriptor is not for {}", network.to_core_arg());
            }
            return Ok(Some(ReceiverKeys::new(
                key.scan_key().clone(),
                key.spend_pubkey(),
                labels,
            )));
        }
        let scan_key = std::env::var(SCAN_KEY_VARIABLE).ok().map(Zeroizing::new);
        let spend_pubkey = std::env::var(SPEND_PUBKEY_VARIABLE).ok();
        match (scan_key, spend_pubkey) {
            (None, None) => Ok(None),
            (Some(scan_key), Some(spend_pubkey)) => {
                let scan_key = <[u8; 32]>::from_hex(scan_key.trim())
                    .ok()
                    .and_then(ScanKey::from_bytes)
                    .with_context(|| {
                        format!("{SCAN_KEY_VARIABLE} is no secret key of 64 hex digits")
                    })?;
                let spend_pubkey: PublicKey = spend_pubkey.trim().parse().map_err(|_| {
                    anyhow::anyhow!("{SPEND_PUBKEY_VARIABLE} is no public key of 66 hex digits")
                })?;
                Ok(Some(ReceiverKeys::new(scan_key, spend_pubkey, labels)))
            }
            _ => Err(usage!(
                "{SCAN_KEY_VARIABLE} and {SPEND_PUBKEY_VARIABLE} go together; one of them is missing"
            )),
        }
    }
}

/// The wallet files of a folder, by their names. Folders in it and hidden files are left alone, which the log says; whatever
/// else is no wallet is an error and not a wallet less, since a damaged one looks like that.
fn wallets_in(folder: &Path) -> Result<Vec<(PathBuf, WalletFile)>> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        match is_hidden || entry.file_type().with_context(cannot)?.is_dir() {
            true => tracing::info!("{} is not looked into", entry.path().display()),
            false => paths.push(entry.path()),
        }
    }
    paths.sort_unstable();
    let (mut wallets, mut others) = (Vec::new(), Vec::new());
    for path in paths {
        let content = private_file::read(&path).map_err(with_cure)?;
        match WalletFile::in_content(&content) {
            Some(wallet) => wallets.push((path, wallet)),
            None => others.push(path.display().to_string()),
        }
    }
    if !others.is_empty() {
        bail!(
            "in the folder {} not every file is a wallet file: take {} out of it, or name the wallets one by one",
            folder.display(),
            others.join(", ")
        );
    }
    if wallets.is_empty() {
        bail!(
            "there is no wallet file in the folder {}; make one with `spindex wallet new` or `spindex wallet import`",
            folder.display()
        );
    }
    Ok(wallets)
}
