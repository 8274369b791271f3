//! The vectors of `fixtures/native`: parts as hex, and what they say in JSON. What writes them, and the decoder in Python that
//! reads them too, is in `tests/commands/python_decoder.rs`.

use std::path::Path;

use bitcoin::BlockHash;
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::hex::{DisplayHex, FromHex};
use serde_json::{Value, json};

use super::column::{Column, PartHead, PartWriter, split_part};
use super::section::{
    HeaderSection, SectionHashes, Spends, read_outputs, read_prefixes, read_tweaks, write_prefixes,
    write_transaction, write_tweaks,
};
use super::selection::{Rule, Selection, read_selected, write_selected};
use crate::filter;

fn vector(name: &str) -> (Value, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/native");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let vector: Value = serde_json::from_str(&text).unwrap();
    let bytes = Vec::from_hex(vector["hex"].as_str().unwrap()).unwrap();
    (vector, bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.to_lower_hex_string()
}

fn header(section: &[u8]) -> Value {
    let header = HeaderSection::decode(section).unwrap();
    let mut again = Vec::new();
    header.encode(&mut again);
    assert_eq!(again, section);
    let SectionHashes {
        tweaks,
        prefixes,
        outputs,
        spent,
        new_utxos,
        spends,
    } = header.hashes;
    json!({
        "header": hex(&section[..80]),
        "transactions": header.transactions,
        "outputs": header.outputs,
        "spends": header.spends,
        "states": header.states,
        "sections": {
            "tweaks": hex(&tweaks),
            "prefixes": hex(&prefixes),
            "outputs": hex(&outputs),
            "spent": hex(&spent),
            "new-utxos": hex(&new_utxos),
            "spends": hex(&spends),
        },
    })
}

fn tweaks(section: &[u8]) -> Value {
    let tweaks = read_tweaks(section).unwrap();
    let mut again = Vec::new();
    write_tweaks(&tweaks, &mut again);
    assert_eq!(again, section);
    tweaks.iter().map(|tweak| hex(tweak)).collect()
}

fn prefixes(section: &[u8]) -> Value {
    let prefixes = read_prefixes(section).unwrap();
    let starts = std::iter::once(0).chain(prefixes.ends.iter().copied());
    let runs = starts.zip(&prefixes.ends);
    let of_run = |(start, end): (u32, &u32)| {
        let keys = &prefixes.keys[start as usize..*end as usize];
        keys.iter().map(|key| hex(key)).collect::<Value>()
    };
    runs.map(of_run).collect()
}

/// Also what `prefixes` has of these.
fn outputs(section: &[u8]) -> (Value, Vec<u8>) {
    let rows = read_outputs(section).unwrap();
    let mut again = Vec::new();
    for (txid, outputs) in &rows {
        write_transaction(txid, outputs, &mut again);
    }
    assert_eq!(again, section);
    let keys = rows
        .iter()
        .enumerate()
        .flat_map(|(index, (_, outputs))| outputs.iter().map(move |output| (index, &output.key)));
    let mut prefixes = Vec::new();
    write_prefixes(keys, &mut prefixes);
    let values = rows.iter().map(|(txid, outputs)| {
        let outputs = outputs.iter().map(|output| {
            json!({"vout": output.vout, "value_sat": output.value_sat, "key": hex(&output.key)})
        });
        json!({"txid": txid.to_string(), "outputs": outputs.collect::<Value>()})
    });
    (values.collect(), prefixes)
}

fn spends(section: &[u8]) -> Value {
    let spends = Spends::decode(section).unwrap();
    let mut again = Vec::new();
    spends.encode(&mut again);
    assert_eq!(again, section);
    let spent = spends.spent.iter().map(|spent| {
        json!({
            "outpoint": spent.outpoint.to_string(),
            "key_prefix": hex(&spent.key_prefix),
            "spender": spent.spender,
        })
    });
    let states = spends.states.iter().map(|state| {
        json!({
            "transaction": state.transaction,
            "vout": state.vout,
            "txid": state.txid.to_string(),
            "state_id": hex(&state.state_id),
        })
    });
    json!({"spent": spent.collect::<Value>(), "states": states.collect::<Value>()})
}

/// The filter of the elements that a vector names.
fn filter_of(elements: &Value, block: &BlockHash) -> Vec<u8> {
    let elements = elements.as_array().unwrap().iter();
    let elements: Vec<Vec<u8>> = elements
        .map(|element| Vec::from_hex(element.as_str().unwrap()).unwrap())
        .collect();
    filter::build(block, &elements)
}

#[test]
fn every_column_says_what_its_vector_names() {
    let (_, bytes) = vector("headers");
    let (_, headers, _) = split_part(&bytes).unwrap();
    let hashes = headers.iter().map(|section| {
        let hash = sha256d::Hash::hash(&section[..80]);
        BlockHash::from_byte_array(hash.to_byte_array())
    });
    let hashes: Vec<BlockHash> = hashes.collect();
    let (_, prefix_bytes) = vector("prefixes");
    let (_, prefix_sections, _) = split_part(&prefix_bytes).unwrap();
    for column in Column::ALL {
        let (vector, bytes) = vector(column.name());
        let (head, sections, rest) = split_part(&bytes).unwrap();
        assert_eq!(rest, b"", "{column}");
        assert_eq!(head.column, Some(column));
        let said = json!([
            head.network.to_core_arg(),
            head.first,
            head.blocks,
            head.last_hash.to_string()
        ]);
        let named = ["network", "first", "blocks", "last_block"].map(|name| vector[name].clone());
        assert_eq!(said, json!(named), "{column}");
        let values = vector["sections"].as_array().unwrap();
        assert_eq!(values.len(), sections.len(), "{column}");
        let mut writer = PartWriter::default();
        for (index, (section, expected)) in sections.iter().zip(values).enumerate() {
            match column {
                Column::Headers => assert_eq!(&header(section), expected),
                Column::Tweaks => assert_eq!(&tweaks(section), expected),
                Column::Prefixes => assert_eq!(&prefixes(section), expected),
                Column::Outputs => {
                    let (values, prefixes) = outputs(section);
                    assert_eq!(&values, expected);
                    assert_eq!(prefixes, prefix_sections[index]);
                }
                Column::Spends => assert_eq!(&spends(section), expected),
                Column::Selected => unreachable!("of selections alone"),
                Column::Spent | Column::NewUtxos => {
                    assert_eq!(filter_of(expected, &hashes[index]), *section, "{column}");
                }
            }
            writer.section(|out| out.extend_from_slice(section));
        }
        let again = writer.finish(head.network, column, head.first, head.last_hash);
        assert_eq!(again, bytes, "{column}");
    }
}

#[test]
fn selections_say_what_their_vectors_name() {
    let (_, bytes) = vector("headers");
    let (_, headers, _) = split_part(&bytes).unwrap();
    for (name, column) in [
        ("selected", Column::Selected),
        ("selected-tweaks", Column::Tweaks),
        ("selected-prefixes", Column::Prefixes),
    ] {
        let (vector, bytes) = vector(name);
        let (head, sections, rest) = split_part(&bytes).unwrap();
        assert_eq!((head.column, rest.len()), (Some(column), 0), "{name}");
        let body = &bytes[PartHead::BYTES..];
        let selection = Selection::of_part(&head, body).unwrap().unwrap();
        let Selection { rule, tip } = selection;
        let Rule {
            dust_limit_sat,
            cut_through,
        } = rule;
        let said = json!([
            dust_limit_sat,
            cut_through,
            {"height": tip.height, "block_hash": tip.hash.to_string()},
        ]);
        let named = ["dust_limit", "cut_through", "tip"].map(|name| vector[name].clone());
        assert_eq!(said, json!(named), "{name}");
        let values = vector["sections"].as_array().unwrap();
        assert_eq!(values.len(), sections.len(), "{name}");
        let mut writer = PartWriter::default();
        for ((section, expected), header) in sections.iter().zip(values).zip(&headers) {
            match column {
                Column::Tweaks => assert_eq!(&tweaks(section), expected),
                Column::Prefixes => assert_eq!(&prefixes(section), expected),
                _ => {
                    let header = HeaderSection::decode(header).unwrap();
                    let flags = read_selected(section, header.transactions).unwrap();
                    assert_eq!(&json!(flags), expected);
                    let mut again = Vec::new();
                    write_selected(flags.into_iter(), &mut again);
                    assert_eq!(again, *section);
                }
            }
            writer.section(|out| out.extend_from_slice(section));
        }
        let again =
            writer.finish_selection(head.network, column, head.first, head.last_hash, &selection);
        assert_eq!(again, bytes, "{name}");
    }
}

#[test]
fn the_end_mark_names_the_block_of_its_vector() {
    let (vector, bytes) = vector("end");
    let (head, _, rest) = split_part(&bytes).unwrap();
    assert_eq!((head.column, rest.len()), (None, 0));
    let said = json!([
        head.network.to_core_arg(),
        head.first,
        head.last_hash.to_string()
    ]);
    let named = ["network", "reached", "block"].map(|name| vector[name].clone());
    assert_eq!(said, json!(named));
    let reached = crate::BlockId {
        height: head.first,
        hash: head.last_hash,
    };
    assert_eq!(
        PartHead::end(head.network, reached).encode().to_vec(),
        bytes
    );
}
