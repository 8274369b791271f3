//! `spindex wallet`: wallet files, addresses and labels; and where `spindex scan` takes its keys from.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitcoin::Network;
use bitcoin::hex::FromHex;
use clap::{Args, Subcommand};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config::{NetworkName, Secret, usage};
use super::output::write_stdout;
use crate::bip352::descriptor::DescriptorKey;
use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};

#[derive(Args)]
pub(super) struct WalletArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a new test wallet and print its address
    New {
        /// Wallet file to write; it holds secrets and is readable by its owner only
        file: PathBuf,
        /// Network: test, testnet4, signet or regtest
        #[arg(long, env = "SPINDEX_NETWORK", default_value = "regtest")]
        network: NetworkName,
    },
    /// Write a wallet file for a descriptor (sp(spscan1…), spscan1…, spspend1…), read from a prompt or from stdin
    Import {
        /// Wallet file to write; it holds secrets and is readable by its owner only
        file: PathBuf,
        /// Network: main, test, testnet4, signet or regtest
        #[arg(long, env = "SPINDEX_NETWORK", default_value = "main")]
        network: NetworkName,
    },
    /// Print the addresses of a wallet file, and remember new labels in it
    Address {
        /// Wallet file
        file: PathBuf,
        /// Also make a labelled address, and look for its payments from now on (may be repeated)
        #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..))]
        label: Vec<u32>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn wallet(args: WalletArgs) -> Result<()> {
    match args.action {
        Action::New { file, network } => new_wallet(&file, network),
        Action::Import { file, network } => import_wallet(&file, network),
        Action::Address { file, label, json } => print_addresses(&file, &label, json),
    }
}

fn new_wallet(path: &Path, network: NetworkName) -> Result<()> {
    if network.0 == Network::Bitcoin {
        return Err(usage!(
            "spindex makes wallets for tests only; for main, import the scan key of a real wallet (spindex wallet import)"
        ));
    }
    let key = DescriptorKey::Spend {
        scan_key: random_key(ScanKey::from_bytes),
        spend_key: random_key(SpendKey::from_bytes),
        test_network: true,
    };
    create_wallet(path, &WalletFile::new(network, &key, []))
}

fn import_wallet(path: &Path, network: NetworkName) -> Result<()> {
    let key: DescriptorKey = read_secret("descriptor (not shown): ")?.trim().parse()?;
    if !key.fits(network.0) {
        bail!("the descriptor is not for {network}; choose its network with --network");
    }
    create_wallet(path, &WalletFile::new(network, &key, []))
}

fn create_wallet(path: &Path, wallet: &WalletFile) -> Result<()> {
    wallet.create(path)?;
    print_addresses(path, &[], false)
}

fn print_addresses(path: &Path, new_labels: &[u32], json: bool) -> Result<()> {
    let mut wallet = WalletFile::read(path)?;
    let labels_before = wallet.labels.len();
    wallet.labels.extend(new_labels);
    if wallet.labels.len() > labels_before {
        // Written beside the old file and moved over it: a full disk cannot take the keys away.
        let fresh = path.with_extension("new");
        wallet.write(&fresh, OpenOptions::new().create(true).truncate(true))?;
        std::fs::rename(&fresh, path)
            .with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let keys = wallet.receiver_keys()?;
    let network = wallet.network()?.0;
    let text = |label| {
        keys.address(label, network)
            .map(|address| address.to_string())
    };
    let plain = text(None).context("the wallet has no address")?;
    let labelled: Vec<(u32, String)> = wallet
        .labels
        .iter()
        .filter_map(|&m| Some((m, text(Some(m))?)))
        .collect();
    write_stdout(|out| {
        if json {
            let labels: Vec<_> = labelled
                .iter()
                .map(|(m, address)| serde_json::json!({"label": m, "address": address}))
                .collect();
            let network = network.to_core_arg();
            writeln!(
                out,
                "{}",
                serde_json::json!({"network": network, "address": plain, "labels": labels})
            )
        } else {
            writeln!(out, "address  {plain}")?;
            labelled
                .iter()
                .try_for_each(|(m, address)| writeln!(out, "label {m}  {address}"))
        }
    })
}

fn random_key<K>(from_bytes: impl Fn([u8; 32]) -> Option<K>) -> K {
    loop {
        // `SecretKey::new` already draws until the key is valid, so the loop runs once.
        let secret = Zeroizing::new(
            secp256k1::SecretKey::new(&mut secp256k1::rand::thread_rng()).secret_bytes(),
        );
        if let Some(key) = from_bytes(*secret) {
            return key;
        }
    }
}

/// A wallet file: TOML with the network, the descriptor key and the labels handed out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WalletFile {
    network: String,
    /// `spscan1…` or `spspend1…` (BIP392). Secret.
    key: Secret,
    #[serde(default)]
    labels: BTreeSet<u32>,
}

impl WalletFile {
    pub(super) fn new(
        network: NetworkName,
        key: &DescriptorKey,
        labels: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self {
            network: network.to_string(),
            key: Secret::new(key.to_secret_string()),
            labels: labels.into_iter().collect(),
        }
    }

    /// Writes a new file; one that is there already stays as it is.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub(super) fn create(&self, path: &Path) -> Result<()> {
        self.write(path, OpenOptions::new().create_new(true))
    }

    fn read(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the wallet file {}", path.display()))?,
        );
        // The parser's own message may quote the line with the key.
        toml::from_str(&text).map_err(|_| {
            anyhow::anyhow!(
                "{} is no wallet file; make one with `spindex wallet new` or `spindex wallet import`",
                path.display()
            )
        })
    }

    fn write(&self, path: &Path, options: &mut OpenOptions) -> Result<()> {
        let text =
            Zeroizing::new(toml::to_string(self).context("cannot write the wallet as TOML")?);
        options.write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
        let mut file = options
            .open(path)
            .with_context(|| format!("cannot create the wallet file {}", path.display()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write the wallet file {}", path.display()))
    }

    fn network(&self) -> Result<NetworkName> {
        self.network.parse().map_err(anyhow::Error::msg)
    }

    fn receiver_keys(&self) -> Result<ReceiverKeys> {
        let key: DescriptorKey = self.key.expose().parse()?;
        Ok(ReceiverKeys::new(
            key.scan_key().clone(),
            key.spend_pubkey(),
            self.labels.iter().copied(),
        ))
    }
}

/// Where a scan takes its wallet from: never from arguments, which every user of the machine can see.
#[derive(Args)]
pub(super) struct WalletSource {
    /// Wallet file (see `spindex wallet`)
    #[arg(long, env = "SPINDEX_WALLET", value_name = "FILE")]
    wallet: Option<PathBuf>,
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

impl WalletSource {
    /// The wallet's keys, or `None` if the user names no wallet.
    ///
    /// # Errors
    /// A wallet that cannot be read or is for another network.
    pub(super) fn keys(&self, network: Network) -> Result<Option<ReceiverKeys>> {
        let labels = 1..=self.labels;
        if let Some(path) = &self.wallet {
            let wallet = WalletFile::read(path)?;
            let theirs = wallet.network()?;
            if theirs.0 != network {
                bail!(
                    "the wallet {} is for {theirs}, not for {}",
                    path.display(),
                    network.to_core_arg()
                );
            }
            let key: DescriptorKey = wallet.key.expose().parse()?;
            let labels = labels.chain(wallet.labels.iter().copied());
            return Ok(Some(ReceiverKeys::new(
                key.scan_key().clone(),
                key.spend_pubkey(),
                labels,
            )));
        }
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

    /// The network of the wallet file, if there is one.
    ///
    /// # Errors
    /// A wallet file that cannot be read.
    pub(super) fn network(&self) -> Result<Option<Network>> {
        self.wallet
            .as_ref()
            .map(|path| Ok(WalletFile::read(path)?.network()?.0))
            .transpose()
    }
}

/// A line from the terminal without echo, or the first line of stdin where that is no terminal.
fn read_secret(prompt: &str) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        *line = rpassword::prompt_password(prompt).context("cannot read from the terminal")?;
    } else {
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .context("cannot read from stdin")?;
    }
    Ok(line)
}
