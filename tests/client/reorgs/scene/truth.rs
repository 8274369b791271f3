//! What a report must say: what the chain knows of its payments, and what a scan of everything anew finds.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Txid};
use spindex::BlockId;
use spindex::chain::made::simulated::PaidOutput;
use spindex::client::ScanReport;

use super::super::Dialect;
use super::{FIRST, Scene, is_paid, settings, state_of, taproot_outputs, wallet};

impl Scene {
    /// Whether a server lists the transaction of an output: one of its taproot outputs is unspent.
    fn is_listed(&self, paid: &PaidOutput) -> bool {
        let block = self.chain.stored_block(paid.block.unwrap().hash).unwrap();
        let outputs = taproot_outputs(&block, paid.outpoint.txid);
        let mut spenders = outputs
            .iter()
            .map(|output| self.chain.spender(output.outpoint));
        spenders.any(|spender| spender.is_none())
    }

    /// Compares a report on the whole chain with the truth.
    pub(crate) fn assert_true(&self, by: Dialect, report: &ScanReport, what: &str) {
        self.assert_true_of(0, by, report, what);
    }

    /// What a wallet was paid.
    pub(crate) fn paid_to(&self, who: u8) -> Vec<PaidOutput> {
        let paid = self.chain.paid_outputs().into_iter();
        paid.filter(|paid| is_paid(who, paid)).collect()
    }

    /// Compares a wallet's report on the whole chain with the truth.
    pub(crate) fn assert_true_of(&self, who: u8, by: Dialect, report: &ScanReport, what: &str) {
        let tip = self.chain.tip_id();
        assert_eq!(
            (report.from, report.scanned_to),
            (FIRST, Some(tip.height)),
            "{what}"
        );
        let found: BTreeMap<OutPoint, _> = report.found.iter().map(|f| (f.outpoint, f)).collect();
        let paid = self.paid_to(who);
        let mut missing: BTreeMap<u32, BTreeSet<Txid>> = BTreeMap::new();
        let mut own = 0;
        for paid in &paid {
            let block = paid.block.expect("the mempool is empty");
            let Some(found) = found.get(&paid.outpoint) else {
                assert!(
                    paid.spent_by.is_some(),
                    "{what}: {} is missed",
                    paid.outpoint
                );
                assert_eq!(by, Dialect::V1, "{what}: {} is missed", paid.outpoint);
                assert!(!self.is_listed(paid), "{what}: {} is listed", paid.outpoint);
                missing
                    .entry(block.height)
                    .or_default()
                    .insert(paid.outpoint.txid);
                continue;
            };
            own += 1;
            let spend = found.spent.as_ref();
            let spent_at = spend.map(|spend| BlockId {
                height: spend.height,
                hash: spend.block_hash,
            });
            let (txid, spent_in) = paid.spent_by.unzip();
            assert_eq!(spent_at, spent_in, "{what}: {}", paid.outpoint);
            if let (Some(spend), Some(txid), Some(block)) = (spend, txid, spent_in) {
                let input = self.input(&paid.outpoint, txid, block);
                assert_eq!(spend.input, Some(input), "{what}: {}", paid.outpoint);
                // Natively it is told of spenders with a state id alone.
                let is_told = by == Dialect::V1 || spend.spending_txid.is_some();
                assert!(
                    !is_told || spend.spending_txid == Some(txid),
                    "{what}: {spend:?}"
                );
            }
            let at = BlockId {
                height: found.height,
                hash: found.block_hash,
            };
            assert_eq!((at, found.value_sat), (block, paid.value_sat), "{what}");
            assert_eq!(found.key, paid.output_key.serialize(), "{what}");
        }
        assert_eq!(own, found.len(), "{what}: something that nobody paid");
        let unresolved: BTreeMap<u32, usize> = report
            .unresolved
            .iter()
            .map(|block| (block.height, block.matches as usize))
            .collect();
        let missing: BTreeMap<u32, usize> = missing
            .into_iter()
            .map(|(height, txids)| (height, txids.len()))
            .collect();
        assert_eq!(unresolved, missing, "{what}");
    }

    /// Which input of a transaction spends an outpoint.
    fn input(&self, outpoint: &OutPoint, txid: Txid, block: BlockId) -> u32 {
        let block = self.chain.stored_block(block.hash).unwrap();
        let at = block.txids.iter().position(|other| *other == txid).unwrap();
        let mut inputs = block.block.txdata[at].input.iter();
        let input = inputs.position(|input| input.previous_output == *outpoint);
        input.unwrap() as u32
    }

    /// Scans everything anew for a wallet alone.
    pub(crate) async fn fresh(&self, who: u8, by: Dialect) -> ScanReport {
        let settings = settings(by, Some(FIRST), None, false);
        let mut client = self.alone(by, wallet(who, state_of(who)), settings);
        client.run(&mut |_| ()).await.unwrap()
    }

    /// Compares a wallet's report with that of a scan of everything anew.
    pub(crate) async fn assert_like_fresh(
        &self,
        who: u8,
        by: Dialect,
        report: &ScanReport,
        what: &str,
    ) {
        let mut fresh = self.fresh(who, by).await;
        self.assert_true_of(who, by, &fresh, what);
        let of_fresh: BTreeSet<OutPoint> = fresh.found.iter().map(|f| f.outpoint).collect();
        let (mut common, more): (Vec<_>, Vec<_>) = report
            .found
            .iter()
            .cloned()
            .partition(|found| of_fresh.contains(&found.outpoint));
        // Of a spender an earlier scan may know more, or less.
        let found = common.iter_mut().chain(&mut fresh.found);
        for spend in found.filter_map(|found| found.spent.as_mut()) {
            spend.spending_txid = None;
            spend.op_return.clear();
        }
        assert_eq!(common, fresh.found, "{what}");
        assert_eq!(report.unspent_sat, fresh.unspent_sat, "{what}");
        // What only the older state knows is what the server has forgotten since.
        let more: BTreeMap<u32, BTreeSet<Txid>> =
            more.iter().fold(BTreeMap::new(), |mut all, found| {
                all.entry(found.height)
                    .or_default()
                    .insert(found.outpoint.txid);
                all
            });
        let mut unresolved: BTreeMap<u32, usize> = more
            .into_iter()
            .map(|(height, txids)| (height, txids.len()))
            .collect();
        for block in &report.unresolved {
            *unresolved.entry(block.height).or_default() += block.matches as usize;
        }
        let of_fresh = fresh.unresolved.iter();
        let of_fresh: BTreeMap<u32, usize> = of_fresh
            .map(|block| (block.height, block.matches as usize))
            .collect();
        assert_eq!(unresolved, of_fresh, "{what}");
    }
}
