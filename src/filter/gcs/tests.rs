use super::*;
use bitcoin::hashes::siphash24;
use proptest::prelude::*;

const KEY: FilterKey = FilterKey {
    k0: 0x0706_0504_0302_0100,
    k1: 0x0f0e_0d0c_0b0a_0908,
};

fn decode(filter: &[u8]) -> Result<Vec<u64>, FilterError> {
    let mut decoder = Decoder::new(filter)?;
    let mut values = Vec::new();
    while let Some(value) = decoder.next_value()? {
        values.push(value);
    }
    Ok(values)
}

/// The values of a filter bit by bit, the slow and obvious way; `None` if it is malformed in any way.
fn decode_slowly(filter: &[u8]) -> Option<Vec<u64>> {
    let (count, stream) = read_count(filter)?;
    let mut bits = stream
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1));
    let mut values = Vec::new();
    let mut value = 0_u64;
    for _ in 0..count {
        let mut quotient = 0_u64;
        while bits.next()? == 1 {
            quotient += 1;
        }
        let mut remainder = 0_u64;
        for _ in 0..P {
            remainder = remainder << 1 | u64::from(bits.next()?);
        }
        value += (quotient << P) + remainder;
        values.push(value);
        if u128::from(value) >= u128::from(count) * u128::from(M) {
            return None;
        }
    }
    let padding: Vec<u8> = bits.collect();
    (padding.len() < 8 && padding.iter().all(|bit| *bit == 0)).then_some(values)
}

proptest! {
    #[test]
    fn hash_is_siphash_2_4(k0: u64, k1: u64, element in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert_eq!(
            FilterKey { k0, k1 }.hash(&element),
            siphash24::Hash::hash_to_u64_with_keys(k0, k1, &element)
        );
    }

    #[test]
    fn decoding_gives_back_the_sorted_hashes(
        elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..300),
        repeats in 1..4_usize,
    ) {
        let elements: Vec<_> = elements.iter().flat_map(|e| vec![e.clone(); repeats]).collect();
        let mut expected: Vec<u64> = elements
            .iter()
            .map(|e| reduce(KEY.hash(e), elements.len() as u64 * M))
            .collect();
        expected.sort_unstable();
        let filter = encode(KEY, &elements);
        prop_assert_eq!(decode(&filter), Ok(expected.clone()));
        prop_assert_eq!(decode_slowly(&filter), Some(expected));
    }

    #[test]
    fn any_bytes_decode_like_the_slow_decoder(mut bytes in prop::collection::vec(any::<u8>(), 0..200), few: bool) {
        // A small count makes random streams decodable now and then.
        if few && let Some(first) = bytes.first_mut() {
            *first %= 4;
        }
        prop_assert_eq!(decode(&bytes).ok(), decode_slowly(&bytes));
    }

    #[test]
    fn streams_with_long_unary_runs_decode_like_the_slow_decoder(
        count in 1..40_u8,
        runs in prop::collection::vec((0..200_usize, any::<u32>()), 1..40),
        cut in 0..20_usize,
    ) {
        let mut writer = BitWriter { bytes: vec![count], pending: 0, pending_bits: 0 };
        for (ones, remainder) in runs {
            writer.unary(ones as u64);
            writer.bits(u64::from(remainder) & ((1 << P) - 1), P);
        }
        let mut bytes = writer.finish();
        bytes.truncate(bytes.len().saturating_sub(cut));
        prop_assert_eq!(decode(&bytes).ok(), decode_slowly(&bytes));
    }
}

#[test]
fn values_end_below_the_range() {
    for count in [1, 5] {
        let range = u64::from(count) * M;
        for (value, is_in_range) in [(range - 1, true), (range, false)] {
            let mut writer = BitWriter {
                bytes: vec![count],
                pending: 0,
                pending_bits: 0,
            };
            for difference in std::iter::once(value).chain(vec![0; usize::from(count) - 1]) {
                writer.unary(difference >> P);
                writer.bits(difference & ((1 << P) - 1), P);
            }
            let expected = match is_in_range {
                true => Ok(vec![value; usize::from(count)]),
                false => Err(FilterError::OutOfRange),
            };
            assert_eq!(decode(&writer.finish()), expected);
        }
    }
}

/// Runs of ones that fill the decoder's window once or several times, from each place in a byte on. Random streams have
/// them only where the values are out of range.
#[test]
fn unary_runs_of_any_length_decode_like_the_slow_decoder() {
    const COUNT: u64 = 200;
    for ones in (0..20).chain(50..75).chain(110..140).chain(240..=290) {
        for shift in 0..8 {
            let mut bytes = Vec::new();
            write_count(&mut bytes, COUNT);
            let mut writer = BitWriter {
                bytes,
                pending: 0,
                pending_bits: 0,
            };
            let differences = [shift << P, ones << P | 0x5_5555];
            for difference in differences.into_iter().chain([0; COUNT as usize - 2]) {
                writer.unary(difference >> P);
                writer.bits(difference & ((1 << P) - 1), P);
            }
            let filter = writer.finish();
            let last = differences.iter().sum();
            let mut expected = vec![last; COUNT as usize];
            expected[0] = differences[0];
            assert_eq!(decode_slowly(&filter), Some(expected.clone()));
            assert_eq!(decode(&filter), Ok(expected), "{ones} ones");
        }
    }
}

#[test]
fn a_count_beyond_the_stream_is_refused_at_once() {
    let mut filter = vec![0xff];
    filter.extend_from_slice(&u64::MAX.to_le_bytes());
    filter.extend_from_slice(&[0; 100]);
    assert_eq!(
        decode(&filter),
        Err(FilterError::TooFewBytes {
            count: u64::MAX,
            stream_bytes: 100
        })
    );
    // 3 elements need 60 bits: 7 bytes are too few, 8 may do.
    assert!(matches!(
        Decoder::new(&[3, 0, 0, 0, 0, 0, 0, 0]),
        Err(FilterError::TooFewBytes { count: 3, .. })
    ));
    assert_eq!(decode(&[3, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(vec![0; 3]));
    // 8 need 160 bits, of which 19 bytes lack 8.
    let mut filter = [0; 20];
    filter[0] = 8;
    let stream_bytes = 19;
    let too_few = FilterError::TooFewBytes {
        count: 8,
        stream_bytes,
    };
    assert_eq!(decode(&filter), Err(too_few));
}

#[test]
fn malformed_filters_are_named() {
    assert_eq!(decode(&[]), Err(FilterError::Count));
    assert_eq!(decode(&[0xfd, 1]), Err(FilterError::Count));
    assert_eq!(decode(&[0xfd, 1, 0]), Err(FilterError::Count));
    assert_eq!(decode(&[0]), Ok(vec![]));
    assert_eq!(decode(&[0, 0]), Err(FilterError::TrailingData));
    assert_eq!(decode(&[1, 0, 0, 1]), Err(FilterError::TrailingData));
    assert_eq!(decode(&[1, 0, 0, 0, 0]), Err(FilterError::TrailingData));
    // Two elements end with a byte: another one is no padding.
    assert_eq!(decode(&[2, 0, 0, 0, 0, 0]), Ok(vec![0; 2]));
    assert_eq!(
        decode(&[2, 0, 0, 0, 0, 0, 0]),
        Err(FilterError::TrailingData)
    );
    assert_eq!(decode(&[1, 0xff, 0xff, 0xff]), Err(FilterError::Truncated));
    assert_eq!(
        decode(&[1, 0xc0, 0, 0]),
        Err(FilterError::OutOfRange),
        "two quotient steps are 2^20, above M"
    );
    // A query makes matching check the whole stream as well, wherever the query's hash lies.
    assert_eq!(
        matches(KEY, &[1, 0xff, 0xff, 0xff], &[[0; 8]]),
        Err(FilterError::Truncated)
    );
    assert_eq!(
        matches(KEY, &[0, 0], &[[0; 8]]),
        Err(FilterError::TrailingData)
    );
}

#[test]
fn counts_of_every_width_round_trip() {
    for count in [
        0,
        1,
        0xfc,
        0xfd,
        0xffff,
        0x1_0000,
        0xffff_ffff,
        0x1_0000_0000,
        u64::MAX,
    ] {
        let mut bytes = Vec::new();
        write_count(&mut bytes, count);
        assert_eq!(read_count(&bytes), Some((count, &[][..])), "{count}");
    }
}
