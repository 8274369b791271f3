//! Eligible transactions to tweaks, one or a batch.

use bitcoin::{Transaction, TxOut};
use secp256k1::PublicKey;

use super::hash;
use super::inputs::{TweakInputs, tweak_inputs};
use crate::curve::{Engine, Product, TweakPoint, libsecp256k1};

/// Tweaks of many transactions, in order; `None` where the key sum is infinity or the input hash no valid scalar.
///
/// Works on the calling thread; callers split the slice. Variable time: public data only.
pub fn tweaks(engine: &dyn Engine, inputs: &[TweakInputs]) -> Vec<Option<TweakPoint>> {
    let products: Vec<Option<Product>> = inputs.iter().map(product).collect();
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

/// `A`, the sum of the input keys; `None` if it is infinity. Partial sums may be infinity.
pub fn input_key_sum(keys: &[PublicKey]) -> Option<PublicKey> {
    match keys {
        [key] => Some(*key),
        // Adds all at once in Jacobian coordinates, where infinity is a value like others.
        keys => PublicKey::combine_keys(&keys.iter().collect::<Vec<_>>()).ok(),
    }
}

fn product(inputs: &TweakInputs) -> Option<Product> {
    let key_sum = input_key_sum(&inputs.keys)?;
    let input_hash = hash::input_hash(&inputs.smallest_outpoint, &key_sum)?;
    Some(Product {
        point: libsecp256k1::pack(&key_sum),
        scalar: input_hash.to_be_bytes(),
    })
}
