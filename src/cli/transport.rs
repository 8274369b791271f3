//! How a server is asked: through which proxy, and how long it is waited for.

use std::time::Duration;

use clap::Args;

use crate::client::HttpSettings;

#[derive(Args)]
pub(super) struct Transport {
    /// Proxy such as socks5://127.0.0.1:9050; it resolves the server's name too. Without one the environment's
    /// (http_proxy, ...) is used, but not for a server on this machine
    #[arg(
        long,
        env = "SPINDEX_PROXY",
        value_name = "URL",
        hide_env_values = true
    )]
    proxy: Option<String>,
    /// How long to wait for an answer, in seconds
    #[arg(
        long,
        env = "SPINDEX_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    timeout: u64,
}

impl Transport {
    /// How servers are asked; nothing else is set.
    pub(super) fn settings(&self) -> HttpSettings {
        HttpSettings {
            timeout: Duration::from_secs(self.timeout),
            proxy: self.proxy.clone(),
            ..HttpSettings::default()
        }
    }
}
