//! A server that asks to be left alone for a while (`Retry-After`): no request is sent to it meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

/// Until when a server is left alone, for all requests to it together.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// Leaves the server alone for at least this long from now on; whether it was not left alone before.
    pub(super) fn extend(&self, wait: Duration) -> bool {
        let now = Instant::now();
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = current.is_none_or(|until| until <= now);
        *current = (*current).max(now.checked_add(wait));
        is_new
    }

    /// Waits until the server may be asked, and up to `spread` longer, so that requests do not come back all at once.
    pub(super) async fn over(&self, spread: Duration) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => {
                    let spread = spread.mul_f64(secp256k1::rand::random::<f64>());
                    tokio::time::sleep_until(until + spread).await;
                }
                None => return,
            }
        }
    }
}

/// How long an answer asks to wait: `Retry-After` in seconds or as a date, which counts from the answer's own.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = headers
        .get(DATE)
        .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok())
        .unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(retry_after: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        super::retry_after(&headers)
    }

    #[test]
    fn a_wait_is_read_in_seconds_and_as_a_date() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(asks("7", None), Some(Duration::from_secs(7)));
        assert_eq!(
            asks("Sun, 06 Nov 1994 08:50:07 GMT", date),
            Some(Duration::from_secs(30))
        );
        // The past is no wait.
        assert_eq!(
            asks("Sun, 06 Nov 1994 08:49:07 GMT", None),
            Some(Duration::ZERO)
        );
        for nonsense in ["", "soon", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(asks(nonsense, date), None, "{nonsense}");
        }
        assert_eq!(super::retry_after(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn all_requests_wait_for_the_longest_pause() {
        let (pause, start) = (Pause::default(), Instant::now());
        pause.over(Duration::ZERO).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(pause.extend(Duration::from_secs(9)));
        assert!(!pause.extend(Duration::from_secs(2)));
        pause.over(Duration::ZERO).await;
        assert_eq!(start.elapsed().as_secs(), 9);
    }
}
