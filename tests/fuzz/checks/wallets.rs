//! Wallets to scan for, as inputs name them: some with keys made for what is scanned.

use spindex::bip352::hash::output_tweak;
use spindex::bip352::keys::ScanKey;
use spindex::curve::{ScanTarget, TweakPoint};

use super::input::{Input, ordinary_point, ordinary_secret, times_generator, unpack};

/// A point of a scan target.
enum TargetPoint {
    /// One that is nothing special.
    Ordinary(u8),
    /// SEC1 compressed bytes, maybe no point.
    Bytes([u8; 33]),
    /// ± `P_0` of the tweak at a place with what was named before (nothing for a spend key, that for a label), so that a
    /// candidate is infinity or a sum a doubling.
    FirstOutput { place: u8, negated: bool },
    /// ± the spend key.
    SpendKey { negated: bool },
}

impl TargetPoint {
    fn read(input: &mut Input<'_>) -> Option<Self> {
        let kind = input.byte()?;
        let negated = kind >= 128;
        Some(match kind % 8 {
            0..=2 => Self::Ordinary(input.byte()?),
            3 => Self::Bytes(input.point()?.to_compressed()),
            4 => Self::Bytes(input.array()?),
            5 | 6 => Self::FirstOutput {
                place: input.byte()?,
                negated,
            },
            _ => Self::SpendKey { negated },
        })
    }

    fn is_ordinary(&self) -> bool {
        matches!(self, Self::Ordinary(_))
    }

    /// SEC1 compressed bytes; for a spend key, `spend_key` is `None`.
    fn resolve(
        &self,
        scan_key: &[u8; 32],
        spend_key: Option<&[u8; 33]>,
        tweaks: &[TweakPoint],
    ) -> [u8; 33] {
        let signed = |mut key: [u8; 33], negated: bool| {
            key[0] ^= u8::from(negated);
            key
        };
        match self {
            Self::Ordinary(number) => ordinary_point(*number).to_compressed(),
            Self::Bytes(bytes) => *bytes,
            Self::FirstOutput { place, negated } => {
                let first = tweaks
                    .get(usize::from(*place))
                    .and_then(|tweak| first_output(scan_key, spend_key, tweak));
                signed(
                    first.unwrap_or(ordinary_point(*place).to_compressed()),
                    *negated,
                )
            }
            Self::SpendKey { negated } => {
                let key = spend_key.copied();
                signed(key.unwrap_or(ordinary_point(0).to_compressed()), *negated)
            }
        }
    }
}

/// `t_0·G`, and the spend key added if there is one.
fn first_output(
    scan_key: &[u8; 32],
    spend_key: Option<&[u8; 33]>,
    tweak: &TweakPoint,
) -> Option<[u8; 33]> {
    let shared_secret = ScanKey::from_bytes(*scan_key)?.shared_secret(tweak)?;
    let multiple = times_generator(output_tweak(&shared_secret, 0)?.to_be_bytes())?;
    let sum = match spend_key {
        None => multiple,
        Some(key) => multiple
            .combine(&unpack(&TweakPoint::from_compressed(key)?)?)
            .ok()?,
    };
    Some(sum.serialize())
}

/// Keys of a wallet that are not all resolved before the tweaks are known.
pub(crate) struct Wallet {
    scan_key: [u8; 32],
    spend_key: TargetPoint,
    labels: Vec<TargetPoint>,
    /// Whether no step can fail by anything but a chance of 2^-128.
    pub(crate) is_ordinary: bool,
}

impl Wallet {
    pub(crate) fn ordinary(number: u8) -> Self {
        let labels = (0..number % 3).map(|label| TargetPoint::Ordinary(100 + label));
        Self {
            scan_key: ordinary_secret(b"scan key", number).secret_bytes(),
            spend_key: TargetPoint::Ordinary(number),
            labels: labels.collect(),
            is_ordinary: true,
        }
    }

    pub(crate) fn read(input: &mut Input<'_>) -> Option<Self> {
        let (is_ordinary, scan_key) = (input.0.first()? % 8 < 2, input.scalar()?);
        let spend_key = TargetPoint::read(input)?;
        let labels = input.byte()? % 8;
        let labels = (0..labels).map(|_| TargetPoint::read(input));
        let labels: Vec<TargetPoint> = labels.collect::<Option<_>>()?;
        Some(Self {
            scan_key,
            is_ordinary: is_ordinary
                && spend_key.is_ordinary()
                && labels.iter().all(TargetPoint::is_ordinary),
            spend_key,
            labels,
        })
    }

    pub(crate) fn target(&self, tweaks: &[TweakPoint]) -> ScanTarget {
        let spend_key = self.spend_key.resolve(&self.scan_key, None, tweaks);
        let label = |label: &TargetPoint| label.resolve(&self.scan_key, Some(&spend_key), tweaks);
        ScanTarget {
            scan_key: self.scan_key,
            spend_key,
            labels: self.labels.iter().map(label).collect(),
        }
    }
}
