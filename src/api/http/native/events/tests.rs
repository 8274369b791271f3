//! A client that listens, without a connection.

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, CompactTarget, Network, TxMerkleNode};

use super::*;
use crate::api::ServeSettings;
use crate::api::desk::DeskSettings;
use crate::api::http::streams::Streams;
use crate::store::{BlockRecord, Store, StoreOptions, Update};

/// An index of blocks without transactions.
struct Scene {
    store: Arc<Store>,
    desk: Arc<Desk>,
    streams: Arc<Streams>,
    chain: Vec<BlockRecord>,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new(blocks: u32) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: Some(1),
            keep: None,
            tweak_form: None,
            undo_depth: 100,
            cache_bytes: 0,
        };
        let store = Store::open(&directory.path().join("index"), &options).expect("opens");
        let store = Arc::new(store);
        let mut scene = Self {
            desk: Desk::new(store.clone(), None, None, DeskSettings::default()),
            streams: Arc::new(Streams::new(&ServeSettings::default(), None)),
            store,
            chain: Vec::new(),
            _directory: directory,
        };
        scene.reorganize(0, blocks, 0);
        scene
    }

    /// So many blocks go, and so many come with a number that makes them others. All in one commit.
    fn reorganize(&mut self, disconnect: u32, blocks: u32, salt: u32) -> Vec<BlockId> {
        let left = self.chain.len() - disconnect as usize;
        self.chain.truncate(left);
        for _ in 0..blocks {
            let parent = self.chain.last();
            let header = Header {
                version: Version::TWO,
                prev_blockhash: parent.map_or(BlockHash::all_zeros(), |parent| parent.id.hash),
                merkle_root: TxMerkleNode::all_zeros(),
                time: 0,
                bits: CompactTarget::from_consensus(0x207f_ffff),
                nonce: salt,
            };
            self.chain.push(BlockRecord {
                id: BlockId {
                    height: self.chain.len() as u32 + 1,
                    hash: header.block_hash(),
                },
                header,
                transactions: Vec::new(),
                multiples: Vec::new(),
                outputs: Vec::new(),
                spends: Vec::new(),
                states: Vec::new(),
                new_utxos_filter: vec![0],
                spent_filter: vec![0],
            });
        }
        let connect = &self.chain[left..];
        let update = Update {
            disconnect,
            connect,
        };
        self.store.apply(update).expect("applies");
        connect.iter().map(|record| record.id).collect()
    }

    fn tip(&self) -> BlockId {
        self.chain.last().expect("a block").id
    }

    fn follower(&self, cursor: Option<BlockId>) -> Follower {
        let changes = self.desk.subscribe();
        let place = self.streams.take(None).expect("room");
        let heartbeat = Duration::from_secs(3600);
        let (desk, tip) = (self.desk.clone(), self.tip());
        Follower::new(desk, changes, place, heartbeat, cursor, tip)
    }
}

/// What is sent next, without the words of the protocol around it.
async fn next(follower: &mut Follower) -> Option<Event> {
    // The event is written from what stands in front of the queue, so that one is looked at before it goes.
    loop {
        if let Some(event) = follower.ready.front().cloned() {
            let _ = follower.next().await.expect("it is there");
            return Some(event);
        }
        if follower.is_ended {
            assert!(follower.next().await.is_none());
            return None;
        }
        if follower.is_behind {
            follower.look().await.expect("it can be read");
            continue;
        }
        match follower.changes.recv().await {
            Ok(_) => follower.is_behind = true,
            Err(error) => panic!("{error}"),
        }
    }
}

const fn tip(block: BlockId, skipped: u32) -> Option<Event> {
    Some(Event::Tip { block, skipped })
}

#[tokio::test]
async fn a_day_of_blocks_is_told_one_by_one_and_more_at_once() {
    let mut scene = Scene::new(1);
    let mut follower = scene.follower(None);
    let first = scene.tip();
    assert_eq!(next(&mut follower).await, tip(first, 0));
    let many = scene.reorganize(0, BLOCKS_MAX, 0);
    for block in &many {
        assert_eq!(next(&mut follower).await, tip(*block, 0));
    }
    scene.reorganize(0, BLOCKS_MAX + 1, 0);
    assert_eq!(next(&mut follower).await, tip(scene.tip(), BLOCKS_MAX));
    // Whoever comes back to the first block is told the same way.
    let mut late = scene.follower(Some(first));
    assert_eq!(next(&mut late).await, tip(scene.tip(), 2 * BLOCKS_MAX));
    assert!(!late.is_behind || late.look().await.is_ok());
    assert!(late.ready.is_empty());
}

#[tokio::test]
async fn a_long_branch_is_told_in_parts() {
    let mut scene = Scene::new(3);
    let mut follower = scene.follower(None);
    let old = scene.tip();
    assert_eq!(next(&mut follower).await, tip(old, 0));
    let below = scene.chain[1].id;
    let new = scene.reorganize(1, BLOCKS_MAX + 2, 1);
    let (listed, rest) = new.split_at(BLOCKS_MAX as usize);
    let reorg = Event::Reorg {
        fork: Some(below),
        disconnected: vec![old],
        connected: listed.to_vec(),
    };
    assert_eq!(next(&mut follower).await, Some(reorg));
    for block in rest {
        assert_eq!(next(&mut follower).await, tip(*block, 0));
    }
    // Blocks that only go.
    let gone = scene.tip();
    scene.reorganize(1, 0, 0);
    let reorg = Event::Reorg {
        fork: Some(scene.tip()),
        disconnected: vec![gone],
        connected: vec![],
    };
    assert_eq!(next(&mut follower).await, Some(reorg));
    assert_eq!(follower.cursor, scene.tip());
}

#[tokio::test]
async fn whoever_is_too_slow_is_told_so_and_comes_back_without_a_gap() {
    let mut scene = Scene::new(1);
    let mut follower = scene.follower(None);
    assert_eq!(next(&mut follower).await, tip(scene.tip(), 0));
    follower.look().await.expect("it can be read");
    let cursor = scene.tip();
    // One more than are kept for whoever is behind.
    for _ in 0..65 {
        scene.reorganize(0, 1, 0);
    }
    let last = format!("{:?}", follower.next().await);
    assert!(last.contains("event: lagged"), "{last}");
    assert!(last.contains(&write_cursor(&cursor)), "{last}");
    assert!(follower.next().await.is_none(), "the end");
    assert!(follower.is_ended);
    assert_eq!(follower.cursor, cursor);
    drop(follower);
    let mut again = scene.follower(Some(cursor));
    for record in &scene.chain[1..] {
        assert_eq!(next(&mut again).await, tip(record.id, 0));
    }
}

#[tokio::test]
async fn a_block_that_nobody_remembers_is_a_new_beginning() {
    let scene = Scene::new(2);
    let cursor = BlockId {
        height: 2,
        hash: BlockHash::from_byte_array([7; 32]),
    };
    let mut follower = scene.follower(Some(cursor));
    let tip = scene.tip();
    assert_eq!(
        next(&mut follower).await,
        Some(Event::Reset { cursor, tip })
    );
    assert_eq!(follower.cursor, tip);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_says_that_it_is_there_and_ends_with_the_server() {
    let scene = Scene::new(1);
    let (stop, is_stopping) = tokio::sync::watch::channel(false);
    let settings = ServeSettings::default();
    let streams = Arc::new(Streams::new(&settings, Some(is_stopping)));
    let place = streams.take(None).expect("room");
    let (desk, changes) = (scene.desk.clone(), scene.desk.subscribe());
    let every = streams.heartbeat;
    let mut follower = Follower::new(desk, changes, place, every, Some(scene.tip()), scene.tip());
    for beat in 1..4 {
        let begun = Instant::now();
        assert!(follower.next().await.is_some());
        // The first time includes a look at the index, which takes none of this clock.
        assert_eq!(begun.elapsed(), every, "{beat}");
    }
    stop.send_replace(true);
    assert!(follower.next().await.is_none());
}
