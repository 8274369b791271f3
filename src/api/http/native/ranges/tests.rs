use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, block::Header, constants::genesis_block};

use super::*;
use crate::api::ServeSettings;
use crate::api::desk::DeskSettings;
use crate::store::{BlockRecord, Store, StoreOptions, Update};
use crate::wire::native::column::{PartHead, split_part};

const RULE: Rule = Rule {
    dust_limit_sat: 546,
    cut_through: true,
};

/// Blocks without anything in them, on top of a block.
fn empty_blocks(
    mut parent: BlockHash,
    heights: std::ops::Range<u32>,
    salt: u32,
) -> Vec<BlockRecord> {
    heights
        .map(|height| {
            let header = Header {
                prev_blockhash: parent,
                nonce: salt,
                ..genesis_block(Network::Regtest).header
            };
            parent = header.block_hash();
            BlockRecord {
                id: BlockId {
                    height,
                    hash: parent,
                },
                header,
                transactions: Vec::new(),
                multiples: Vec::new(),
                outputs: Vec::new(),
                spends: Vec::new(),
                states: Vec::new(),
                new_utxos_filter: vec![0],
                spent_filter: vec![0],
            }
        })
        .collect()
}

/// Heads of the parts of an answer.
fn part_heads(mut bytes: &[u8]) -> Vec<PartHead> {
    let mut heads = Vec::new();
    while !bytes.is_empty() {
        let (head, _, rest) = split_part(bytes).expect("a part");
        heads.push(head);
        bytes = rest;
    }
    heads
}

/// An index of empty blocks from 7 to 206.
fn chain() -> (Arc<Store>, Vec<BlockRecord>) {
    let options = StoreOptions {
        network: Network::Regtest,
        first_height: Some(7),
        keep: None,
        tweak_form: None,
        undo_depth: 300,
        cache_bytes: 1 << 20,
    };
    let backend = redb::backends::InMemoryBackend::new();
    let store = Arc::new(Store::open_with_backend(backend, &options).expect("new"));
    let blocks = empty_blocks(BlockHash::all_zeros(), 7..207, 0);
    apply(&store, 0, &blocks);
    (store, blocks)
}

fn apply(store: &Store, disconnect: u32, connect: &[BlockRecord]) {
    let update = Update {
        disconnect,
        connect,
    };
    store.apply(update).expect("applied");
}

/// Headers and tweaks from 70 on.
fn range(store: &Arc<Store>, rule: Option<Rule>, to: u32) -> Range {
    Range {
        desk: Desk::new(store.clone(), None, None, DeskSettings::default()),
        outgoing: Outgoing::for_ranges(&ServeSettings::default()),
        peer: None,
        turn: Arc::new(Semaphore::new(TURNS as usize)),
        columns: vec![Column::Headers, Column::Tweaks].into(),
        rule,
        selection: None,
        next: 70,
        to,
        reached: None,
        is_over: false,
    }
}

/// What was selected at one tip is never followed by what was selected at another. A dust limit alone does not hang on it, as long
/// as its block stays.
#[tokio::test]
async fn a_selection_is_made_at_one_tip() {
    let limit = Rule {
        cut_through: false,
        ..RULE
    };
    // What is disconnected, what is connected, and the last block of the answer.
    for (rule, disconnect, connect, reached) in [
        (RULE, 0, 0, 199),
        (RULE, 0, 1, 127),
        (RULE, 10, 10, 127),
        (limit, 0, 1, 199),
        (limit, 1, 2, 127),
    ] {
        let (store, blocks) = chain();
        let tip = blocks[199].id;
        let mut range = range(&store, Some(rule), 199);
        let mut groups = vec![range.group().await.expect("a group")];
        let parent = blocks[blocks.len() - 1 - disconnect as usize].id;
        let above = parent.height + 1..parent.height + 1 + connect;
        apply(&store, disconnect, &empty_blocks(parent.hash, above, 1));
        while !range.is_over {
            groups.push(range.group().await.expect("a group"));
        }
        let answer = groups.concat();
        let mut heads = part_heads(&answer);
        let mark = heads.pop().expect("a mark");
        assert_eq!((mark.column, mark.first), (None, reached), "{rule:?}");
        let tweaks = heads.iter().filter(|head| head.is_selection);
        assert_eq!(tweaks.clone().count(), heads.len() / 2);
        let mut rest = &answer[..];
        while let Ok((head, _, after)) = split_part(rest) {
            let body = &rest[PartHead::BYTES..rest.len() - after.len()];
            let made = Selection::of_part(&head, body).expect("a selection");
            let expected = (head.column == Some(Column::Tweaks)).then_some(Selection { rule, tip });
            assert_eq!(made, expected);
            rest = after;
        }
    }
}

/// No answer has blocks of two branches: it ends before the first change, and says where.
#[tokio::test]
async fn a_range_ends_where_the_chain_has_changed_below_it() {
    for (reorg, reaches_end) in [(10, false), (150, false), (0, true), (4, false)] {
        let (store, blocks) = chain();
        let mut range = range(&store, None, 206);
        let first = range.group().await.expect("a group");
        let (head, sections, rest) = split_part(&first).expect("a part");
        assert_eq!((head.first, head.last()), (70, 127));
        assert_eq!((head.column, sections.len()), (Some(Column::Headers), 58));
        let (head, _, rest) = split_part(rest).expect("a part");
        assert_eq!(
            (head.column, head.last_hash),
            (Some(Column::Tweaks), blocks[120].id.hash)
        );
        assert!(rest.is_empty() && !range.is_over);

        // Those above 127 go, or some more, or the last ones.
        let kept = blocks.len() - reorg;
        let parent = blocks[kept - 1].id;
        let more = match reorg {
            4 => 2,
            _ => reorg as u32 + 1,
        };
        apply(
            &store,
            reorg as u32,
            &empty_blocks(parent.hash, parent.height + 1..parent.height + 1 + more, 1),
        );
        let mut heads = Vec::new();
        while !range.is_over {
            let group = range.group().await.expect("a group");
            heads.extend(part_heads(&group));
        }
        let mark = heads.pop().expect("a mark");
        let is_below = reorg == 150;
        if is_below {
            assert_eq!(heads, [], "block 127 is no more");
            assert_eq!(mark, PartHead::end(Network::Regtest, blocks[120].id));
            continue;
        }
        // What is on top of the blocks sent may be sent, whatever branch it is of, as all is one chain.
        let last = heads.last().expect("parts");
        assert_eq!(
            (mark.column, mark.first, mark.last_hash),
            (None, last.last(), last.last_hash)
        );
        let snapshot = store.snapshot().expect("snapshot");
        let block = snapshot.block(mark.first).expect("read").expect("there");
        assert_eq!(block.id().hash, mark.last_hash);
        assert_eq!(mark.first == 206, reaches_end || reorg == 10, "{reorg}");
        let firsts: Vec<u32> = heads.iter().map(|head| head.first).collect();
        assert_eq!(firsts, [128, 128, 192, 192]);
    }
}
