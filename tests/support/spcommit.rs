//! Commitments and heads of both versions, by the text of SPCOMMIT and nothing else.

use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::{DisplayHex, FromHex};
use spindex::curve::TweakPoint;
use spindex::store::{BlockRecord, TransactionRow};

/// What a chain commits to at a block, and its head there.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    #[allow(dead_code, reason = "not every test program asks for it")]
    pub(crate) commitment: [u8; 32],
    pub(crate) head: [u8; 32],
}

/// Of both versions per block, from the first of these blocks on.
pub(crate) fn links(records: &[BlockRecord]) -> Vec<[Link; 2]> {
    let hash = |text: &str| sha256::Hash::hash(text.as_bytes()).to_string();
    let bytes = |digits: &str| <[u8; 32]>::from_hex(digits).expect("hex");
    let mut heads = ["spcommit-v1-genesis", "spcommit-v2-genesis"].map(hash);
    let mut links = Vec::new();
    for record in records {
        // Internal order.
        let block = record.id.hash.to_byte_array().to_lower_hex_string();
        let count = record.transactions.len();
        let start = format!("{}\n{block}\n{count}\n", record.id.height);
        let tweak = |row: &TransactionRow| {
            let tweak = TweakPoint::from_bytes(row.tweak).to_compressed();
            tweak.to_lower_hex_string()
        };
        let mut tweaks: Vec<String> = record.transactions.iter().map(tweak).collect();
        tweaks.sort();
        let v1 = format!("spcommit-v1\n{start}{}", tweaks.join("\n"));

        let rows = record.transactions.iter().enumerate();
        let mut transactions: Vec<String> = rows
            .map(|(index, row)| {
                let own = record.outputs.iter();
                let own = own.filter(|output| output.transaction as usize == index);
                let keys = own.map(|output| output.key[..8].to_lower_hex_string());
                let keys: String = keys.collect();
                format!("{}\n{}\n{keys}\n", row.txid, tweak(row))
            })
            .collect();
        transactions.sort();
        let spent = record.spends.iter();
        let spent = spent.map(|spend| spend.key_prefix.to_lower_hex_string());
        let spent: String = spent.collect();
        let transactions = transactions.concat();
        let v2 = format!("spcommit-v2\n{start}{transactions}spent\n{spent}\n");

        let mut next = heads.iter_mut().zip([v1, v2]).map(|(head, text)| {
            let commitment = hash(&text);
            *head = hash(&format!("{head}{commitment}"));
            Link {
                commitment: bytes(&commitment),
                head: bytes(head),
            }
        });
        links.push([next.next(), next.next()].map(|link| link.expect("two versions")));
    }
    links
}
