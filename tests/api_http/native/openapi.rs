//! The document that describes the routes, and a program that holds the server against it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bitcoin::Network;
use serde_json::{Value, json};
use spindex::api::ServeSettings;
use spindex::watch::{Registry, Token, token_row};
use spindex::wire::native::{NewToken, Scope};

use super::super::fixture::{TestChain, TestStore, pays, sample_chain, sweeps};
use super::step;
use super::watches::serve;

/// A file beside this one's folders.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The program; `None`, and a word on stderr, where it cannot be had.
fn schemathesis() -> Option<PathBuf> {
    let script = project("tests/get-from-pypi.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg("schemathesis")
        .stderr(Stdio::piped())
        .output();
    let output = output.expect("there is a shell");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = text(&output.stderr).replace('\n', "; ");
    match output.status.code() {
        Some(0) => Some(text(&output.stdout).into()),
        Some(75) => {
            // Not by `eprintln!`, which shows nothing of a test that passes.
            let line = format!(
                "SKIPPED in native::openapi: the server is not held against its document: {said}"
            );
            writeln!(std::io::stderr(), "{line}").expect("stderr takes it");
            None
        }
        _ => panic!("tests/get-from-pypi.sh fails: {said}"),
    }
}

/// Blocks with all that there can be: outputs spent and unspent, a process, what is not eligible, and a whole chunk.
fn chain() -> TestChain {
    let mut chain = sample_chain();
    let paid = chain.mine(&[pays(&[546, 1000])]).clone();
    let first = chain.mine(&[step(paid.outpoint(0, 0), [1; 32])]).clone();
    chain.mine(&[
        step(first.outpoint(0, 0), [2; 32]),
        sweeps(&[paid.outpoint(0, 1)]),
    ]);
    for _ in 0..64 {
        chain.mine(&[]);
    }
    chain
}

/// Forbids what the document leaves to later versions, and gives values that are found, which no chance would meet.
fn sharpen(document: &mut Value, chain: &TestChain) {
    close(document);
    let transactions = chain.blocks.iter().flat_map(|block| {
        let height = block.id().height;
        let rows = block.record.transactions.iter();
        rows.map(move |row| (row.txid, height))
    });
    let transactions: Vec<_> = transactions.collect();
    let txids: Vec<String> = transactions
        .iter()
        .map(|(txid, _)| txid.to_string())
        .collect();
    let outpoints: Vec<String> = txids.iter().map(|txid| format!("{txid}:0")).collect();
    let heights: Vec<u32> = transactions.iter().map(|(_, height)| *height).collect();
    let hashes = chain.blocks.iter().map(|block| block.id().hash.to_string());
    let hashes: Vec<String> = hashes.collect();
    let parameters = &mut document["components"]["parameters"];
    parameters["OutpointInPath"]["examples"] = examples(&outpoints);
    parameters["CreatedAt"]["examples"] = examples(&heights);
    parameters["HeightInPath"]["examples"] = examples(&heights);
    parameters["From"]["examples"] = examples(&heights);
    parameters["To"]["examples"] = examples(&heights);
    let names = [
        "headers",
        "tweaks,prefixes",
        "outputs,spent,spends,new-utxos",
    ];
    parameters["Columns"]["examples"] = examples(&names);
    let paths = &mut document["paths"];
    paths["/chunk/{n}/{columns}"]["get"]["parameters"][0]["examples"] = examples(&[0, 1]);
    paths["/tx/{txid}"]["get"]["parameters"][0]["examples"] = examples(&txids);
    paths["/block/{block}"]["get"]["parameters"][0]["examples"] = examples(&hashes);
}

fn examples(values: &[impl serde::Serialize]) -> Value {
    let values = values.iter().enumerate();
    let named = values.map(|(index, value)| (index.to_string(), json!({"value": value})));
    Value::Object(named.collect())
}

/// No object may have fields but those that are described.
fn close(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        if object.get("type") == Some(&json!("object")) && object.contains_key("properties") {
            object.insert("additionalProperties".into(), json!(false));
        }
        object.values_mut().for_each(close);
    } else if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(close);
    }
}

/// Whether the server answers what a document says, and what the program has to say of that.
fn is_answered(
    program: &Path,
    document: &Value,
    (url, token): (&str, &str),
    phases: &str,
) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let schema = directory.path().join("openapi.json");
    std::fs::write(&schema, document.to_string()).expect("writes");
    let cases = std::env::var("SPINDEX_SCHEMATHESIS_CASES");
    let output = Command::new(program)
        .current_dir(directory.path())
        .arg("--config-file")
        .arg(project("tests/api_http/native/schemathesis.toml"))
        .arg("run")
        .arg(schema)
        .args(["--url", url, "--phases", phases, "--workers", "2"])
        .args(["--checks", CHECKS])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        // A stream does not end: others test it.
        .args(["--exclude-path", "/events"])
        .args(["--max-examples", cases.as_deref().unwrap_or("20")])
        .stdin(Stdio::null())
        .output();
    let output = output.expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// A token that may do all, and whose number no chance would name to be revoked.
fn token_of(registry: &Registry) -> Token {
    let new = NewToken {
        name: String::new(),
        scopes: Scope::ALL.to_vec(),
        watches_max: 1_000_000,
        streams_max: 1,
        owner: None,
    };
    for number in 0..40_u8 {
        let row = token_row(&new);
        registry.put_token(&[number; 32], &row).expect("written");
        registry.revoke_token(&[number; 32]).expect("written");
    }
    let token = Token::random();
    let number = registry.put_token(&token.hash(), &token_row(&new));
    assert_eq!(number.expect("written"), 41);
    token
}

/// What is asked of each answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_answers_what_its_document_says() {
    let chain = chain();
    let store = TestStore::new(Network::Regtest, chain.blocks[0].id().height);
    store.connect(&chain.records());
    let registry = Registry::attach(store.store.clone()).expect("attaches");
    let token = token_of(&registry);
    let server = serve(&store, &registry, ServeSettings::default()).await;
    let mut document = server.ok("spindex/v1/openapi.json").await;
    sharpen(&mut document, &chain);
    let url = server.url("spindex/v1");
    let token = token.text();
    let work = move || {
        let Some(program) = schemathesis() else {
            return;
        };
        let all = "examples,coverage,fuzzing";
        let (is_answered_so, said) = is_answered(&program, &document, (&url, &token), all);
        assert!(is_answered_so, "{said}");
        // It would notice, too.
        let schemas = &mut document["components"]["schemas"];
        schemas["Transaction"]["properties"]["outputs"]["items"]["properties"]["vout"] =
            json!(false);
        let (is_answered_so, said) = is_answered(&program, &document, (&url, &token), "examples");
        assert!(!is_answered_so && said.contains("schema"), "{said}");
    };
    tokio::task::spawn_blocking(work).await.expect("as it says");
}
