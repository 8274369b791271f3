//! What columns of the native protocol have of each block, and what binds it.

use spindex::store::{BlockRecord, Keep, Snapshot, Store, StoreError, StoreOptions, Update};
use spindex::wire::native::column::Column;
use spindex::wire::native::section::SectionHashes;

use crate::sections::{HASHED, hash, heads, section};
use crate::support::{Model, SMALL, connect, memory_store_with, options};

fn assert_sections(snapshot: &Snapshot, chain: &[BlockRecord]) {
    let heads = heads(chain);
    for (record, head) in chain.iter().zip(heads) {
        let block = snapshot.block(record.id.height).expect("read");
        let block = block.expect("indexed");
        for column in Column::ALL {
            // Behind what stands there already.
            let mut bytes = vec![7];
            block.write_section(column, &mut bytes).expect("read");
            let expected = section(record, column.name());
            assert_eq!(bytes.split_off(1), expected, "{column} of {}", record.id);
        }
        let sections = block.sections().expect("read");
        let expected = HASHED.map(|column| hash(record, column)).concat();
        assert_eq!(sections.hashes.encode().to_vec(), expected);
        assert_eq!(sections.head, Some(head));
        assert_eq!(block.section_hashes().expect("read"), sections.hashes);
    }
}

#[test]
fn each_block_has_its_sections_through_a_reorg() {
    for multiples in [true, false] {
        let mut model = Model::new(multiples);
        let store = memory_store_with(3, multiples);
        for seed in 0..4 {
            model.grow(seed, SMALL);
        }
        connect(&store, &model.chain);
        assert_sections(&store.snapshot().expect("snapshot"), &model.chain);
        model.disconnect(3);
        let kept = model.chain.len();
        model.grow(77, SMALL);
        store
            .apply(Update {
                disconnect: 3,
                connect: &model.chain[kept..],
            })
            .expect("a reorg");
        assert_sections(&store.snapshot().expect("snapshot"), &model.chain);
    }
}

/// There are tweaks and headers, and their hash; nothing that stands for what is not kept.
#[test]
fn an_index_of_tweaks_has_sections_of_tweaks() {
    let mut model = Model::new(false);
    model.grow(1, SMALL);
    let options = StoreOptions {
        keep: Some(Keep::Tweaks),
        ..options(3)
    };
    let backend = redb::backends::InMemoryBackend::new();
    let store = Store::open_with_backend(backend, &options).expect("new index");
    connect(&store, &model.chain);
    let snapshot = store.snapshot().expect("snapshot");
    for record in &model.chain {
        let block = snapshot.block(record.id.height).expect("read");
        let block = block.expect("indexed");
        let sections = block.sections().expect("read");
        let expected = SectionHashes {
            tweaks: hash(record, "tweaks"),
            ..SectionHashes::default()
        };
        assert_eq!((sections.hashes, sections.head), (expected, None));
        let mut bytes = Vec::new();
        block
            .write_section(Column::Tweaks, &mut bytes)
            .expect("read");
        assert_eq!(bytes, section(record, "tweaks"));
        for column in &Column::ALL[2..] {
            let refused = block.write_section(*column, &mut bytes);
            assert!(
                matches!(refused, Err(StoreError::NotKept { .. })),
                "{column}: {refused:?}"
            );
        }
    }
}
