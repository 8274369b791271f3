//! A block as its bytes, and where everything lies in them: nothing is copied or allocated per transaction or script.

use bitcoin::block::Header;
use bitcoin::consensus::{Decodable, serialize};
use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::{Block, BlockHash, OutPoint, Script, Transaction, Txid, Wtxid};

use super::cursor::Cursor;
use super::parse::ParseError;

/// Bytes of a block header.
const HEADER_BYTES: usize = 80;

/// Bytes of the shortest transaction: version, no input, no output, lock time.
const MIN_TRANSACTION_BYTES: usize = 10;

/// Bytes of the shortest input: outpoint, an empty script's length, sequence.
const MIN_INPUT_BYTES: usize = 41;

/// Bytes of the shortest output: the amount and an empty script's length.
pub(super) const MIN_OUTPUT_BYTES: usize = 9;

/// Bytes of an outpoint: txid and vout.
const OUTPOINT_BYTES: usize = 36;

/// A range of the block's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TransactionSpan {
    txid: Txid,
    bytes: Span,
    /// From the number of inputs to the end of the outputs: with version and lock time around it, what the txid hashes.
    body: Span,
    /// Where its inputs and outputs end in the block's lists; they start where those of the one before end.
    inputs_end: u32,
    outputs_end: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct InputSpan {
    outpoint: u32,
    script: Span,
    /// The witness's items with their lengths, without the number of them.
    witness: Span,
    witness_items: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OutputSpan {
    amount: u32,
    script: Span,
}

/// A parsed block. Txids are computed while parsing; whether it is valid is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBlock {
    bytes: Vec<u8>,
    header: Header,
    transactions: Vec<TransactionSpan>,
    inputs: Vec<InputSpan>,
    outputs: Vec<OutputSpan>,
}

impl RawBlock {
    /// A block in the form of the peer-to-peer protocol, with its witnesses.
    ///
    /// # Errors
    /// [`ParseError`] for bytes that are cut short, malformed, or followed by others, and for amounts beyond 21 million
    /// bitcoins.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ParseError> {
        let mut cursor = Cursor::new(&bytes);
        if u32::try_from(bytes.len()).is_err() {
            return Err(cursor.fail("more bytes than a block can have"));
        }
        let header = Header::consensus_decode(&mut cursor.take(HEADER_BYTES)?)
            .map_err(|e| cursor.fail(format!("no block header: {e}")))?;
        let count = cursor.count("transactions", MIN_TRANSACTION_BYTES)?;
        let mut spans = Spans {
            transactions: Vec::with_capacity(count),
            inputs: Vec::with_capacity(2 * count),
            outputs: Vec::with_capacity(3 * count),
        };
        for _ in 0..count {
            spans.transaction(&bytes, &mut cursor)?;
        }
        if cursor.remaining() > 0 {
            return Err(cursor.fail("bytes left over after the block"));
        }
        let Spans {
            transactions,
            inputs,
            outputs,
        } = spans;
        Ok(Self {
            bytes,
            header,
            transactions,
            inputs,
            outputs,
        })
    }

    /// The bytes it was parsed from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its hash.
    pub fn hash(&self) -> BlockHash {
        self.header.block_hash()
    }

    /// Its transactions, the coinbase first.
    pub fn transactions(&self) -> impl ExactSizeIterator<Item = RawTransaction<'_>> + Clone {
        (0..self.transactions.len()).map(|index| RawTransaction { block: self, index })
    }

    /// A transaction by its position in the block.
    pub fn transaction(&self, index: usize) -> Option<RawTransaction<'_>> {
        (index < self.transactions.len()).then_some(RawTransaction { block: self, index })
    }

    /// Number of inputs of all transactions.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// The block as the `bitcoin` crate has it.
    ///
    /// # Errors
    /// What that crate refuses and [`parse`](Self::parse) does not; nothing known.
    pub fn decode(&self) -> Result<Block, bitcoin::consensus::encode::Error> {
        bitcoin::consensus::deserialize(&self.bytes)
    }

    /// `span` lies within the bytes: all spans come from a cursor over them.
    fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

impl From<&Block> for RawBlock {
    /// # Panics
    /// For a block that cannot be written and read again: with an input-less transaction, or an impossible amount.
    fn from(block: &Block) -> Self {
        Self::parse(serialize(block)).expect("a block made in this program")
    }
}

/// The lists of a block under construction.
struct Spans {
    transactions: Vec<TransactionSpan>,
    inputs: Vec<InputSpan>,
    outputs: Vec<OutputSpan>,
}

impl Spans {
    fn transaction(&mut self, bytes: &[u8], cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        let start = position(cursor);
        let version = cursor.take(4)?;
        // BIP144: no inputs, where a transaction without witness would have some, and a flag.
        let has_witness = cursor.peek() == Some(0);
        if has_witness {
            let at = cursor.offset();
            let [_, flag] = cursor.array()?;
            if flag != 1 {
                return Err(cursor.fail_at(at, format!("unknown transaction flag {flag}")));
            }
        }
        let body_start = position(cursor);
        let first_input = self.inputs.len();
        for _ in 0..cursor.count("inputs", MIN_INPUT_BYTES)? {
            let outpoint = position(cursor);
            cursor.take(OUTPOINT_BYTES)?;
            let script = script(cursor)?;
            cursor.take(4)?;
            let none = Span {
                start: position(cursor),
                end: position(cursor),
            };
            self.inputs.push(InputSpan {
                outpoint,
                script,
                witness: none,
                witness_items: 0,
            });
        }
        for _ in 0..cursor.count("outputs", MIN_OUTPUT_BYTES)? {
            let amount = position(cursor);
            cursor.amount_sat()?;
            let script = script(cursor)?;
            self.outputs.push(OutputSpan { amount, script });
        }
        let body = Span {
            start: body_start,
            end: position(cursor),
        };
        if has_witness {
            let at = cursor.offset();
            let mut items = 0;
            for input in self.inputs.iter_mut().skip(first_input) {
                let count = cursor.count("witness items", 1)?;
                let start = position(cursor);
                for _ in 0..count {
                    cursor.prefixed("bytes of a witness item")?;
                }
                input.witness = Span {
                    start,
                    end: position(cursor),
                };
                // No more than there are bytes, of which there are less than 2^32.
                input.witness_items = count as u32;
                items += count;
            }
            if items == 0 {
                return Err(cursor.fail_at(at, "a witness flag without a witness"));
            }
        }
        let lock_time = cursor.take(4)?;
        let mut engine = sha256d::Hash::engine();
        engine.input(version);
        engine.input(&bytes[body.start as usize..body.end as usize]);
        engine.input(lock_time);
        self.transactions.push(TransactionSpan {
            txid: Txid::from_raw_hash(sha256d::Hash::from_engine(engine)),
            bytes: Span {
                start,
                end: position(cursor),
            },
            body,
            inputs_end: self.inputs.len() as u32,
            outputs_end: self.outputs.len() as u32,
        });
        Ok(())
    }
}

/// Where the cursor is: below 2^32, as the block's length is.
fn position(cursor: &Cursor<'_>) -> u32 {
    cursor.offset() as u32
}

fn script(cursor: &mut Cursor<'_>) -> Result<Span, ParseError> {
    let script = cursor.prefixed("script bytes")?;
    let end = position(cursor);
    Ok(Span {
        start: end - script.len() as u32,
        end,
    })
}

/// A transaction of a block.
#[derive(Debug, Clone, Copy)]
pub struct RawTransaction<'a> {
    block: &'a RawBlock,
    index: usize,
}

impl<'a> RawTransaction<'a> {
    fn span(&self) -> &'a TransactionSpan {
        &self.block.transactions[self.index]
    }

    fn before(&self) -> (usize, usize) {
        match self.index.checked_sub(1) {
            None => (0, 0),
            Some(before) => {
                let before = &self.block.transactions[before];
                (before.inputs_end as usize, before.outputs_end as usize)
            }
        }
    }

    /// Its position in the block.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its txid.
    pub fn txid(&self) -> Txid {
        self.span().txid
    }

    /// The hash of all of it, witnesses included (BIP141).
    pub fn wtxid(&self) -> Wtxid {
        match self.has_witness() {
            // Without a witness both ids are the same hash.
            false => Wtxid::from_raw_hash(self.txid().to_raw_hash()),
            true => Wtxid::from_raw_hash(sha256d::Hash::hash(self.as_bytes())),
        }
    }

    /// Whether it is written with witnesses, of which at least one then has an item.
    pub fn has_witness(&self) -> bool {
        let span = self.span();
        // The version, and else marker and flag, stand before the body.
        span.body.start - span.bytes.start > 4
    }

    /// Its bytes, witnesses included.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.block.slice(self.span().bytes)
    }

    /// The transaction as the `bitcoin` crate has it.
    ///
    /// # Errors
    /// What that crate refuses and [`RawBlock::parse`] does not; nothing known.
    pub fn decode(&self) -> Result<Transaction, bitcoin::consensus::encode::Error> {
        bitcoin::consensus::deserialize(self.as_bytes())
    }

    /// Its inputs.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = RawInput<'a>> + Clone + use<'a> {
        let block = self.block;
        let spans = &block.inputs[self.before().0..self.span().inputs_end as usize];
        spans.iter().map(move |span| RawInput { block, span })
    }

    /// Its outputs.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = RawOutput<'a>> + Clone + use<'a> {
        let block = self.block;
        let spans = &block.outputs[self.before().1..self.span().outputs_end as usize];
        spans.iter().map(move |span| RawOutput { block, span })
    }

    /// Whether it has one input, which spends nothing.
    pub fn is_coinbase(&self) -> bool {
        let mut inputs = self.inputs();
        inputs.len() == 1
            && inputs
                .next()
                .is_some_and(|input| input.previous_output().is_null())
    }
}

/// An input of a transaction of a block.
#[derive(Debug, Clone, Copy)]
pub struct RawInput<'a> {
    block: &'a RawBlock,
    span: &'a InputSpan,
}

impl<'a> RawInput<'a> {
    /// What it spends.
    pub fn previous_output(&self) -> OutPoint {
        let at = self.span.outpoint as usize;
        let mut txid = [0; 32];
        let mut vout = [0; 4];
        txid.copy_from_slice(&self.block.bytes[at..at + 32]);
        vout.copy_from_slice(&self.block.bytes[at + 32..at + OUTPOINT_BYTES]);
        OutPoint {
            txid: Txid::from_byte_array(txid),
            vout: u32::from_le_bytes(vout),
        }
    }

    /// Its script.
    pub fn script_sig(&self) -> &'a Script {
        Script::from_bytes(self.block.slice(self.span.script))
    }

    /// The items of its witness.
    pub fn witness(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let mut cursor = Cursor::new(self.block.slice(self.span.witness));
        (0..self.span.witness_items).map(move |_| {
            // They were read once before.
            cursor.prefixed("bytes of a witness item").unwrap_or(&[])
        })
    }
}

/// An output of a transaction of a block.
#[derive(Debug, Clone, Copy)]
pub struct RawOutput<'a> {
    block: &'a RawBlock,
    span: &'a OutputSpan,
}

impl<'a> RawOutput<'a> {
    /// Its amount in satoshi.
    pub fn value_sat(&self) -> u64 {
        let at = self.span.amount as usize;
        let mut amount = [0; 8];
        amount.copy_from_slice(&self.block.bytes[at..at + 8]);
        u64::from_le_bytes(amount)
    }

    /// Its script.
    pub fn script_pubkey(&self) -> &'a Script {
        Script::from_bytes(self.block.slice(self.span.script))
    }
}

#[cfg(test)]
mod tests;
