//! The outputs that a block spends.

use bitcoin::{Amount, Script, TxOut};

/// Stands for an unknown height: no block will have it.
const UNKNOWN: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    value_sat: u64,
    /// Where its script ends; it starts where the one before ends.
    script_end: usize,
    created: u32,
}

/// The outputs a block spends, per transaction in input order; none for the coinbase. All scripts lie in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prevouts {
    scripts: Vec<u8>,
    entries: Vec<Entry>,
    /// Where each transaction's entries end; they start where those of the one before end.
    ends: Vec<usize>,
}

/// A spent output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prevout<'a> {
    /// Its amount in satoshi.
    pub value_sat: u64,
    /// Its script.
    pub script_pubkey: &'a Script,
    /// Height of the block that created it, where the source knows it.
    pub created: Option<u32>,
}

impl Prevouts {
    /// Room for so many transactions and outputs.
    pub fn with_capacity(transactions: usize, outputs: usize, script_bytes: usize) -> Self {
        Self {
            scripts: Vec::with_capacity(script_bytes),
            entries: Vec::with_capacity(outputs),
            ends: Vec::with_capacity(transactions),
        }
    }

    /// One more output of the current transaction; `created` is the height of the block that created it, where the
    /// source knows it.
    pub fn push(&mut self, value_sat: u64, script_pubkey: &[u8], created: Option<u32>) {
        self.scripts.extend_from_slice(script_pubkey);
        self.entries.push(Entry {
            value_sat,
            script_end: self.scripts.len(),
            created: created.unwrap_or(UNKNOWN),
        });
    }

    /// Closes the current transaction: once for each of the block, the coinbase included.
    pub fn end_transaction(&mut self) {
        self.ends.push(self.entries.len());
    }

    /// Number of transactions, the coinbase included.
    pub fn transactions(&self) -> usize {
        self.ends.len()
    }

    /// Number of outputs of all transactions.
    pub fn outputs(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all scripts.
    pub fn script_bytes(&self) -> usize {
        self.scripts.len()
    }

    /// The outputs that a transaction spends, in input order; none for one there is not.
    pub fn of_transaction(
        &self,
        index: usize,
    ) -> impl ExactSizeIterator<Item = Prevout<'_>> + Clone {
        let end = self.ends.get(index).copied().unwrap_or(0);
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(end),
            None => 0,
        };
        (start.min(end)..end).map(|entry| self.prevout(entry))
    }

    fn prevout(&self, entry: usize) -> Prevout<'_> {
        let start = match entry.checked_sub(1) {
            Some(before) => self.entries[before].script_end,
            None => 0,
        };
        let entry = &self.entries[entry];
        Prevout {
            value_sat: entry.value_sat,
            script_pubkey: Script::from_bytes(&self.scripts[start..entry.script_end]),
            created: (entry.created != UNKNOWN).then_some(entry.created),
        }
    }

    /// The outputs as the `bitcoin` crate has them, per transaction.
    pub fn decode(&self) -> Vec<Vec<TxOut>> {
        let transactions = 0..self.transactions();
        transactions
            .map(|index| self.of_transaction(index).map(TxOut::from).collect())
            .collect()
    }
}

impl From<Prevout<'_>> for TxOut {
    fn from(prevout: Prevout<'_>) -> Self {
        Self {
            value: Amount::from_sat(prevout.value_sat),
            script_pubkey: prevout.script_pubkey.to_owned(),
        }
    }
}

impl From<&[Vec<TxOut>]> for Prevouts {
    /// Of unknown heights.
    fn from(transactions: &[Vec<TxOut>]) -> Self {
        let mut prevouts = Self::default();
        for transaction in transactions {
            for output in transaction {
                let script = output.script_pubkey.as_bytes();
                prevouts.push(output.value.to_sat(), script, None);
            }
            prevouts.end_transaction();
        }
        prevouts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut prevouts = Prevouts::with_capacity(3, 2, 5);
        prevouts.end_transaction();
        prevouts.push(7, &[1, 2], Some(0));
        prevouts.push(8, &[], None);
        prevouts.end_transaction();
        prevouts.push(9, &[3], Some(UNKNOWN - 1));
        prevouts.end_transaction();
        let read = |index| {
            let outputs = prevouts.of_transaction(index);
            let read = outputs.map(|p| (p.value_sat, p.script_pubkey.as_bytes(), p.created));
            read.collect::<Vec<_>>()
        };
        assert_eq!(read(0), []);
        assert_eq!(read(1), [(7, &[1, 2][..], Some(0)), (8, &[], None)]);
        assert_eq!(read(2), [(9, &[3][..], Some(UNKNOWN - 1))]);
        assert_eq!(read(3), []);
        assert_eq!(read(usize::MAX), []);
        assert_eq!(prevouts.transactions(), 3);
        assert_eq!(prevouts.outputs(), 3);

        let decoded = prevouts.decode();
        let again = Prevouts::from(decoded.as_slice()).decode();
        assert_eq!(again, decoded);
        assert_eq!(decoded[1][0].value, Amount::from_sat(7));
    }
}
