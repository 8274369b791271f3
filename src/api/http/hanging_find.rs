//! Answers made of what is found elsewhere, where nothing comes from.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::*;
use crate::api::desk::DeskSettings;
use crate::store::{Store, StoreOptions};

/// The clock is tokio's own and moves only when nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn whoever_asks_for_the_same_as_others_waits_as_long_as_one_and_no_longer() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = StoreOptions {
        network: bitcoin::Network::Regtest,
        first_height: None,
        keep: None,
        tweak_form: None,
        undo_depth: 100,
        cache_bytes: 0,
    };
    let store = Store::open(&directory.path().join("index"), &options).expect("opens");
    let settings = ServeSettings::default();
    let desk = Desk::new(Arc::new(store), None, None, DeskSettings::default());
    let context = Context {
        receiver: Arc::new(Receiver::new(settings.body_timeout)),
        answers: Arc::new(Answers::new(settings.kept_answer_bytes, 100)),
        streams: Arc::new(Streams::new(&settings, None)),
        chunk_room: Outgoing::for_chunks(&settings),
        range_room: Outgoing::for_ranges(&settings),
        desk,
    };
    let (headers, timeout) = (HeaderMap::new(), Duration::from_secs(60));
    let question = Question::Spends(0);
    let ask = async || {
        let find = async {
            tokio::time::sleep(timeout).await;
            Err::<Vec<u8>, _>(DeskError::NoNode.into())
        };
        let encode = Ok::<_, V1Error>;
        context.answer_found(&headers, question, find, encode).await
    };
    let start = Instant::now();
    let refused = join_all((0..20).map(|_| ask())).await;
    let refused = refused.iter().map(Response::status);
    assert!(
        refused
            .into_iter()
            .all(|status| status == StatusCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(start.elapsed(), timeout);

    // What has been found once is there for all, at once.
    let find = async || Ok::<_, V1Error>(b"{}".to_vec());
    let found = context.answer_found(&headers, question, find(), Ok).await;
    assert_eq!(found.status(), StatusCode::OK);
    assert_eq!(ask().await.status(), StatusCode::OK);
    assert_eq!(start.elapsed(), timeout);
}
