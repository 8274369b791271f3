//! A point as callers have it, beside the forms in which the library and the batches have it.

use std::fmt;

use secp256k1::PublicKey;

use super::field::FieldElement;
use super::group::AffinePoint;

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

    /// Decompresses a SEC1 compressed point, by libsecp256k1; `None` if the bytes are not one.
    pub fn from_compressed(bytes: &[u8; 33]) -> Option<Self> {
        PublicKey::from_slice(bytes).ok().as_ref().map(pack)
    }

    /// The coordinates; `None` if one is not below p. Says nothing about the curve.
    pub(super) fn to_affine(self) -> Option<AffinePoint> {
        let (coordinates, _) = self.0.as_chunks::<32>();
        Some(AffinePoint {
            x: FieldElement::from_be_bytes(&coordinates[0])?,
            y: FieldElement::from_be_bytes(&coordinates[1])?,
        })
    }
}

impl From<AffinePoint> for TweakPoint {
    fn from(point: AffinePoint) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&point.x.to_be_bytes());
        bytes[32..].copy_from_slice(&point.y.to_be_bytes());
        Self(bytes)
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

/// The point A of a transaction and the scalar it is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// SEC1 uncompressed coordinates of the point.
    pub point: TweakPoint,
    /// The factor, 32 bytes big-endian.
    pub scalar: [u8; 32],
}
