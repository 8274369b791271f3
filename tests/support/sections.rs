//! Sections of the native protocol, their hashes and the chain of these, by the text of docs/native.md and nothing else.

use bitcoin::consensus::serialize;
use bitcoin::hashes::{Hash, sha256};
use spindex::store::BlockRecord;

/// Names of the columns that have hashes, in the order of these.
pub(crate) const HASHED: [&str; 6] = [
    "tweaks",
    "prefixes",
    "outputs",
    "spent",
    "new-utxos",
    "spends",
];

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number % 128) as u8;
        number /= 128;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low + 128);
    }
}

/// Least significant first.
fn bits(bits: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        let places = bits.iter().enumerate();
        places.map(|(place, bit)| u8::from(*bit) << place).sum()
    };
    bits.chunks(8).map(byte).collect()
}

/// The section of a column; `headers` has those of the others in it.
pub(crate) fn section(record: &BlockRecord, column: &str) -> Vec<u8> {
    let rows = &record.transactions;
    let owner = |index: usize| record.outputs.get(index).map(|output| output.transaction);
    match column {
        "headers" => {
            let counts = [
                rows.len(),
                record.outputs.len(),
                record.spends.len(),
                record.states.len(),
            ];
            let mut bytes = serialize(&record.header);
            for count in counts {
                bytes.extend((count as u32).to_le_bytes());
            }
            bytes.extend(HASHED.map(|column| hash(record, column)).concat());
            bytes
        }
        "tweaks" => {
            let x = rows.iter().flat_map(|row| row.tweak[..32].to_vec());
            let parities: Vec<bool> = rows.iter().map(|row| row.tweak[63] % 2 == 1).collect();
            x.chain(bits(&parities)).collect()
        }
        "prefixes" => {
            let keys = record.outputs.iter();
            let keys = keys.flat_map(|output| output.key[..3].to_vec());
            let lasts: Vec<bool> = (0..record.outputs.len())
                .map(|index| owner(index + 1) != owner(index))
                .collect();
            keys.chain(bits(&lasts)).collect()
        }
        "outputs" => {
            let mut bytes = Vec::new();
            for (index, row) in rows.iter().enumerate() {
                let own = record.outputs.iter();
                let own: Vec<_> = own
                    .filter(|output| output.transaction as usize == index)
                    .collect();
                bytes.extend(row.txid.to_byte_array());
                bytes.extend(varint(own.len() as u64));
                for output in own {
                    bytes.extend(varint(output.vout.into()));
                    bytes.extend(varint(output.value_sat));
                    bytes.extend(output.key);
                }
            }
            bytes
        }
        "spent" => record.spent_filter.clone(),
        "new-utxos" => record.new_utxos_filter.clone(),
        "spends" => {
            let mut bytes = varint(record.spends.len() as u64);
            for spend in &record.spends {
                bytes.extend(spend.outpoint.txid.to_byte_array());
                bytes.extend(varint(spend.outpoint.vout.into()));
                bytes.extend(spend.key_prefix);
                match spend.spender {
                    Some(spender) => {
                        bytes.extend(spender.transaction.to_le_bytes());
                        bytes.extend(spender.input.to_le_bytes());
                    }
                    None => bytes.extend([0xff; 4]),
                }
            }
            bytes.extend(varint(record.states.len() as u64));
            for state in &record.states {
                bytes.extend(state.transaction.to_le_bytes());
                bytes.extend(varint(state.vout.into()));
                bytes.extend(state.txid.to_byte_array());
                bytes.extend(state.state_id);
            }
            bytes
        }
        column => panic!("no column {column}"),
    }
}

/// The hash of a section.
pub(crate) fn hash(record: &BlockRecord, column: &str) -> [u8; 32] {
    sha256::Hash::hash(&section(record, column)).to_byte_array()
}

/// The heads of the chain of hashes, from the first of these blocks on.
pub(crate) fn heads(records: &[BlockRecord]) -> Vec<[u8; 32]> {
    let mut head = [0; 32];
    let roll = |record: &BlockRecord| {
        let mut bytes = head.to_vec();
        bytes.extend(record.id.hash.to_byte_array());
        bytes.extend(HASHED[..5].iter().flat_map(|column| hash(record, column)));
        head = sha256::Hash::hash(&bytes).to_byte_array();
        head
    };
    records.iter().map(roll).collect()
}
