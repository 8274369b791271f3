//! A client of one wallet: the same with one member.

use std::fmt;
use std::sync::Arc;

use bitcoin::OutPoint;

use super::super::Oracle;
use super::super::native::NativeOracle;
use super::super::report::ScanReport;
use super::super::state::State;
use super::member::Member;
use super::server::Server;
use super::{ClientError, LightSettings, Pass, Progress, WalletsClient};
use crate::scan::{Scanner, SharedScanner};

/// A light client over one server.
pub struct LightClient(WalletsClient);

impl fmt::Debug for LightClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LightClient").field(&self.0).finish()
    }
}

impl LightClient {
    /// A client for a wallet, for outpoints, or both. Of outpoints those in `watched` are followed and reported
    /// ([`WalletScan::watched`](super::WalletScan::watched)).
    ///
    /// # Errors
    /// Nothing to look for, an empty range, or a state of another wallet or network.
    pub fn new(
        oracle: Arc<dyn Oracle>,
        scanner: Option<Scanner>,
        watched: impl IntoIterator<Item = OutPoint>,
        state: State,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        Self::of(Server::V1(oracle), scanner, watched, state, settings)
    }

    /// The same over a server of the native protocol. What matches need is asked of `follow_ups`, if it is another one: then
    /// `server` does not learn whether anything has matched.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn native(
        server: Arc<NativeOracle>,
        follow_ups: Option<Arc<NativeOracle>>,
        scanner: Option<Scanner>,
        watched: impl IntoIterator<Item = OutPoint>,
        state: State,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        let server = Server::native(server, follow_ups);
        Self::of(server, scanner, watched, state, settings)
    }

    fn of(
        server: Server,
        scanner: Option<Scanner>,
        watched: impl IntoIterator<Item = OutPoint>,
        state: State,
        settings: LightSettings,
    ) -> Result<Self, ClientError> {
        let scanner = scanner.map(|scanner| Arc::new(SharedScanner::from(scanner)));
        let keys = scanner
            .as_ref()
            .and_then(|scanner| scanner.wallets().first());
        let member = Member {
            name: None,
            keys: keys.cloned(),
            watched: watched.into_iter().collect(),
            state,
            reorganised_above: None,
        };
        let mut client = WalletsClient::over(server, vec![member], settings)?;
        client.engine = scanner.as_ref().map(|scanner| scanner.engine().clone());
        client.pass = scanner.map(|scanner| Pass {
            members: vec![0],
            scanner,
            only: None,
        });
        Ok(Self(client))
    }

    /// What the state has, without asking anybody.
    pub fn known(&self) -> ScanReport {
        let WalletsClient { settings, tip, .. } = &self.0;
        self.member().report(settings.network, *tip)
    }

    /// The state, for instance to use it again with other settings.
    pub fn into_state(self) -> State {
        let mut states = self.0.into_states();
        states.pop().expect("there is one member")
    }

    /// As [`WalletsClient::run`].
    ///
    /// # Errors
    /// As there.
    pub async fn run(
        &mut self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ScanReport, ClientError> {
        self.0.run(progress).await?;
        Ok(self.known())
    }

    fn member(&self) -> &Member {
        self.0.members.first().expect("there is one member")
    }
}
