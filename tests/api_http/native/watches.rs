//! Watches over real connections: registered, listed, removed; what whoever may not is told.

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Network, OutPoint, Txid};
use reqwest::Method;
use serde_json::{Value, json};
use spindex::api::ServeSettings;
use spindex::api::desk::DeskSettings;
use spindex::watch::Registry;

use super::super::fixture::{Server, TestChain, TestStore, json_of, pays};
use super::step;

/// An index that is watched, and a server over it.
pub(super) struct Scene {
    pub(super) chain: TestChain,
    pub(super) store: TestStore,
    pub(super) registry: Registry,
    pub(super) server: Server,
}

impl Scene {
    /// A chain with two outputs to begin with.
    pub(super) async fn new() -> (Self, [OutPoint; 2]) {
        let mut chain = TestChain::new(7);
        let paid = chain.mine(&[pays(&[546, 547])]).clone();
        let store = TestStore::new(Network::Regtest, 7);
        store.connect(&chain.records());
        let registry = Registry::attach(store.store.clone()).expect("attaches");
        let server = serve(&store, &registry, ServeSettings::default()).await;
        let scene = Self {
            chain,
            store,
            registry,
            server,
        };
        (scene, [paid.outpoint(0, 0), paid.outpoint(0, 1)])
    }

    /// Spends a tip with a state id in a block of its own; gives the next tip.
    pub(super) fn step(&mut self, tip: OutPoint, state: u8) -> OutPoint {
        let block = self.chain.mine(&[step(tip, [state; 32])]).clone();
        self.store.connect(std::slice::from_ref(&block.record));
        block.outpoint(0, 0)
    }

    /// Asks with a token, or without; gives status and body.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let url = self.server.url(&format!("spindex/v1/{path}"));
        let mut request = self.server.client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.headers()["cache-control"], "private, no-store");
        let is_challenged = response.headers().contains_key("www-authenticate");
        assert_eq!(is_challenged, response.status() == 401);
        json_of(response).await
    }

    pub(super) async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, token, Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(super) async fn get(&self, path: &str, token: Option<&str>) -> Value {
        let (status, answer) = self.ask(Method::GET, path, token, None).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// A refusal with a status and a code.
    pub(super) async fn refused(
        &self,
        (method, path): (Method, &str),
        token: Option<&str>,
        body: Option<&Value>,
        expected: (u16, &str),
    ) -> String {
        let (status, answer) = self.ask(method, path, token, body).await;
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        assert_eq!((status, code), expected, "{path}: {answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        message.to_owned()
    }

    /// A new token.
    pub(super) async fn token(
        &self,
        by: Option<&str>,
        scopes: &[&str],
        owner: Option<u32>,
    ) -> (u32, String) {
        let body = json!({
            "name": "a test", "scopes": scopes, "watches_max": 3, "streams_max": 2, "owner": owner,
        });
        let made = self.post("tokens", by, &body).await;
        let token = made["token"].as_str().expect("a token").to_owned();
        assert!(token.starts_with("spx_") && token.len() == 68);
        (made["number"].as_u64().expect("a number") as u32, token)
    }
}

pub(super) async fn serve(
    store: &TestStore,
    registry: &Registry,
    settings: ServeSettings,
) -> Server {
    let desk = DeskSettings {
        watches: Some(registry.clone()),
        ..DeskSettings::default()
    };
    Server::start_over(store, None, desk, settings).await
}

/// A registration of a process, called deep after two confirmations.
pub(super) fn process(outpoint: OutPoint, tag: &str) -> Value {
    json!({"outpoint": outpoint.to_string(), "confirmations": 2, "tag": tag})
}

fn any(number: u32) -> OutPoint {
    let txid = sha256::Hash::hash(&number.to_be_bytes()).to_byte_array();
    OutPoint::new(Txid::from_byte_array(txid), number)
}

#[tokio::test]
async fn a_watch_is_where_its_process_is() {
    let (mut scene, [start, single]) = Scene::new().await;
    let first = scene.step(start, 1);
    let body = json!({"watches": [
        process(start, "order 17"),
        {"outpoint": single.to_string(), "kind": "outpoint"},
        {"outpoint": any(1).to_string(), "kind": "process", "state": 1, "output": 2},
        process(start, "order 17"),
    ]});
    let registered = scene.post("watches", None, &body).await;
    let numbers: Vec<u64> = registered["watches"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["watch"].as_u64().expect("a number"))
        .collect();
    let [one, two, three, again] = numbers[..] else {
        panic!("{registered}")
    };
    assert_eq!(again, one);
    let is_new: Vec<&Value> = registered["watches"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["new"])
        .collect();
    assert_eq!(is_new, [true, true, true, false]);
    // The second time nothing is.
    let registered = scene.post("watches", None, &body).await;
    assert_eq!(
        registered["watches"][2],
        json!({"watch": three, "new": false})
    );

    let second = scene.step(first, 2);
    let expected = json!({
        "watch": one, "outpoint": start.to_string(), "kind": "process", "state": 0, "output": 0,
        "tip": second.to_string(), "over": false, "steps": 2, "unknown_below": null,
        "confirmations": 2, "tag": "order 17",
    });
    let found = scene.get(&format!("watches/{one}"), None).await;
    assert_eq!(found, expected);
    let other = json!({
        "watch": two, "outpoint": single.to_string(), "kind": "outpoint", "state": null,
        "output": null, "tip": single.to_string(), "over": false, "steps": 0,
        "unknown_below": null, "confirmations": 0, "tag": "",
    });
    let unknown = json!({
        "watch": three, "outpoint": any(1).to_string(), "kind": "process", "state": 1, "output": 2,
        "tip": any(1).to_string(), "over": false, "steps": 0, "unknown_below": 9,
        "confirmations": 0, "tag": "",
    });
    let all = scene.get("watches", None).await;
    assert_eq!(
        all,
        json!({"watches": [expected, other, unknown], "next": null})
    );
    let page = scene.get("watches?limit=2", None).await;
    assert_eq!(page, json!({"watches": [expected, other], "next": three}));
    let page = scene.get(&format!("watches?from={three}"), None).await;
    assert_eq!(page, json!({"watches": [unknown], "next": null}));

    // Removed once, and no more.
    let removal = json!({"watches": [three, 999, two]});
    for expected in [json!([three, two]), json!([])] {
        let removed = scene.ask(Method::DELETE, "watches", None, Some(&removal));
        assert_eq!(removed.await, (200, json!({"watches": expected})));
    }
    let left = scene.get("watches", None).await;
    assert_eq!(left["watches"], json!([expected]));
    let path = format!("watches/{two}");
    let gone = (Method::GET, path.as_str());
    scene.refused(gone, None, None, (404, "unknown")).await;
}

#[tokio::test]
async fn ten_thousand_watches_are_registered_at_once_and_listed_page_by_page() {
    let (scene, _) = Scene::new().await;
    let watches: Vec<Value> = (0..10_000)
        .map(|number| process(any(number), "x"))
        .collect();
    let body = json!({ "watches": watches });
    let registered = scene.post("watches", None, &body).await;
    assert_eq!(
        registered["watches"].as_array().expect("a list").len(),
        10_000
    );
    let (mut found, mut from) = (Vec::new(), Some(0));
    while let Some(next) = from {
        let page = scene
            .get(&format!("watches?from={next}&limit=700"), None)
            .await;
        let rows = page["watches"].as_array().expect("a list");
        assert!(rows.len() <= 700);
        found.extend(rows.iter().map(|row| row["outpoint"].clone()));
        from = page["next"].as_u64();
    }
    let expected = (0..10_000).map(|number| json!(any(number).to_string()));
    assert!(found.into_iter().eq(expected));
    let more: Vec<Value> = (0..10_001).map(|number| process(any(number), "")).collect();
    let body = json!({ "watches": more });
    let post = (Method::POST, "watches");
    let said = scene.refused(post, None, Some(&body), (400, "bad_request"));
    assert!(said.await.contains("10001"));
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_as_a_whole() {
    let (scene, [start, single]) = Scene::new().await;
    let post = || (Method::POST, "watches");
    scene
        .post("watches", None, &json!({"watches": [process(start, "")]}))
        .await;
    let otherwise = json!({"watches": [
        process(single, ""), {"outpoint": start.to_string(), "kind": "outpoint"},
    ]});
    let conflict = scene.refused(post(), None, Some(&otherwise), (409, "conflict"));
    assert!(conflict.await.contains(&start.to_string()));
    let twice = json!({"watches": [
        process(single, ""), {"outpoint": single.to_string(), "kind": "outpoint"},
    ]});
    let long = json!({"watches": [process(single, &"x".repeat(65))]});
    let unknown = json!({"watches": [{"outpoint": single.to_string(), "since": 5}]});
    for wrong in [&twice, &long, &unknown, &json!({}), &json!([])] {
        scene
            .refused(post(), None, Some(wrong), (400, "bad_request"))
            .await;
    }
    let left = scene.get("watches", None).await;
    assert_eq!(left["watches"].as_array().expect("a list").len(), 1);
    for path in [
        "watches?limit=0",
        "watches?limit=1001",
        "watches?limit=x",
        "watches?from=-1",
        "watches?to=5",
        "watches/x",
        "watches/1?height=1",
    ] {
        let get = (Method::GET, path);
        scene.refused(get, None, None, (400, "bad_request")).await;
    }
    // A body that is too long is not taken in.
    let many = json!({"watches": vec![u64::MAX; 20_000]});
    let delete = (Method::DELETE, "watches");
    scene
        .refused(delete, None, Some(&many), (400, "bad_request"))
        .await;
}

#[tokio::test]
async fn a_token_sees_what_is_its_owners_and_nothing_else() {
    let (mut scene, [start, single]) = Scene::new().await;
    scene
        .post(
            "watches",
            None,
            &json!({"watches": [process(single, "loopback")]}),
        )
        .await;
    let (_, admin) = scene.token(None, &["admin"], None).await;
    let admin = Some(admin.as_str());
    let (number, one) = scene.token(admin, &["watch", "read"], None).await;
    let (_, two) = scene.token(admin, &["watch", "read"], None).await;
    let (_, reader) = scene.token(admin, &["read"], Some(number)).await;
    let (one, two, reader) = (
        Some(one.as_str()),
        Some(two.as_str()),
        Some(reader.as_str()),
    );
    let body = json!({"watches": [process(start, "one")]});
    let mine = scene.post("watches", one, &body).await["watches"][0]["watch"].clone();
    let body = json!({"watches": [process(start, "two"), process(single, "two")]});
    let theirs = scene.post("watches", two, &body).await["watches"][0]["watch"].clone();
    assert_ne!(mine, theirs);
    scene.step(start, 1);

    let tags = |page: &Value, rows: &str| {
        let rows = page[rows].as_array().expect("a list").clone();
        let tags = rows.iter().map(|row| row["tag"].clone());
        tags.collect::<Vec<_>>()
    };
    for (token, expected, events) in [
        (one, vec!["one"], vec!["one"]),
        (reader, vec!["one"], vec!["one"]),
        (two, vec!["two", "two"], vec!["two"]),
    ] {
        assert_eq!(
            tags(&scene.get("watches", token).await, "watches"),
            expected
        );
        let page = scene.get("events?after=0", token).await;
        assert_eq!(tags(&page, "events"), events, "{page}");
        // Also where they are asked for by name.
        let named = format!("events?after=0&watch={mine},{theirs}");
        assert_eq!(tags(&scene.get(&named, token).await, "events"), events);
    }
    let path = format!("watches/{theirs}");
    let foreign = || (Method::GET, path.as_str());
    scene.refused(foreign(), one, None, (404, "unknown")).await;
    let removal = json!({"watches": [theirs]});
    let removed = scene
        .ask(Method::DELETE, "watches", one, Some(&removal))
        .await;
    assert_eq!(removed, (200, json!({"watches": []})));
    scene.get(&path, two).await;

    // Each scope for itself.
    let post = || (Method::POST, "watches");
    for (request, token) in [
        (post(), reader),
        (post(), admin),
        ((Method::DELETE, "watches"), reader),
        ((Method::GET, "watches"), admin),
        ((Method::GET, "watches/1"), admin),
        ((Method::GET, "events?after=0"), admin),
        ((Method::GET, "tokens"), one),
        ((Method::POST, "tokens"), one),
        ((Method::DELETE, "tokens/1"), reader),
    ] {
        scene
            .refused(request, token, None, (403, "forbidden"))
            .await;
    }
    // As many as it may have, and not one more.
    let more = |count| {
        let watches: Vec<Value> = (0..count).map(|number| process(any(number), "")).collect();
        json!({ "watches": watches })
    };
    scene
        .refused(post(), one, Some(&more(3)), (403, "limit"))
        .await;
    scene.post("watches", one, &more(2)).await;
    scene
        .refused(post(), one, Some(&more(3)), (403, "limit"))
        .await;
}

#[tokio::test]
async fn without_a_token_only_this_machine_is_let_in_and_not_once_there_are_tokens() {
    let (scene, [start, _]) = Scene::new().await;
    let url = scene.server.url("spindex/v1/watches");
    let with = |name: &'static str, value: &'static str| {
        let request = scene.server.client.get(&url).header(name, value);
        async move { request.send().await.expect("an answer").status().as_u16() }
    };
    scene.get("watches", None).await;
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("via", "1.1 proxy"),
        ("x-real-ip", "127.0.0.1"),
        ("origin", "http://127.0.0.1:8000"),
        ("sec-fetch-site", "none"),
        ("host", "example.org"),
        ("authorization", "Bearer "),
        ("authorization", "Basic Og=="),
        ("authorization", "Bearer spx_00"),
    ] {
        assert_eq!(with(name, value).await, 401, "{name}: {value}");
    }
    let unknown = format!("spx_{}", "00".repeat(32));
    let list = || (Method::GET, "watches");
    scene
        .refused(list(), Some(&unknown), None, (401, "unauthorized"))
        .await;
    scene
        .post("watches", None, &json!({"watches": [process(start, "")]}))
        .await;

    let (number, admin) = scene.token(None, &["admin", "read"], Some(0)).await;
    for request in [list(), (Method::POST, "watches"), (Method::GET, "tokens")] {
        scene
            .refused(request, None, None, (401, "unauthorized"))
            .await;
    }
    // The token is for those who had none, and is not told to anybody again.
    let admin = Some(admin.as_str());
    let left = scene.get("watches", admin).await;
    assert_eq!(left["watches"].as_array().expect("a list").len(), 1);
    let (second, gone) = scene.token(admin, &["read"], None).await;
    let entry = |number: u32, owner: u32, scopes: Value| {
        json!({
            "number": number, "owner": owner, "name": "a test", "scopes": scopes,
            "watches_max": 3, "streams_max": 2,
        })
    };
    let tokens = json!({"tokens": [
        entry(number, 0, json!(["read", "admin"])), entry(second, second, json!(["read"])),
    ]});
    assert_eq!(scene.get("tokens", admin).await, tokens);
    let path = format!("tokens/{second}");
    let revoked = scene.ask(Method::DELETE, &path, admin, None).await;
    assert_eq!(revoked, (200, json!({"revoked": second})));
    let again = (Method::DELETE, path.as_str());
    scene.refused(again, admin, None, (404, "unknown")).await;
    scene
        .refused(list(), Some(&gone), None, (401, "unauthorized"))
        .await;
    for wrong in [
        json!({"name": "", "scopes": [], "watches_max": 1, "streams_max": 1, "owner": null}),
        json!({"name": "x", "scopes": ["all"], "watches_max": 1, "streams_max": 1, "owner": null}),
        json!({"name": "x"}),
    ] {
        let post = (Method::POST, "tokens");
        scene
            .refused(post, admin, Some(&wrong), (400, "bad_request"))
            .await;
    }
    // When the last one is gone, this machine is let in again.
    let path = format!("tokens/{number}");
    scene.ask(Method::DELETE, &path, admin, None).await;
    scene.get("watches", None).await;
}

#[tokio::test]
async fn a_server_that_watches_nothing_says_so() {
    let (_, server) = super::super::serve_chain(&super::sample_chain()).await;
    for path in ["watches", "watches/1", "events?after=0", "tokens"] {
        super::refused(&server, path, 501, "not_kept").await;
    }
}
