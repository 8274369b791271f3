use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::api::ServeSettings;

const HORIZON: u32 = 10;

fn stamp(tip: u64, branch: u64, height: u32) -> Stamp {
    Stamp {
        tip,
        branch,
        known: branch,
        height,
    }
}

/// Asks, and counts how often the answer had to be made.
struct Asking {
    answers: Answers,
    made: AtomicUsize,
}

impl Asking {
    fn new(room_bytes: u64) -> Self {
        Self {
            answers: Answers::new(room_bytes, HORIZON),
            made: AtomicUsize::new(0),
        }
    }

    async fn ask(&self, question: Question, stamp: Stamp, headers: &HeaderMap) -> Response {
        let make = async {
            let made = self.made.fetch_add(1, Ordering::SeqCst);
            Encoded::new(format!("{made}").into_bytes(), false)
        };
        let answer = self
            .answers
            .get(question, stamp, headers, false, make)
            .await;
        answer.expect("made")
    }

    async fn body(&self, question: Question, stamp: Stamp) -> String {
        let response = self.ask(question, stamp, &HeaderMap::new()).await;
        let bytes = axum::body::to_bytes(response.into_body(), 1000).await;
        String::from_utf8(bytes.expect("short").to_vec()).expect("digits")
    }
}

fn cut_through(height: u32) -> Question {
    Question::Tweaks {
        height,
        list: TweakList::CutThrough,
        dust_limit_sat: 0,
    }
}

fn full(height: u32) -> Question {
    Question::Tweaks {
        height,
        list: TweakList::Full,
        dust_limit_sat: 0,
    }
}

#[tokio::test]
async fn what_hangs_on_the_tip_is_made_anew_with_each_commit_and_the_rest_with_each_branch() {
    let lasting = [
        Question::BlockHash(5),
        full(5),
        Question::Filter(5, FilterKind::Spent),
        Question::SpentIndex(5),
        Question::Spends(5),
        Question::Digest(5),
    ];
    let passing = [
        Question::Info,
        Question::BlockHeight,
        cut_through(5),
        Question::Utxos(5),
    ];
    for (questions, made_by_a_commit) in [(&lasting[..], false), (&passing[..], true)] {
        for question in questions {
            let asking = Asking::new(1 << 20);
            assert_eq!(asking.body(*question, stamp(1, 1, 9)).await, "0");
            assert_eq!(asking.body(*question, stamp(1, 1, 9)).await, "0");
            let after_commit = asking.body(*question, stamp(2, 1, 10)).await;
            assert_eq!(after_commit == "1", made_by_a_commit, "{question:?}");
            let before = asking.made.load(Ordering::SeqCst);
            let after_reorg = asking.body(*question, stamp(3, 2, 10)).await;
            assert_eq!(after_reorg, before.to_string(), "{question:?}");
        }
    }
}

#[tokio::test]
async fn questions_that_differ_in_anything_have_answers_of_their_own() {
    let asking = Asking::new(1 << 20);
    let with_dust_limit = |dust_limit_sat| Question::Tweaks {
        height: 5,
        list: TweakList::Full,
        dust_limit_sat,
    };
    let questions = [
        full(5),
        full(6),
        cut_through(5),
        with_dust_limit(1),
        with_dust_limit(2),
        Question::Filter(5, FilterKind::NewUtxos),
        Question::Filter(5, FilterKind::Spent),
        Question::Utxos(5),
        Question::SpentIndex(5),
    ];
    for _ in 0..2 {
        for (index, question) in questions.iter().enumerate() {
            let body = asking.body(*question, stamp(1, 1, 9)).await;
            assert_eq!(body, index.to_string(), "{question:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_height_above_the_tip() {
    let asking = Asking::new(1 << 20);
    assert_eq!(asking.body(full(10), stamp(1, 1, 9)).await, "0");
    assert_eq!(asking.body(full(10), stamp(1, 1, 9)).await, "1");
    assert_eq!(asking.body(full(10), stamp(2, 1, 10)).await, "2");
    assert_eq!(asking.body(full(10), stamp(2, 1, 10)).await, "2");
}

#[tokio::test]
async fn an_error_is_nobody_elses_answer() {
    let asking = Asking::new(1 << 20);
    let headers = HeaderMap::new();
    let failing = async { Err::<Encoded, &str>("no") };
    let failed = asking
        .answers
        .get(full(5), stamp(1, 1, 9), &headers, false, failing)
        .await;
    assert_eq!(failed.err(), Some("no"));
    assert_eq!(asking.body(full(5), stamp(1, 1, 9)).await, "0");
}

#[tokio::test]
async fn what_is_kept_is_bounded_in_bytes() {
    let room = 100 << 10;
    let answers = Answers::new(room, HORIZON);
    let headers = HeaderMap::new();
    for height in 0..1000 {
        let make = async { Encoded::new(vec![b'0'; 1000], false) };
        let question = full(height);
        let got = answers.get(question, stamp(1, 1, 2000), &headers, false, make);
        assert!(got.await.is_ok());
        assert!(answers.kept.weight() <= room);
    }
    assert!(answers.kept.len() > 40);
    let large = async { Encoded::new(vec![b'0'; room as usize], false) };
    let got = answers.get(full(0), stamp(1, 2, 2000), &headers, false, large);
    assert!(got.await.is_ok());
    assert!(answers.kept.weight() <= room);
}

#[tokio::test]
async fn only_what_no_reorganisation_reaches_is_immutable() {
    let asking = Asking::new(1 << 20);
    let cache_control = async |question, height| {
        let response = asking
            .ask(question, stamp(1, 1, height), &HeaderMap::new())
            .await;
        let value = &response.headers()[header::CACHE_CONTROL];
        value.to_str().expect("text").to_owned()
    };
    let immutable = "public, max-age=31536000, immutable";
    assert_eq!(cache_control(full(5), 15).await, immutable);
    assert_eq!(cache_control(full(5), 14).await, "no-cache");
    assert_eq!(cache_control(cut_through(5), 1000).await, "no-cache");
    assert_eq!(cache_control(Question::Utxos(5), 1000).await, "no-cache");
    assert_eq!(cache_control(Question::Info, 1000).await, "no-cache");
    assert_eq!(cache_control(full(u32::MAX), u32::MAX).await, "no-cache");
}

#[tokio::test]
async fn who_has_an_answer_is_told_so_in_either_form() {
    let plain = Encoded::new(b"[]".to_vec(), false).expect("made");
    let zipped = Encoded::new(b"[]".to_vec(), true).expect("made");
    let other = Encoded::new(b"[ ]".to_vec(), false).expect("made");
    assert_ne!(plain.etag, zipped.etag);
    assert_ne!(plain.etag, other.etag);
    let name = plain.etag.to_str().expect("ASCII").to_owned();
    let zipped_name = zipped.etag.to_str().expect("ASCII").to_owned();
    let other_name = other.etag.to_str().expect("ASCII").to_owned();
    let is_known = |answer: &Encoded, value: &str| {
        let value = HeaderValue::from_str(value).expect("a value");
        answer.is_known(&HeaderMap::from_iter([(header::IF_NONE_MATCH, value)]))
    };
    for answer in [&plain, &zipped] {
        for value in [
            name.clone(),
            zipped_name.clone(),
            format!("W/{name}"),
            format!("{other_name}, {zipped_name}"),
            "*".to_owned(),
        ] {
            assert!(is_known(answer, &value), "{value}");
        }
        for value in ["", "\"\"", &other_name, "\"*\"", &name[..6]] {
            assert!(!is_known(answer, value), "{value}");
        }
        assert!(!answer.is_known(&HeaderMap::new()));
    }

    let value = HeaderValue::from_str(&name).expect("a value");
    let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, value)]);
    let response = zipped.response(&headers, false);
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(response.headers()[header::ETAG], zipped_name.as_str());
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
    let body = axum::body::to_bytes(response.into_body(), 1000).await;
    assert!(body.expect("none").is_empty());
}

/// Bytes that a body takes in memory.
fn memory(answer: Encoded) -> usize {
    let body = answer.body.try_into_mut().expect("held once");
    body.capacity()
}

#[test]
fn a_body_takes_no_more_memory_than_it_has_bytes() {
    let mut plain = Vec::with_capacity(1 << 20);
    plain.extend_from_slice(&[b'0'; 1000]);
    assert_eq!(memory(Encoded::new(plain, false).expect("made")), 1000);
    // A thousand times smaller than what was thought.
    let zipped = Encoded::new(vec![b'0'; 1 << 20], true).expect("made");
    let bytes = zipped.body.len();
    assert!(bytes < 10_000);
    assert_eq!(memory(zipped), bytes);
}

#[tokio::test]
async fn a_large_answer_is_kept_however_many_cores_there_are() {
    let headers = HeaderMap::new();
    for room in [16 << 20, ServeSettings::default().kept_answer_bytes] {
        let answers = Answers::new(room, HORIZON);
        let large = async { Encoded::new(vec![b'0'; 7 << 20], false) };
        let got = answers.get(full(5), stamp(1, 1, 9), &headers, false, large);
        assert!(got.await.is_ok());
        let kept = answers.kept(full(5), stamp(1, 1, 9), &headers, false);
        assert!(kept.is_some(), "{room}");
    }
}

#[tokio::test]
async fn rooms_of_any_size_give_answers() {
    for room in [0, 1, u64::MAX] {
        let asking = Asking::new(room);
        for made in 0..3 {
            let body = asking.body(full(5), stamp(1, 1, 9)).await;
            let made = if room == u64::MAX { 0 } else { made };
            assert_eq!(body, made.to_string(), "{room}");
        }
    }
}
