//! What a generated chain is like.
//!
#![doc = include_str!("../../../../docs/scale.md")]

use secp256k1::rand::Rng;

/// One range of a distribution: numbers from `least` to `most` with a weight. Within it each doubling is equally
/// likely, and within a doubling each number: close to log-uniform, exact in integers on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// Weight relative to the other bands.
    pub weight: u32,
    /// Least number.
    pub least: u64,
    /// Greatest number, not below `least`.
    pub most: u64,
}

/// Bands that make up a distribution, with at least one weight.
pub type Bands = &'static [Band];

const fn band(weight: u32, least: u64, most: u64) -> Band {
    Band {
        weight,
        least,
        most,
    }
}

impl Band {
    /// The part of the band with this bit length, `None` if there is none.
    fn doubling(&self, bits: u32) -> Option<(u64, u64)> {
        let least = if bits == 0 { 0 } else { 1 << (bits - 1) };
        let most = if bits == 0 { 0 } else { least * 2 - 1 };
        let (least, most) = (self.least.max(least), self.most.min(most));
        (least <= most).then_some((least, most))
    }

    fn bit_lengths(&self) -> std::ops::RangeInclusive<u32> {
        (u64::BITS - self.least.leading_zeros())..=(u64::BITS - self.most.leading_zeros())
    }

    /// The expected number.
    pub fn mean(&self) -> f64 {
        let doublings: Vec<_> = self
            .bit_lengths()
            .filter_map(|bits| self.doubling(bits))
            .collect();
        let sum: f64 = doublings
            .iter()
            .map(|(least, most)| (*least as f64 + *most as f64) / 2.0)
            .sum();
        sum / doublings.len() as f64
    }
}

/// The expected number of a distribution.
pub fn mean(bands: Bands) -> f64 {
    let weight: f64 = bands.iter().map(|band| f64::from(band.weight)).sum();
    let sum: f64 = bands
        .iter()
        .map(|band| f64::from(band.weight) * band.mean())
        .sum();
    sum / weight
}

/// A number of a distribution.
pub(super) fn draw(bands: Bands, rng: &mut impl Rng) -> u64 {
    let total: u32 = bands.iter().map(|band| band.weight).sum();
    let mut at = rng.gen_range(0..total);
    for band in bands {
        if at >= band.weight {
            at -= band.weight;
            continue;
        }
        if band.least == band.most {
            return band.least;
        }
        let (least, most) = band
            .doubling(rng.gen_range(band.bit_lengths()))
            .unwrap_or((band.least, band.most));
        return rng.gen_range(least..=most);
    }
    0
}

/// What a generated chain is like. Equal parameters make equal bytes, on any machine and any number of threads.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainParameters {
    /// Everything follows from it and from the other parameters.
    pub seed: u64,
    /// Mean number of transactions in a block besides the coinbase; single blocks have half to one and a half times
    /// as many, less where the weight limit is reached.
    pub transactions_per_block: u32,
    /// Share of transactions that are made to have a taproot output and inputs with keys, 0 to 1.
    pub eligible: f64,
    /// Inputs of these.
    pub eligible_inputs: Bands,
    /// Their taproot outputs, at least 1.
    pub taproot_outputs: Bands,
    /// Their other outputs, without OP_RETURN.
    pub eligible_other_outputs: Bands,
    /// Share of these that spend taproot outputs; the others spend outputs with a key of other kinds.
    pub eligible_from_taproot: f64,
    /// Inputs of the other transactions.
    pub other_inputs: Bands,
    /// Their outputs, without OP_RETURN.
    pub other_outputs: Bands,
    /// Share of the other transactions that spend taproot outputs.
    pub other_from_taproot: f64,
    /// Share of the other transactions that spend outputs without a key for silent payments, such as multisig.
    pub other_from_keyless: f64,
    /// Share of the transactions that spend outputs without a key and pay to a taproot output.
    pub keyless_to_taproot: f64,
    /// Share of transactions whose inputs are of different families.
    pub mixed_inputs: f64,
    /// Share of transactions with an OP_RETURN output.
    pub op_return: f64,
    /// Share of taproot outputs that are spent by script path.
    pub script_path: f64,
    /// Share of these whose internal key is H, the point without a known secret of BIP341.
    pub nums: f64,
    /// Share of blocks in which script path spends carry large witnesses (inscriptions).
    pub inscription_blocks: f64,
    /// Bytes of such a witness.
    pub inscription_bytes: Bands,
    /// Weights of P2WPKH, P2SH-P2WPKH, P2PKH with a compressed key, P2PKH with an uncompressed key, P2WSH, P2SH-P2WSH,
    /// P2SH multisig, P2PK with a compressed key, P2PK with an uncompressed key among the outputs that are not taproot.
    pub other_kinds: [u32; 9],
    /// Blocks from the creation of an output to its spend; 0 is the same block. Where nothing of that age is left, the
    /// next older output is taken.
    pub distances: Bands,
    /// Taproot outputs below this value are dust to their owners, in satoshi: most are never spent.
    pub taproot_uneconomic_sat: u64,
    /// The same for other outputs.
    pub other_uneconomic_sat: u64,
    /// Share of those that are never spent. They need no memory.
    pub uneconomic_never_spent: f64,
    /// Share of taproot outputs worth 330 to 1,000 satoshi among those whose value is free to choose (all but the
    /// change).
    pub dust: f64,
    /// Value of the other taproot payments, in satoshi, as far as the inputs allow.
    pub taproot_values_sat: Bands,
    /// Value of payments to other kinds, in satoshi, as far as the inputs allow.
    pub other_values_sat: Bands,
    /// Satoshi per virtual byte.
    pub fee_rate: Bands,
    /// Share of outputs that go to a key of the transaction's first input.
    pub reused_keys: f64,
}

impl ChainParameters {
    /// A chain like mainnet's since taproot's activation: see the notes above for the source of each number.
    pub const MAINNET: Self = Self {
        seed: 0,
        transactions_per_block: 3_000,
        eligible: 0.247,
        eligible_inputs: &[
            band(2170, 1, 1),
            band(33, 2, 2),
            band(11, 3, 3),
            band(8, 4, 4),
            band(8, 5, 6),
            band(6, 7, 10),
            band(4, 11, 20),
            band(1, 21, 50),
        ],
        taproot_outputs: &[
            band(1930, 1, 1),
            band(279, 2, 2),
            band(18, 3, 6),
            band(12, 7, 10),
            band(2, 11, 50),
        ],
        eligible_other_outputs: &[
            band(50, 0, 0),
            band(42, 1, 1),
            band(6, 2, 3),
            band(2, 4, 10),
        ],
        eligible_from_taproot: 0.45,
        other_inputs: &[
            band(2481, 1, 1),
            band(66, 2, 2),
            band(18, 3, 3),
            band(14, 4, 4),
            band(13, 5, 6),
            band(7, 7, 10),
            band(9, 11, 20),
            band(3, 21, 50),
            band(7, 51, 100),
            band(4, 101, 1009),
        ],
        other_outputs: &[
            band(260, 1, 1),
            band(670, 2, 2),
            band(45, 3, 3),
            band(17, 4, 10),
            band(8, 11, 50),
        ],
        other_from_taproot: 0.033,
        other_from_keyless: 0.03,
        keyless_to_taproot: 0.5,
        mixed_inputs: 0.02,
        op_return: 0.3,
        script_path: 0.065,
        nums: 0.02,
        inscription_blocks: 0.5,
        inscription_bytes: &[band(3, 200, 67_000), band(1, 20_000, 100_000)],
        other_kinds: [860, 52, 50, 6, 20, 6, 4, 1, 1],
        distances: &[
            band(984, 0, 0),
            band(125, 1, 1),
            band(209, 2, 6),
            band(174, 7, 20),
            band(255, 21, 50),
            band(467, 51, 100),
            band(336, 101, 144),
            band(614, 145, 300),
            band(379, 301, 1_008),
            band(333, 1_009, 4_320),
            band(146, 4_321, 13_000),
            band(225, 13_001, 52_560),
            band(673, 52_561, 300_000),
        ],
        taproot_uneconomic_sat: 10_000,
        other_uneconomic_sat: 1_000,
        uneconomic_never_spent: 0.9,
        dust: 0.4,
        taproot_values_sat: &[
            band(25, 1_000, 24_000),
            band(25, 24_001, 335_000),
            band(15, 335_001, 1_450_000),
            band(9, 1_450_001, 3_240_000),
            band(1, 3_240_001, 100_000_000),
        ],
        other_values_sat: &[
            band(5, 546, 1_000),
            band(20, 1_001, 4_270),
            band(25, 4_271, 9_630),
            band(25, 9_631, 39_400),
            band(15, 39_401, 418_000),
            band(5, 418_001, 990_000),
            band(4, 990_001, 92_000_000),
            band(1, 92_000_001, 1_000_000_000),
        ],
        fee_rate: &[band(60, 1, 4), band(35, 5, 15), band(5, 16, 60)],
        reused_keys: 0.02,
    };
}

impl Default for ChainParameters {
    /// [`ChainParameters::MAINNET`].
    fn default() -> Self {
        Self::MAINNET
    }
}

impl ChainParameters {
    /// # Errors
    /// The parameter that makes no sense, and what it may be.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, share) in [
            ("eligible", self.eligible),
            ("eligible_from_taproot", self.eligible_from_taproot),
            ("other_from_taproot", self.other_from_taproot),
            ("other_from_keyless", self.other_from_keyless),
            ("keyless_to_taproot", self.keyless_to_taproot),
            ("mixed_inputs", self.mixed_inputs),
            ("op_return", self.op_return),
            ("script_path", self.script_path),
            ("nums", self.nums),
            ("inscription_blocks", self.inscription_blocks),
            ("uneconomic_never_spent", self.uneconomic_never_spent),
            ("dust", self.dust),
            ("reused_keys", self.reused_keys),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} is {share}, a share is between 0 and 1"));
            }
        }
        for (name, bands, least, most) in [
            ("eligible_inputs", self.eligible_inputs, 1, MOST_INPUTS),
            ("other_inputs", self.other_inputs, 1, MOST_INPUTS),
            ("taproot_outputs", self.taproot_outputs, 1, MOST_OUTPUTS),
            (
                "eligible_other_outputs",
                self.eligible_other_outputs,
                0,
                MOST_OUTPUTS,
            ),
            ("other_outputs", self.other_outputs, 1, MOST_OUTPUTS),
            (
                "inscription_bytes",
                self.inscription_bytes,
                1,
                MOST_INSCRIPTION_BYTES,
            ),
            ("distances", self.distances, 0, u64::from(u32::MAX)),
            ("taproot_values_sat", self.taproot_values_sat, 1, MOST_SAT),
            ("other_values_sat", self.other_values_sat, 1, MOST_SAT),
            ("fee_rate", self.fee_rate, 0, 10_000),
        ] {
            let weight: u64 = bands.iter().map(|band| u64::from(band.weight)).sum();
            let fits =
                |band: &Band| least <= band.least && band.least <= band.most && band.most <= most;
            if weight == 0 || weight > u64::from(u32::MAX) || !bands.iter().all(fits) {
                return Err(format!(
                    "{name} needs bands with weights, of numbers from {least} to {most}"
                ));
            }
        }
        let weight: u64 = self
            .other_kinds
            .iter()
            .map(|weight| u64::from(*weight))
            .sum();
        if weight == 0 || weight > u64::from(u32::MAX) {
            return Err("other_kinds needs a weight above 0".into());
        }
        Ok(())
    }
}

/// Most inputs a transaction is asked to have; the weight limit may leave it fewer.
const MOST_INPUTS: u64 = 5_000;
/// Most outputs of a sort a transaction is asked to have.
const MOST_OUTPUTS: u64 = 1_000;
/// What fits into the smallest share of a block.
const MOST_INSCRIPTION_BYTES: u64 = 200_000;
const MOST_SAT: u64 = 2_100_000_000_000_000;

#[cfg(test)]
mod tests {
    use secp256k1::rand::SeedableRng;
    use secp256k1::rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_mean_is_what_draws_tend_to() {
        const BANDS: Bands = &[band(1, 0, 0), band(2, 1, 9), band(1, 100, 300)];
        // 1 to 9: a quarter each of 1, 2..3, 4..7, 8..9; 100 to 300: a third each of 100..127, 128..255, 256..300.
        let expected = (2.0 * (1.0 + 2.5 + 5.5 + 8.5) / 4.0 + (113.5 + 191.5 + 278.0) / 3.0) / 4.0;
        assert!((mean(BANDS) - expected).abs() < 1e-9);
        let mut rng = StdRng::seed_from_u64(1);
        let draws: Vec<u64> = (0..100_000).map(|_| draw(BANDS, &mut rng)).collect();
        assert!(draws.iter().all(|n| matches!(n, 0..=9 | 100..=300)));
        let drawn = draws.iter().sum::<u64>() as f64 / draws.len() as f64;
        assert!((drawn / expected - 1.0).abs() < 0.02, "{drawn} {expected}");
    }

    #[test]
    fn senseless_parameters_are_named() {
        assert_eq!(ChainParameters::default().check(), Ok(()));
        let refusal = |change: fn(&mut ChainParameters)| {
            let mut parameters = ChainParameters::default();
            change(&mut parameters);
            parameters.check().unwrap_err()
        };
        assert!(refusal(|p| p.eligible = 1.5).contains("eligible is 1.5"));
        assert!(refusal(|p| p.dust = f64::NAN).contains("dust"));
        assert!(refusal(|p| p.distances = &[]).contains("distances"));
        assert!(refusal(|p| p.taproot_outputs = p.eligible_other_outputs).contains("from 1 to"));
        assert!(refusal(|p| p.other_kinds = [0; 9]).contains("other_kinds"));
    }
}
