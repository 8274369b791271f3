//! Scalars and points as the inputs of the targets for curve work name them: ordinary ones in two bytes, unusual and bad
//! ones in a few more.

use std::sync::LazyLock;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey, constants};
use spindex::curve::TweakPoint;

/// Ordinary points to choose from: as many as a byte can name.
static ORDINARY: LazyLock<Vec<PublicKey>> = LazyLock::new(|| {
    (0..=u8::MAX)
        .map(|number| ordinary_secret(b"point", number).public_key(SECP256K1))
        .collect()
});

/// λ, which the endomorphism multiplies by.
const LAMBDA: [u8; 32] = [
    0x53, 0x63, 0xad, 0x4c, 0xc0, 0x5c, 0x30, 0xe0, 0xa5, 0x26, 0x1c, 0x02, 0x88, 0x12, 0x64, 0x5a,
    0x12, 0x2e, 0x22, 0xea, 0x20, 0x81, 0x66, 0x78, 0xdf, 0x02, 0x96, 0x7c, 0x1b, 0x23, 0xbd, 0x72,
];

/// What is left of an input, read from its start. Every reader gives `None` where it ends too early.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        Some(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn signed(&mut self) -> Option<i8> {
        Some(i8::from_le_bytes(self.array()?))
    }

    /// 32 bytes big-endian, most of them in 1..n: its kind (1 byte) and what that needs.
    pub(crate) fn scalar(&mut self) -> Option<[u8; 32]> {
        let kind = self.byte()?;
        Some(match kind % 8 {
            // A byte: which of those that are nothing special.
            0 | 1 => ordinary_secret(b"scalar", self.byte()?).secret_bytes(),
            // 32 bytes.
            2 => self.array()?,
            // x and y: x + y·λ.
            3 | 4 => to_bytes(small_combination(self.signed()?, self.signed()?)),
            // Bits and x: ±2^bits + x.
            5 | 6 => {
                let mut power = [0; 32];
                let bits = usize::from(self.byte()?);
                power[31 - bits / 8] = 1 << (bits % 8);
                let power = SecretKey::from_slice(&power).ok();
                let power = power.map(|power| if kind & 8 == 0 { power } else { power.negate() });
                to_bytes(plus(power, small(self.signed()?)))
            }
            // x: n + x, not reduced.
            _ => {
                let mut bytes = constants::CURVE_ORDER;
                let (_, low) = bytes.as_chunks_mut::<8>();
                debug_assert!(low.is_empty());
                let (words, _) = bytes.as_chunks_mut::<8>();
                let low = u64::from_be_bytes(words[3]);
                words[3] = low.wrapping_add_signed(self.signed()?.into()).to_be_bytes();
                bytes
            }
        })
    }

    /// Coordinates, some of no point: their kind (1 byte) and what that needs.
    pub(crate) fn point(&mut self) -> Option<TweakPoint> {
        let kind = self.byte()?;
        Some(match kind % 8 {
            // A byte: which of the ordinary ones.
            0 => ordinary_point(self.byte()?),
            // The same, times 1, λ or λ², and negated or not.
            1 | 2 => {
                let mut point = ORDINARY[usize::from(self.byte()?)];
                let how = self.byte()?;
                for _ in 0..how % 3 {
                    point = times_lambda(&point);
                }
                pack(&if how >= 128 {
                    point.negate(SECP256K1)
                } else {
                    point
                })
            }
            // A scalar: so many times G, and G itself for none.
            3 => pack(&times_generator(self.scalar()?).unwrap_or(*GENERATOR)),
            // 64 bytes.
            4 => TweakPoint::from_bytes(self.array()?),
            // Two bytes: an ordinary one, a bit of which is flipped.
            5 => {
                let mut bytes = *ordinary_point(self.byte()?).as_bytes();
                let bit = usize::from(self.byte()?) + if kind >= 128 { 256 } else { 0 };
                bytes[bit / 8] ^= 1 << (bit % 8);
                TweakPoint::from_bytes(bytes)
            }
            // 32 bytes: x of a point if there is one, else x twice.
            6 => lifted(&self.array()?, kind),
            // A byte: x or p + x, which are as many bytes.
            _ => {
                let mut x = [0; 32];
                x[31] = self.byte()?;
                let mut bytes = *lifted(&x, kind).as_bytes();
                if kind >= 128 {
                    bytes[..32].copy_from_slice(&P);
                    // The last two bytes of p are too small to overflow.
                    let low = u16::from_be_bytes([P[30], P[31]]) + u16::from(x[31]);
                    bytes[30..32].copy_from_slice(&low.to_be_bytes());
                }
                TweakPoint::from_bytes(bytes)
            }
        })
    }

    /// `count` points: ordinary ones from a number on (1 byte), of which some are others. These take all the rest of the
    /// input: a place (1 byte) and a point each.
    pub(crate) fn points(&mut self, count: usize) -> Option<Vec<TweakPoint>> {
        let first = self.byte()?;
        let mut points: Vec<TweakPoint> = (0..count)
            .map(|place| ordinary_point(first.wrapping_add(place as u8)))
            .collect();
        while let (Some(place), Some(point)) = (self.byte(), self.point()) {
            if let Some(here) = points.get_mut(usize::from(place)) {
                *here = point;
            }
        }
        Some(points)
    }
}

/// p, big-endian.
pub(crate) const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[27] = 0xfe;
    p[30] = 0xfc;
    p[31] = 0x2f;
    p
};

static GENERATOR: LazyLock<PublicKey> = LazyLock::new(|| {
    let one = SecretKey::from_slice(&constants::ONE).expect("1 is in 1..n");
    one.public_key(SECP256K1)
});

/// A number that nobody chose.
pub(crate) fn ordinary_secret(purpose: &[u8], number: u8) -> SecretKey {
    let hash = sha256::Hash::hash(&[purpose, &[number]].concat());
    SecretKey::from_slice(hash.as_byte_array()).expect("a hash in 1..n")
}

pub(crate) fn ordinary_point(number: u8) -> TweakPoint {
    pack(&ORDINARY[usize::from(number)])
}

/// x·1 + y·λ; `None` for 0.
fn small_combination(x: i8, y: i8) -> Option<SecretKey> {
    let lambda = Scalar::from_be_bytes(LAMBDA).expect("below n");
    let y = small(y).map(|y| y.mul_tweak(&lambda).expect("not 0"));
    plus(small(x), y)
}

/// Whether the scalar is x + y·λ with x and y of at most these sizes.
pub(crate) fn is_small_combination(scalar: &[u8; 32], x: u8, y: i8) -> bool {
    let scalar = SecretKey::from_slice(scalar).ok();
    (-y..=y).any(|y| {
        let rest = plus(scalar, small_combination(0, y).map(|y| y.negate()));
        [rest, rest.map(|rest| rest.negate())]
            .into_iter()
            .any(|rest| {
                let bytes = to_bytes(rest);
                bytes[..31] == [0; 31] && bytes[31] <= x
            })
    })
}

fn small(value: i8) -> Option<SecretKey> {
    let mut bytes = [0; 32];
    bytes[31] = value.unsigned_abs();
    let size = SecretKey::from_slice(&bytes).ok()?;
    Some(if value < 0 { size.negate() } else { size })
}

/// The sum of scalars, of which 0 is `None`.
fn plus(a: Option<SecretKey>, b: Option<SecretKey>) -> Option<SecretKey> {
    match (a, b) {
        (Some(a), Some(b)) => a.add_tweak(&b.into()).ok(),
        (a, b) => a.or(b),
    }
}

fn to_bytes(scalar: Option<SecretKey>) -> [u8; 32] {
    scalar.map_or([0; 32], |scalar| scalar.secret_bytes())
}

fn times_lambda(point: &PublicKey) -> PublicKey {
    let lambda = Scalar::from_be_bytes(LAMBDA).expect("below n");
    point.mul_tweak(SECP256K1, &lambda).expect("not 0")
}

/// `None` for a scalar that is 0 or not below n.
pub(crate) fn times_generator(scalar: [u8; 32]) -> Option<PublicKey> {
    let scalar = SecretKey::from_slice(&scalar).ok()?;
    Some(scalar.public_key(SECP256K1))
}

/// The point with this x, y odd or not by the kind; x twice if there is none.
fn lifted(x: &[u8; 32], kind: u8) -> TweakPoint {
    let mut compressed = [2 + (kind >> 6 & 1); 33];
    compressed[1..].copy_from_slice(x);
    PublicKey::from_slice(&compressed).as_ref().map_or_else(
        |_| {
            let mut twice = [0; 64];
            twice[..32].copy_from_slice(x);
            twice[32..].copy_from_slice(x);
            TweakPoint::from_bytes(twice)
        },
        pack,
    )
}

pub(crate) fn pack(point: &PublicKey) -> TweakPoint {
    let mut bytes = [0; 64];
    bytes.copy_from_slice(&point.serialize_uncompressed()[1..]);
    TweakPoint::from_bytes(bytes)
}

/// `None` off the curve.
pub(crate) fn unpack(point: &TweakPoint) -> Option<PublicKey> {
    let mut bytes = [4; 65];
    bytes[1..].copy_from_slice(point.as_bytes());
    PublicKey::from_slice(&bytes).ok()
}
