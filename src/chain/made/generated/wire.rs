//! Bitcoin Core's encodings, as far as `bitcoin` does not have them.

/// Appends a CompactSize.
pub(super) fn push_compact_size(n: u64, bytes: &mut Vec<u8>) {
    match n {
        0..=0xfc => bytes.push(n as u8),
        0xfd..=0xffff => {
            bytes.push(0xfd);
            bytes.extend_from_slice(&(n as u16).to_le_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&(n as u32).to_le_bytes());
        }
        _ => {
            bytes.push(0xff);
            bytes.extend_from_slice(&n.to_le_bytes());
        }
    }
}

/// Appends a number as Core's databases have it (`VARINT` in serialize.h): groups of 7 bits, the highest first, the top
/// bit set in all but the last, 1 subtracted from all but the last so that every number has one form.
pub(super) fn push_varint(mut n: u64, bytes: &mut Vec<u8>) {
    let mut groups = [0; 10];
    let mut at = groups.len() - 1;
    groups[at] = (n & 0x7f) as u8;
    while n > 0x7f {
        n = (n >> 7) - 1;
        at -= 1;
        groups[at] = (n & 0x7f) as u8 | 0x80;
    }
    bytes.extend_from_slice(&groups[at..]);
}

/// An amount with its trailing zeros taken out (`CompressAmount` in compressor.cpp): 0, or with n·10^e satoshi, e at most
/// 9, either `1 + 10·(9·(n / 10) + n mod 10 - 1) + e` or, for e = 9, `1 + 10·(n - 1) + 9`.
fn compressed_amount(value_sat: u64) -> u64 {
    if value_sat == 0 {
        return 0;
    }
    let (mut n, mut e) = (value_sat, 0);
    while n % 10 == 0 && e < 9 {
        n /= 10;
        e += 1;
    }
    if e == 9 {
        1 + (n - 1) * 10 + 9
    } else {
        1 + (n / 10 * 9 + n % 10 - 1) * 10 + e
    }
}

/// Appends a script in the form of Core's databases (compressor.cpp): a number for its kind and 20 or 32 bytes, or its
/// length plus 6 and all of it. Uncompressed keys are taken for points without a check.
fn push_compressed_script(script: &[u8], bytes: &mut Vec<u8>) {
    match script {
        [0x76, 0xa9, 20, hash @ .., 0x88, 0xac] if hash.len() == 20 => {
            bytes.push(0);
            bytes.extend_from_slice(hash);
        }
        [0xa9, 20, hash @ .., 0x87] if hash.len() == 20 => {
            bytes.push(1);
            bytes.extend_from_slice(hash);
        }
        [33, parity @ (2 | 3), x @ .., 0xac] if x.len() == 32 => {
            bytes.push(*parity);
            bytes.extend_from_slice(x);
        }
        [65, 4, coordinates @ .., last, 0xac] if coordinates.len() == 63 => {
            bytes.push(4 | (last & 1));
            bytes.extend_from_slice(&coordinates[..32]);
        }
        _ => {
            push_varint(script.len() as u64 + 6, bytes);
            bytes.extend_from_slice(script);
        }
    }
}

/// Appends a spent output as undo files have it (undo.h): height and coinbase flag, a version that is no longer used, the
/// amount, the script.
pub(super) fn push_spent_output(
    height: u32,
    is_coinbase: bool,
    value_sat: u64,
    script: &[u8],
    bytes: &mut Vec<u8>,
) {
    push_varint(u64::from(height) * 2 + u64::from(is_coinbase), bytes);
    if height > 0 {
        push_varint(0, bytes);
    }
    push_varint(compressed_amount(value_sat), bytes);
    push_compressed_script(script, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples in the comments of serialize.h.
    #[test]
    fn numbers_are_written_as_core_does() {
        for (n, expected) in [
            (0, &[0x00][..]),
            (1, &[0x01]),
            (127, &[0x7f]),
            (128, &[0x80, 0x00]),
            (255, &[0x80, 0x7f]),
            (256, &[0x81, 0x00]),
            (16_383, &[0xfe, 0x7f]),
            (16_384, &[0xff, 0x00]),
            (16_511, &[0xff, 0x7f]),
            (65_535, &[0x82, 0xfe, 0x7f]),
            (1 << 32, &[0x8e, 0xfe, 0xfe, 0xff, 0x00]),
        ] {
            let mut bytes = Vec::new();
            push_varint(n, &mut bytes);
            assert_eq!(bytes, expected, "{n}");
        }
        for (n, expected) in [
            (0xfc, &[0xfc][..]),
            (0xfd, &[0xfd, 0xfd, 0]),
            (0x1_0000, &[0xfe, 0, 0, 1, 0]),
            (1 << 32, &[0xff, 0, 0, 0, 0, 1, 0, 0, 0]),
        ] {
            let mut bytes = Vec::new();
            push_compact_size(n, &mut bytes);
            assert_eq!(bytes, expected, "{n}");
        }
    }

    /// The pairs of Core's test/compress_tests.cpp.
    #[test]
    fn amounts_are_compressed_as_core_does() {
        const COIN: u64 = 100_000_000;
        for (value_sat, expected) in [
            (0, 0),
            (1, 1),
            (1_000_000, 7),
            (COIN, 9),
            (50 * COIN, 50),
            (21_000_000 * COIN, 21_000_000),
        ] {
            assert_eq!(compressed_amount(value_sat), expected, "{value_sat}");
        }
    }
}
