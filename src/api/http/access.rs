//! Who asks: a token, or that the request comes from this machine and from no further.

use std::net::IpAddr;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri, Version, header};

use crate::api::connection::Traffic;
use crate::api::desk::Credential;
use crate::api::traffic::Peer;
use crate::watch::Token;

/// Headers of requests that somebody passes on.
const PASSED_ON: [HeaderName; 8] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("cf-connecting-ip"),
];

/// Headers of requests that a browser sends for a page, whosever it is.
const OF_PAGES: [HeaderName; 3] = [
    header::ORIGIN,
    header::REFERER,
    HeaderName::from_static("sec-fetch-site"),
];

/// The connection of a request.
pub(super) fn traffic(parts: &Parts) -> Option<&Traffic> {
    let traffic = parts.extensions.get::<ConnectInfo<Traffic>>();
    traffic.map(|ConnectInfo(traffic)| traffic)
}

/// Who asks. A token that is given counts alone.
pub(super) fn credential(parts: &Parts) -> Credential {
    let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
    match (given.next(), given.next()) {
        (None, _) => match is_local(parts) {
            true => Credential::Loopback,
            false => Credential::Nobody,
        },
        (Some(value), None) => {
            let token = value.to_str().ok().and_then(bearer);
            token.map_or(Credential::Malformed, Credential::Token)
        }
        (Some(_), Some(_)) => Credential::Malformed,
    }
}

fn bearer(value: &str) -> Option<Token> {
    let (scheme, token) = value.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    Token::parse(token.trim()).filter(|_| is_bearer)
}

/// Whether a program of this machine asks for itself: neither a proxy for others, which most say in a header or by an old
/// version, nor a browser for a page.
fn is_local(parts: &Parts) -> bool {
    let peer = traffic(parts).map(|Traffic(activity)| activity.peer());
    peer.is_some_and(Peer::is_loopback)
        && parts.version >= Version::HTTP_11
        && ![&PASSED_ON[..], &OF_PAGES]
            .concat()
            .iter()
            .any(|name| parts.headers.contains_key(name))
        && names_this_machine(&parts.headers, &parts.uri)
}

/// Whether the host that is asked for is this machine by its nature: a page whose name was made to lead here has another.
fn names_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str());
    let host = match (host, uri.authority()) {
        (Some(Ok(host)), _) => host,
        (Some(Err(_)), _) => return false,
        (None, Some(authority)) => authority.as_str(),
        (None, None) => return true,
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let address: Result<IpAddr, _> = address.unwrap_or(name).parse();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_this_machine() {
        let names = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().expect("a host"))]);
            names_this_machine(&headers, &Uri::from_static("/"))
        };
        for own in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1",
            "127.3.0.1:80",
            "[::1]",
            "[::1]:8000",
        ] {
            assert!(names(own), "{own}");
        }
        for other in [
            "example.org",
            "example.org:8000",
            "localhost.example.org",
            "10.0.0.1:8000",
            "[::2]:8000",
            "127.0.0.1.example.org",
            "",
        ] {
            assert!(!names(other), "{other}");
        }
        assert!(names_this_machine(
            &HeaderMap::new(),
            &Uri::from_static("/")
        ));
        let absolute = Uri::from_static("http://example.org/watches");
        assert!(!names_this_machine(&HeaderMap::new(), &absolute));
    }

    #[test]
    fn a_bearer_gives_a_token_and_nothing_else() {
        let token = Token::random();
        let text = token.text();
        for good in [format!("Bearer {}", *text), format!("bearer  {} ", *text)] {
            assert_eq!(bearer(&good), Some(token.clone()));
        }
        for wrong in [
            format!("Basic {}", *text),
            text.to_string(),
            "Bearer x".into(),
        ] {
            assert_eq!(bearer(&wrong), None);
        }
    }
}
