//! Batched secp256k1 arithmetic for scanning and indexing. Knows nothing of Bitcoin.
//!
//! Everything works on plain slices; callers split work over threads. [`Engine`] is what a backend
//! implements; [`libsecp256k1`] is the one on the library of that name.

pub mod libsecp256k1;

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A point of the curve in affine coordinates, never infinity: x then y, 32 bytes each, big-endian.
///
/// Values built by [`TweakPoint::from_compressed`] or an engine are on the curve. Bytes taken from a
/// disk through [`TweakPoint::from_bytes`] are not checked; engines treat a value off the curve as
/// "no result", never as a panic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TweakPoint([u8; 64]);

impl TweakPoint {
    /// Wraps stored coordinates without checking the curve equation.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// x then y, 32 bytes each, big-endian.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// SEC1 compressed form: `02` or `03` by the parity of y, then x. Costs no arithmetic.
    pub fn to_compressed(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes[0] = 2 + (self.0[63] & 1);
        bytes[1..].copy_from_slice(&self.0[..32]);
        bytes
    }

    /// Decompresses a SEC1 compressed point; `None` if the bytes are not one.
    pub fn from_compressed(bytes: &[u8; 33]) -> Option<Self> {
        libsecp256k1::decompress(bytes)
    }
}

impl fmt::Debug for TweakPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TweakPoint(")?;
        for byte in self.to_compressed() {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// What one wallet is scanned for: the scan key and the points whose sums with `t_0·G` are candidates.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ScanTarget {
    /// b_scan, 32 bytes big-endian, in 1..n. Secret.
    pub scan_key: [u8; 32],
    /// B_spend, SEC1 compressed.
    pub spend_key: [u8; 33],
    /// Label points `label_m·G`, SEC1 compressed, in the order of the caller's labels.
    pub labels: Vec<[u8; 33]>,
}

impl fmt::Debug for ScanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanTarget")
            .field("labels", &self.labels.len())
            .finish_non_exhaustive()
    }
}

/// The point A of a transaction and the scalar it is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// SEC1 uncompressed coordinates of the point.
    pub point: TweakPoint,
    /// The factor, 32 bytes big-endian.
    pub scalar: [u8; 32],
}

/// An implementation of the curve work that scanning and indexing are bound by.
pub trait Engine: Send + Sync {
    /// Short name for logs, settings and tables.
    fn name(&self) -> &'static str;

    /// Prepares a scan of many tweaks for one wallet.
    ///
    /// # Errors
    /// [`InvalidTarget`] if the scan key is not in 1..n or a point is not on the curve.
    fn scanner(&self, target: &ScanTarget) -> Result<Box<dyn CandidateScanner>, InvalidTarget>;

    /// `scalar·point` for each product, in order; `None` where the scalar is 0 or not below the group
    /// order, or the point is off the curve. Variable time: public data only.
    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>>;

    /// 2^64·T for each tweak, in order; `None` where it is off the curve.
    fn multiples(&self, tweaks: &[TweakPoint]) -> Vec<Option<TweakPoint>> {
        let mut scalar = [0; 32];
        scalar[31 - MULTIPLE_BITS / 8] = 1 << (MULTIPLE_BITS % 8);
        let product = |point: &TweakPoint| Product {
            point: *point,
            scalar,
        };
        self.multiply(&tweaks.iter().map(product).collect::<Vec<_>>())
    }
}

/// The multiple of a tweak that may be stored with it is 2 to this power.
const MULTIPLE_BITS: usize = 64;

/// A scan prepared for one wallet: tweaks in, candidate output keys out.
pub trait CandidateScanner: Send + Sync {
    /// Candidates per tweak: 1 for the plain address and 1 for each label.
    fn candidates_per_tweak(&self) -> usize;

    /// Writes, for each tweak in order, the x coordinate of `P_0 = B_spend + t_0·G`, then of
    /// `P_0 + L` for each label in the target's order, 32 bytes big-endian.
    ///
    /// A candidate that does not exist (tweak off the curve, sum at infinity, invalid `t_0`) is all zeros,
    /// which is the x coordinate of no point. Clears `candidates` first.
    fn candidates(&self, tweaks: &[TweakPoint], candidates: &mut Vec<[u8; 32]>);
}

/// A scan target with a key that is out of range or not on the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} is not a valid key")]
pub struct InvalidTarget(
    /// Which key: "scan key", "spend key" or "label".
    pub &'static str,
);
