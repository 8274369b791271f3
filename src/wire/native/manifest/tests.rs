use super::*;

fn list(first: u32, last: u32) -> (ListName, List, Vec<u8>) {
    let chunks = (first..=last).map(|chunk| ListedChunk {
        chunk,
        block_hash: BlockHash::from_byte_array([chunk as u8; 32]),
        head: Some([9; 32]),
        files: vec![FileSum::of(b"headers"), FileSum::of(b"tweaks")],
    });
    let list = List {
        chunks: chunks.collect(),
    };
    let bytes = list.encode().unwrap();
    (ListName::of(first, last, &bytes), list, bytes)
}

/// Of chunks 62 to 129, the first of them in part.
fn manifest() -> Manifest {
    Manifest {
        network: Network::Signet,
        first_height: 62 * 64 + 7,
        columns: vec![Column::Headers, Column::Tweaks],
        spenders_from: Some(5_000),
        last_block: BlockId {
            height: 129 * 64 + 63,
            hash: BlockHash::from_byte_array([1; 32]),
        },
        head: Some([2; 32]),
        lists: [(62, 63), (64, 127), (128, 129)]
            .map(|(first, last)| list(first, last).0)
            .to_vec(),
    }
}

#[test]
fn manifests_come_back() {
    let manifest = manifest();
    let bytes = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
    assert_eq!((manifest.first_chunk(), manifest.last_chunk()), (62, 129));
    let (name, list, bytes) = list(62, 63);
    assert_eq!(List::decode(&bytes, &name, 2), Ok(list));
    let hash = sha256::Hash::hash(&bytes).to_string();
    assert_eq!(name.file(), format!("manifest/62-{}.json", &hash[..16]));
    assert_eq!(chunk_file(7, Column::NewUtxos), "chunk/7/new-utxos");
}

#[test]
fn a_manifest_has_lists_of_all_chunks() {
    let wrong: [fn(&mut Manifest); 9] = [
        |manifest| manifest.lists.clear(),
        |manifest| manifest.lists.truncate(2),
        |manifest| manifest.lists.retain(|list| list.first != 62),
        |manifest| manifest.lists.retain(|list| list.first != 64),
        |manifest| manifest.lists.swap(0, 1),
        |manifest| manifest.first_height -= 64,
        |manifest| manifest.last_block.height -= 1,
        |manifest| manifest.columns.reverse(),
        |manifest| {
            // Two lists in one.
            manifest.lists[1].first = 62;
            manifest.lists.remove(0);
        },
    ];
    for (number, spoil) in wrong.into_iter().enumerate() {
        let mut manifest = manifest();
        spoil(&mut manifest);
        let bytes = manifest.encode().unwrap();
        assert!(Manifest::decode(&bytes).is_err(), "{number}");
    }
    let text = String::from_utf8(manifest().encode().unwrap()).unwrap();
    for (from, to) in [
        ("\"format\": 1", "\"format\": 2"),
        ("\"chunk_blocks\": 64", "\"chunk_blocks\": 32"),
        ("\"signet\"", "\"sygnet\""),
        ("\"tweaks\"", "\"tweeks\""),
        ("manifest/62-", "../62-"),
    ] {
        assert!(text.contains(from), "{from}");
        let other = text.replacen(from, to, 1);
        assert!(Manifest::decode(other.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn a_list_is_the_one_that_is_named() {
    let (name, _, bytes) = list(3, 5);
    assert!(List::decode(&bytes, &name, 3).is_err());
    let mut other = bytes.clone();
    other.push(b' ');
    assert!(List::decode(&other, &name, 2).is_err());
    let of_others = ListName::of(3, 4, &bytes);
    assert!(List::decode(&bytes, &of_others, 2).is_err());
}
