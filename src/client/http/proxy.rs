//! What stands between this client and a server.
//!
//! A proxy that was asked for is always used. Without one the environment's proxy settings count (`http_proxy`,
//! `https_proxy`, `all_proxy`, `no_proxy`), as for other programs, but never for a server on this machine: such
//! requests are no other machine's business, and few proxies could answer them.

use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Url};

use super::transport::shown;
use crate::client::OracleError;

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// No proxy.
    Direct,
    /// Through the proxy of the settings; its address, without credentials.
    Asked(String),
    /// Through a proxy of the environment; its address, without credentials.
    Environment(String),
}

impl Way {
    /// The way to `base` with these settings.
    pub(super) fn to(base: &Url, proxy: Option<&str>) -> Self {
        if let Some(proxy) = proxy {
            // Without a scheme, what stands before a colon looks like one, and behind it may be a password.
            let with_host = |text: &str| Url::parse(text).ok().filter(Url::has_host);
            let url = with_host(proxy).or_else(|| with_host(&format!("http://{proxy}")));
            return Self::Asked(url.map_or_else(|| "(no URL)".to_owned(), |url| shown(&url)));
        }
        if is_loopback(base) {
            return Self::Direct;
        }
        let intercept = base
            .as_str()
            .parse()
            .ok()
            .and_then(|uri| Matcher::from_system().intercept(&uri));
        // Credentials are kept apart from this address.
        intercept.map_or(Self::Direct, |proxy| {
            Self::Environment(proxy.uri().to_string())
        })
    }

    /// Sets a client up to take it.
    ///
    /// # Errors
    /// [`OracleError::Setup`] for a proxy that cannot be used.
    pub(super) fn take(
        &self,
        builder: ClientBuilder,
        proxy: Option<&str>,
    ) -> Result<ClientBuilder, OracleError> {
        let Some(proxy) = proxy else {
            return Ok(match self {
                Self::Direct => builder.no_proxy(),
                _ => builder,
            });
        };
        // The plain scheme would look names up here, outside of the proxy.
        let proxy = match proxy.strip_prefix("socks5://") {
            Some(rest) => format!("socks5h://{rest}"),
            None => proxy.to_owned(),
        };
        let proxy = reqwest::Proxy::all(proxy).map_err(|_| {
            OracleError::Setup(
                "the proxy's address cannot be used: give socks5://host:port or http://host:port"
                    .to_owned(),
            )
        })?;
        Ok(builder.proxy(proxy))
    }

    /// A URL as errors name it: without credentials, and with the proxy that the request goes through.
    pub(super) fn name(&self, url: &Url) -> String {
        let url = shown(url);
        match self {
            Self::Direct => url,
            Self::Asked(proxy) => format!("{url} (through the proxy {proxy})"),
            Self::Environment(proxy) => {
                format!("{url} (through the proxy {proxy} that the environment sets)")
            }
        }
    }
}

/// Whether a URL's host is this machine. Other names are not looked up: that is the proxy's to do.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    let address = address.map(|address: IpAddr| address.to_canonical());
    // A connection to the unspecified address goes to this machine too.
    address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_all_its_names() {
        for (url, expected) in [
            ("http://127.0.0.1:8000", true),
            ("http://127.8.9.10", true),
            ("http://0.0.0.0:8000", true),
            ("http://[::1]:8000", true),
            ("http://[::]:8000", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://localhost", true),
            ("http://LocalHost.:8000", true),
            ("http://index.localhost", true),
            ("http://127.0.0.1.example", false),
            ("http://localhost.example", false),
            ("http://notlocalhost", false),
            ("http://10.0.0.1", false),
            ("http://[fe80::1]", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_proxy_is_named_without_its_password() {
        let base = Url::parse("http://127.0.0.1:8000").unwrap();
        for (proxy, name) in [
            (
                "socks5://bob:hunter2@127.0.0.1:9050",
                "socks5://127.0.0.1:9050",
            ),
            (
                "bob:hunter2@proxy.example:3128",
                "http://proxy.example:3128/",
            ),
        ] {
            let way = Way::to(&base, Some(proxy));
            assert_eq!(way, Way::Asked(name.to_owned()));
            let expected = format!("http://127.0.0.1:8000/ (through the proxy {name})");
            assert_eq!(way.name(&base), expected);
        }
        assert_eq!(Way::to(&base, None), Way::Direct);
    }
}
