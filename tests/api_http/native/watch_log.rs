//! The log of watches over real connections: page by page, and as a stream that is lost and found again.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use spindex::api::ServeSettings;
use spindex::client::watching::{FollowError, WatchServer};
use spindex::client::{HttpOracle, HttpSettings};
use spindex::store::watches::{Event, Happening};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::fixture::{Server, json_of};
use super::events::{Listening, Received};
use super::watches::{Scene, process, serve};

/// The whole log, page by page.
async fn log(scene: &Scene, token: Option<&str>) -> Vec<Value> {
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("events?after={after}&limit=3");
        let page = scene.get(&path, token).await;
        let some = page["events"].as_array().expect("a list");
        assert!(some.len() <= 3);
        events.extend(some.iter().cloned());
        after = page["cursor"].as_u64().expect("a cursor");
        if page["cursor"] == page["last"] {
            return events;
        }
    }
}

async fn listen(server: &Server, after: &str, id: Option<&str>) -> Listening {
    let path = format!("spindex/v1/events?after={after}");
    let mut request = server.client.get(server.url(&path));
    request = request.header("accept", "text/event-stream");
    if let Some(id) = id {
        request = request.header("last-event-id", id);
    }
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "private, no-store");
    Listening::of(response)
}

/// What a stream says of an event.
fn received(event: &Value) -> Received {
    Received {
        name: event["event"].as_str().expect("a name").to_owned(),
        id: event["cursor"].to_string(),
        data: event.clone(),
    }
}

#[tokio::test]
async fn pages_say_what_the_chain_says() {
    let (mut scene, [start, single]) = Scene::new().await;
    let body = json!({"watches": [
        process(start, "ours"), {"outpoint": single.to_string(), "kind": "outpoint"},
    ]});
    let registered = scene.post("watches", None, &body).await;
    let [one, two] = [0, 1].map(|at| registered["watches"][at]["watch"].clone());
    let empty = scene.get("events?after=0", None).await;
    let nothing = json!({"events": [], "cursor": 0, "first": null, "last": 0});
    assert_eq!(empty, nothing);
    let next = scene.step(start, 7);
    let first = scene.chain.tip().id();
    scene.step(single, 0);
    let second = scene.chain.tip().id();
    let txid = |tip: bitcoin::OutPoint| tip.txid.to_string();
    let confirmed = json!({
        "cursor": 1, "watch": one, "tag": "ours", "event": "confirmed", "height": first.height,
        "block_hash": first.hash.to_string(), "transaction": 1, "input": 1, "txid": txid(next),
        "spent": start.to_string(), "vout": 1, "state_id": "07".repeat(32),
        "next_tip": next.to_string(),
    });
    let other = json!({
        "cursor": 2, "watch": two, "tag": "", "event": "confirmed", "height": second.height,
        "block_hash": second.hash.to_string(), "transaction": 1, "input": 1,
        "txid": scene.chain.tip().outpoint(0, 0).txid.to_string(), "spent": single.to_string(),
        "vout": 1, "state_id": "00".repeat(32), "next_tip": null,
    });
    let deep = json!({
        "cursor": 3, "watch": one, "tag": "ours", "event": "deep", "of": 1,
        "height": first.height, "block_hash": first.hash.to_string(),
        "tip": {"height": second.height, "block_hash": second.hash.to_string()},
    });
    let page = scene.get("events?after=0", None).await;
    let all = json!({"events": [confirmed, other, deep], "cursor": 3, "first": 1, "last": 3});
    assert_eq!(page, all);
    let page = scene.get("events?after=1&limit=1", None).await;
    assert_eq!(
        page,
        json!({"events": [other], "cursor": 2, "first": 1, "last": 3})
    );
    // Of one watch, and of none.
    let page = scene
        .get(&format!("events?after=0&watch={one}"), None)
        .await;
    assert_eq!(page["events"], json!([confirmed, deep]));
    let page = scene.get("events?after=0&watch=999", None).await;
    assert_eq!(
        page,
        json!({"events": [], "cursor": 3, "first": 1, "last": 3})
    );
    let page = scene.get("events?after=last", None).await;
    assert_eq!(page["cursor"], 3);

    for path in [
        "events?watch=1",
        "events?after=",
        "events?after=x",
        "events?after=1&after=2",
        "events?after=1&cursor=2",
        "events?after=1&limit=0",
        "events?after=1&limit=1001",
        "events?after=1&watch=",
        "events?after=1&watch=1,x",
        "events?after=4",
    ] {
        let get = (Method::GET, path);
        scene.refused(get, None, None, (400, "bad_request")).await;
    }
}

#[tokio::test]
async fn whoever_comes_back_is_told_the_log() {
    let (mut scene, [start, single]) = Scene::new().await;
    let body = json!({"watches": [process(start, "a"), process(single, "b")]});
    scene.post("watches", None, &body).await;
    let mut told: Vec<Received> = Vec::new();
    let (mut tip, mut other) = (start, single);
    for round in 0..6_u8 {
        let base = (tip, other);
        tip = scene.step(tip, 2 * round + 1);
        other = scene.step(other, 2 * round + 2);
        if round % 2 == 1 {
            // These two blocks go, and others come, in another order.
            scene.chain.pop(2);
            scene.chain.salt(u64::from(round));
            let height = scene.chain.tip().id().height;
            let second = scene.chain.mine(&[super::step(base.1, [99; 32])]);
            other = second.outpoint(0, 0);
            let first = scene.chain.mine(&[super::step(base.0, [98; 32])]);
            tip = first.outpoint(0, 0);
            let records = scene.chain.records();
            let new = records.iter().filter(|record| record.id.height > height);
            let new: Vec<_> = new.cloned().collect();
            scene.store.reorganize(2, &new);
        }
        // Each time another connection, every other time another server, with the last id as a browser has it: the address is
        // that of the beginning.
        if round % 2 == 0 {
            scene.server = serve(&scene.store, &scene.registry, ServeSettings::default()).await;
        }
        let last = told.last().map(|received| received.id.clone());
        let mut listening = listen(&scene.server, "0", last.as_deref()).await;
        let more = log(&scene, None).await.len() - told.len();
        // Not all of it, but for the last time.
        for _ in 0..more - usize::from(round < 5) {
            told.push(listening.next().await.expect("an event"));
        }
    }
    let all = log(&scene, None).await;
    let expected: Vec<Received> = all.iter().map(received).collect();
    assert_eq!(told, expected);
    let names: Vec<&str> = told.iter().map(|event| event.name.as_str()).collect();
    for name in ["confirmed", "deep", "reorged"] {
        assert!(names.contains(&name), "{names:?}");
    }

    // Those who are there hear of the next one, wherever they began.
    let mut streams = Vec::new();
    for after in ["last", "3", &all.len().to_string()] {
        streams.push(listen(&scene.server, after, None).await);
    }
    scene.step(tip, 77);
    let now = log(&scene, None).await;
    for (stream, from) in streams.iter_mut().zip([all.len(), 3, all.len()]) {
        for event in &now[from..] {
            assert_eq!(stream.next().await, Some(received(event)));
        }
    }
}

#[tokio::test]
async fn what_was_cut_off_is_said() {
    let (mut scene, [start, _]) = Scene::new().await;
    let body = json!({"watches": [process(start, "")]});
    scene.post("watches", None, &body).await;
    let next = scene.step(start, 1);
    scene.step(next, 2);
    for _ in 0..120 {
        scene.chain.mine(&[]);
    }
    let records = scene.chain.records();
    scene.store.connect(&records[3..]);
    let last = log(&scene, None).await.len() as u64;
    let first = scene.registry.cut(3).expect("cuts");
    assert_eq!(first, 3);
    let get = |path| (Method::GET, path);
    let said = scene
        .refused(get("events?after=1"), None, None, (410, "cut"))
        .await;
    assert!(said.contains('3'), "{said}");
    let page = scene.get("events?after=2", None).await;
    assert_eq!(
        page["events"].as_array().expect("a list").len() as u64,
        last - 2
    );
    // Whoever has taken none has missed none.
    assert_eq!(scene.get("events?after=0", None).await, page);
    let url = scene.server.url("spindex/v1/events?after=1");
    let request = scene.server.client.get(url);
    let request = request.header("accept", "text/event-stream");
    let (status, body) = json_of(request.send().await.expect("an answer")).await;
    assert_eq!((status, &body["error"]["code"]), (410, &json!("cut")));
    let mut listening = listen(&scene.server, "0", None).await;
    assert_eq!(listening.next().await.expect("an event").id, "3");

    // And whoever follows learns where to begin anew, or that this is not the log that it knows.
    let http = HttpOracle::new(&scene.server.url(""), HttpSettings::default()).expect("a server");
    let follower = WatchServer::new(Arc::new(http));
    let behind = async |after| {
        follower
            .page_behind(after, None)
            .await
            .map(|page| page.cursor)
    };
    assert_eq!(behind(2).await, Ok(last));
    assert_eq!(
        behind(1).await,
        Err(FollowError::Cut { after: 1, first: 3 })
    );
    let after = last + 1;
    assert_eq!(
        behind(after).await,
        Err(FollowError::Another { after, last })
    );
}

/// What a slow reader is owed is not kept for it: it is cut off, and goes on from its cursor.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off_and_goes_on_later() {
    const EVENTS: u64 = 60_000;
    let (mut scene, [start, _]) = Scene::new().await;
    let settings = ServeSettings {
        silence_timeout: Duration::from_secs(1),
        // A quarter of these for streams, a quarter of that for one address.
        max_connections: 16,
        ..ServeSettings::default()
    };
    scene.server = serve(&scene.store, &scene.registry, settings).await;
    let body = json!({"watches": [process(start, &"x".repeat(64))]});
    let registered = scene.post("watches", None, &body).await;
    let watch = registered["watches"][0]["watch"].as_u64().expect("one");
    let events = (0..EVENTS).map(|of| Event {
        watch,
        owner: 0,
        what: Happening::Reorged { of },
    });
    let events: Vec<Event> = events.collect();
    scene.registry.append(|_| Ok(events)).expect("appends");
    let mut stalled = TcpStream::connect(scene.server.address)
        .await
        .expect("connects");
    let request = format!(
        "GET /spindex/v1/events?after=0 HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
        scene.server.address
    );
    stalled.write_all(request.as_bytes()).await.expect("writes");
    let mut had = vec![0; 12];
    stalled.read_exact(&mut had).await.expect("reads");
    assert_eq!(had, b"HTTP/1.1 200");
    // Others are answered all the same.
    scene.get("watches", None).await;
    // It has the one place for streams of this machine, until it is cut off. (Idle connections are, too.)
    loop {
        let url = scene.server.url("spindex/v1/events?after=last");
        let request = scene.server.client.get(url);
        let request = request.header("accept", "text/event-stream");
        if let Ok(response) = request.send().await
            && response.status() == 200
        {
            break;
        }
    }

    // What was on its way is there, and is no more than a part.
    let mut buffer = vec![0; 1 << 16];
    loop {
        stalled.readable().await.expect("there is an end");
        match stalled.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => had.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let had = String::from_utf8_lossy(&had).into_owned();
    let mut ids = had.lines().filter_map(|line| line.strip_prefix("id: "));
    let last: u64 = ids.next_back().map_or(0, |id| id.parse().unwrap_or(0));
    assert!(last < EVENTS, "all of it was taken");
    let mut listening = listen(&scene.server, &last.to_string(), None).await;
    let next = listening.next().await.expect("an event");
    assert_eq!(next.id, (last + 1).to_string());
}

#[tokio::test]
async fn a_token_has_so_many_streams_and_none_once_it_is_revoked() {
    let (mut scene, [start, _]) = Scene::new().await;
    let (_, admin) = scene.token(None, &["admin"], None).await;
    let scopes = ["watch", "read"];
    let (number, token) = scene.token(Some(&admin), &scopes, None).await;
    let (_, other) = scene.token(Some(&admin), &scopes, None).await;
    let stream = |token: &str| {
        let url = scene.server.url("spindex/v1/events?after=last");
        let request = scene.server.client.get(url).bearer_auth(token);
        let request = request.header("accept", "text/event-stream");
        async move { request.send().await.expect("an answer") }
    };
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(Listening::of(stream(&token).await));
    }
    assert_eq!(stream(&token).await.status().as_u16(), 503);
    let mut theirs = Listening::of(stream(&other).await);
    let path = format!("tokens/{number}");
    let revoked = scene.ask(Method::DELETE, &path, Some(&admin), None).await;
    assert_eq!(revoked.0, 200);
    for stream in &mut streams {
        assert_eq!(stream.next().await, None);
    }
    assert_eq!(stream(&token).await.status().as_u16(), 401);
    let body = json!({"watches": [process(start, "")]});
    scene.post("watches", Some(&other), &body).await;
    scene.step(start, 1);
    assert_eq!(theirs.next().await.expect("an event").name, "confirmed");
}

#[tokio::test]
async fn a_quiet_stream_says_how_far_it_is() {
    let (mut scene, [start, _]) = Scene::new().await;
    let settings = ServeSettings {
        silence_timeout: Duration::from_millis(200),
        ..ServeSettings::default()
    };
    scene.server = serve(&scene.store, &scene.registry, settings).await;
    let body = json!({"watches": [process(start, "")]});
    scene.post("watches", None, &body).await;
    let path = "0&watch=999";
    let mut listening = listen(&scene.server, path, None).await;
    scene.step(start, 1);
    // The event is not one of those asked for, but whoever comes back need not begin before it.
    loop {
        let block = listening.block().await.expect("it goes on");
        if block.lines().any(|line| line == "id: 1") {
            break;
        }
    }
}
