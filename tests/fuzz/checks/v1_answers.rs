//! Bodies of version 1, in the spelling of any server: what is read is written in our own, and read again as the same. Filters
//! are read to their end.

use spindex::curve::TweakPoint;
use spindex::filter::{Elements, element_count, matches};
use spindex::wire::v1::{
    BlockHeight, Digest, Filter, ForwardTx, Info, Spends, SpentIndex, Tweaks, Utxo,
    decode_block_hash, decode_error, decode_forwarded, encode_block_hash, encode_error,
    encode_forwarded,
};

use super::allocation::bounded;
use super::answers::comes_back;
use super::input::Input;

/// Decoders to choose from.
pub(crate) const INFO: u8 = 0;
pub(crate) const BLOCK_HEIGHT: u8 = 1;
pub(crate) const BLOCK_HASH: u8 = 2;
pub(crate) const TWEAKS: u8 = 3;
pub(crate) const UTXOS: u8 = 4;
pub(crate) const FILTER: u8 = 5;
pub(crate) const SPENT_INDEX: u8 = 6;
pub(crate) const SPENDS: u8 = 7;
pub(crate) const DIGEST: u8 = 8;
pub(crate) const FORWARD_TX: u8 = 9;
pub(crate) const FORWARDED: u8 = 10;
pub(crate) const ERROR: u8 = 11;
const DECODERS: u8 = 12;

/// Whether a body is read. The input: which decoder (1 byte), of those for one block the height asked for (4 bytes,
/// little-endian), and the body.
pub(crate) fn check(input: &[u8]) -> bool {
    let mut input = Input(input);
    read(&mut input).unwrap_or(false)
}

fn read(input: &mut Input<'_>) -> Option<bool> {
    let decoder = input.byte()? % DECODERS;
    let mut height = 0;
    if matches!(decoder, FILTER | SPENDS | DIGEST) {
        height = u32::from_le_bytes(input.array()?);
    }
    let body = input.0;
    Some(match decoder {
        INFO => comes_back(body, Info::decode, Info::encode),
        BLOCK_HEIGHT => comes_back(body, BlockHeight::decode, BlockHeight::encode),
        BLOCK_HASH => comes_back(body, decode_block_hash, |hash| encode_block_hash(*hash)),
        TWEAKS => comes_back(body, Tweaks::decode, |points: &Vec<TweakPoint>| {
            Tweaks(points.iter().map(TweakPoint::to_compressed).collect()).encode()
        }),
        UTXOS => comes_back(body, Utxo::decode_all, |utxos: &Vec<Utxo>| {
            Utxo::encode_all(utxos, 0, 0)
        }),
        FILTER => {
            if let Ok(filter) = Filter::decode(body, height) {
                read_filter(&filter);
            }
            let decode = |body: &[u8]| Filter::decode(body, height);
            comes_back(body, decode, |filter| filter.encode(height))
        }
        SPENT_INDEX => comes_back(body, SpentIndex::decode, SpentIndex::encode),
        SPENDS => {
            let decode = |body: &[u8]| Spends::decode(body, height);
            comes_back(body, decode, |spends| spends.encode(height))
        }
        DIGEST => {
            let decode = |body: &[u8]| Digest::decode(body, height);
            comes_back(body, decode, Digest::encode)
        }
        FORWARD_TX => {
            let decode = |body: &[u8]| ForwardTx::decode(body).map(|forward| forward.data);
            comes_back(body, decode, |data: &String| {
                ForwardTx { data: data.clone() }.encode()
            })
        }
        FORWARDED => comes_back(body, decode_forwarded, |txid| {
            Ok(txid.map(encode_forwarded).unwrap_or_default())
        }),
        _ => {
            let decode = |body: &[u8]| decode_error(body).ok_or_else(|| "no error".to_owned());
            comes_back(body, decode, |text: &String| Ok(encode_error(text)))
        }
    })
}

/// All ways to read a filter agree on whether it is one, and each takes memory for its bytes and no more.
fn read_filter(filter: &Filter) {
    let Filter { block_hash, data } = filter;
    let elements = bounded(data.len(), || Elements::read(data, block_hash));
    let query = [[7; 32]];
    let matches_query = matches(data, block_hash, &query);
    match elements {
        Ok(elements) => {
            let count = element_count(data).expect("it was read");
            let is_held = elements.contains(&query[0]);
            assert!(count > 0 || !is_held);
            assert_eq!(matches_query, Ok(if is_held { vec![0] } else { vec![] }));
        }
        Err(error) => assert_eq!(matches_query, Err(error)),
    }
}
