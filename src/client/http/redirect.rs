//! Which redirects are followed: those by which a server tidies up the path of the same question.
//!
//! Another origin is another server, which nobody chose; and of the answers of version 1 some do not say what they
//! are an answer to, so a redirect to another route or height would put one list in another's place.

use reqwest::Url;
use reqwest::redirect::{Attempt, Policy};

use super::transport::shown;

/// Most redirects followed in a row.
const MAX_REDIRECTS: usize = 3;

/// A redirect that is not followed.
#[derive(Debug, thiserror::Error)]
#[error("redirected to {target}")]
pub(super) struct Astray {
    /// Where to, without credentials.
    pub(super) target: String,
}

/// The rule for requests below a base address, which ends with a slash.
pub(super) fn policy(base: &Url) -> Policy {
    let base = base.clone();
    Policy::custom(move |attempt: Attempt<'_>| {
        let asked = attempt.previous().first();
        let is_same = asked.is_some_and(|asked| is_same_question(&base, asked, attempt.url()));
        if is_same && attempt.previous().len() <= MAX_REDIRECTS {
            attempt.follow()
        } else {
            let target = shown(attempt.url());
            attempt.error(Astray { target })
        }
    })
}

/// Whether a redirect leads to the same route with the same query on the same server, behind whatever path.
fn is_same_question(base: &Url, asked: &Url, target: &Url) -> bool {
    let Some(route) = asked.path().strip_prefix(base.path()) else {
        return false;
    };
    let path = target.path().trim_end_matches('/');
    target.origin() == asked.origin()
        && target.query() == asked.query()
        && path
            .strip_suffix(route.trim_end_matches('/'))
            .is_some_and(|before| before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_question_to_the_same_server_is_followed() {
        let base = Url::parse("http://h:8000/signet/").unwrap();
        let asked = Url::parse("http://h:8000/signet/tweaks/7?dustLimit=546").unwrap();
        for (target, expected) in [
            ("http://h:8000/signet/tweaks/7?dustLimit=546", true),
            ("http://h:8000/signet/tweaks/7/?dustLimit=546", true),
            ("http://h:8000/v1/signet/tweaks/7?dustLimit=546", true),
            ("http://h:8000/tweaks/7?dustLimit=546", true),
            ("http://h:8000/signet/tweaks/7", false),
            ("http://h:8000/signet/tweaks/7?dustLimit=1000", false),
            ("http://h:8000/signet/tweaks/17?dustLimit=546", false),
            ("http://h:8000/signet/xtweaks/7?dustLimit=546", false),
            ("http://h:8000/signet/tweak-index/7?dustLimit=546", false),
            ("http://h:8000/?dustLimit=546", false),
            ("https://h:8000/signet/tweaks/7?dustLimit=546", false),
            ("http://h:8001/signet/tweaks/7?dustLimit=546", false),
            ("http://other:8000/signet/tweaks/7?dustLimit=546", false),
        ] {
            let target = Url::parse(target).unwrap();
            assert_eq!(
                is_same_question(&base, &asked, &target),
                expected,
                "{target}"
            );
        }
    }
}
