//! That a transaction stands in a block, and what it makes of a process: a pure check, of bytes that anybody may have sent.
//!
//! A [`Proof`] has the transaction, its place among those of the block as a [`Branch`] of the merkle tree, and the header. Whether
//! that header is in the chain is another question, for whoever has verified headers.

mod branch;

use bitcoin::block::Header;
use bitcoin::hex::DisplayHex;
use bitcoin::{BlockHash, OutPoint, Transaction, TxMerkleNode, Txid};

use crate::BlockId;
use crate::process::{End, Rule, State, state_id};

pub use branch::{BRANCH_MAX, Branch};

/// A transaction of so many bytes without its witnesses could be two hashes of the merkle tree.
const TWO_HASHES_BYTES: usize = 64;

/// Why a proof proves nothing, or not what was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The header is that of another block.
    #[error("its header is that of block {found}, and not of {wanted}")]
    Header {
        /// The block that was meant.
        wanted: BlockHash,
        /// Hash of the header.
        found: BlockHash,
    },
    /// More hashes than any block's tree is deep.
    #[error("a branch of {found} hashes, where no block has more than {BRANCH_MAX}")]
    TooLong {
        /// Their number.
        found: usize,
    },
    /// The position does not exist in a tree of that depth.
    #[error("no transaction {index} in a tree of depth {depth}")]
    Position {
        /// The position.
        index: u32,
        /// Number of hashes in the branch.
        depth: usize,
    },
    /// A hash stands beside itself where no tree has it (CVE-2012-2459), or beside the last hash of its level stands another.
    #[error("its branch is none of a tree that ends where it says (hash {level} of it)")]
    Repeated {
        /// Which hash of the branch, from 0.
        level: usize,
    },
    /// A transaction that could just as well be an inner node.
    #[error("{whose} has 64 bytes, and could as well be two hashes")]
    TwoHashes {
        /// Which of the two transactions.
        whose: &'static str,
    },
    /// The merkle root is another one.
    #[error("the branch of {whose} leads to {found}, and not to the merkle root of the header")]
    Root {
        /// Which of the two transactions.
        whose: &'static str,
        /// Where it leads.
        found: TxMerkleNode,
    },
    /// What stands first is no coinbase, or what spends is one.
    #[error("{0}")]
    Coinbase(&'static str),
    /// The two transactions are not at the same depth, as all of a block are.
    #[error("a branch of {transaction} hashes, and one of {coinbase} for the coinbase")]
    Depth {
        /// Hashes in the branch of the transaction.
        transaction: usize,
        /// Hashes in the branch of the coinbase.
        coinbase: usize,
    },
    /// The transaction spends something else.
    #[error("transaction {txid} does not spend {spent}")]
    NotSpent {
        /// The transaction.
        txid: Txid,
        /// What it was said to spend.
        spent: OutPoint,
    },
    /// What was said of the spend is not so.
    #[error("{what} is said to be {said}, and is {found}")]
    Differs {
        /// What of it.
        what: &'static str,
        /// What was said.
        said: String,
        /// What the proof says.
        found: String,
    },
}

/// A transaction, where it stands in a block, and the block's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The block; its height is nothing that the rest could prove.
    pub block: BlockId,
    /// Its header.
    pub header: Header,
    /// The transaction.
    pub transaction: Transaction,
    /// Where it stands.
    pub branch: Branch,
    /// The first transaction of the block, which shows how deep the tree is: a transaction that is made up below one of 64 bytes
    /// lies deeper.
    pub coinbase: Transaction,
    /// The hashes beside the way from there to the root.
    pub coinbase_branch: Vec<TxMerkleNode>,
}

/// What a spend in a block is, by its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenSpend {
    /// The spender.
    pub txid: Txid,
    /// The input that spends.
    pub input: u32,
    /// The state id that counts.
    pub state: Option<State>,
    /// Whether a process goes on from here.
    pub end: Option<End>,
    /// The next tip, if it does.
    pub next: Option<OutPoint>,
}

impl Proof {
    /// Holds the proof against itself: the header has the block's hash, the transaction and the coinbase are in the tree under it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<Txid, ProofError> {
        let (found, wanted) = (self.header.block_hash(), self.block.hash);
        if found != wanted {
            return Err(ProofError::Header { wanted, found });
        }
        let (transaction, coinbase) = (self.branch.siblings.len(), self.coinbase_branch.len());
        if transaction != coinbase {
            return Err(ProofError::Depth {
                transaction,
                coinbase,
            });
        }
        if !self.coinbase.is_coinbase() {
            return Err(ProofError::Coinbase(
                "what stands first in the block is no coinbase",
            ));
        }
        let first = Branch {
            index: 0,
            siblings: self.coinbase_branch.clone(),
        };
        self.in_tree("the coinbase", &self.coinbase, &first)?;
        let txid = self.in_tree("the transaction", &self.transaction, &self.branch)?;
        match self.transaction.is_coinbase() == (self.branch.index == 0) {
            true => Ok(txid),
            false => Err(ProofError::Coinbase(
                "a coinbase stands first in its block, and nothing else does",
            )),
        }
    }

    fn in_tree(
        &self,
        whose: &'static str,
        transaction: &Transaction,
        branch: &Branch,
    ) -> Result<Txid, ProofError> {
        if transaction.base_size() == TWO_HASHES_BYTES {
            return Err(ProofError::TwoHashes { whose });
        }
        let txid = transaction.compute_txid();
        let found = branch.root(txid)?;
        match found == self.header.merkle_root {
            true => Ok(txid),
            false => Err(ProofError::Root { whose, found }),
        }
    }

    /// [`check`](Self::check), and that the transaction spends an outpoint; what it makes of a process by a rule.
    ///
    /// # Errors
    /// What is wrong.
    pub fn spend(&self, spent: OutPoint, rule: &Rule) -> Result<ProvenSpend, ProofError> {
        let txid = self.check()?;
        let mut inputs = (0..).zip(&self.transaction.input);
        let input = inputs.find(|(_, input)| input.previous_output == spent);
        let (input, _) = input.ok_or(ProofError::NotSpent { txid, spent })?;
        let outputs = (0..).zip(&self.transaction.output);
        let states = outputs.filter_map(|(vout, output)| {
            let id = state_id(&output.script_pubkey)?;
            Some(State { vout, id })
        });
        let count = u32::try_from(self.transaction.output.len()).unwrap_or(u32::MAX);
        let step = rule.step(states, Some(count));
        Ok(ProvenSpend {
            txid,
            input,
            state: step.state,
            end: step.end,
            next: step.end.is_none().then(|| rule.next_tip(txid)),
        })
    }
}

/// What somebody says of a spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendClaim {
    /// The spender, if it is told.
    pub txid: Option<Txid>,
    /// The input that spends.
    pub input: u32,
    /// The state id that counts.
    pub state: Option<State>,
    /// The next tip.
    pub next: Option<OutPoint>,
}

impl SpendClaim {
    /// Holds it against what is proven.
    ///
    /// # Errors
    /// [`ProofError::Differs`] for the first thing that is not so.
    pub fn compare(&self, proven: &ProvenSpend) -> Result<(), ProofError> {
        let txid = self.txid.unwrap_or(proven.txid);
        differs("the spender", txid, proven.txid)?;
        differs("the input that spends", self.input, proven.input)?;
        let vout = |state: &Option<State>| match state {
            Some(state) => state.vout.to_string(),
            None => "none".to_owned(),
        };
        let id = |state: &Option<State>| match state {
            Some(state) => state.id.to_lower_hex_string(),
            None => "none".to_owned(),
        };
        differs("the state id", id(&self.state), id(&proven.state))?;
        let of = "the output with the state id";
        differs(of, vout(&self.state), vout(&proven.state))?;
        let tip = |tip: &Option<OutPoint>| match tip {
            Some(tip) => tip.to_string(),
            None => "none".to_owned(),
        };
        differs("the next tip", tip(&self.next), tip(&proven.next))
    }
}

fn differs<T: PartialEq + ToString>(
    what: &'static str,
    said: T,
    found: T,
) -> Result<(), ProofError> {
    match said == found {
        true => Ok(()),
        false => Err(ProofError::Differs {
            what,
            said: said.to_string(),
            found: found.to_string(),
        }),
    }
}
