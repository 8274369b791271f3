//! The tweak of a transaction: what an index computes, and a light client starts from.
//!
//! The inputs are those of the first case of BIP352's test vectors.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use bitcoin::absolute::LockTime;
use bitcoin::hex::DisplayHex;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness};
use spindex::bip352::tweak::transaction_tweak;
use spindex::curve::{self, EngineKind};

type Error = Box<dyn std::error::Error>;

/// An input that spends a P2PKH output, and that output.
fn input(txid: &str, script_sig: &str, prevout: &str) -> Result<(TxIn, TxOut), Error> {
    let txin = TxIn {
        previous_output: OutPoint::new(txid.parse()?, 0),
        script_sig: ScriptBuf::from_hex(script_sig)?,
        sequence: Sequence::MAX,
        witness: Witness::new(),
    };
    let txout = TxOut {
        value: Amount::from_sat(100_000),
        script_pubkey: ScriptBuf::from_hex(prevout)?,
    };
    Ok((txin, txout))
}

fn main() -> Result<(), Error> {
    let (first, first_spent) = input(
        "f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16",
        "483046022100ad79e6801dd9a8727f342f31c71c4912866f59dc6e7981878e92c5844a0ce929022100fb0d2393e813968648b9753b7e9871d9\
         0ab3d815ebf91820d704b19f4ed224d621025a1e61f898173040e20616d43e9f496fba90338a39faa1ed98fcbaeee4dd9be5",
        "76a91419c2f3ae0ca3b642bd3e49598b8da89f50c1416188ac",
    )?;
    let (second, second_spent) = input(
        "a1075db55d416d3ca199f55b6084e2115b9345e16c5cf302fc80e9d5fbf5d48d",
        "48304602210086783ded73e961037e77d49d9deee4edc2b23136e9728d56e4491c80015c3a63022100fda4c0f21ea18de29edbce57f7134d61\
         3e044ee150a89e2e64700de2d4e83d4e2103bd85685d03d111699b15d046319febe77f8de5286e9e512703cdee1bf3be3792",
        "76a914d9317c66f54ff0a152ec50b1d19c25be50c8e15988ac",
    )?;
    let output = TxOut {
        value: Amount::from_sat(1_000),
        // OP_1, then the x coordinate of an output key.
        script_pubkey: ScriptBuf::from_hex(
            "51203e9fce73d4e77a4809908e3c3a2e54ee147b9312dc5044a193d1fc85de46e3c1",
        )?,
    };
    let transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![first, second],
        output: vec![output],
    };

    // The fastest engine of this machine.
    let engine = curve::engine(EngineKind::Auto, |broken| eprintln!("{broken}"))?;
    let spent = [first_spent, second_spent];
    match transaction_tweak(engine.as_ref(), &transaction, &spent) {
        Some(tweak) => println!("{}", tweak.to_compressed().to_lower_hex_string()),
        None => println!("not eligible"),
    }
    Ok(())
}
