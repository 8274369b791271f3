//! The full rule for one transaction.
//!
//! Own code rather than the receiver of the `silentpayments` crate, which is the judge in the tests. That receiver
//! compares every output with every label for each k (seconds for a transaction with thousands of labelled outputs),
//! knows no K_MAX, gives finds without their k, and fails for the whole transaction where one sum is infinity.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use secp256k1::{Parity, PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey};

use super::{FoundOutput, TaprootOutput, Unverified};
use crate::bip352::K_MAX;
use crate::bip352::hash::output_tweak;
use crate::bip352::keys::ReceiverKeys;
use crate::bip352::label::Label;
use crate::curve::TweakPoint;

/// See [`super::Scanner::confirm`].
pub(super) fn confirm(
    keys: &ReceiverKeys,
    tweak: &TweakPoint,
    outputs: &[TaprootOutput],
) -> Result<Vec<FoundOutput>, Unverified> {
    let Some(shared_secret) = keys.scan_key.shared_secret(tweak) else {
        return Ok(Vec::new());
    };
    // Blocks that are outgrown would be given back with secrets in them.
    let mut taken = Vec::with_capacity(outputs.len().min(K_MAX as usize));
    let mut found = Vec::with_capacity(outputs.len());
    let mut outputs = Outputs::new(outputs);
    for k in 0..K_MAX {
        // No valid t_k: nobody can have paid this k, and no later one counts.
        let Some(t_k) = output_tweak(&shared_secret, k) else {
            break;
        };
        // With a valid key and scalar, infinity is the one way this sum can fail.
        let p_k = keys.spend_pubkey.add_exp_tweak(SECP256K1, &t_k).ok();
        let payment = Payment { k, t_k, p_k };
        let Some(first) = outputs.take_first(keys, payment.p_k.as_ref()) else {
            break;
        };
        taken.push((payment, first));
    }
    for (payment, first) in &taken {
        // What is the wallet's besides is looked for when no k can take it any more.
        let others = outputs.take_others(keys, payment.p_k.as_ref(), *first);
        for taken in std::iter::once(*first).chain(others) {
            found.push(payment.output(keys, taken)?);
        }
    }
    Ok(found)
}

/// One k of a transaction that pays the wallet.
struct Payment {
    k: u32,
    t_k: Scalar,
    /// `None` at infinity.
    p_k: Option<PublicKey>,
}

impl Drop for Payment {
    fn drop(&mut self) {
        self.t_k.non_secure_erase();
    }
}

impl Payment {
    fn output(&self, keys: &ReceiverKeys, taken: Taken<'_, '_>) -> Result<FoundOutput, Unverified> {
        let output = FoundOutput {
            outpoint: taken.output.outpoint,
            value_sat: taken.output.value_sat,
            key: taken.output.key,
            k: self.k,
            label: taken.label.map(|label| label.m),
            tweak: add(&self.t_k, taken.label.map(|label| &label.scalar)),
        };
        match spends(keys, &output) {
            true => Ok(output),
            false => Err(Unverified(output.outpoint)),
        }
    }
}

/// `t_k + label_m` mod n, big-endian.
fn add(t_k: &Scalar, label: Option<&Scalar>) -> [u8; 32] {
    let bytes = t_k.to_be_bytes();
    let Some(label) = label else { return bytes };
    // t_k is in 1..n, so the first step cannot fail, and the second only where the sum is 0.
    SecretKey::from_slice(&bytes)
        .and_then(|t_k| t_k.add_tweak(label))
        .map_or([0; 32], |sum| sum.secret_bytes())
}

/// Whether `B_spend + tweak·G` is the output's key: the last word, whatever way the output was found.
fn spends(keys: &ReceiverKeys, output: &FoundOutput) -> bool {
    Scalar::from_be_bytes(output.tweak)
        .ok()
        .and_then(|tweak| keys.spend_pubkey.add_exp_tweak(SECP256K1, &tweak).ok())
        .is_some_and(|key| key.x_only_public_key().0.serialize() == output.key)
}

/// The outputs of a transaction that no k has taken yet.
struct Outputs<'a> {
    outputs: &'a [TaprootOutput],
    /// How many are left.
    left: usize,
    /// Their positions in `outputs` by key, the first one last.
    by_key: HashMap<[u8; 32], Vec<usize>>,
    /// Position and key with even y of those left whose key is a point, in order: a square root per output, which most
    /// transactions never need.
    points: Option<Vec<(usize, PublicKey)>>,
}

/// An output that belongs to some k.
#[derive(Clone, Copy)]
struct Taken<'a, 'k> {
    output: &'a TaprootOutput,
    label: Option<&'k Label>,
}

impl<'a> Outputs<'a> {
    fn new(outputs: &'a [TaprootOutput]) -> Self {
        let mut by_key: HashMap<[u8; 32], Vec<usize>> = HashMap::with_capacity(outputs.len());
        for (position, output) in outputs.iter().enumerate().rev() {
            by_key.entry(output.key).or_default().push(position);
        }
        Self {
            outputs,
            left: outputs.len(),
            by_key,
            points: None,
        }
    }

    /// Takes the first output that is `P_k` or `P_k + L_m` for a label of the wallet. `p_k` is `None` at infinity.
    fn take_first<'k>(
        &mut self,
        keys: &'k ReceiverKeys,
        p_k: Option<&PublicKey>,
    ) -> Option<Taken<'a, 'k>> {
        let plain = p_k.and_then(|p_k| self.position(p_k)).map(|at| (at, None));
        let labelled = self.first_labelled(keys, p_k, plain.map(|(at, _)| at));
        let (position, label) = labelled.or(plain)?;
        self.take(position, label)
    }

    /// Takes what the wallet can spend besides the first output of a k: those with the same key, those that are `P_k`,
    /// and those that are `P_k + L_m` for a label of the wallet.
    fn take_others<'k>(
        &mut self,
        keys: &'k ReceiverKeys,
        p_k: Option<&PublicKey>,
        first: Taken<'a, 'k>,
    ) -> Vec<Taken<'a, 'k>> {
        let mut others = self.take_all(first.output.key, first.label);
        if let Some(p_k) = p_k {
            others.extend(self.take_all(p_k.x_only_public_key().0.serialize(), None));
        }
        while let Some((position, label)) = self.first_labelled(keys, p_k, None) {
            let Some(output) = self.outputs.get(position) else {
                break;
            };
            others.extend(self.take_all(output.key, label));
        }
        others
    }

    /// Takes all outputs with this key.
    fn take_all<'k>(&mut self, key: [u8; 32], label: Option<&'k Label>) -> Vec<Taken<'a, 'k>> {
        let mut taken = Vec::new();
        while let Some(position) = self.by_key.get(&key).and_then(|all| all.last().copied()) {
            taken.extend(self.take(position, label));
        }
        taken
    }

    /// Takes the output at this position, the first left of those with its key.
    fn take<'k>(&mut self, position: usize, label: Option<&'k Label>) -> Option<Taken<'a, 'k>> {
        let output = self.outputs.get(position)?;
        if let Entry::Occupied(mut positions) = self.by_key.entry(output.key) {
            positions.get_mut().pop();
            if positions.get().is_empty() {
                positions.remove();
            }
        }
        self.left -= 1;
        if let Some(points) = &mut self.points {
            points.retain(|(at, _)| *at != position);
        }
        Some(Taken { output, label })
    }

    /// First position left of an output with the key of this point.
    fn position(&self, point: &PublicKey) -> Option<usize> {
        let key = point.x_only_public_key().0.serialize();
        self.by_key.get(&key)?.last().copied()
    }

    /// The first output, before position `end` if there is one, that is `P_k + L_m` for some label.
    ///
    /// Two ways with one result: add each label to `P_k` and look the sum up, or subtract `P_k` from each output and
    /// look the difference up among the labels. The shorter one is taken, so thousands of outputs are cheap for a
    /// wallet with few labels, and thousands of labels are for a transaction with few outputs.
    fn first_labelled<'k>(
        &mut self,
        keys: &'k ReceiverKeys,
        p_k: Option<&PublicKey>,
        end: Option<usize>,
    ) -> Option<(usize, Option<&'k Label>)> {
        let end = end.unwrap_or(self.outputs.len());
        if self.left == 0 {
            return None;
        }
        let differences = 2 * end.min(self.left);
        match p_k {
            Some(p_k) if differences < keys.labels.len() => {
                let minus_p_k = p_k.negate(SECP256K1);
                self.points()
                    .iter()
                    .take_while(|(position, _)| *position < end)
                    .find_map(|(position, even)| {
                        [*even, even.negate(SECP256K1)]
                            .iter()
                            .find_map(|point| {
                                keys.labels.by_point(&point.combine(&minus_p_k).ok()?)
                            })
                            .map(|label| (*position, Some(label)))
                    })
            }
            _ => keys
                .labels
                .iter()
                .filter_map(|label| {
                    let sum = match p_k {
                        Some(p_k) => p_k.combine(&label.point).ok()?,
                        None => label.point,
                    };
                    Some((self.position(&sum)?, Some(label)))
                })
                .filter(|(position, _)| *position < end)
                .min_by_key(|(position, _)| *position),
        }
    }

    fn points(&mut self) -> &[(usize, PublicKey)] {
        let (outputs, by_key) = (self.outputs, &self.by_key);
        self.points.get_or_insert_with(|| {
            let mut left: Vec<usize> = by_key.values().flatten().copied().collect();
            left.sort_unstable();
            let point = |position: usize| {
                let key = XOnlyPublicKey::from_slice(&outputs.get(position)?.key).ok()?;
                Some((position, key.public_key(Parity::Even)))
            };
            left.into_iter().filter_map(point).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::OutPoint;
    use secp256k1::SecretKey;

    use super::*;
    use crate::bip352::keys::ScanKey;

    #[test]
    fn a_find_whose_key_does_not_verify_is_an_error() {
        let scan_key = ScanKey::from_bytes([3; 32]).expect("a key");
        let secret = SecretKey::from_slice(&[4; 32]).expect("a key");
        let keys = ReceiverKeys::new(scan_key, secret.public_key(SECP256K1), []);
        let t_k = Scalar::from_be_bytes([5; 32]).expect("below n");
        let p_k = keys
            .spend_pubkey
            .add_exp_tweak(SECP256K1, &t_k)
            .expect("a point");
        let output = TaprootOutput {
            outpoint: OutPoint::null(),
            key: p_k.x_only_public_key().0.serialize(),
            value_sat: 1,
        };
        for (scalar, is_right) in [([5; 32], true), ([6; 32], false), ([0; 32], false)] {
            let payment = Payment {
                k: 0,
                t_k: Scalar::from_be_bytes(scalar).expect("below n"),
                p_k: Some(p_k),
            };
            let taken = Taken {
                output: &output,
                label: None,
            };
            let found = payment.output(&keys, taken);
            assert_eq!(
                found.err(),
                (!is_right).then_some(Unverified(output.outpoint))
            );
        }
    }
}
