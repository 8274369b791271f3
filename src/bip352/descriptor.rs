//! Scan and spend keys as text: BIP392 `spscan` and `spspend` keys, bare or in an `sp(…)` descriptor.
//!
//! Read: `KEY`, `sp(KEY)` and `sp(SCAN,SPEND)`, each with an optional `#checksum` (BIP380). `KEY` is an
//! `spscan1…` or `spspend1…` key (`tspscan1…`, `tspspend1…` on test networks). `SCAN` is a private key and
//! `SPEND` a private or public one, as WIF, xprv, xpub (with a path to one key) or 66 hex digits. A key
//! origin before any of them is checked for its form and otherwise ignored.

mod checksum;

use std::str::FromStr;

use bitcoin::bech32::primitives::decode::CheckedHrpstring;
use bitcoin::bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
use bitcoin::bech32::{Bech32m, Fe32, Hrp};
use bitcoin::bip32::{ChildNumber, Xpriv, Xpub};
use bitcoin::{Network, NetworkKind, PrivateKey};
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use zeroize::Zeroizing;

use super::address::versioned_payload;
use super::keys::{ScanKey, SpendKey};

/// No shorter than the longest key as text: prefix, separator, version, 65 bytes in fives of bits, checksum.
const LONGEST_KEY: usize = 8 + 1 + 1 + (65_usize * 8).div_ceil(5) + 6;

/// A parsed `spscan1…`/`spspend1…` key, bare or inside `sp(…)`. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub enum DescriptorKey {
    /// Scan key and public spend key.
    Scan {
        /// b_scan.
        scan_key: ScanKey,
        /// B_spend.
        spend_pubkey: PublicKey,
        /// True for the `tsp…` prefixes.
        test_network: bool,
    },
    /// Scan key and secret spend key.
    Spend {
        /// b_scan.
        scan_key: ScanKey,
        /// b_spend.
        spend_key: SpendKey,
        /// True for the `tsp…` prefixes.
        test_network: bool,
    },
}

/// Why a text is no such key. Never quotes the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Neither a key nor `sp(…)` around one or two.
    #[error("expected an spscan1… or spspend1… key, sp(KEY) with one, or sp(SCAN,SPEND)")]
    Form,
    /// The text after `#` is not the checksum of the text before it.
    #[error("the descriptor checksum is wrong: a character was mistyped, or the checksum cut off")]
    Checksum,
    /// The text in brackets before a key is not `[fingerprint/path]`.
    #[error("the key origin is not of the form [fingerprint/path], as [deadbeef/352h/0h/0h]")]
    Origin,
    /// The single key is not bech32m, or its checksum is wrong.
    #[error("the key is not valid bech32m: a character was mistyped, or a part is missing")]
    Encoding,
    /// A bech32m text with the prefix of something else.
    #[error(
        "the text is not a scan or spend key: those begin with spscan1, spspend1, tspscan1 or tspspend1"
    )]
    Prefix,
    /// The version symbol is not `q`.
    #[error("the key has a version that this program cannot read: update it")]
    Version,
    /// The payload is not two keys long.
    #[error("the key has a wrong length")]
    Length,
    /// One of the keys is out of range, not on the curve, uncompressed, or of an unknown kind.
    #[error(
        "the {0} key is not valid: supported in sp(SCAN,SPEND) are WIF, xprv and, for SPEND, xpub and 66 hex digits"
    )]
    Key(
        /// "scan" or "spend".
        &'static str,
    ),
    /// One key is for the main network, the other for a test network.
    #[error("the scan key and the spend key are for different networks")]
    Network,
}

impl FromStr for DescriptorKey {
    type Err = DescriptorError;

    /// White space around the text is ignored.
    fn from_str(text: &str) -> Result<Self, DescriptorError> {
        let text = text.trim();
        let text = match text.split_once('#') {
            Some((descriptor, checksum)) => {
                if !checksum::verify(descriptor, checksum) {
                    return Err(DescriptorError::Checksum);
                }
                descriptor
            }
            None => text,
        };
        let Some(arguments) = text.strip_prefix("sp(") else {
            return if text.contains('(') {
                Err(DescriptorError::Form)
            } else {
                parse_silent_payment_key(skip_origin(text)?)
            };
        };
        let arguments = arguments.strip_suffix(')').ok_or(DescriptorError::Form)?;
        match arguments.split_once(',') {
            None => parse_silent_payment_key(skip_origin(arguments)?),
            Some((scan, spend)) => parse_pair(skip_origin(scan)?, skip_origin(spend)?),
        }
    }
}

impl DescriptorKey {
    /// The bech32m text, wiped when dropped. Secret: callers write it only to a wallet file or where the user asked for
    /// it.
    pub fn to_secret_string(&self) -> Zeroizing<String> {
        let (prefix, spend) = match self {
            Self::Scan {
                spend_pubkey,
                test_network,
                ..
            } => (
                if *test_network { "tspscan" } else { "spscan" },
                Zeroizing::new(spend_pubkey.serialize().to_vec()),
            ),
            Self::Spend {
                spend_key,
                test_network,
                ..
            } => (
                if *test_network { "tspspend" } else { "spspend" },
                Zeroizing::new(spend_key.secret().as_ref().to_vec()),
            ),
        };
        // Room for all of it: growing would leave copies.
        let mut text = Zeroizing::new(String::with_capacity(LONGEST_KEY));
        text.extend(
            self.scan_key()
                .secret()
                .as_ref()
                .iter()
                .chain(spend.iter())
                .copied()
                .bytes_to_fes()
                .with_checksum::<Bech32m>(&Hrp::parse_unchecked(prefix))
                .with_witness_version(Fe32::Q)
                .chars(),
        );
        text
    }

    /// The key without the secret that spends: what finding payments takes, and no more.
    pub fn to_scan(&self) -> Self {
        let (Self::Scan { test_network, .. } | Self::Spend { test_network, .. }) = self;
        Self::Scan {
            scan_key: self.scan_key().clone(),
            spend_pubkey: self.spend_pubkey(),
            test_network: *test_network,
        }
    }

    /// b_scan.
    pub fn scan_key(&self) -> &ScanKey {
        match self {
            Self::Scan { scan_key, .. } | Self::Spend { scan_key, .. } => scan_key,
        }
    }

    /// B_spend.
    pub fn spend_pubkey(&self) -> PublicKey {
        match self {
            Self::Scan { spend_pubkey, .. } => *spend_pubkey,
            Self::Spend { spend_key, .. } => spend_key.public_key(),
        }
    }

    /// Whether the key may be used on `network`. All test networks, regtest too, share one prefix.
    pub fn fits(&self, network: Network) -> bool {
        let (Self::Scan { test_network, .. } | Self::Spend { test_network, .. }) = self;
        *test_network == (network != Network::Bitcoin)
    }
}

/// Reads an `spscan1…` or `spspend1…` key without origin.
fn parse_silent_payment_key(text: &str) -> Result<DescriptorKey, DescriptorError> {
    let text = CheckedHrpstring::new::<Bech32m>(text).map_err(|_| DescriptorError::Encoding)?;
    let (test_network, has_spend_secret) = match text.hrp().to_lowercase().as_str() {
        "spscan" => (false, false),
        "tspscan" => (true, false),
        "spspend" => (false, true),
        "tspspend" => (true, true),
        _ => return Err(DescriptorError::Prefix),
    };
    let (version, payload) = versioned_payload(&text).ok_or(DescriptorError::Length)?;
    let payload = Zeroizing::new(payload);
    if version != Fe32::Q {
        return Err(DescriptorError::Version);
    }
    let (scan, spend) = payload.split_first_chunk().ok_or(DescriptorError::Length)?;
    let scan_key = ScanKey::from_bytes(*scan);
    if has_spend_secret {
        let spend = spend.try_into().map_err(|_| DescriptorError::Length)?;
        Ok(DescriptorKey::Spend {
            scan_key: scan_key.ok_or(DescriptorError::Key("scan"))?,
            spend_key: SpendKey::from_bytes(spend).ok_or(DescriptorError::Key("spend"))?,
            test_network,
        })
    } else {
        let spend: &[u8; 33] = spend.try_into().map_err(|_| DescriptorError::Length)?;
        Ok(DescriptorKey::Scan {
            scan_key: scan_key.ok_or(DescriptorError::Key("scan"))?,
            spend_pubkey: PublicKey::from_slice(spend)
                .map_err(|_| DescriptorError::Key("spend"))?,
            test_network,
        })
    }
}

/// Reads the keys of `sp(SCAN,SPEND)` without origins.
fn parse_pair(scan: &str, spend: &str) -> Result<DescriptorKey, DescriptorError> {
    let (SingleKey::Secret(scan_key), Some(network)) =
        parse_single_key(scan).ok_or(DescriptorError::Key("scan"))?
    else {
        return Err(DescriptorError::Key("scan"));
    };
    let (spend_key, spend_network) =
        parse_single_key(spend).ok_or(DescriptorError::Key("spend"))?;
    if spend_network.is_some_and(|spend_network| spend_network != network) {
        return Err(DescriptorError::Network);
    }
    let test_network = network != NetworkKind::Main;
    let scan_key = scan_key.into_bytes();
    let scan_key = ScanKey::from_bytes(*scan_key).ok_or(DescriptorError::Key("scan"))?;
    Ok(match spend_key {
        SingleKey::Public(spend_pubkey) => DescriptorKey::Scan {
            scan_key,
            spend_pubkey,
            test_network,
        },
        SingleKey::Secret(spend_key) => DescriptorKey::Spend {
            scan_key,
            spend_key: SpendKey::from_bytes(*spend_key.into_bytes())
                .ok_or(DescriptorError::Key("spend"))?,
            test_network,
        },
    })
}

/// A key of BIP380 that stands for one point.
enum SingleKey {
    Secret(ErasedSecret),
    Public(PublicKey),
}

/// A secret key that is wiped on drop.
struct ErasedSecret(SecretKey);

impl ErasedSecret {
    fn into_bytes(self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.secret_bytes())
    }
}

impl Drop for ErasedSecret {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

/// A WIF, xprv, xpub or hex key, and the kind of network its text names; `None` for all else, also for
/// uncompressed keys and for paths that end in `*`.
fn parse_single_key(text: &str) -> Option<(SingleKey, Option<NetworkKind>)> {
    if text.len() == 66 {
        let key = PublicKey::from_str(text).ok()?;
        return Some((SingleKey::Public(key), None));
    }
    if let Ok(mut wif) = PrivateKey::from_wif(text) {
        let secret = ErasedSecret(wif.inner);
        wif.inner.non_secure_erase();
        return wif
            .compressed
            .then_some((SingleKey::Secret(secret), Some(wif.network)));
    }
    let (key, path) = text.split_once('/').unwrap_or((text, ""));
    let path = parse_path(path)?;
    if let Ok(mut parent) = Xpriv::from_str(key) {
        let child = parent.derive_priv(SECP256K1, &path).ok();
        parent.private_key.non_secure_erase();
        let mut child = child?;
        let secret = ErasedSecret(child.private_key);
        child.private_key.non_secure_erase();
        return Some((SingleKey::Secret(secret), Some(child.network)));
    }
    let child = Xpub::from_str(key)
        .ok()?
        .derive_pub(SECP256K1, &path)
        .ok()?;
    Some((SingleKey::Public(child.public_key), Some(child.network)))
}

/// `0h/1/2'` or nothing.
fn parse_path(text: &str) -> Option<Vec<ChildNumber>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split('/')
        .map(|step| {
            let index = step.strip_suffix(['h', 'H', '\'']);
            let digits = index.unwrap_or(step);
            // `parse` alone would take a plus sign.
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number = digits.parse().ok()?;
            match index {
                Some(_) => ChildNumber::from_hardened_idx(number).ok(),
                None => ChildNumber::from_normal_idx(number).ok(),
            }
        })
        .collect()
}

/// What follows a `[fingerprint/path]`, if the text begins with one.
fn skip_origin(text: &str) -> Result<&str, DescriptorError> {
    let Some(text) = text.strip_prefix('[') else {
        return Ok(text);
    };
    let (origin, key) = text.split_once(']').ok_or(DescriptorError::Origin)?;
    let (fingerprint, path) = match origin.split_once('/') {
        Some((_, "")) => return Err(DescriptorError::Origin),
        Some(parts) => parts,
        None => (origin, ""),
    };
    if fingerprint.len() != 8 || !fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(DescriptorError::Origin);
    }
    parse_path(path).ok_or(DescriptorError::Origin)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
