//! `spindex wallet`: wallet files, addresses and labels.

mod source;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitcoin::Network;
use clap::{Args, Subcommand};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::config::{NetworkName, Secret, usage};
use super::output::write_stdout;
use crate::bip352::descriptor::DescriptorKey;
use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use crate::private_file::{self, Locked, PrivateFileError};

pub(super) use source::{Wallet, WalletSource};

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
    /// Write a wallet file for a descriptor (sp(spscan1…), spscan1…, spspend1…), read from a prompt or from stdin; a
    /// secret that spends is not kept
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
    /// Take other users' access to a wallet file away
    Protect {
        /// Wallet file
        file: PathBuf,
    },
}

pub(super) fn wallet(args: WalletArgs) -> Result<()> {
    match args.action {
        Action::New { file, network } => new_wallet(&file, network),
        Action::Import { file, network } => import_wallet(&file, network),
        Action::Address { file, label, json } => {
            let wallet = match label.is_empty() {
                true => WalletFile::read(&file)?,
                false => WalletFile::remember(&file, &label)?,
            };
            print_addresses(&wallet, json)
        }
        Action::Protect { file } => protect(&file),
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
    create_wallet(path, &WalletFile::new(network, &key.to_scan(), []))?;
    if matches!(key, DescriptorKey::Spend { .. }) {
        tracing::warn!(
            "the descriptor holds the secret that spends, which is not kept: {} has the scan key and the public spend key \
             alone, which find payments. Spend with the wallet that the descriptor comes from",
            path.display()
        );
    }
    Ok(())
}

fn create_wallet(path: &Path, wallet: &WalletFile) -> Result<()> {
    wallet.create(path)?;
    print_addresses(wallet, false)
}

fn protect(path: &Path) -> Result<()> {
    match private_file::protect(path)? {
        true => tracing::warn!(
            "{} was open to other users of this machine, and is its owner's alone now. Whoever has read it can find its \
             payments, and spend them if it has a key that spends: if that may be, move to a new wallet",
            path.display()
        ),
        false => tracing::info!("{} is its owner's alone", path.display()),
    }
    Ok(())
}

fn print_addresses(wallet: &WalletFile, json: bool) -> Result<()> {
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
#[derive(Deserialize)]
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
        Ok(private_file::create(path, self.to_toml().as_bytes())?)
    }

    fn read(path: &Path) -> Result<Self> {
        let content = private_file::read(path).map_err(with_cure)?;
        Self::parse(path, &content)
    }

    /// The file with these labels, which are in it when this returns, whoever else adds some meanwhile.
    fn remember(path: &Path, labels: &[u32]) -> Result<Self> {
        let file = Locked::wait_for(path).map_err(with_cure)?;
        let mut wallet = Self::parse(path, &file.read()?)?;
        let labels_before = wallet.labels.len();
        wallet.labels.extend(labels);
        if wallet.labels.len() > labels_before {
            // Only what is understood is written anew.
            wallet.receiver_keys()?;
            file.replace(wallet.to_toml().as_bytes())?;
        }
        Ok(wallet)
    }

    /// The wallet in a file's content, if it has one. The parser's own message may quote the line with the key.
    fn in_content(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        toml::from_str(text).ok()
    }

    fn parse(path: &Path, content: &[u8]) -> Result<Self> {
        Self::in_content(content).with_context(|| {
            format!(
                "{} is no wallet file; make one with `spindex wallet new` or `spindex wallet import`",
                path.display()
            )
        })
    }

    /// The file's text. Secret.
    fn to_toml(&self) -> Zeroizing<String> {
        // Room for all of it: growing would leave copies of the key.
        let room = 64 + self.network.len() + self.key.expose().len() + 12 * self.labels.len();
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str("network = \"");
        text.push_str(&self.network);
        text.push_str("\"\nkey = \"");
        text.push_str(self.key.expose());
        text.push_str("\"\nlabels = [");
        for (number, label) in self.labels.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            // Writing to a text does not fail.
            let _ = write!(text, "{separator}{label}");
        }
        text.push_str("]\n");
        text
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

/// A refusal with what mends a wallet file.
fn with_cure(error: PrivateFileError) -> anyhow::Error {
    match &error {
        PrivateFileError::Exposed { path, .. } => anyhow::anyhow!(
            "{error}, and so does `spindex wallet protect {}`; whoever has read it knows its keys",
            path.display()
        ),
        _ => error.into(),
    }
}

/// Most bytes of a descriptor with all that may be around it.
const LONGEST_SECRET: usize = 4096;

/// A line from the terminal without echo, or the first line of stdin where that is no terminal.
fn read_secret(prompt: &str) -> Result<Zeroizing<String>> {
    if std::io::stdin().is_terminal() {
        let line = rpassword::prompt_password(prompt).context("cannot read from the terminal")?;
        return Ok(Zeroizing::new(line));
    }
    // Byte by byte into a place that never grows: a buffer in between, or an outgrown one, would keep the secret.
    let mut stdin = unbuffered_stdin()?;
    let mut line = Zeroizing::new(String::with_capacity(LONGEST_SECRET));
    let mut byte = Zeroizing::new([0]);
    loop {
        match stdin.read(&mut *byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if !byte.is_ascii() => {
                bail!("what is on stdin is no descriptor: it is not plain text")
            }
            Ok(_) if line.len() == LONGEST_SECRET => {
                bail!("what is on stdin is no descriptor: its line is too long")
            }
            Ok(_) => line.push(byte[0].into()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read from stdin"),
        }
    }
    Ok(line)
}

/// stdin without the buffer that the standard library puts before it, and never wipes.
#[cfg(unix)]
fn unbuffered_stdin() -> Result<impl Read> {
    use std::os::fd::AsFd;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    Ok(std::fs::File::from(
        stdin.context("cannot read from stdin")?,
    ))
}

#[cfg(not(unix))]
fn unbuffered_stdin() -> Result<impl Read> {
    Ok(std::io::stdin().lock())
}
