use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn names_round_trip() {
    for entry in &ENGINES {
        assert_eq!(entry.name.parse(), Ok(entry.kind));
        assert_eq!(entry.kind.to_string(), entry.name);
    }
    assert_eq!("auto".parse(), Ok(EngineKind::Auto));
    assert_eq!(EngineKind::Auto.to_string(), "auto");
    let unknown = "AVX2".parse::<EngineKind>();
    assert_eq!(unknown, Err(UnknownEngine("AVX2".to_owned())));
}

#[test]
fn errors_name_what_there_is_and_what_is_needed() {
    assert_eq!(
        UnknownEngine("AVX2".to_owned()).to_string(),
        "there is no engine \"AVX2\": use auto, libsecp256k1, portable, avx2, avx512 or ifma"
    );
    let texts =
        [EngineKind::Avx2, EngineKind::Ifma].map(|kind| UnsupportedEngine(kind).to_string());
    assert_eq!(
        texts,
        [
            "the engine avx2 needs a processor with avx2: use auto",
            "the engine ifma needs a processor with avx512f and avx512ifma: use auto"
        ]
    );
    let broken = BrokenEngine {
        engine: "avx2",
        batches: 34,
    };
    let said = broken.to_string();
    for part in ["engine avx2 ", " 34 batches", "--engine libsecp256k1"] {
        assert!(said.contains(part), "{said}");
    }
}

/// Whether this processor has a feature.
fn has(feature: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    match feature {
        "avx2" => return is_x86_feature_detected!("avx2"),
        "avx512f" => return is_x86_feature_detected!("avx512f"),
        "avx512ifma" => return is_x86_feature_detected!("avx512ifma"),
        _ => {}
    }
    panic!("a feature that no test knows: {feature}")
}

#[test]
fn every_engine_with_what_it_needs_passes_its_self_check() {
    for entry in &ENGINES {
        let is_broken = Arc::new(AtomicUsize::new(0));
        let engine = engine(entry.kind, {
            let is_broken = is_broken.clone();
            move |_| {
                is_broken.fetch_add(1, Ordering::Relaxed);
            }
        });
        let has_all = cfg!(target_arch = "x86_64") || entry.needs.is_empty();
        let has_all = has_all && entry.needs.iter().all(|feature| has(feature));
        assert_eq!(entry.is_available(), has_all, "{}", entry.name);
        assert_eq!(engine.is_ok(), has_all, "{}", entry.name);
        let Ok(engine) = engine else {
            assert_eq!(engine.err(), Some(UnsupportedEngine(entry.kind)));
            continue;
        };
        assert_eq!(engine.name(), entry.name);
        assert!(!engine.status().is_broken, "{}", entry.name);
        assert_eq!(is_broken.load(Ordering::Relaxed), 0, "{}", entry.name);
        // A scan for one wallet, with and without multiples, and one for two.
        let is_batched = entry.kind != EngineKind::LibSecp256k1;
        assert_eq!(engine.status().batches > 3, is_batched, "{}", entry.name);
    }
}

#[test]
fn the_fastest_engine_that_runs_here_is_chosen() {
    let fastest = match () {
        #[cfg(target_arch = "x86_64")]
        () if has("avx512f") && has("avx512ifma") => "ifma",
        #[cfg(target_arch = "x86_64")]
        () if has("avx512f") => "avx512",
        #[cfg(target_arch = "x86_64")]
        () if has("avx2") => "avx2",
        () => "portable",
    };
    let chosen = engine(EngineKind::Auto, |broken| panic!("{broken}"));
    assert_eq!(chosen.expect("one for any processor").name(), fastest);
}

#[test]
fn what_is_skipped_says_so_with_the_test_and_what_it_needs() {
    let ifma = ENGINES.last().expect("engines");
    let test = std::thread::Builder::new().name("a::test".to_owned());
    let said = test.spawn(|| skipped(ifma)).expect("a thread").join();
    assert_eq!(
        said.expect("no panic"),
        "SKIPPED in a::test: the engine ifma needs a processor with avx512f and avx512ifma: use auto"
    );
    for entry in &ENGINES {
        assert_eq!(is_testable(entry), entry.is_available());
    }
    assert!(testable().any(|entry| entry.name == "portable"));
}
