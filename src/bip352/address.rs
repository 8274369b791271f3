//! Silent payment addresses: bech32m encode and decode (BIP352, "Address encoding").

use std::fmt;
use std::str::FromStr;

use bitcoin::Network;
use bitcoin::bech32::primitives::decode::CheckedHrpstring;
use bitcoin::bech32::{Bech32m, Fe32};
use secp256k1::PublicKey;
use silentpayments::SilentPaymentCode;

/// Bytes of both keys, all that this version of the protocol reads of any address.
const KEYS_BYTES: usize = 66;

/// A silent payment address (`sp1…`, `tsp1…`, `sprt1…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// B_scan.
    pub scan_pubkey: PublicKey,
    /// B_m: B_spend, or B_spend + L_m for a labelled address.
    pub spend_pubkey: PublicKey,
    /// Network the text form is for. All test networks but regtest share one prefix, which reads as
    /// [`Network::Testnet`]; see [`Address::fits`].
    pub network: Network,
}

/// Why a text is no silent payment address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not bech32m: a wrong character, mixed case, no prefix, too long, or a wrong checksum.
    #[error("the silent payment address is not valid bech32m: {0}")]
    Encoding(String),
    /// The prefix is that of something else.
    #[error(
        "the address has the prefix \"{0}\", but silent payment addresses have sp, tsp or sprt"
    )]
    Prefix(String),
    /// There is no version symbol, or it is the one reserved for a change that breaks readers.
    #[error("the silent payment address has a version that this program cannot read: update it")]
    Version,
    /// The payload is shorter than two keys, or not exactly two keys in version 0, or wrongly padded.
    #[error("the silent payment address has a wrong length")]
    Length,
    /// One of the keys is no point of the curve.
    #[error("the {0} key in the silent payment address is not valid")]
    Key(
        /// "scan" or "spend".
        &'static str,
    ),
}

impl Address {
    /// Whether a payer on `network` may use this address.
    ///
    /// `tsp` is the prefix of every test network in BIP352, so it fits regtest too; `sprt` fits regtest alone.
    pub fn fits(&self, network: Network) -> bool {
        match self.network {
            Network::Bitcoin => network == Network::Bitcoin,
            Network::Regtest => network == Network::Regtest,
            _ => network != Network::Bitcoin,
        }
    }

    /// The text with the prefix BIP352 has for every test network, also on regtest, where
    /// `Display` writes `sprt` as other libraries do.
    pub fn to_bip352_string(&self) -> String {
        self.encode(match self.network {
            Network::Bitcoin => silentpayments::Network::Mainnet,
            _ => silentpayments::Network::Testnet,
        })
    }

    fn encode(&self, network: silentpayments::Network) -> String {
        SilentPaymentCode::new_v0(self.scan_pubkey, self.spend_pubkey, network).to_string()
    }
}

impl fmt::Display for Address {
    /// Always version 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode(match self.network {
            Network::Bitcoin => silentpayments::Network::Mainnet,
            Network::Regtest => silentpayments::Network::Regtest,
            _ => silentpayments::Network::Testnet,
        }))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Version 0 must be exactly two keys; of versions 1 to 30 the first two keys are read and the rest is
    /// passed over, as BIP352 has it for compatible extensions. Upper case is fine, mixed case is not.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = CheckedHrpstring::new::<Bech32m>(text)
            .map_err(|error| AddressError::Encoding(error.to_string()))?;
        let network = match text.hrp().to_lowercase().as_str() {
            "sp" => Network::Bitcoin,
            "tsp" => Network::Testnet,
            "sprt" => Network::Regtest,
            other => return Err(AddressError::Prefix(other.to_owned())),
        };
        let (version, payload) = versioned_payload(&text).ok_or(AddressError::Length)?;
        if version == Fe32::L {
            return Err(AddressError::Version);
        }
        if version == Fe32::Q && payload.len() != KEYS_BYTES {
            return Err(AddressError::Length);
        }
        let (scan, rest) = payload.split_at_checked(33).ok_or(AddressError::Length)?;
        let (spend, _) = rest.split_at_checked(33).ok_or(AddressError::Length)?;
        Ok(Self {
            scan_pubkey: PublicKey::from_slice(scan).map_err(|_| AddressError::Key("scan"))?,
            spend_pubkey: PublicKey::from_slice(spend).map_err(|_| AddressError::Key("spend"))?,
            network,
        })
    }
}

/// The version symbol and the payload bytes; `None` if there is no version or the padding breaks BIP173.
///
/// The bech32 crate would only give versions up to 16, those of segwit.
pub(super) fn versioned_payload(text: &CheckedHrpstring<'_>) -> Option<(Fe32, Vec<u8>)> {
    let mut symbols = text
        .data_part_ascii_no_checksum()
        .iter()
        .map(|&symbol| Fe32::from_char(symbol.into()).ok());
    let version = symbols.next()??;
    // The exact size: growing would leave copies of a payload that may be secret.
    let mut payload = Vec::with_capacity(symbols.len() * 5 / 8);
    let mut pending: u32 = 0;
    let mut pending_bits = 0;
    for symbol in symbols {
        pending = pending << 5 | u32::from(symbol?.to_u8());
        pending_bits += 5;
        if pending_bits >= 8 {
            pending_bits -= 8;
            payload.push((pending >> pending_bits) as u8);
            pending &= (1 << pending_bits) - 1;
        }
    }
    (pending_bits < 5 && pending == 0).then_some((version, payload))
}

#[cfg(test)]
mod tests;
