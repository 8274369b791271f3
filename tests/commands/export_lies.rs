//! Exported files by somebody who changes one and lists it as if it were right: the headers do not bind it.

use std::fs;

use spindex::exported::FaultKind;
use spindex::wire::native::column::{Column, PartHead};
use spindex::wire::native::manifest::{FileSum, List, ListName, MANIFEST, Manifest, chunk_file};

use super::export::Home;
use super::python_decoder::{TIP, decode};

/// Writes other bytes for a column of chunk 1, with lists and a manifest that say so.
fn list_instead(home: &Home, column: Column, bytes: &[u8]) {
    let manifest = fs::read(home.manifest()).unwrap();
    let mut manifest = Manifest::decode(&manifest).unwrap();
    let name = manifest.lists[0];
    let list = fs::read(home.routes().join(name.file())).unwrap();
    let mut list = List::decode(&list, &name, manifest.columns.len()).unwrap();
    let index = manifest.columns.iter().position(|own| *own == column);
    list.chunks[1].files[index.unwrap()] = FileSum::of(bytes);
    let text = list.encode().unwrap();
    manifest.lists[0] = ListName::of(name.first, name.last, &text);
    for (name, bytes) in [
        (chunk_file(1, column), bytes),
        (manifest.lists[0].file(), &text),
        (MANIFEST.to_owned(), &manifest.encode().unwrap()),
    ] {
        fs::write(home.routes().join(name), bytes).unwrap();
    }
}

#[tokio::test]
async fn what_the_headers_do_not_bind_is_broken_though_it_is_listed() {
    let home = Home::new();
    home.fill(TIP);
    home.export(&[]);
    let files = home.files();
    let headers = PartHead::BYTES + 4 * 64;
    for (column, at, named) in [
        (Column::Tweaks, None, Column::Tweaks),
        (Column::Prefixes, None, Column::Prefixes),
        (Column::Outputs, None, Column::Outputs),
        (Column::Spent, None, Column::Spent),
        (Column::Spends, None, Column::Spends),
        (Column::NewUtxos, None, Column::NewUtxos),
        // Another chunk's heights, another network, another column, another last block.
        (Column::Tweaks, Some(12), Column::Tweaks),
        (Column::Tweaks, Some(8), Column::Tweaks),
        (Column::Tweaks, Some(5), Column::Tweaks),
        (Column::Tweaks, Some(28), Column::Tweaks),
        // The parent of the first block, the merkle root of the third, the hash of the fifth's tweaks.
        (Column::Headers, Some(headers + 4), Column::Headers),
        (
            Column::Headers,
            Some(headers + 2 * 288 + 40),
            Column::Headers,
        ),
        (
            Column::Headers,
            Some(headers + 4 * 288 + 96),
            Column::Headers,
        ),
        // The hash of the last one's spends, which no head binds.
        (
            Column::Headers,
            Some(headers + 63 * 288 + 287),
            Column::Spends,
        ),
    ] {
        let name = chunk_file(1, column);
        let mut bytes = files[&name].clone();
        let at = at.unwrap_or(bytes.len() - 1);
        bytes[at] ^= 1;
        list_instead(&home, column, &bytes);
        let faults = home.faults().await;
        let [(found, FaultKind::Broken(_))] = faults.as_slice() else {
            panic!("{name}, byte {at}: {faults:?}");
        };
        assert_eq!(*found, chunk_file(1, named), "byte {at}");
        let folder = home.out();
        if let Some(found) = decode(&["folder", folder.to_str().unwrap()]).await {
            let text = found.unwrap_err();
            assert!(text.starts_with("wrong: "), "{name}, byte {at}: {text}");
        }
        // As it was.
        list_instead(&home, column, &files[&name]);
        assert_eq!(home.faults().await, []);
    }
}
