//! Eligible transactions to tweaks, one or a batch.

use bitcoin::{Transaction, TxOut};

use super::hash;
use super::inputs::{TweakInputs, tweak_inputs};
use crate::curve::{Engine, Product, TweakPoint};

/// Tweaks of many transactions, in order; `None` where no key is a point, the key sum is infinity or the input hash is
/// no valid scalar.
///
/// Works on the calling thread; callers split the slice. Variable time: public data only.
pub fn tweaks(engine: &dyn Engine, inputs: &[TweakInputs]) -> Vec<Option<TweakPoint>> {
    let products: Vec<Option<Product>> = key_sums(engine, inputs)
        .into_iter()
        .zip(inputs)
        .map(|(sum, inputs)| product(sum?, inputs))
        .collect();
    let computable: Vec<Product> = products.iter().flatten().copied().collect();
    let mut computed = engine.multiply(&computable).into_iter();
    products
        .iter()
        .map(|product| product.as_ref().and_then(|_| computed.next().flatten()))
        .collect()
}

/// The tweak of one transaction, if it is eligible and its keys do not sum to infinity. `prevouts` are the
/// spent outputs in input order.
pub fn transaction_tweak(
    engine: &dyn Engine,
    tx: &Transaction,
    prevouts: &[TxOut],
) -> Option<TweakPoint> {
    tweaks(engine, &[tweak_inputs(tx, prevouts)?])
        .into_iter()
        .next()
        .flatten()
}

/// `A`, the sum of the input keys, of many transactions, in order; `None` where no key is a point or the sum is
/// infinity. Partial sums may be infinity.
pub fn key_sums(engine: &dyn Engine, inputs: &[TweakInputs]) -> Vec<Option<TweakPoint>> {
    let keys: Vec<[u8; 33]> = inputs
        .iter()
        .flat_map(|inputs| &inputs.keys)
        .copied()
        .collect();
    let mut decompressed = engine.decompress(&keys).into_iter();
    let mut points = Vec::with_capacity(keys.len());
    let ends: Vec<usize> = inputs
        .iter()
        .map(|inputs| {
            points.extend(decompressed.by_ref().take(inputs.keys.len()).flatten());
            points.len()
        })
        .collect();
    engine.sums(&points, &ends)
}

fn product(key_sum: TweakPoint, inputs: &TweakInputs) -> Option<Product> {
    let input_hash = hash::input_hash(&inputs.smallest_outpoint, &key_sum.to_compressed())?;
    Some(Product {
        point: key_sum,
        scalar: input_hash.to_be_bytes(),
    })
}
