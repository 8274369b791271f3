//! Eligible inputs, their public keys, the smallest outpoint (BIP352, "Inputs for shared secret derivation").
//!
//! Nothing here trusts a script or a witness to be as consensus would have it today: before segwit and
//! taproot were active, outputs with their templates could be spent with any witness or none.

use bitcoin::hashes::{Hash, hash160};
use bitcoin::{OutPoint, Script, Transaction, TxOut, Witness};

use super::NUMS_POINT;

/// Bytes of a compressed public key.
const COMPRESSED_BYTES: usize = 33;

/// First byte of a taproot annex (BIP341).
const ANNEX_TAG: u8 = 0x50;

/// The 32 bytes of a taproot output script: exactly `51 20` and 32 bytes. They need not be on the curve.
pub fn taproot_output_key(script: &Script) -> Option<[u8; 32]> {
    match script.as_bytes() {
        [0x51, 0x20, key @ ..] => key.try_into().ok(),
        _ => None,
    }
}

/// What the tweak of an eligible transaction is computed from (before sums and curve work).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TweakInputs {
    /// Keys of the inputs that yield one, SEC1 compressed, in input order, at least one. A key may occur several
    /// times. An entry may be no point: then its input yields no key after all, which is seen when all keys of many
    /// transactions are decompressed together.
    pub keys: Vec<[u8; 33]>,
    /// Smallest of all inputs' outpoints, with or without a key, by their 36 bytes: txid in internal
    /// order, vout little-endian.
    pub smallest_outpoint: OutPoint,
}

/// An input with the script of the output it spends, borrowed from wherever the transaction lies.
#[derive(Debug, Clone, Copy)]
pub struct SpendingInput<'a> {
    /// What it spends.
    pub previous_output: OutPoint,
    /// Its own script.
    pub script_sig: &'a Script,
    /// How its witness ends.
    pub witness: WitnessEnd<'a>,
    /// The script it spends.
    pub script_pubkey: &'a Script,
}

/// What the rules need of a witness: how many items it has, and the last two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WitnessEnd<'a> {
    items: usize,
    /// Empty without two items.
    before_last: &'a [u8],
    /// Empty without an item.
    last: &'a [u8],
}

impl<'a> WitnessEnd<'a> {
    /// The internal key in the control block, if it is the witness of a script path spend (BIP341).
    fn internal_key(&self) -> Option<&'a [u8]> {
        let has_annex = self.items >= 2 && self.last.first() == Some(&ANNEX_TAG);
        let (items, control_block) = match has_annex {
            true => (self.items - 1, self.before_last),
            false => (self.items, self.last),
        };
        control_block.get(1..33).filter(|_| items >= 2)
    }
}

impl<'a> FromIterator<&'a [u8]> for WitnessEnd<'a> {
    /// From all items, in their order.
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(items: I) -> Self {
        let mut end = Self::default();
        for item in items {
            end.items += 1;
            end.before_last = end.last;
            end.last = item;
        }
        end
    }
}

impl<'a> From<&'a Witness> for WitnessEnd<'a> {
    fn from(witness: &'a Witness) -> Self {
        witness.iter().collect()
    }
}

/// The inputs of `tx` if it has a taproot output, an input with something like a key, and spends no witness program
/// of version 2 to 16; `prevouts` are the spent outputs in input order. No arithmetic is done.
///
/// `None` for every other transaction, for a coinbase, and if there are not as many prevouts as inputs.
pub fn tweak_inputs(tx: &Transaction, prevouts: &[TxOut]) -> Option<TweakInputs> {
    if tx.input.len() != prevouts.len() || tx.is_coinbase() {
        return None;
    }
    let inputs = tx
        .input
        .iter()
        .zip(prevouts)
        .map(|(input, prevout)| SpendingInput {
            previous_output: input.previous_output,
            script_sig: &input.script_sig,
            witness: WitnessEnd::from(&input.witness),
            script_pubkey: &prevout.script_pubkey,
        });
    borrowed_tweak_inputs(
        inputs,
        tx.output.iter().map(|output| &*output.script_pubkey),
    )
}

/// [`tweak_inputs`] of a transaction that is no coinbase, from all its inputs and the scripts of all its outputs.
pub fn borrowed_tweak_inputs<'a>(
    inputs: impl Iterator<Item = SpendingInput<'a>> + Clone,
    mut output_scripts: impl Iterator<Item = &'a Script>,
) -> Option<TweakInputs> {
    output_scripts.find_map(taproot_output_key)?;
    let mut keys = Vec::new();
    for input in inputs.clone() {
        if witness_version(input.script_pubkey).is_some_and(|version| version > 1) {
            return None;
        }
        keys.extend(input_key(&input));
    }
    if keys.is_empty() {
        return None;
    }
    let smallest_outpoint = inputs
        .map(|input| input.previous_output)
        .min_by_key(|outpoint| (outpoint.txid.to_byte_array(), outpoint.vout.to_le_bytes()))?;
    Some(TweakInputs {
        keys,
        smallest_outpoint,
    })
}

/// The version of a witness program: 4 to 42 bytes, `00` or `51`..`60`, then one direct push of the whole rest.
fn witness_version(script: &Script) -> Option<u8> {
    let (version, length, program) = match script.as_bytes() {
        [0x00, length, program @ ..] => (0, *length, program),
        [opcode @ 0x51..=0x60, length, program @ ..] => (opcode - 0x50, *length, program),
        _ => return None,
    };
    ((2..=40).contains(&program.len()) && usize::from(length) == program.len()).then_some(version)
}

/// The key an input contributes, if it does and if the bytes are a point.
fn input_key(input: &SpendingInput<'_>) -> Option<[u8; 33]> {
    match input.script_pubkey.as_bytes() {
        // P2PKH
        [0x76, 0xa9, 0x14, hash @ .., 0x88, 0xac] if hash.len() == 20 => {
            hashed_key(input.script_sig.as_bytes(), hash)
        }
        // P2SH, of which only a P2WPKH inside counts
        [0xa9, 0x14, hash @ .., 0x87] if hash.len() == 20 => match input.script_sig.as_bytes() {
            [0x16, 0x00, 0x14, key_hash @ ..] if key_hash.len() == 20 => {
                compressed_key(input.witness.last)
            }
            _ => None,
        },
        // P2WPKH
        [0x00, 0x14, hash @ ..] if hash.len() == 20 => compressed_key(input.witness.last),
        // P2TR
        [0x51, 0x20, key @ ..] if key.len() == 32 => {
            if input.witness.items == 0 || input.witness.internal_key() == Some(&NUMS_POINT) {
                return None;
            }
            // The output key with even y.
            let mut even = [2; COMPRESSED_BYTES];
            even[1..].copy_from_slice(key);
            Some(even)
        }
        _ => None,
    }
}

/// The compressed key with this HASH160 anywhere in a scriptSig, the last one if there are several.
///
/// scriptSigs are malleable: anyone could have put other pushes around the key.
fn hashed_key(script_sig: &[u8], hash: &[u8]) -> Option<[u8; 33]> {
    script_sig
        .windows(COMPRESSED_BYTES)
        .rev()
        .filter_map(compressed_key)
        .find(|key| hash160::Hash::hash(key).as_byte_array() == hash)
}

/// 33 bytes that start like a compressed key.
fn compressed_key(bytes: &[u8]) -> Option<[u8; 33]> {
    matches!(bytes, [0x02 | 0x03, ..]).then_some(())?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::ScriptBuf;

    fn version_of(hex: &str) -> Option<u8> {
        witness_version(&ScriptBuf::from_hex(hex).expect("hex"))
    }

    #[test]
    fn witness_programs_by_version_and_length() {
        for version in 0..=255u8 {
            for program_bytes in 0..=45usize {
                for push in 0..=80u8 {
                    let mut script = vec![version, push];
                    script.resize(2 + program_bytes, 0xab);
                    let expected = match version {
                        0 => Some(0),
                        0x51..=0x60 => Some(version - 0x50),
                        _ => None,
                    }
                    .filter(|_| (2..=40).contains(&program_bytes))
                    .filter(|_| usize::from(push) == program_bytes);
                    let script = ScriptBuf::from_bytes(script);
                    assert_eq!(witness_version(&script), expected, "{script:?}");
                    // The library has its own rule for the same thing.
                    let theirs = script.witness_version().map(|version| version.to_num());
                    assert_eq!(witness_version(&script), theirs, "{script:?}");
                }
            }
        }
        assert_eq!(version_of(""), None);
        assert_eq!(version_of("52"), None);
        assert_eq!(version_of("5201ab"), None);
        assert_eq!(version_of("51024e73"), Some(1));
        assert_eq!(version_of("5202abcd"), Some(2));
        assert_eq!(version_of("52024e73ff"), None);
    }

    #[test]
    fn taproot_output_needs_34_bytes_but_no_point() {
        let key = "ff".repeat(32);
        let script = |hex: &str| ScriptBuf::from_hex(hex).expect("hex");
        assert_eq!(
            taproot_output_key(&script(&format!("5120{key}"))),
            Some([0xff; 32])
        );
        for other in [
            format!("5120{key}ff"),
            format!("5120{}", "ff".repeat(31)),
            format!("5220{key}"),
            format!("0020{key}"),
            format!("5121{key}"),
            "51".to_owned(),
            String::new(),
        ] {
            assert_eq!(taproot_output_key(&script(&other)), None, "{other}");
        }
    }
}
