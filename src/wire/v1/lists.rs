//! Bodies that are bare lists: tweaks and outputs.

use bitcoin::{BlockHash, OutPoint, Txid};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{parse, write};
use crate::curve::TweakPoint;
use crate::wire::hex::{Hex, HexList, HexOf};

/// `/tweaks` and `/tweak-index`: 33 compressed bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tweaks(pub Vec<[u8; 33]>);

impl Tweaks {
    /// As a list of hex.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        write(&HexList(&self.0))
    }

    /// The points. Checks each one, on rayon.
    ///
    /// # Errors
    /// What is wrong with the body, or which tweak is no point of the curve.
    pub fn decode(body: &[u8]) -> Result<Vec<TweakPoint>, String> {
        let tweaks: Vec<Hex<33>> = parse(body)?;
        tweaks
            .par_iter()
            .with_min_len(32)
            .enumerate()
            .map(|(position, Hex(bytes))| {
                TweakPoint::from_compressed(bytes)
                    .ok_or_else(|| format!("tweak {position} is no point of the curve"))
            })
            .collect()
    }
}

/// A taproot output of an eligible transaction, as the server knows it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utxo {
    /// Where it is.
    pub outpoint: OutPoint,
    /// Satoshi.
    pub value_sat: u64,
    /// x-only output key.
    pub key: [u8; 32],
    /// The block that holds it.
    pub block_hash: BlockHash,
    /// Whether it has been spent meanwhile.
    pub spent: bool,
}

impl Utxo {
    /// Writes `/utxos` of a block whose header has this time.
    ///
    /// # Errors
    /// None at present.
    pub fn encode_all(
        utxos: &[Self],
        block_height: u32,
        timestamp: u32,
    ) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Row<'a> {
            txid: Txid,
            vout: u32,
            value: u64,
            scriptpubkey: HexOf<'a>,
            block_height: u32,
            block_hash: BlockHash,
            timestamp: u32,
            spent: bool,
        }
        // OP_1, then a push of 32 bytes.
        let scripts: Vec<[u8; 34]> = utxos
            .iter()
            .map(|utxo| {
                let mut script = [0; 34];
                script[..2].copy_from_slice(&[0x51, 0x20]);
                script[2..].copy_from_slice(&utxo.key);
                script
            })
            .collect();
        let rows: Vec<Row<'_>> = utxos
            .iter()
            .zip(&scripts)
            .map(|(utxo, script)| Row {
                txid: utxo.outpoint.txid,
                vout: utxo.outpoint.vout,
                value: utxo.value_sat,
                scriptpubkey: HexOf(script),
                block_height,
                block_hash: utxo.block_hash,
                timestamp,
                spent: utxo.spent,
            })
            .collect();
        write(&rows)
    }

    /// Reads `/utxos`. `block_height` and `timestamp` are 0 on some servers and not needed.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode_all(body: &[u8]) -> Result<Vec<Self>, String> {
        #[derive(Deserialize)]
        struct Row {
            txid: Txid,
            vout: u32,
            value: u64,
            scriptpubkey: Hex<34>,
            block_hash: BlockHash,
            spent: bool,
        }
        let rows: Vec<Row> = parse(body)?;
        rows.into_iter()
            .map(|row| {
                let outpoint = OutPoint::new(row.txid, row.vout);
                let Some([0x51, 0x20, key @ ..]) = row.scriptpubkey.0.first_chunk::<34>() else {
                    return Err(format!("the script of {outpoint} is not taproot"));
                };
                Ok(Self {
                    outpoint,
                    value_sat: row.value,
                    key: *key,
                    block_hash: row.block_hash,
                    spent: row.spent,
                })
            })
            .collect()
    }
}
