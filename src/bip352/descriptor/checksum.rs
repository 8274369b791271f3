//! The checksum of output descriptors (BIP380).

/// What a descriptor may consist of: a character's symbol is its position modulo 32, its group the quotient.
const CHARACTERS: &[u8; 95] = b"0123456789()[],'/*abcdefgh@:$%{}\
    IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~\
    ijklmnopqrstuvwxyzABCDEFGH`#\"\\ ";

/// What a checksum consists of, as in bech32.
const CHECKSUM_CHARACTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// Characters of a checksum.
const CHECKSUM_LENGTH: usize = 8;

/// Remainders of x^8·2^i by the generator of the code, whose symbols are 5 bits wide.
const GENERATOR: [u64; 5] = [
    0xf5_dee5_1989,
    0xa9_fdca_3312,
    0x1b_ab10_e32d,
    0x37_06b1_677a,
    0x64_4d62_6ffd,
];

/// Whether `checksum` is the checksum of `descriptor`, which stands before the `#`.
pub(super) fn verify(descriptor: &str, checksum: &str) -> bool {
    compute(descriptor).is_some_and(|expected| expected == checksum.as_bytes())
}

/// The checksum; `None` if a character is not allowed in descriptors.
fn compute(descriptor: &str) -> Option<[u8; CHECKSUM_LENGTH]> {
    let mut residue = 1;
    for characters in descriptor.as_bytes().chunks(3) {
        let mut groups = 0;
        for character in characters {
            let position = CHARACTERS.iter().position(|other| other == character)?;
            residue = step(residue, position as u64 % 32);
            groups = groups * 3 + position as u64 / 32;
        }
        residue = step(residue, groups);
    }
    for _ in 0..CHECKSUM_LENGTH {
        residue = step(residue, 0);
    }
    residue ^= 1;
    let mut checksum = [0; CHECKSUM_LENGTH];
    for (place, character) in checksum.iter_mut().rev().enumerate() {
        let symbol = (residue >> (5 * place)) % 32;
        *character = CHECKSUM_CHARACTERS[symbol as usize];
    }
    Some(checksum)
}

/// Multiplies the residue by x and adds a symbol.
fn step(residue: u64, symbol: u64) -> u64 {
    let overflow = residue >> 35;
    let shifted = (residue % (1 << 35)) << 5 ^ symbol;
    GENERATOR
        .iter()
        .enumerate()
        .filter(|(bit, _)| overflow >> bit & 1 == 1)
        .fold(shifted, |residue, (_, remainder)| residue ^ remainder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_cases_of_bip380() {
        assert!(verify("raw(deadbeef)", "89f8spxm"));
        for (descriptor, checksum) in [
            ("raw(deadbeef)", ""),
            ("raw(deadbeef)", "89f8spxmx"),
            ("raw(deadbeef)", "89f8spx"),
            ("raw(deedbeef)", "89f8spxm"),
            ("raw(deedbeef)", "#9f8spxm"),
            ("raw(Ü)", "00000000"),
        ] {
            assert!(!verify(descriptor, checksum), "{descriptor}#{checksum}");
        }
    }

    /// From the documentation of Bitcoin Core's descriptors and its tests.
    #[test]
    fn checksums_of_bitcoin_core() {
        for (descriptor, checksum) in [
            ("addr(mkmZxiEcEd8ZqjQWVZuC6so5dFMKEFpN2j)", "02wpgw69"),
            (
                "wpkh([d34db33f/84h/0h/0h]xpub6DJ2dNUysrn5Vt36jH2KLBT2i1auw1tTSSomg8PhqNiUtx8QX2SvC9nrHu81fT41fvDUnhM\
                 jEzQgXnQjKEu3oaqMSzhSrHMxyyoEAmUHQbY/0/*)",
                "cjjspncu",
            ),
            (
                "pkh([d34db33f/44'/0'/0']xpub6ERApfZwUNrhLCkDtcHTcxd75RbzS1ed54G1LkBUHQVHQKqhMkhgbmJbZRkrgZw4koxb5JaHW\
                 kY4ALHY2grBGRjaDMzQLcgJvLJuZZvRcEL/1/*)",
                "ml40v0wf",
            ),
        ] {
            assert!(verify(descriptor, checksum), "{descriptor}");
        }
    }

    #[test]
    fn any_wrong_character_is_found() {
        let descriptor = "sp([deadbeef/352h/0h/0h]spscan1q,\"\\ ~)";
        let checksum = compute(descriptor).expect("allowed characters");
        let checksum = std::str::from_utf8(&checksum).expect("ASCII");
        assert!(verify(descriptor, checksum));
        for position in 0..descriptor.len() {
            for &other in CHARACTERS {
                let mut changed = descriptor.as_bytes().to_vec();
                changed[position] = other;
                let changed = String::from_utf8(changed).expect("ASCII");
                assert_eq!(verify(&changed, checksum), changed == descriptor);
            }
        }
    }
}
