//! A client of a made-up world, and what the world says it must find.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Network, OutPoint, Txid};
use spindex::bip352::keys::ReceiverKeys;
use spindex::client::{
    ClientError, Found, HttpOracle, HttpSettings, Identity, LightClient, LightSettings, ScanReport,
    Spend, State, WalletId,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::Scanner;

use super::server::Server;
use super::world::World;

pub(crate) fn oracle(server: &Server) -> Arc<HttpOracle> {
    let settings = HttpSettings {
        timeout: Duration::from_secs(20),
        attempts: 8,
        first_delay: Duration::from_micros(100),
        ..HttpSettings::default()
    };
    Arc::new(HttpOracle::new(&server.url, settings).unwrap())
}

/// Small windows, so that a short chain has many.
pub(crate) fn settings() -> LightSettings {
    LightSettings {
        concurrency: 5,
        window_blocks: 7,
        settling: Duration::from_millis(1),
        ..LightSettings::new(Network::Regtest)
    }
}

pub(crate) fn identity(keys: Option<&ReceiverKeys>) -> Identity {
    Identity {
        network: Network::Regtest,
        wallet: keys.map(WalletId::of),
    }
}

/// A client of the wallet, or of outpoints alone.
pub(crate) struct Run<'a> {
    pub(crate) keys: Option<&'a ReceiverKeys>,
    pub(crate) watched: Vec<OutPoint>,
    pub(crate) state: Option<&'a Path>,
    pub(crate) settings: LightSettings,
}

impl<'a> Run<'a> {
    pub(crate) fn new(keys: &'a ReceiverKeys) -> Self {
        Self {
            keys: Some(keys),
            watched: Vec::new(),
            state: None,
            settings: settings(),
        }
    }

    pub(crate) fn watching(watched: &[OutPoint]) -> Self {
        Self {
            keys: None,
            watched: watched.to_vec(),
            state: None,
            settings: settings(),
        }
    }

    pub(crate) fn watch(mut self, watched: &[OutPoint]) -> Self {
        self.watched = watched.to_vec();
        self
    }

    pub(crate) fn state(mut self, path: &'a Path) -> Self {
        self.state = Some(path);
        self
    }

    pub(crate) fn set(mut self, change: impl FnOnce(&mut LightSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn client(&self, server: &Server) -> Result<LightClient, ClientError> {
        let identity = identity(self.keys);
        let state = match self.state {
            Some(path) => State::open(path, identity)?,
            None => State::in_memory(identity)?,
        };
        let scanner = self
            .keys
            .map(|keys| Scanner::new(Arc::new(LibSecp256k1), keys.clone()).unwrap());
        LightClient::new(
            oracle(server),
            scanner,
            self.watched.iter().copied(),
            state,
            self.settings.clone(),
        )
    }

    pub(crate) async fn run(&self, server: &Server) -> Result<ScanReport, ClientError> {
        self.client(server)?.run(&mut |_| ()).await
    }
}

/// What the world says of the outpoint's spend, up to a height.
pub(crate) fn expected_spend(world: &World, outpoint: &OutPoint, to: u32) -> Option<Spend> {
    let spend = world
        .spent
        .get(outpoint)
        .filter(|spend| spend.height <= to)?;
    Some(Spend {
        height: spend.height,
        block_hash: world.block(spend.height).unwrap().hash,
        spending_txid: Some(spend.txid),
        input: Some(spend.input),
        op_return: spend.op_return.clone(),
    })
}

/// The wallet's outputs of these heights that `visible` holds for, with spends up to the last of them.
pub(crate) fn expected_found(
    world: &World,
    heights: std::ops::RangeInclusive<u32>,
    visible: impl Fn(&Txid) -> bool,
) -> Vec<Found> {
    let mut found: Vec<Found> = world
        .expected
        .iter()
        .filter(|(outpoint, output)| heights.contains(&output.height) && visible(&outpoint.txid))
        .map(|(outpoint, output)| {
            let block = world.block(output.height).unwrap();
            let tx = block.txs.iter().find(|tx| tx.txid == outpoint.txid);
            Found {
                outpoint: *outpoint,
                value_sat: output.value,
                key: output.key,
                k: output.k,
                label: output.label,
                tweak: tx.unwrap().tweak.unwrap(),
                height: output.height,
                block_hash: block.hash,
                spent: expected_spend(world, outpoint, *heights.end()),
            }
        })
        .collect();
    found.sort_by_key(|found| (found.height, found.outpoint));
    found
}

/// The report must be what the world says.
#[track_caller]
pub(crate) fn assert_report(
    report: &ScanReport,
    world: &World,
    heights: std::ops::RangeInclusive<u32>,
    visible: impl Fn(&Txid) -> bool,
) {
    let expected = expected_found(world, heights.clone(), visible);
    assert_eq!(report.found, expected);
    let unspent = expected.iter().filter(|found| found.spent.is_none());
    assert_eq!(
        report.unspent_sat,
        unspent.map(|found| found.value_sat).sum::<u64>()
    );
    assert_eq!(report.scanned_to, Some(*heights.end()));
    assert_eq!(report.from, *heights.start());
}

/// A chain in which the wallet gets and spends a good number of outputs.
pub(crate) fn world(seed: u64, blocks: usize) -> World {
    let mut world = World::new(seed, 1);
    world.grow(blocks);
    assert!(
        world.expected.len() > blocks / 4,
        "too few payments to be a test"
    );
    let spent = world
        .expected
        .keys()
        .filter(|o| world.spent.contains_key(o))
        .count();
    assert!(spent > 3, "too few spends to be a test");
    world
}
