//! Commits that fail, of one of several states.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint, Transaction, Txid};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use redb::StorageBackend;

use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use crate::client::WalletId;
use crate::client::{
    BlockFilters, ClientError, Identity, LightSettings, Oracle, OracleError, OracleInfo,
    OracleUtxo, Reports, SpendDetails, SpentIndex, State, StateError, TweakQuery, WalletScan,
    WalletsClient,
};
use crate::curve::TweakPoint;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::filter::{new_utxos_filter, spent_filter};

const BLOCKS: u32 = 30;

/// A chain of blocks in which there is nothing.
struct Empty;

fn hash(height: u32) -> BlockHash {
    BlockHash::from_byte_array([height as u8; 32])
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, OracleError>> {
    ready(Ok(value)).boxed()
}

impl Oracle for Empty {
    fn describe(&self) -> String {
        "nothing".to_owned()
    }

    fn info(&self) -> BoxFuture<'_, Result<OracleInfo, OracleError>> {
        now(OracleInfo {
            network: Network::Regtest,
            height: BLOCKS,
            tweaks_only: false,
            full_list: true,
            full_list_with_dust_limit: true,
            cut_through: true,
        })
    }

    fn tip(&self) -> BoxFuture<'_, Result<u32, OracleError>> {
        now(BLOCKS)
    }

    fn block_hash(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockHash>, OracleError>> {
        now((height <= BLOCKS).then(|| hash(height)))
    }

    fn tweaks(&self, _: u32, _: TweakQuery) -> BoxFuture<'_, Result<Vec<TweakPoint>, OracleError>> {
        now(Vec::new())
    }

    fn filters(&self, height: u32) -> BoxFuture<'_, Result<BlockFilters, OracleError>> {
        let block_hash = hash(height);
        now(BlockFilters {
            block_hash,
            new_utxos: new_utxos_filter(&block_hash, &[]),
            spent: spent_filter(&block_hash, &[]),
        })
    }

    fn utxos(&self, _: u32) -> BoxFuture<'_, Result<Vec<OracleUtxo>, OracleError>> {
        now(Vec::new())
    }

    fn spent_index(&self, _: u32) -> BoxFuture<'_, Result<SpentIndex, OracleError>> {
        now(SpentIndex {
            block_hash: None,
            items: Vec::new(),
        })
    }

    fn spend_details(&self, _: u32) -> BoxFuture<'_, Result<Option<SpendDetails>, OracleError>> {
        now(None)
    }

    fn forward_tx<'a>(
        &'a self,
        _: &'a Transaction,
    ) -> BoxFuture<'a, Result<Option<Txid>, OracleError>> {
        now(None)
    }
}

/// A disk that takes so many syncs, and then nothing any more.
#[derive(Debug, Clone)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    left: Arc<AtomicUsize>,
}

impl Disk {
    fn new(syncs: usize) -> Self {
        Self {
            bytes: Arc::default(),
            left: Arc::new(AtomicUsize::new(syncs)),
        }
    }

    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no panic while it is held")
    }

    fn check(&self) -> io::Result<()> {
        match self.left.load(Ordering::Relaxed) {
            0 => Err(io::Error::other("the disk is full")),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.bytes()[offset as usize..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.left.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn keys(number: u8) -> Arc<ReceiverKeys> {
    let scan_key = ScanKey::from_bytes([2 * number + 1; 32]).expect("a key");
    let spend_key = SpendKey::from_bytes([2 * number + 2; 32]).expect("a key");
    Arc::new(ReceiverKeys::new(scan_key, spend_key.public_key(), []))
}

/// A wallet with its state on a disk.
fn scan(number: u8, disk: &Disk) -> Result<WalletScan, StateError> {
    let keys = keys(number);
    let identity = Identity {
        network: Network::Regtest,
        wallet: Some(WalletId::of(&keys)),
    };
    let path = PathBuf::from(format!("state {number}"));
    Ok(WalletScan {
        name: Some(format!("wallet {number}")),
        keys: Some(keys),
        watched: vec![OutPoint::null()],
        state: State::over(path, disk.clone(), identity)?,
    })
}

async fn run(disks: &[Disk]) -> Result<(WalletsClient, Result<Reports, ClientError>), StateError> {
    let scans = (0..).zip(disks).map(|(number, disk)| scan(number, disk));
    let settings = LightSettings {
        from: Some(1),
        window_blocks: 6,
        ..LightSettings::new(Network::Regtest)
    };
    let scans = scans.collect::<Result<_, _>>()?;
    let client = WalletsClient::new(Arc::new(Empty), Arc::new(LibSecp256k1), scans, settings);
    let mut client = client.expect("fit");
    let report = client.run(&mut |_| ()).await;
    Ok((client, report))
}

fn reached(reports: &Reports) -> Vec<Option<u32>> {
    let reports = reports.0.iter();
    reports.map(|of| of.report.scanned_to).collect()
}

#[tokio::test]
async fn a_commit_that_fails_is_named_and_keeps_no_other_from_being_stored() {
    const BROKEN: usize = 1;
    let mut cut_at = Vec::new();
    for syncs in 1.. {
        let disks = [
            Disk::new(usize::MAX),
            Disk::new(syncs),
            Disk::new(usize::MAX),
        ];
        let (client, report) = match run(&disks).await {
            Ok(ran) => ran,
            // Its state could not even be made.
            Err(error) => {
                assert!(error.to_string().contains("state 1"), "{error}");
                continue;
            }
        };
        if report.is_ok() {
            break;
        }
        let error = report.expect_err("a full disk").to_string();
        assert!(
            error.contains("state 1") && error.contains("full"),
            "{error}"
        );
        // The others are as far as they were together.
        let [first, broken, last] = reached(&client.known()).try_into().expect("three");
        assert_eq!(first, last);
        assert!(broken <= first && (broken < first || first.is_none()));
        cut_at.push(broken);
        drop(client);

        // With room on the disk each goes on from where it is.
        disks[BROKEN].left.store(usize::MAX, Ordering::Relaxed);
        let (client, report) = run(&disks).await.expect("states");
        assert_eq!(reached(&report.expect("room")), [Some(BLOCKS); 3]);
        assert_eq!(reached(&client.known()), [Some(BLOCKS); 3]);
    }
    cut_at.dedup();
    let all: Vec<_> = [None, Some(6), Some(12), Some(18), Some(24)].to_vec();
    assert_eq!(cut_at, all, "not every window was cut off");
}
