use std::io::Cursor;

use bitcoin::Network;
use proptest::prelude::*;

use super::*;

fn framing(key: [u8; 8], trailer_bytes: u32) -> Framing {
    Framing {
        magic: Network::Regtest.magic(),
        key: ObfuscationKey(key),
        trailer_bytes,
        payload_bytes: (1, 1000),
    }
}

fn framed(payload: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut bytes = Network::Regtest.magic().to_bytes().to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(trailer);
    bytes
}

/// All records that are no leftovers: offsets and payloads with trailers; and where the last one ends.
fn all(bytes: &[u8], framing: Framing, from: u64) -> (Vec<(u64, Vec<u8>)>, u64) {
    let mut end = from;
    let mut records = Records::new(Cursor::new(bytes), framing, from).unwrap();
    let (mut found, mut head, mut payload) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(record) = records.next(5, &mut head).unwrap() {
        records.payload(&record, &mut payload).unwrap();
        assert!(payload.starts_with(&head));
        assert_eq!(head.len(), 5.min(record.length as usize));
        // Too long a one: it spans others.
        if record.length == 999 {
            records.reject(&record);
            continue;
        }
        found.push((record.offset, payload.clone()));
        end = records.position();
    }
    (found, end)
}

#[test]
fn the_key_is_applied_by_position() {
    let key = ObfuscationKey([1, 2, 3, 4, 5, 6, 7, 8]);
    for position in 0..17 {
        for length in 0..33 {
            let mut bytes = vec![0; length];
            key.apply(position, &mut bytes);
            let wanted = (position..).map(|at| (at % 8) as u8 + 1);
            assert_eq!(bytes, wanted.take(length).collect::<Vec<_>>());
        }
    }
    let mut bytes = *b"as it is";
    ObfuscationKey::default().apply(3, &mut bytes);
    assert_eq!(&bytes, b"as it is");
}

/// Records, what is not written yet, leftovers of all kinds between them: with a key and without.
#[test]
fn records_are_found_between_zeros_and_leftovers() {
    let payloads: [&[u8]; 4] = [b"first", b"second, longer", b"3", b"the fourth"];
    for (key, trailer) in [
        ([0; 8], &[][..]),
        ([9, 8, 7, 6, 5, 4, 3, 2], &[]),
        ([9, 8, 7, 6, 5, 4, 3, 2], &[0xcc; 32]),
    ] {
        let framing = framing(key, trailer.len() as u32);
        let magic = Network::Regtest.magic().to_bytes();
        let mut bytes = Vec::new();
        let mut wanted = Vec::new();
        let leftovers: [&[u8]; 4] = [
            &[],
            // Lengths that no record has: none, and too long a one.
            &[&magic[..], &[0, 0, 0, 0], &magic, &[0xff; 4], &magic[..3]].concat(),
            b"the end of an old record",
            // A record over all that follows, beyond the end of the file or not.
            &[&magic[..], &[0xe7, 3, 0, 0]].concat(),
        ];
        for (payload, leftover) in payloads.into_iter().zip(leftovers) {
            bytes.extend(leftover);
            let whole = [payload, trailer].concat();
            wanted.push((bytes.len() as u64 + 8, whole));
            bytes.extend(framed(payload, trailer));
        }
        let end = bytes.len() as u64;
        framing.key.apply(0, &mut bytes);
        // Not written yet: zeros whatever the key.
        let preallocated = [bytes.clone(), vec![0; 3 * SEARCH_BYTES]].concat();
        assert_eq!(all(&bytes, framing, 0), (wanted.clone(), end));
        assert_eq!(all(&preallocated, framing, 0), (wanted.clone(), end));
        assert_eq!(all(&preallocated, framing, end), (vec![], end));
        let third = wanted[2].0 - 8;
        assert_eq!(all(&bytes, framing, third), (wanted[2..].to_vec(), end));

        // Far behind zeros, across the pieces in which it is searched for.
        for gap in SEARCH_BYTES - 12..SEARCH_BYTES + 4 {
            let mut far = preallocated[..end as usize + gap].to_vec();
            let mut record = framed(b"far", trailer);
            framing.key.apply(far.len() as u64, &mut record);
            far.extend(record);
            let (found, position) = all(&far, framing, end);
            assert_eq!(found, [(end + gap as u64 + 8, [b"far", trailer].concat())]);
            assert_eq!(position, far.len() as u64);
        }
    }
}

#[test]
fn a_record_is_there_once_its_last_byte_is() {
    let framing = framing([3; 8], 32);
    let mut bytes = [framed(b"one", &[1; 32]), framed(b"two", &[2; 32])].concat();
    framing.key.apply(0, &mut bytes);
    let first_end = 8 + 3 + 32;
    for length in 0..bytes.len() {
        let (found, position) = all(&bytes[..length], framing, 0);
        assert_eq!(found.len(), length / first_end);
        assert_eq!(position, (length / first_end * first_end) as u64);
    }
    assert_eq!(all(&bytes, framing, 0).0.len(), 2);
    // A file that has become shorter since it was opened, as far as this can be seen.
    let mut records = Records::new(Cursor::new(&bytes), framing, 0).unwrap();
    let beyond = Record {
        offset: bytes.len() as u64 - 4,
        length: 3,
    };
    let error = records.payload(&beyond, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

proptest! {
    #[test]
    fn any_bytes_are_gone_through(
        bytes in proptest::collection::vec(
            prop_oneof![Just(0u8), Just(0xfa), Just(0xbf), Just(0xb5), Just(0xda), any::<u8>()], 0..400),
        from in 0..500u64,
    ) {
        let (found, _) = all(&bytes, framing([0; 8], 1), from);
        for (offset, payload) in found {
            prop_assert_eq!(&bytes[offset as usize - 8..][..4], [0xfa, 0xbf, 0xb5, 0xda]);
            prop_assert_eq!(&bytes[offset as usize..][..payload.len()], payload);
        }
    }
}
