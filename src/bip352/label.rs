//! Labels: m, its scalar and its point.

use std::collections::HashMap;
use std::fmt;

use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};

use super::hash;
use super::keys::ScanKey;

/// One label of a wallet. `Debug` shows m alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Label {
    /// m; 0 is change.
    pub m: u32,
    /// `label_m = H(b_scan || m)`. Secret.
    pub scalar: Scalar,
    /// `L_m = label_m·G`. It links the labelled addresses of a wallet, so treat it as private.
    pub point: PublicKey,
}

impl Label {
    /// Label m of the wallet with this scan key; `None` if its hash is no valid scalar (about one in 2^128).
    pub fn new(scan_key: &ScanKey, m: u32) -> Option<Self> {
        let scalar = hash::label_scalar(scan_key, m)?;
        let mut secret = SecretKey::from_slice(&scalar.to_be_bytes()).ok()?;
        let point = secret.public_key(SECP256K1);
        secret.non_secure_erase();
        Some(Self { m, scalar, point })
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        self.scalar.non_secure_erase();
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Label")
            .field("m", &self.m)
            .finish_non_exhaustive()
    }
}

/// The labels of one wallet by ascending m; m = 0 is always there.
#[derive(Clone)]
pub struct LabelSet {
    /// Ascending m, without repeats.
    labels: Vec<Label>,
    /// Positions in `labels`, by ascending scalar.
    by_scalar: Vec<usize>,
    /// Positions in `labels`.
    by_point: HashMap<PublicKey, usize>,
}

impl LabelSet {
    /// The labels `ms` of the wallet with this scan key, and m = 0; order and repeats do not matter.
    ///
    /// A label whose hash is no valid scalar is left out: no sender could have been given its address.
    /// Each label costs one product `label_m·G`.
    pub fn new(scan_key: &ScanKey, ms: impl IntoIterator<Item = u32>) -> Self {
        let mut ms: Vec<u32> = ms.into_iter().chain([0]).collect();
        ms.sort_unstable();
        ms.dedup();
        // A block that is outgrown would be given back with scalars in it.
        let mut labels = Vec::with_capacity(ms.len());
        labels.extend(ms.into_iter().filter_map(|m| Label::new(scan_key, m)));
        let mut by_scalar: Vec<usize> = (0..labels.len()).collect();
        by_scalar.sort_unstable_by_key(|&position| labels[position].scalar);
        let by_point = labels
            .iter()
            .enumerate()
            .map(|(position, label)| (label.point, position))
            .collect();
        Self {
            labels,
            by_scalar,
            by_point,
        }
    }

    /// Ascending m.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.labels.iter()
    }

    /// Number of labels, change included.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never true: m = 0 is always there.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The label with number `m`, if it belongs to the set.
    pub fn get(&self, m: u32) -> Option<&Label> {
        let position = self.labels.binary_search_by_key(&m, |label| label.m).ok()?;
        self.labels.get(position)
    }

    /// The label with this scalar, as the `silentpayments` crate names labels. Variable time.
    pub fn by_scalar(&self, scalar: &Scalar) -> Option<&Label> {
        let found = self
            .by_scalar
            .binary_search_by_key(scalar, |&position| self.labels[position].scalar)
            .ok()?;
        self.labels.get(*self.by_scalar.get(found)?)
    }

    /// The label with this point, for a lookup by the difference of an output and `P_k`. Variable time.
    pub fn by_point(&self, point: &PublicKey) -> Option<&Label> {
        self.labels.get(*self.by_point.get(point)?)
    }
}

impl<'a> IntoIterator for &'a LabelSet {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LabelSet({} labels)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_key() -> ScanKey {
        ScanKey::from_bytes([7; 32]).expect("7… is below the group order")
    }

    #[test]
    fn set_is_sorted_without_repeats_and_has_change() {
        let set = LabelSet::new(&scan_key(), [9, 2, 9, 0, u32::MAX]);
        let ms: Vec<u32> = set.iter().map(|label| label.m).collect();
        assert_eq!(ms, [0, 2, 9, u32::MAX]);
        let ms: Vec<u32> = LabelSet::new(&scan_key(), [])
            .iter()
            .map(|label| label.m)
            .collect();
        assert_eq!(ms, [0]);
    }

    #[test]
    fn lookups_find_every_label_and_nothing_else() {
        let set = LabelSet::new(&scan_key(), 1..=200);
        let strangers = LabelSet::new(&scan_key(), 201..=210);
        assert_eq!(set.len(), 201);
        assert!(!set.is_empty());
        assert_eq!((&set).into_iter().count(), 201);
        for label in &set {
            assert_eq!(set.get(label.m), Some(label));
            assert_eq!(set.by_scalar(&label.scalar), Some(label));
            assert_eq!(set.by_point(&label.point), Some(label));
        }
        for label in strangers.iter().filter(|label| label.m != 0) {
            assert_eq!(set.get(label.m), None);
            assert_eq!(set.by_scalar(&label.scalar), None);
            assert_eq!(set.by_point(&label.point), None);
        }
    }

    #[test]
    fn scalars_equal_those_of_the_silentpayments_crate() {
        let scan_key = scan_key();
        for m in [0, 1, 2, 1001337, u32::MAX] {
            let ours = Label::new(&scan_key, m).expect("valid label");
            let theirs = silentpayments::receiving::Label::new(*scan_key.secret(), m);
            assert_eq!(ours.scalar, *theirs.as_inner(), "m = {m}");
        }
    }

    #[test]
    fn debug_shows_no_scalar_and_no_point() {
        let set = LabelSet::new(&scan_key(), [5]);
        let label = set.get(5).expect("in the set");
        assert_eq!(format!("{label:?}"), "Label { m: 5, .. }");
        assert_eq!(format!("{set:?}"), "LabelSet(2 labels)");
    }
}
