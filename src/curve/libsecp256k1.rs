//! The engine on libsecp256k1, through the `secp256k1` crate: exact, one point at a time.
//!
//! Products are variable time, also `b_scan·T`: the time a scan takes may tell about the scan key to
//! somebody who can measure single products on the machine that scans.

use secp256k1::hashes::{Hash, HashEngine, sha256t_hash_newtype};
use secp256k1::{PublicKey, SECP256K1, Scalar};

use super::{CandidateScanner, Engine, InvalidTarget, Product, Sampled, ScanTarget, TweakPoint};

sha256t_hash_newtype! {
    /// The tag with which output tweaks are hashed.
    struct OutputTweakTag = hash_str("BIP0352/SharedSecret");

    /// A tagged hash of a shared secret and a counter.
    #[hash_newtype(forward)]
    struct OutputTweakHash(_);
}

/// See [`TweakPoint::from_compressed`].
pub(crate) fn decompress(bytes: &[u8; 33]) -> Option<TweakPoint> {
    PublicKey::from_slice(bytes).ok().as_ref().map(pack)
}

/// The point of a public key, without arithmetic.
pub(crate) fn pack(point: &PublicKey) -> TweakPoint {
    let sec1 = point.serialize_uncompressed();
    let mut bytes = [0; 64];
    bytes.copy_from_slice(&sec1[1..]);
    TweakPoint::from_bytes(bytes)
}

/// The public key of a point; `None` if it is off the curve. Checks the curve equation, no more.
pub(crate) fn unpack(point: &TweakPoint) -> Option<PublicKey> {
    let mut sec1 = [4; 65];
    sec1[1..].copy_from_slice(point.as_bytes());
    PublicKey::from_slice(&sec1).ok()
}

/// `t_k = H_"BIP0352/SharedSecret"(serP(S) || ser32(k))`; `None` if the hash is 0 or not below the group order.
pub(crate) fn output_tweak(shared_secret: &PublicKey, k: u32) -> Option<Scalar> {
    let mut hash = OutputTweakHash::engine();
    hash.input(&shared_secret.serialize());
    hash.input(&k.to_be_bytes());
    nonzero_scalar(OutputTweakHash::from_engine(hash).to_byte_array())
}

/// The scalar of 32 big-endian bytes in 1..n.
pub(crate) fn nonzero_scalar(bytes: [u8; 32]) -> Option<Scalar> {
    let scalar = Scalar::from_be_bytes(bytes).ok()?;
    (scalar != Scalar::ZERO).then_some(scalar)
}

/// The engine on libsecp256k1: exact, no tables of its own, one point at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct LibSecp256k1;

/// It is what the others are compared with.
impl Sampled for LibSecp256k1 {}

impl Engine for LibSecp256k1 {
    fn name(&self) -> &'static str {
        "libsecp256k1"
    }

    fn scanner(&self, target: &ScanTarget) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        Ok(Box::new(Scanner::new(target)?))
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        products
            .iter()
            .map(|product| {
                let scalar = nonzero_scalar(product.scalar)?;
                let point = unpack(&product.point)?.mul_tweak(SECP256K1, &scalar).ok()?;
                Some(pack(&point))
            })
            .collect()
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        keys.iter().map(decompress).collect()
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        let mut start = 0;
        let sum = |end: &usize| {
            let group = &points[start..*end];
            start = *end;
            let keys: Option<Vec<PublicKey>> = group.iter().map(unpack).collect();
            let keys = keys?;
            // Adds all at once in Jacobian coordinates, where infinity is a value like others.
            let sum = PublicKey::combine_keys(&keys.iter().collect::<Vec<_>>());
            sum.ok().as_ref().map(pack)
        };
        ends.iter().map(sum).collect()
    }
}

/// A target with its keys parsed.
pub(super) struct Scanner {
    scan_key: Scalar,
    spend_key: PublicKey,
    labels: Vec<PublicKey>,
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.scan_key.non_secure_erase();
    }
}

/// `P_0` of one tweak, which may be infinity: then the sums with labels are still points.
enum FirstOutput {
    Point(PublicKey),
    Infinity,
}

impl Scanner {
    /// See [`Engine::scanner`].
    pub(super) fn new(target: &ScanTarget) -> Result<Self, InvalidTarget> {
        let point =
            |bytes: &[u8; 33], name| PublicKey::from_slice(bytes).map_err(|_| InvalidTarget(name));
        Ok(Self {
            scan_key: nonzero_scalar(target.scan_key).ok_or(InvalidTarget("scan key"))?,
            spend_key: point(&target.spend_key, "spend key")?,
            labels: target
                .labels
                .iter()
                .map(|label| point(label, "label"))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Two candidates of a tweak: the plain one, and the one of label i of the target, zeros without.
    pub(super) fn two_candidates(&self, tweak: &TweakPoint, label: Option<usize>) -> [[u8; 32]; 2] {
        let label = label.and_then(|label| self.labels.get(label));
        let (plain, labelled) = match self.first_output(tweak) {
            Some(FirstOutput::Point(first)) => {
                let sum = label.and_then(|label| first.combine(label).ok());
                (Some(first), sum)
            }
            Some(FirstOutput::Infinity) => (None, label.copied()),
            None => (None, None),
        };
        [plain, labelled].map(|point| point.as_ref().map_or([0; 32], x_coordinate))
    }

    /// `P_0 = B_spend + t_0·G`; `None` if the tweak is off the curve or `t_0` no valid scalar.
    fn first_output(&self, tweak: &TweakPoint) -> Option<FirstOutput> {
        let shared_secret = unpack(tweak)?.mul_tweak(SECP256K1, &self.scan_key).ok()?;
        let t_0 = output_tweak(&shared_secret, 0)?;
        // With a valid point and scalar, infinity is the one way this sum can fail.
        Some(match self.spend_key.add_exp_tweak(SECP256K1, &t_0) {
            Ok(point) => FirstOutput::Point(point),
            Err(_) => FirstOutput::Infinity,
        })
    }
}

impl Sampled for Scanner {}

impl CandidateScanner for Scanner {
    fn candidates_per_tweak(&self) -> usize {
        1 + self.labels.len()
    }

    fn candidates(&self, tweaks: &[TweakPoint], candidates: &mut Vec<[u8; 32]>) {
        candidates.clear();
        candidates.reserve(tweaks.len().saturating_mul(self.candidates_per_tweak()));
        for tweak in tweaks {
            match self.first_output(tweak) {
                None => {
                    let end = candidates.len() + self.candidates_per_tweak();
                    candidates.resize(end, [0; 32]);
                }
                Some(FirstOutput::Infinity) => {
                    candidates.push([0; 32]);
                    candidates.extend(self.labels.iter().map(x_coordinate));
                }
                Some(FirstOutput::Point(first)) => {
                    candidates.push(x_coordinate(&first));
                    candidates.extend(self.labels.iter().map(|label| {
                        first
                            .combine(label)
                            .map_or([0; 32], |sum| x_coordinate(&sum))
                    }));
                }
            }
        }
    }
}

fn x_coordinate(point: &PublicKey) -> [u8; 32] {
    point.x_only_public_key().0.serialize()
}

#[cfg(test)]
mod tests;
