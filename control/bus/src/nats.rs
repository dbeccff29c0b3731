//! The world of many machines: core NATS, any nats-server from 2.9 on.
//!
//! ```text
//!   subscription ◀── Queue ◀── pump task ◀── client's queue ◀── one connection ◀── nats-server
//!   question     ◀── Queue ◀── inbox task (one for all questions)
//! ```
//!
//! The client drops what its own queue does not hold and says so without a count, so a pump per subscription empties that
//! queue at once into one that counts. After a reconnect, and after a drop inside the client, every subscription is
//! told [`crate::Incoming::Lost`] with 0: but first an echo has come back, which proves that the server has all
//! subscriptions again, so that whoever asks for the whole then misses nothing.
//!
//! Deliberately absent: JetStream, and credentials files (JWT and seed): they come with the identities.

use crate::queue::Queue;
use crate::subject::{check_message, check_pattern};
use crate::{BusError, Incoming, RawMessage, RawSubscription, World};
use async_nats::connection::State;
use async_nats::rustls::crypto::{CryptoProvider, aws_lc_rs};
use async_nats::{
    Client, ConnectOptions, Event, Message, PublishErrorKind, StatusCode, Subscriber,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Messages between the connection and the pump of one subscription; the pump empties it at once.
const CLIENT_QUEUE: usize = 65_536;

/// Commands between us and the connection. Small: what waits here while the connection dies is sent late, when it is back.
const CLIENT_COMMANDS: usize = 1024;

/// A subscription that is not in force by then is refused.
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(5);

/// A connection that takes nothing for so long is away.
const PUBLISH_WAIT: Duration = Duration::from_secs(2);

/// An echo that is not back by then was lost with the connection, and is sent again.
const ECHO_EVERY: Duration = Duration::from_millis(500);

/// The server is asked so often whether it lives; the third unanswered question ends the connection.
const PING_EVERY: Duration = Duration::from_secs(2);

/// For TCP, TLS and the first words.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// The first pause between two tries to reconnect, and the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Where NATS is and who we are there.
#[derive(Clone, Default)]
pub struct NatsConf {
    /// `nats://host:port` or `tls://host:port`, any of one cluster.
    pub urls: Vec<String>,
    /// What the server's operator sees.
    pub name: String,
    /// User name, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<String>,
    /// Instead of user and password.
    pub token: Option<String>,
    /// Demand TLS.
    pub tls: Option<NatsTls>,
}

/// TLS to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// PEM file of the authorities to believe; none = those of the system.
    pub authorities: Option<PathBuf>,
    /// PEM files of our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Debug for NatsConf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("NatsConf")
            .field("urls", &self.urls)
            .field("name", &self.name)
            .field("user", &self.user)
            .field("password", &told(&self.password))
            .field("token", &told(&self.token))
            .field("tls", &self.tls)
            .finish()
    }
}

/// A connection to NATS.
pub struct Nats {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    urls: String,
    /// Answers come to `<inbox>.<number>`.
    inbox: String,
    next: AtomicU64,
    readers: Arc<Readers>,
    tasks: Vec<AbortHandle>,
}

/// The queues behind all subscriptions and questions.
#[derive(Default)]
struct Readers {
    subscriptions: Mutex<HashMap<u64, Arc<Queue>>>,
    /// By the last token of the reply subject. As many as there are questions in flight.
    questions: Mutex<HashMap<u64, Arc<Queue>>>,
    /// Something was dropped, or the connection is a new one.
    trouble: Notify,
    connected_before: AtomicBool,
    /// Why the last try to connect failed.
    refusal: Mutex<Option<String>>,
}

impl Nats {
    /// Connects, and from then on reconnects for ever. Only a mistake in `conf` is an error: a server that cannot be
    /// reached within two seconds is tried on in the background, and until then everything is [`BusError::Away`].
    pub async fn connect(conf: &NatsConf) -> Result<Arc<dyn World>, BusError> {
        let mistake = |why: String| BusError::Away(format!("{}: {why}", conf.urls.join(", ")));
        if CryptoProvider::get_default().is_none() {
            // A server may demand TLS unasked; without a provider that would be a panic. Losing the race is fine.
            drop(aws_lc_rs::default_provider().install_default());
        }
        if conf.urls.is_empty() {
            return Err(BusError::Away("no address of a NATS server is given".to_owned()));
        }
        let readers = Arc::new(Readers::default());
        let options = options(conf, &readers)?;
        let client =
            options.connect(&conf.urls[..]).await.map_err(|why| mistake(why.to_string()))?;
        let inbox = client.new_inbox();
        let answers =
            client.subscribe(format!("{inbox}.*")).await.map_err(|why| mistake(why.to_string()))?;
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let inbox_task = tokio::spawn(sort_answers(answers, Arc::clone(&readers)));
            let trouble = tell_trouble(Arc::clone(&readers), shared.clone());
            let tasks = vec![inbox_task.abort_handle(), tokio::spawn(trouble).abort_handle()];
            let urls = conf.urls.join(", ");
            Shared { client, urls, inbox, next: AtomicU64::new(1), readers, tasks }
        });
        if let Err(why) = shared.in_force(CONNECT_WAIT).await {
            tracing::warn!(urls = shared.urls, %why, "NATS is not there yet; trying on");
        }
        Ok(Arc::new(Self { shared }))
    }
}

fn options(conf: &NatsConf, readers: &Arc<Readers>) -> Result<ConnectOptions, BusError> {
    let told = Arc::clone(readers);
    // Many processes lose one server at the same time; each comes back at its own pace.
    let spread = conf.name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
    let mut options = ConnectOptions::new()
        .name(&conf.name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempt| back_off(attempt, spread))
        .connection_timeout(CONNECT_WAIT)
        .ping_interval(PING_EVERY)
        .subscription_capacity(CLIENT_QUEUE)
        .client_capacity(CLIENT_COMMANDS)
        .event_callback(move |event| {
            told.heard(&event);
            std::future::ready(())
        });
    match (&conf.user, &conf.password, &conf.token) {
        (None, None, None) => {}
        (None, None, Some(token)) => options = options.token(token.clone()),
        (Some(user), Some(password), None) => {
            options = options.user_and_password(user.clone(), password.clone());
        }
        _ => {
            let why = "NATS takes a user and its password, or a token, or neither";
            return Err(BusError::Away(why.to_owned()));
        }
    }
    if let Some(tls) = &conf.tls {
        options = options.require_tls(true);
        if let Some(authorities) = &tls.authorities {
            options = options.add_root_certificates(authorities.clone());
        }
        if let Some((certificate, key)) = &tls.identity {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    Ok(options)
}

/// Doubles from attempt to attempt up to a bound; up to a quarter less by `spread`.
fn back_off(attempt: usize, spread: u32) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(16);
    let pause = BACK_OFF.0.saturating_mul(1 << doublings).min(BACK_OFF.1);
    let turn = spread.wrapping_add(doublings.wrapping_mul(0x9E37_79B9)) >> 16;
    pause - pause * (turn % 256) / 1024
}

impl Readers {
    fn heard(&self, event: &Event) {
        match event {
            Event::ClientError(why) => {
                tracing::debug!(%why, "NATS");
                *lock(&self.refusal) = Some(why.to_string());
            }
            Event::Connected if !self.connected_before.swap(true, Ordering::Relaxed) => {}
            Event::Connected => self.trouble.notify_one(),
            Event::SlowConsumer(_) => self.trouble.notify_one(),
            Event::Disconnected => tracing::warn!("the connection to NATS is gone"),
            Event::ServerError(why) => tracing::warn!(%why, "the NATS server complains"),
            Event::LameDuckMode | Event::Draining | Event::Closed => {
                tracing::info!(%event, "NATS");
            }
        }
    }

    fn tell_all(&self) {
        for queues in [&self.subscriptions, &self.questions] {
            lock(queues).values().for_each(|queue| queue.lose_unknown());
        }
    }
}

/// No code under these locks can panic half-way, so a poisoned lock holds nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client says which subscription dropped something, but may drop that word too, so all are told.
async fn tell_trouble(readers: Arc<Readers>, shared: Weak<Shared>) {
    loop {
        readers.trouble.notified().await;
        let Some(shared) = shared.upgrade() else { return };
        // Fails only when the connection is gone again: then the next one brings us here again.
        if let Err(why) = shared.in_force(SUBSCRIBE_WAIT).await {
            tracing::debug!(%why, "NATS went away again");
        }
        readers.tell_all();
    }
}

async fn sort_answers(mut answers: Subscriber, readers: Arc<Readers>) {
    while let Some(message) = answers.next().await {
        let number = message.subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        // Nobody waits for an answer that is late.
        let Some(queue) =
            number.and_then(|number: u64| lock(&readers.questions).get(&number).cloned())
        else {
            continue;
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            queue.nobody();
        } else {
            queue.push(raw(message));
        }
    }
    lock(&readers.questions).values().for_each(|queue| queue.close());
}

async fn pump(mut from: Subscriber, to: Arc<Queue>) {
    while let Some(message) = from.next().await {
        to.push(raw(message));
    }
    to.close();
}

fn raw(message: Message) -> RawMessage {
    RawMessage {
        subject: message.subject.into_string(),
        reply: message.reply.map(async_nats::Subject::into_string),
        payload: message.payload,
    }
}

impl Shared {
    /// Whether a message can be sent now. What is sent while away would arrive late, when it is no longer meant.
    fn here(&self) -> Result<(), BusError> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(self.away("not connected")),
        }
    }

    fn away(&self, why: impl std::fmt::Display) -> BusError {
        let refusal = match self.client.connection_state() {
            State::Connected => None,
            State::Pending | State::Disconnected => lock(&self.readers.refusal).clone(),
        };
        let refusal = refusal.map(|refusal| format!(" ({refusal})")).unwrap_or_default();
        BusError::Away(format!("{}: {why}{refusal}", self.urls))
    }

    async fn send(
        &self,
        subject: &str,
        payload: Bytes,
        reply: Option<&str>,
    ) -> Result<(), BusError> {
        let bytes = payload.len();
        let subject = subject.to_owned();
        let sent = async {
            match reply {
                Some(reply) => {
                    self.client.publish_with_reply(subject, reply.to_owned(), payload).await
                }
                None => self.client.publish(subject, payload).await,
            }
        };
        match timeout(PUBLISH_WAIT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(match why.kind() {
                PublishErrorKind::MaxPayloadExceeded => BusError::TooLarge { bytes },
                PublishErrorKind::InvalidSubject => BusError::Subject(why.to_string()),
                PublishErrorKind::Send => BusError::Closed,
            }),
            Err(_) => Err(self.away("the connection takes nothing")),
        }
    }

    /// Opens a place for answers.
    fn ask(self: &Arc<Self>, count: usize) -> (String, Listening) {
        let queue = Arc::new(Queue::of_answers(count));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.readers.questions).insert(number, Arc::clone(&queue));
        let listening = Listening { shared: Arc::clone(self), number, queue, pump: None };
        (format!("{}.{number}", self.inbox), listening)
    }

    /// Waits for an echo of the server, which works in order: all subscriptions sent before are then in force.
    async fn in_force(self: &Arc<Self>, wait: Duration) -> Result<(), BusError> {
        let (inbox, mut echo) = self.ask(1);
        let heard = async {
            loop {
                self.send(&inbox, Bytes::new(), None).await?;
                match timeout(ECHO_EVERY, echo.next()).await {
                    Ok(Some(Incoming::Message(_))) => return Ok(()),
                    Ok(None) => return Err(BusError::Closed),
                    Ok(Some(Incoming::Lost(_) | Incoming::NoResponders)) | Err(_) => {}
                }
            }
        };
        timeout(wait, heard).await.unwrap_or_else(|_| Err(self.away("no echo")))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl World for Nats {
    async fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        reply: Option<&str>,
    ) -> Result<(), BusError> {
        check_message(subject, payload.len())?;
        self.shared.here()?;
        self.shared.send(subject, payload, reply).await
    }

    async fn flush(&self) {
        // A connection that is away has nothing that could still be sent.
        drop(timeout(SUBSCRIBE_WAIT, self.shared.client.flush()).await);
    }

    async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        check_pattern(pattern, group)?;
        let client = &self.shared.client;
        let asked = async {
            match group {
                Some(group) => client.queue_subscribe(pattern.to_owned(), group.to_owned()).await,
                None => client.subscribe(pattern.to_owned()).await,
            }
        };
        let subscriber = timeout(SUBSCRIBE_WAIT, asked)
            .await
            .map_err(|_| self.shared.away("the connection takes nothing"))?
            .map_err(|why| self.shared.away(why))?;
        let queue = Arc::new(Queue::new(capacity));
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.readers.subscriptions).insert(number, Arc::clone(&queue));
        let pump = tokio::spawn(pump(subscriber, Arc::clone(&queue))).abort_handle();
        // From here on dropping `listening` undoes everything, also when this future is dropped.
        let shared = Arc::clone(&self.shared);
        let listening = Listening { shared, number, queue, pump: Some(pump) };
        self.shared.in_force(SUBSCRIBE_WAIT).await?;
        Ok(Box::new(listening))
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        count: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        check_message(subject, payload.len())?;
        self.shared.here()?;
        let (inbox, listening) = self.shared.ask(count);
        self.shared.send(subject, payload, Some(&inbox)).await?;
        Ok(Box::new(listening))
    }
}

/// A subscription with its pump, or a question.
struct Listening {
    shared: Arc<Shared>,
    number: u64,
    queue: Arc<Queue>,
    pump: Option<AbortHandle>,
}

#[async_trait]
impl RawSubscription for Listening {
    async fn next(&mut self) -> Option<Incoming> {
        self.queue.next().await
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let readers = &self.shared.readers;
        let queues = match &self.pump {
            // The client's subscriber lives in the task, and unsubscribes when it goes.
            Some(pump) => {
                pump.abort();
                &readers.subscriptions
            }
            None => &readers.questions,
        };
        lock(queues).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the pause is bounded, grows, and is not the same for everybody.
    #[test]
    fn the_pause_between_tries_is_bounded() {
        let pauses: Vec<Duration> = (0..100).map(|attempt| back_off(attempt, 0)).collect();
        assert_eq!(pauses[..2], [Duration::ZERO; 2]);
        assert!(
            pauses[2..].iter().all(|pause| *pause >= BACK_OFF.0 * 3 / 4 && *pause <= BACK_OFF.1)
        );
        assert!(pauses[50] >= BACK_OFF.1 * 3 / 4 && pauses[99] <= BACK_OFF.1);
        let spread: std::collections::HashSet<_> =
            (0..100_u32).map(|name| back_off(20, name.wrapping_mul(2_654_435_761))).collect();
        assert!(spread.len() > 50, "{}", spread.len());
    }

    /// Goal: what the client dropped by itself is told to everybody, since it may drop the word about it too; the first
    /// connection is no trouble.
    #[tokio::test]
    async fn a_drop_inside_the_client_is_told() {
        let readers = Readers::default();
        let queues = [(); 2].map(|()| Arc::new(Queue::new(4)));
        for (number, queue) in (0..).zip(&queues) {
            lock(&readers.subscriptions).insert(number, Arc::clone(queue));
        }
        let troubled = || timeout(Duration::from_millis(1), readers.trouble.notified());
        readers.heard(&Event::Connected);
        assert!(troubled().await.is_err());
        for event in [Event::SlowConsumer(3), Event::Connected] {
            readers.heard(&event);
            assert!(troubled().await.is_ok(), "{event}");
            readers.tell_all();
            for queue in &queues {
                assert_eq!(queue.next().await, Some(Incoming::Lost(0)));
            }
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let conf = NatsConf {
            password: Some("hush".into()),
            token: Some("hush".into()),
            ..NatsConf::default()
        };
        assert!(!format!("{conf:?}").contains("hush"));
    }

    #[tokio::test]
    async fn half_a_login_is_a_mistake() {
        let conf = NatsConf {
            urls: vec!["nats://127.0.0.1:1".into()],
            user: Some("u".into()),
            ..NatsConf::default()
        };
        assert!(
            matches!(Nats::connect(&conf).await, Err(BusError::Away(why)) if why.contains("password"))
        );
        let conf = NatsConf { urls: vec!["http://x".into()], ..NatsConf::default() };
        assert!(Nats::connect(&conf).await.is_err());
        assert!(Nats::connect(&NatsConf::default()).await.is_err());
    }
}
