//! Proofs that transactions stand in blocks, of blocks whose merkle roots another implementation has computed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::script::Builder;
use bitcoin::transaction;
use bitcoin::{
    Amount, BlockHash, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn,
    TxMerkleNode, TxOut, Txid, Witness,
};
use spindex::BlockId;
use spindex::process::{End, Rule, State};
use spindex::proof::{Branch, Proof, ProofError, ProvenSpend, SpendClaim};

fn output(script_pubkey: ScriptBuf) -> TxOut {
    let value = Amount::from_sat(546);
    TxOut {
        value,
        script_pubkey,
    }
}

fn spending(outpoints: &[OutPoint], output: Vec<TxOut>) -> Transaction {
    let inputs = outpoints.iter().map(|previous_output| TxIn {
        previous_output: *previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::MAX,
        witness: Witness::new(),
    });
    Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: inputs.collect(),
        output,
    }
}

fn carrying(id: [u8; 32]) -> TxOut {
    output(ScriptBuf::new_op_return(id))
}

fn plain() -> TxOut {
    output(ScriptBuf::from_bytes(
        [&[0x51, 0x20][..], &[7; 32]].concat(),
    ))
}

fn outpoint(byte: u8) -> OutPoint {
    OutPoint::new(Txid::from_byte_array([byte; 32]), 1)
}

/// A block of these transactions behind a coinbase.
struct Block {
    header: Header,
    transactions: Vec<Transaction>,
}

impl Block {
    fn of(transactions: impl IntoIterator<Item = Transaction>) -> Self {
        let mut coinbase = spending(&[OutPoint::null()], vec![plain()]);
        coinbase.input[0].script_sig = Builder::new().push_int(700_000).push_int(1).into_script();
        let transactions: Vec<_> = std::iter::once(coinbase).chain(transactions).collect();
        let txids = transactions.iter().map(Transaction::compute_txid);
        let hashes = txids.map(|txid| TxMerkleNode::from_raw_hash(txid.to_raw_hash()));
        // Another implementation than the one under test.
        let merkle_root = bitcoin::merkle_tree::calculate_root(hashes).unwrap();
        let header = Header {
            version: Version::TWO,
            prev_blockhash: BlockHash::all_zeros(),
            merkle_root,
            time: 1,
            bits: CompactTarget::from_consensus(0x207f_ffff),
            nonce: 0,
        };
        Self {
            header,
            transactions,
        }
    }

    fn txids(&self) -> Vec<Txid> {
        let transactions = self.transactions.iter();
        transactions.map(Transaction::compute_txid).collect()
    }

    fn proof(&self, index: u32) -> Proof {
        let branch = |index| Branch::of(&self.txids(), index).unwrap();
        Proof {
            block: BlockId {
                height: 9,
                hash: self.header.block_hash(),
            },
            header: self.header,
            transaction: self.transactions[index as usize].clone(),
            branch: branch(index),
            coinbase: self.transactions[0].clone(),
            coinbase_branch: branch(0).siblings,
        }
    }
}

fn block(count: u8) -> Block {
    Block::of(
        (1..count).map(|byte| spending(&[outpoint(byte)], vec![plain(), carrying([byte; 32])])),
    )
}

#[test]
fn every_place_of_every_block_is_proven_and_no_other() {
    for count in 1..=34 {
        let block = block(count);
        for index in 0..u32::from(count) {
            let proof = block.proof(index);
            let txid = block.txids()[index as usize];
            assert_eq!(proof.check(), Ok(txid), "{index} of {count}");
            // At any other place the same bytes prove nothing.
            for other in (0..64).filter(|other| *other != index) {
                let mut proof = proof.clone();
                proof.branch.index = other;
                assert!(proof.check().is_err(), "{index} as {other} of {count}");
            }
            for level in 0..proof.branch.siblings.len() {
                let mut proof = proof.clone();
                let mut bytes = proof.branch.siblings[level].to_byte_array();
                bytes[31] ^= 1;
                proof.branch.siblings[level] = TxMerkleNode::from_byte_array(bytes);
                assert!(proof.check().is_err(), "{index} of {count}, {level}");
            }
        }
        assert_eq!(Branch::of(&block.txids(), count.into()), None);
    }
}

/// CVE-2012-2459: the root stays as it is where the last transactions are repeated.
#[test]
fn a_repeated_transaction_is_at_one_place_only() {
    for (count, repeated) in [(3, 1), (5, 1), (6, 2), (7, 1), (9, 1), (11, 1), (12, 4)] {
        let block = block(count);
        let mut txids = block.txids();
        txids.extend_from_within(usize::from(count) - repeated..);
        let hashes = txids.iter();
        let hashes = hashes.map(|txid| TxMerkleNode::from_raw_hash(txid.to_raw_hash()));
        let root = bitcoin::merkle_tree::calculate_root(hashes).unwrap();
        assert_eq!(root, block.header.merkle_root, "{count}");
        for index in usize::from(count)..txids.len() {
            let branch = Branch::of(&txids, index as u32).unwrap();
            let refused = branch.root(txids[index]);
            assert!(
                matches!(refused, Err(ProofError::Repeated { .. })),
                "{index} of {count}: {refused:?}"
            );
        }
    }
}

#[test]
fn what_could_be_two_hashes_is_no_transaction() {
    let mut odd = spending(
        &[outpoint(3)],
        vec![output(ScriptBuf::from_bytes(vec![0x51; 4]))],
    );
    assert_eq!(odd.base_size(), 64);
    let refused = |odd: &Transaction| Block::of([odd.clone()]).proof(1).check();
    let two = Err(ProofError::TwoHashes {
        whose: "the transaction",
    });
    assert_eq!(refused(&odd), two);
    // The tree has no witnesses in it.
    odd.input[0].witness.push([1; 40]);
    assert_eq!(refused(&odd), two);
    odd.output[0].script_pubkey = ScriptBuf::from_bytes(vec![0x51; 5]);
    assert!(refused(&odd).is_ok());
}

#[test]
fn each_part_of_a_proof_is_checked() {
    let proof = block(9).proof(5);
    let refused = |change: &dyn Fn(&mut Proof)| {
        let mut proof = proof.clone();
        change(&mut proof);
        proof.check().unwrap_err().to_string()
    };
    for (what, change) in [
        (
            "header",
            &(|proof: &mut Proof| proof.header.nonce += 1) as &dyn Fn(&mut Proof),
        ),
        ("header", &|proof| proof.block.hash = BlockHash::all_zeros()),
        ("branch of the transaction", &|proof| {
            proof.transaction.output[0].value = Amount::from_sat(547)
        }),
        ("branch of the coinbase", &|proof| {
            proof.coinbase.output[0].value = Amount::from_sat(547)
        }),
        ("branch of the coinbase", &|proof| {
            proof.coinbase_branch.reverse()
        }),
        ("4 hashes, and one of 3", &|proof| {
            proof.coinbase_branch.pop();
        }),
        ("3 hashes, and one of 4", &|proof| {
            proof.branch.siblings.pop();
        }),
        ("no coinbase", &|proof| {
            proof.coinbase = proof.transaction.clone()
        }),
        ("no transaction 16", &|proof| proof.branch.index = 16),
    ] {
        let said = refused(change);
        assert!(said.contains(what), "{said}: {what}");
    }
    let long = Branch {
        index: 0,
        siblings: (0..17)
            .map(|byte| TxMerkleNode::from_byte_array([byte; 32]))
            .collect(),
    };
    let txid = proof.transaction.compute_txid();
    assert_eq!(long.root(txid), Err(ProofError::TooLong { found: 17 }));
}

#[test]
fn a_spend_is_what_the_rule_makes_of_its_transaction() {
    let spender = spending(
        &[outpoint(1), outpoint(2)],
        vec![plain(), carrying([5; 32]), carrying([6; 32])],
    );
    let txid = spender.compute_txid();
    let proof = Block::of([spender]).proof(1);
    let first = proof.spend(outpoint(2), &Rule::default()).unwrap();
    let state = |vout, byte| {
        let id = [byte; 32];
        Some(State { vout, id })
    };
    let next = Some(OutPoint::new(txid, 0));
    assert_eq!(
        first,
        ProvenSpend {
            txid,
            input: 1,
            state: state(1, 5),
            end: None,
            next,
        }
    );
    let second = Rule { state: 1, carry: 2 };
    let second = proof.spend(outpoint(1), &second).unwrap();
    assert_eq!((second.input, second.state), (0, state(2, 6)));
    assert_eq!((second.end, second.next), (Some(End::NoSuccessor), None));
    let spent = outpoint(9);
    let not = proof.spend(spent, &Rule::default());
    assert_eq!(not, Err(ProofError::NotSpent { txid, spent }));

    let said = SpendClaim {
        txid: Some(txid),
        input: 1,
        state: state(1, 5),
        next,
    };
    assert_eq!(said.compare(&first), Ok(()));
    let unnamed = SpendClaim { txid: None, ..said };
    assert_eq!(unnamed.compare(&first), Ok(()));
    for (what, wrong) in [
        (
            "the spender",
            SpendClaim {
                txid: Some(spent.txid),
                ..said
            },
        ),
        ("the input that spends", SpendClaim { input: 0, ..said }),
        (
            "the state id",
            SpendClaim {
                state: state(1, 6),
                ..said
            },
        ),
        (
            "the state id",
            SpendClaim {
                state: None,
                ..said
            },
        ),
        (
            "the output with the state id",
            SpendClaim {
                state: state(2, 5),
                ..said
            },
        ),
        ("the next tip", SpendClaim { next: None, ..said }),
    ] {
        let refused = wrong.compare(&first);
        let Err(ProofError::Differs { what: named, .. }) = refused else {
            panic!("{what}: {refused:?}");
        };
        assert_eq!(named, what);
    }
}
