//! A sender, for tests and the simulated chain.

use std::collections::HashMap;
use std::fmt;

use bitcoin::OutPoint;
use bitcoin::hashes::Hash;
use secp256k1::{Parity, SECP256K1, Scalar, SecretKey, XOnlyPublicKey};
use silentpayments::SilentPaymentKeyMaterial;
use silentpayments::sending::generate_recipient_pubkeys;
use silentpayments::utils::sending::calculate_partial_secret;

use super::K_MAX;
use super::address::Address;

/// An input of the sender that yields a key. `Debug` does not show the key.
#[derive(Clone)]
pub struct SenderInput {
    /// The private key that signs (for taproot: of the output key, tweaked).
    pub secret: SecretKey,
    /// Taproot keys are used with even y.
    pub taproot: bool,
}

impl fmt::Debug for SenderInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderInput")
            .field("taproot", &self.taproot)
            .finish_non_exhaustive()
    }
}

/// Why a payment cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No input yields a key.
    #[error("no input of the transaction has a key that silent payments can use: add one that has")]
    NoInput,
    /// The list of outpoints is shorter than the list of inputs with a key.
    #[error(
        "{inputs} inputs with a key but {outpoints} outpoints: give the outpoints of all inputs"
    )]
    MissingOutpoints {
        /// Inputs with a key.
        inputs: usize,
        /// Outpoints given.
        outpoints: usize,
    },
    /// The input keys cancel each other out.
    #[error("the keys of the inputs sum to zero: change the set of inputs")]
    ZeroKeySum,
    /// Receivers do not look for more than [`K_MAX`] outputs.
    #[error("{count} outputs for one scan key, but receivers look for {K_MAX}: split the payment")]
    TooManyRecipients {
        /// Recipients with that scan key.
        count: usize,
    },
    /// A hash or sum that is no valid scalar or point, which nobody has ever seen.
    #[error("these inputs cannot pay these recipients: change the set of inputs")]
    Unpayable,
}

/// One output key per recipient, in the order of `recipients` (an address may occur several times).
///
/// `outpoints` are those of all inputs, with or without a key. Recipients that share a scan key, whatever
/// their labels, share one run of k, which counts in the order given.
///
/// # Errors
/// No input, a key sum of zero, or more than K_MAX recipients with one scan key.
pub fn output_keys(
    inputs: &[SenderInput],
    outpoints: &[OutPoint],
    recipients: &[Address],
) -> Result<Vec<XOnlyPublicKey>, SendError> {
    if inputs.is_empty() {
        return Err(SendError::NoInput);
    }
    if outpoints.len() < inputs.len() {
        return Err(SendError::MissingOutpoints {
            inputs: inputs.len(),
            outpoints: outpoints.len(),
        });
    }
    let mut group_sizes = HashMap::new();
    for recipient in recipients {
        *group_sizes.entry(recipient.scan_pubkey).or_insert(0) += 1;
    }
    if let Some(&count) = group_sizes.values().max()
        && count > K_MAX as usize
    {
        return Err(SendError::TooManyRecipients { count });
    }

    let mut sum = key_sum(inputs).ok_or(SendError::ZeroKeySum)?;
    let outpoints: Vec<_> = outpoints
        .iter()
        .map(|outpoint| {
            silentpayments::utils::OutPoint::from_txid_bytes_and_vout(
                outpoint.txid.to_byte_array(),
                outpoint.vout,
            )
        })
        .collect();
    // The crate adds keys pairwise and would refuse a zero in between, so it gets the sum, with its sign.
    let partial_secret =
        calculate_partial_secret(&[(sum, false)], &outpoints).map_err(|_| SendError::Unpayable)?;
    sum.non_secure_erase();

    let key_material = |recipient: &Address| {
        SilentPaymentKeyMaterial::new_v0(recipient.scan_pubkey, recipient.spend_pubkey)
    };
    let mut outputs: HashMap<_, _> =
        generate_recipient_pubkeys(recipients.iter().map(key_material), partial_secret)
            .map_err(|_| SendError::Unpayable)?
            .into_iter()
            .map(|(recipient, keys)| (recipient, keys.into_iter()))
            .collect();
    recipients
        .iter()
        .map(|recipient| outputs.get_mut(&key_material(recipient))?.next())
        .collect::<Option<_>>()
        .ok_or(SendError::Unpayable)
}

/// The sum of the input keys, taproot keys with even y; `None` if it is zero. Partial sums may be zero.
fn key_sum(inputs: &[SenderInput]) -> Option<SecretKey> {
    inputs.iter().fold(None, |sum: Option<SecretKey>, input| {
        let (_, parity) = input.secret.x_only_public_key(SECP256K1);
        let key = if input.taproot && parity == Parity::Odd {
            input.secret.negate()
        } else {
            input.secret
        };
        match sum {
            None => Some(key),
            // With two valid keys, a sum of zero is the one way this can fail.
            Some(sum) => sum.add_tweak(&Scalar::from(key)).ok(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::{Network, Txid};
    use secp256k1::PublicKey;

    use crate::bip352::hash;
    use crate::bip352::keys::{ReceiverKeys, ScanKey};

    fn secret(byte: u8) -> SecretKey {
        SecretKey::from_slice(&[byte; 32]).expect("in range")
    }

    fn input(byte: u8, taproot: bool) -> SenderInput {
        SenderInput {
            secret: secret(byte),
            taproot,
        }
    }

    fn outpoints(count: u32) -> Vec<OutPoint> {
        (0..count)
            .map(|vout| OutPoint::new(Txid::from_byte_array([9; 32]), vout))
            .collect()
    }

    fn receiver(byte: u8) -> ReceiverKeys {
        let scan_key = ScanKey::from_bytes([byte; 32]).expect("in range");
        ReceiverKeys::new(scan_key, secret(byte + 1).public_key(SECP256K1), [1, 2])
    }

    fn address(receiver: &ReceiverKeys, label: Option<u32>) -> Address {
        receiver
            .address(label, Network::Regtest)
            .expect("not infinity")
    }

    /// What the receiver expects at index k: `B_m + t_k·G`, from its own side of the secret.
    fn expected_key(
        inputs: &[SenderInput],
        outpoints: &[OutPoint],
        receiver: &ReceiverKeys,
        label: Option<u32>,
        k: u32,
    ) -> XOnlyPublicKey {
        let keys: Vec<PublicKey> = inputs
            .iter()
            .map(|input| {
                let key = input.secret.public_key(SECP256K1);
                let (x_only, _) = key.x_only_public_key();
                if input.taproot {
                    x_only.public_key(Parity::Even)
                } else {
                    key
                }
            })
            .collect();
        let sum = PublicKey::combine_keys(&keys.iter().collect::<Vec<_>>()).expect("not infinity");
        let input_hash = hash::input_hash(&outpoints[0], &sum.serialize()).expect("in range");
        let tweak = sum.mul_tweak(SECP256K1, &input_hash).expect("not 0");
        let tweak = crate::curve::point::pack(&tweak);
        let shared_secret = receiver.scan_key.shared_secret(&tweak).expect("on curve");
        let t_k = hash::output_tweak(&shared_secret, k).expect("in range");
        let spend_pubkey = address(receiver, label).spend_pubkey;
        let key = spend_pubkey.add_exp_tweak(SECP256K1, &t_k).expect("point");
        key.x_only_public_key().0
    }

    #[test]
    fn outputs_come_in_the_order_of_recipients() {
        let (one, two) = (receiver(0x31), receiver(0x41));
        // Odd and even taproot keys and others.
        let inputs: Vec<SenderInput> = (1..=6).map(|byte| input(byte, byte <= 4)).collect();
        let outpoints = outpoints(8);
        // Per scan key, k counts over plain and labelled addresses together.
        let payments = [
            (&one, None, 0),
            (&two, Some(1), 0),
            (&one, Some(2), 1),
            (&one, None, 2),
            (&two, None, 1),
            (&one, None, 3),
            (&two, Some(1), 2),
        ];
        let recipients: Vec<Address> = payments
            .iter()
            .map(|(receiver, label, _)| address(receiver, *label))
            .collect();
        let expected: Vec<XOnlyPublicKey> = payments
            .iter()
            .map(|(receiver, label, k)| expected_key(&inputs, &outpoints, receiver, *label, *k))
            .collect();
        assert_eq!(output_keys(&inputs, &outpoints, &recipients), Ok(expected));
        // The order of outpoints and the network of addresses do not matter.
        let reversed: Vec<OutPoint> = outpoints.iter().rev().copied().collect();
        let recipients_elsewhere: Vec<Address> = recipients
            .iter()
            .map(|recipient| Address {
                network: Network::Bitcoin,
                ..*recipient
            })
            .collect();
        assert_eq!(
            output_keys(&inputs, &reversed, &recipients_elsewhere),
            output_keys(&inputs, &outpoints, &recipients)
        );
    }

    #[test]
    fn the_limit_is_per_scan_key() {
        let (one, two) = (receiver(0x31), receiver(0x41));
        let pay = |counts: [usize; 3]| {
            let recipients: Vec<Address> = [(&one, None), (&one, Some(1)), (&two, None)]
                .into_iter()
                .zip(counts)
                .flat_map(|((receiver, label), count)| vec![address(receiver, label); count])
                .collect();
            output_keys(&[input(1, false)], &outpoints(1), &recipients).map(|keys| keys.len())
        };
        assert_eq!(pay([2000, 323, 5]), Ok(2328));
        assert_eq!(
            pay([2000, 324, 5]),
            Err(SendError::TooManyRecipients { count: 2324 })
        );
    }

    #[test]
    fn impossible_payments_are_refused() {
        let recipients = [address(&receiver(0x31), None)];
        assert_eq!(
            output_keys(&[], &outpoints(1), &recipients),
            Err(SendError::NoInput)
        );
        assert_eq!(
            output_keys(
                &[input(1, true), input(2, true)],
                &outpoints(1),
                &recipients
            ),
            Err(SendError::MissingOutpoints {
                inputs: 2,
                outpoints: 1
            })
        );
        let opposite = SenderInput {
            secret: secret(1).negate(),
            taproot: false,
        };
        assert_eq!(
            output_keys(&[input(1, false), opposite], &outpoints(2), &recipients),
            Err(SendError::ZeroKeySum)
        );
        assert_eq!(
            output_keys(&[input(1, false)], &outpoints(1), &[]),
            Ok(vec![])
        );
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(
            format!("{:?}", input(1, true)),
            "SenderInput { taproot: true, .. }"
        );
    }
}
