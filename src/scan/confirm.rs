//! The full rule for one transaction.
//!
//! Own code rather than the receiver of the `silentpayments` crate, which is the judge in the tests. That receiver
//! compares every output with every label for each k (seconds for a transaction with thousands of labelled outputs),
//! knows no K_MAX, gives finds without their k, and fails for the whole transaction where one sum is infinity.

use std::collections::HashMap;

use secp256k1::{Parity, PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey};

use super::{FoundOutput, TaprootOutput};
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
) -> Vec<FoundOutput> {
    let Some(shared_secret) = keys.scan_key.shared_secret(tweak) else {
        return Vec::new();
    };
    let mut outputs = Outputs::new(outputs);
    let mut found = Vec::new();
    for k in 0..K_MAX {
        // No valid t_k: nobody can have paid this k, and no later one counts.
        let Some(mut t_k) = output_tweak(&shared_secret, k) else {
            break;
        };
        // With a valid key and scalar, infinity is the one way this sum can fail.
        let p_k = keys.spend_pubkey.add_exp_tweak(SECP256K1, &t_k).ok();
        let output = outputs.take_first(keys, p_k.as_ref()).map(|taken| {
            let mut tweak = add(&t_k, taken.label.map(|label| &label.scalar));
            let output = FoundOutput {
                outpoint: taken.output.outpoint,
                value_sat: taken.output.value_sat,
                key: taken.output.key,
                k,
                label: taken.label.map(|label| label.m),
                tweak,
            };
            tweak.fill(0);
            output
        });
        t_k.non_secure_erase();
        match output {
            Some(output) if spends(keys, &output) => found.push(output),
            // Only a fault of the machine or of this code gets here; the money is not lost, a later scan finds it.
            Some(output) => {
                tracing::error!(outpoint = %output.outpoint, "a found output does not verify: scan again")
            }
            None => break,
        }
    }
    found
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
    /// Positions in `outputs` by key, the first one last.
    by_key: HashMap<[u8; 32], Vec<usize>>,
    /// Position and key with even y of those left whose key is a point, in order.
    points: Vec<(usize, PublicKey)>,
}

/// An output that belongs to some k.
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
            by_key,
            points: Vec::new(),
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
        let output = self.outputs.get(position)?;
        if let Some(positions) = self.by_key.get_mut(&output.key) {
            positions.pop();
        }
        self.points.retain(|(at, _)| *at != position);
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
        let differences = 2 * end;
        match p_k {
            Some(p_k) if differences < keys.labels.len() => {
                self.lift_points();
                let minus_p_k = p_k.negate(SECP256K1);
                self.points
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

    /// Fills `points` on first use: a square root per output, which most transactions never need.
    fn lift_points(&mut self) {
        if !self.points.is_empty() {
            return;
        }
        let left: std::collections::HashSet<usize> =
            self.by_key.values().flatten().copied().collect();
        self.points = self
            .outputs
            .iter()
            .enumerate()
            .filter(|(position, _)| left.contains(position))
            .filter_map(|(position, output)| {
                let key = XOnlyPublicKey::from_slice(&output.key).ok()?;
                Some((position, key.public_key(Parity::Even)))
            })
            .collect();
    }
}
