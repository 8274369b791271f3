//! Bitcoin Core's block files: frames under any key, the first bytes of blocks, undo records matched to their blocks.
#![no_main]

use std::io::Cursor;

use bitcoin::{Network, Target};
use libfuzzer_sys::fuzz_target;
use spindex::chain::files::frames::{Framing, ObfuscationKey, Records};
use spindex::chain::files::headers::{HEAD_BYTES, parse_head};

fuzz_target!(|input: (u8, [u8; 8], u16, &[u8])| {
    let (trailer, key, from, bytes) = input;
    let framing = Framing {
        magic: Network::Regtest.magic(),
        key: ObfuscationKey(key),
        trailer_bytes: if trailer & 1 == 0 { 0 } else { 32 },
        payload_bytes: (1, 4_000_000),
    };
    let mut records =
        Records::new(Cursor::new(bytes), framing, u64::from(from)).expect("reading memory works");
    let (mut head, mut payload) = (Vec::new(), Vec::new());
    let mut end = u64::from(from);
    while let Some(record) = records
        .next(HEAD_BYTES, &mut head)
        .expect("reading memory works")
    {
        records
            .payload(&record, &mut payload)
            .expect("a record that was found is there");
        assert_eq!(
            payload.len() as u64,
            u64::from(record.length) + u64::from(framing.trailer_bytes)
        );
        assert!(payload.starts_with(&head));
        assert!(head.len() <= HEAD_BYTES && head.len() <= record.length as usize);
        assert!(record.offset >= end + 8, "records overlap");
        end = record.offset + payload.len() as u64;
        assert_eq!(records.position(), end);
        assert!(end <= bytes.len() as u64);
        if let Some(head) = parse_head(&head, Target::MAX_ATTAINABLE_REGTEST) {
            assert!(head.transactions > 0);
            assert!(
                head.header
                    .validate_pow(Target::MAX_ATTAINABLE_REGTEST)
                    .is_ok()
                    || head.header.target() < Target::MAX_ATTAINABLE_REGTEST
            );
        }
    }
});
