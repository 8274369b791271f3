//! Scan key, spend key and shared secret: wiped on drop, masked in `Debug`.

use std::fmt;
use std::sync::LazyLock;

use bitcoin::Network;
use secp256k1::ecdh::shared_secret_point;
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use silentpayments::receiving::Receiver;
use zeroize::Zeroize;

use super::address::Address;
use super::label::{Label, LabelSet};
use crate::curve::point::unpack;
use crate::curve::{ScanTarget, TweakPoint};

/// b_scan. `Debug` never shows it; wiped on drop.
#[derive(Clone)]
pub struct ScanKey(SecretKey);

/// b_spend. `Debug` never shows it; wiped on drop. Never enters a server.
#[derive(Clone)]
pub struct SpendKey(SecretKey);

/// `S = b_scan·T`. `Debug` never shows it; wiped on drop.
#[derive(Clone)]
pub struct SharedSecret(PublicKey);

impl fmt::Debug for ScanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScanKey(***)")
    }
}

impl fmt::Debug for SpendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpendKey(***)")
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(***)")
    }
}

impl Drop for ScanKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl Drop for SpendKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl Drop for SharedSecret {
    fn drop(&mut self) {
        // A public key has no erasing of its own: put G in its place, and keep the write from being optimised away.
        static GENERATOR: LazyLock<PublicKey> = LazyLock::new(|| {
            let one = SecretKey::from_slice(&secp256k1::constants::ONE);
            one.expect("1 is in 1..n").public_key(SECP256K1)
        });
        self.0 = *GENERATOR;
        std::hint::black_box(&self.0);
    }
}

impl ScanKey {
    /// From 32 big-endian bytes in 1..n; `None` outside of that range.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Option<Self> {
        let key = SecretKey::from_slice(&bytes).ok().map(Self);
        bytes.zeroize();
        key
    }

    /// `B_scan = b_scan·G`.
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key(SECP256K1)
    }

    /// The secret itself, for curve work.
    pub fn secret(&self) -> &SecretKey {
        &self.0
    }

    /// `b_scan·T`, or `None` if the tweak is off the curve. Constant time.
    pub fn shared_secret(&self, tweak: &TweakPoint) -> Option<SharedSecret> {
        let mut bytes = shared_secret_point(&unpack(tweak)?, &self.0);
        let point = unpack(&TweakPoint::from_bytes(bytes));
        bytes.zeroize();
        point.map(SharedSecret)
    }
}

impl SpendKey {
    /// From 32 big-endian bytes in 1..n; `None` outside of that range.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Option<Self> {
        let key = SecretKey::from_slice(&bytes).ok().map(Self);
        bytes.zeroize();
        key
    }

    /// `B_spend = b_spend·G`.
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key(SECP256K1)
    }

    /// The secret itself, for signing.
    pub fn secret(&self) -> &SecretKey {
        &self.0
    }
}

impl SharedSecret {
    /// The point. Secret.
    pub fn point(&self) -> &PublicKey {
        &self.0
    }
}

/// Everything a receiver needs to find its outputs: no spend secret.
#[derive(Debug, Clone)]
pub struct ReceiverKeys {
    /// b_scan.
    pub scan_key: ScanKey,
    /// B_spend.
    pub spend_pubkey: PublicKey,
    /// Labels, always with m = 0 (change).
    pub labels: LabelSet,
}

impl ReceiverKeys {
    /// With the change label and the labels given; 0 and repeats are harmless.
    pub fn new(
        scan_key: ScanKey,
        spend_pubkey: PublicKey,
        labels: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self {
            labels: LabelSet::new(&scan_key, labels),
            scan_key,
            spend_pubkey,
        }
    }

    /// The address for label `m`, known to this receiver or not, or the plain one.
    ///
    /// `None` only if the label's hash is no valid scalar or `B_spend + L_m` is infinity.
    /// Label 0 is never to be handed out; callers refuse it.
    pub fn address(&self, label: Option<u32>, network: Network) -> Option<Address> {
        let spend_pubkey = match label {
            None => self.spend_pubkey,
            Some(m) => {
                let point = match self.labels.get(m) {
                    Some(label) => label.point,
                    None => Label::new(&self.scan_key, m)?.point,
                };
                self.spend_pubkey.combine(&point).ok()?
            }
        };
        Some(Address {
            scan_pubkey: self.scan_key.public_key(),
            spend_pubkey,
            network,
        })
    }

    /// For [`crate::curve::Engine::scanner`]: labels in the order of [`LabelSet::iter`].
    pub fn scan_target(&self) -> ScanTarget {
        ScanTarget {
            scan_key: self.scan_key.0.secret_bytes(),
            spend_key: self.spend_pubkey.serialize(),
            labels: self
                .labels
                .iter()
                .map(|label| label.point.serialize())
                .collect(),
        }
    }

    /// The receiver of the `silentpayments` crate with all labels. Its network does not matter.
    ///
    /// It names labels by their scalars, which [`LabelSet::by_scalar`] maps back to m. Its `Debug` shows the
    /// scalars of labels: never print it. Adding a label costs more than making it did (seconds for a hundred
    /// thousand), so keep the receiver.
    ///
    /// # Errors
    /// Only if `B_spend + L_m` is infinity for some label, which takes a spend key made for that.
    pub fn receiver(&self) -> Result<Receiver, silentpayments::Error> {
        let mut labels = self
            .labels
            .iter()
            .map(|label| silentpayments::receiving::Label::from(label.scalar));
        let change = labels.next().ok_or_else(|| {
            silentpayments::Error::InvalidLabel("the wallet has no change label".to_owned())
        })?;
        let mut receiver = Receiver::new(
            silentpayments::SpVersion::ZERO,
            self.scan_key.public_key(),
            self.spend_pubkey,
            change,
            silentpayments::Network::Mainnet,
        )?;
        for label in labels {
            receiver.add_label(label)?;
        }
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests;
