//! Listening to a publisher, again and again.

use tokio::time::{Duration, Instant};

use super::connection::{Connection, Fault, Subscription};
use super::journal::Journal;
use super::message::Message;
use super::{ZmqAddress, ZmqSettings};

/// Messages read in one go before others get their turn; a node with a full mempool sends some dozens a second.
const MESSAGES_AT_ONCE: usize = 1000;

/// Shortest time for so many messages. What a publisher cannot send meanwhile it drops, which costs nothing but a look.
const MESSAGES_TIME: Duration = Duration::from_millis(200);

/// Who hears what a publisher says.
pub(super) trait Ear: Send + Sync {
    /// What was published until now may be lost.
    fn may_have_missed(&self) -> impl Future<Output = ()> + Send;

    /// There is no connection any more.
    fn cut_off(&self) -> impl Future<Output = ()> + Send;

    /// A message.
    fn hear(&self, message: Message) -> impl Future<Output = ()> + Send;
}

/// Connects and listens, without an end.
pub(super) async fn keep_listening(
    address: ZmqAddress,
    settings: ZmqSettings,
    subscription: &'static Subscription,
    ear: impl Ear,
) {
    let mut pause = settings.first_pause;
    let mut journal = Journal::new(address.clone());
    loop {
        let patience = settings.patience;
        let connected = Connection::open(&address.host, address.port, subscription, patience);
        let reason = match connected.await {
            Ok(connection) => {
                let since = Instant::now();
                let reason = pass_on(connection, &settings, &ear, &mut journal).await;
                ear.cut_off().await;
                if since.elapsed() >= settings.steady_after {
                    pause = settings.first_pause;
                    journal.forgive();
                }
                reason
            }
            Err(reason) => reason,
        };
        journal.complain(&reason);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(settings.longest_pause);
    }
}

/// Passes on what is heard until the connection ends.
async fn pass_on(
    mut connection: Connection,
    settings: &ZmqSettings,
    ear: &impl Ear,
    journal: &mut Journal,
) -> Fault {
    // What was published before is lost, and so may be what is published until the node has read the subscriptions, of
    // which it says nothing.
    ear.may_have_missed().await;
    let subscribed = async {
        tokio::time::sleep(settings.subscribed_after).await;
        journal.announce();
        ear.may_have_missed().await;
        std::future::pending::<Fault>().await
    };
    tokio::select! {
        reason = hear(&mut connection, ear) => reason,
        reason = subscribed => reason,
    }
}

/// Reads messages, no more at a time than costs little, until the connection ends.
async fn hear(connection: &mut Connection, ear: &impl Ear) -> Fault {
    loop {
        let since = Instant::now();
        for _ in 0..MESSAGES_AT_ONCE {
            match connection.receive().await {
                Ok(Some(message)) => ear.hear(message).await,
                Ok(None) => {}
                Err(reason) => return reason,
            }
        }
        tokio::time::sleep(MESSAGES_TIME.saturating_sub(since.elapsed())).await;
    }
}
