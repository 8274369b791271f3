//! A made-up chain of payments, and what a wallet must find in it. Knows nothing of the client.

use std::collections::BTreeMap;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};
use secp256k1::{PublicKey, SECP256K1, SecretKey, XOnlyPublicKey};
use spindex::bip352::hash::input_hash;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::bip352::send::{SenderInput, output_keys};

/// Labels of the wallet in these tests, besides change.
pub(crate) const LABELS: [u32; 2] = [1, 7];

/// The receiver number `who` with these labels.
pub(crate) fn wallet(who: u8, labels: impl IntoIterator<Item = u32>) -> ReceiverKeys {
    let digest =
        |what: &str| sha256::Hash::hash(format!("{what} {who}").as_bytes()).to_byte_array();
    ReceiverKeys::new(
        ScanKey::from_bytes(digest("scan")).unwrap(),
        SpendKey::from_bytes(digest("spend")).unwrap().public_key(),
        labels,
    )
}

#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) vout: u32,
    pub(crate) key: [u8; 32],
    pub(crate) value: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Tx {
    pub(crate) txid: Txid,
    /// `None`: not eligible.
    pub(crate) tweak: Option<[u8; 33]>,
    pub(crate) outputs: Vec<Output>,
    /// Outpoints spent by its inputs, in their order.
    pub(crate) spends: Vec<OutPoint>,
    pub(crate) op_return: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) hash: BlockHash,
    pub(crate) txs: Vec<Tx>,
}

/// An output that is the wallet's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) value: u64,
    pub(crate) key: [u8; 32],
    pub(crate) k: u32,
    pub(crate) label: Option<u32>,
    pub(crate) height: u32,
}

/// Who spent an outpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedSpend {
    pub(crate) height: u32,
    pub(crate) txid: Txid,
    pub(crate) input: u32,
    pub(crate) op_return: Vec<Vec<u8>>,
}

/// One payment of a transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pay {
    Wallet(Option<u32>),
    Stranger,
}

#[derive(Clone)]
pub(crate) struct World {
    rng: StdRng,
    pub(crate) keys: ReceiverKeys,
    stranger: ReceiverKeys,
    /// Height of the first block.
    pub(crate) first: u32,
    pub(crate) blocks: Vec<Block>,
    /// Taproot outputs not spent yet.
    pub(crate) unspent: Vec<OutPoint>,
    pub(crate) expected: BTreeMap<OutPoint, Expected>,
    pub(crate) spent: BTreeMap<OutPoint, ExpectedSpend>,
}

impl World {
    pub(crate) fn new(seed: u64, first: u32) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            keys: wallet(1, LABELS),
            stranger: wallet(2, []),
            first,
            blocks: Vec::new(),
            unspent: Vec::new(),
            expected: BTreeMap::new(),
            spent: BTreeMap::new(),
        }
    }

    /// The same chain, with other blocks from now on.
    pub(crate) fn fork(&self, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            ..self.clone()
        }
    }

    pub(crate) fn tip(&self) -> u32 {
        self.first + self.blocks.len() as u32 - 1
    }

    pub(crate) fn block(&self, height: u32) -> Option<&Block> {
        self.blocks.get(height.checked_sub(self.first)? as usize)
    }

    /// An empty block on top, to be filled by the calls below.
    pub(crate) fn begin_block(&mut self) -> u32 {
        let hash = BlockHash::from_byte_array(self.rng.r#gen());
        self.blocks.push(Block {
            hash,
            txs: Vec::new(),
        });
        self.tip()
    }

    /// A transaction in the last block that makes these payments and spends these outpoints.
    pub(crate) fn pay(&mut self, pays: &[Pay], spends: &[OutPoint], op_return: &[&[u8]]) -> Txid {
        let height = self.tip();
        let txid = Txid::from_byte_array(self.rng.r#gen());
        // The input that yields the key is none of the taproot outpoints, which keeps the sender simple.
        let secret = SecretKey::new(&mut self.rng);
        let funding = OutPoint::new(Txid::from_byte_array(self.rng.r#gen()), 0);
        let all_inputs: Vec<OutPoint> = spends.iter().copied().chain([funding]).collect();
        let sum: PublicKey = secret.public_key(SECP256K1);
        let smallest = *all_inputs
            .iter()
            .min_by_key(|o| (o.txid.to_byte_array(), o.vout.to_le_bytes()))
            .unwrap();
        let tweak = sum
            .mul_tweak(SECP256K1, &input_hash(&smallest, &sum.serialize()).unwrap())
            .unwrap();
        let recipients: Vec<_> = pays
            .iter()
            .map(|pay| match pay {
                Pay::Wallet(label) => self.keys.address(*label, Network::Regtest).unwrap(),
                Pay::Stranger => self.stranger.address(None, Network::Regtest).unwrap(),
            })
            .collect();
        let input = SenderInput {
            secret,
            taproot: false,
        };
        let keys: Vec<[u8; 32]> = output_keys(&[input], &all_inputs, &recipients)
            .unwrap()
            .iter()
            .map(XOnlyPublicKey::serialize)
            .collect();

        // Outputs stand in an order of their own, with a hole where no taproot output is.
        let mut order: Vec<usize> = (0..pays.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.rng.gen_range(0..=i));
        }
        let mut outputs = Vec::new();
        let mut k = 0;
        for (number, pay) in pays.iter().enumerate() {
            let place = order[number] as u32;
            let vout = place + u32::from(place > 1);
            let value = self.rng.gen_range(1000..1_000_000);
            let outpoint = OutPoint::new(txid, vout);
            if let Pay::Wallet(label) = pay {
                let expected = Expected {
                    value,
                    key: keys[number],
                    k,
                    label: *label,
                    height,
                };
                self.expected.insert(outpoint, expected);
                k += 1;
            }
            self.unspent.push(outpoint);
            outputs.push(Output {
                vout,
                key: keys[number],
                value,
            });
        }
        outputs.sort_by_key(|output| output.vout);
        let tx = Tx {
            txid,
            tweak: (!pays.is_empty()).then(|| tweak.serialize()),
            outputs,
            spends: spends.to_vec(),
            op_return: op_return.iter().map(|data| data.to_vec()).collect(),
        };
        for (input, outpoint) in spends.iter().enumerate() {
            self.unspent.retain(|other| other != outpoint);
            self.spent.insert(
                *outpoint,
                ExpectedSpend {
                    height,
                    txid,
                    input: input as u32,
                    op_return: tx.op_return.clone(),
                },
            );
        }
        self.blocks.last_mut().unwrap().txs.push(tx);
        txid
    }

    /// A taproot output of a transaction that has no tweak, with a key that is no point now and then.
    pub(crate) fn pay_ineligible(&mut self) {
        let tx = Tx {
            txid: Txid::from_byte_array(self.rng.r#gen()),
            tweak: None,
            outputs: vec![Output {
                vout: 0,
                key: self.rng.r#gen(),
                value: 1,
            }],
            spends: Vec::new(),
            op_return: Vec::new(),
        };
        self.blocks.last_mut().unwrap().txs.push(tx);
    }

    /// Random blocks on top: payments to both, several to one, labels, spends of anything, also in the same block.
    pub(crate) fn grow(&mut self, blocks: usize) {
        for _ in 0..blocks {
            self.begin_block();
            for _ in 0..self.rng.gen_range(0..5) {
                if self.rng.gen_bool(0.2) {
                    self.pay_ineligible();
                    continue;
                }
                let to_wallet = self.rng.gen_bool(0.3);
                let pays: Vec<Pay> = (0..self.rng.gen_range(0..4))
                    .map(|_| match self.rng.gen_range(0..6) {
                        _ if !to_wallet => Pay::Stranger,
                        0 | 1 => Pay::Wallet(None),
                        2 => Pay::Wallet(Some(0)),
                        3 => Pay::Wallet(Some(LABELS[0])),
                        4 => Pay::Wallet(Some(LABELS[1])),
                        _ => Pay::Stranger,
                    })
                    .collect();
                let mut spends = Vec::new();
                while !self.unspent.is_empty() && self.rng.gen_bool(0.4) {
                    // The newest ones often, so that some are spent in their own block.
                    let reach =
                        self.unspent
                            .len()
                            .min(if self.rng.gen_bool(0.5) { 3 } else { 1000 });
                    let at = self.unspent.len() - 1 - self.rng.gen_range(0..reach);
                    spends.push(self.unspent.remove(at));
                }
                let data: Vec<u8> = (0..self.rng.gen_range(0..9))
                    .map(|_| self.rng.r#gen())
                    .collect();
                let op_return: &[&[u8]] = if self.rng.gen_bool(0.5) {
                    &[&data]
                } else {
                    &[]
                };
                self.pay(&pays, &spends, op_return);
            }
        }
    }

    /// Random blocks on top in which these outpoints stay unspent.
    pub(crate) fn grow_without(&mut self, keep: &[OutPoint], blocks: usize) {
        self.unspent.retain(|outpoint| !keep.contains(outpoint));
        self.grow(blocks);
        self.unspent.extend(keep);
    }

    /// Whether all taproot outputs of the transaction are spent.
    pub(crate) fn is_gone(&self, txid: &Txid) -> bool {
        !self.unspent.iter().any(|outpoint| outpoint.txid == *txid)
    }
}
