//! Session tickets, and the identity of a session that travels in them.
//!
//! A ticket is AES-256-GCM over `session identity ‖ rustls' session value`, under a random nonce and a key that lives
//! [`ROTATION_SECONDS`] as the current one and as long again as the previous one: a ticket resumes for at least one
//! period and at most two. Keys are shared by all cores, read without a lock, and survive a reload of certificates.
//!
//! ```text
//!   lend(notes) ─▶ rustls handles a message ─▶ resolve: server name   ┐
//!                                              decrypt: offered id    ├─▶ reclaim() ─▶ settle(kind)
//!                                              encrypt: own id        ┘
//! ```
//!
//! rustls calls the certificate resolver and the ticketer in the middle of a message, on this thread, and tells neither
//! which connection it works for. The notes of the connection are therefore lent to the thread for the length of that
//! call. It is the same for TLS 1.2 (whose ticket is written while the hello is still being answered, too early for
//! any call of ours in between) and for TLS 1.3.
//! Deliberately absent: a session cache; tickets shared between machines.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use rustls::HandshakeKind;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

/// How long a key seals new tickets; it opens old ones for as long again.
pub(super) const ROTATION_SECONDS: u32 = 6 * 60 * 60;
/// Random bytes of a session's identity: the length of the session id that OpenSSL shows.
pub(super) const IDENTITY_BYTES: usize = 32;
/// Longer tickets cannot be ours.
const TICKET_BYTES_MAX: usize = 4 * 1024;
/// Name of the key in front of each ticket, so that a foreign ticket costs a comparison, not a decryption.
const KEY_NAME_BYTES: usize = 16;
const TAG_BYTES: usize = 16;

/// Names a session over all its resumptions.
pub(super) type Identity = [u8; IDENTITY_BYTES];

/// What the callbacks of one handshake have to tell.
#[derive(Debug)]
pub(super) struct Notes {
    /// Goes into the tickets of this session, and to the origin.
    pub(super) identity: Identity,
    /// The name the client asked for, lower case.
    pub(super) server_name: Option<String>,
    /// The identity in the last ticket of the client that could be opened.
    offered: Option<Identity>,
}

impl Notes {
    /// Notes of a new session.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let mut identity = [0; IDENTITY_BYTES];
        rand::fill(&mut identity).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        Ok(Self { identity, server_name: None, offered: None })
    }

    /// Take over the offered identity once rustls has accepted the ticket, forget it once it has not.
    /// The last ticket opened is the accepted one: rustls stops looking when it accepts.
    pub(super) fn settle(&mut self, kind: Option<HandshakeKind>) {
        match (kind, self.offered) {
            (None, _) | (_, None) => {}
            (Some(HandshakeKind::Resumed), Some(identity)) => {
                (self.identity, self.offered) = (identity, None);
            }
            (Some(_), Some(_)) => self.offered = None,
        }
    }
}

thread_local! {
    static LENT: RefCell<Option<Box<Notes>>> = const { RefCell::new(None) };
}

/// Lend the notes of a handshake to the callbacks on this thread.
pub(super) fn lend(notes: Box<Notes>) {
    LENT.set(Some(notes));
}

/// End of [`lend`].
pub(super) fn reclaim() -> Option<Box<Notes>> {
    LENT.take()
}

/// The resolver's note: what the client asked for.
pub(super) fn note_server_name(name: Option<String>) {
    with_lent(|notes| notes.server_name = name);
}

fn with_lent<T>(act: impl FnOnce(&mut Notes) -> T) -> Option<T> {
    LENT.with_borrow_mut(|lent| lent.as_deref_mut().map(act))
}

/// Seals and opens tickets for all cores.
pub(super) struct Ticketer {
    keys: ArcSwap<Keys>,
    time: Arc<dyn TimeProvider>,
}

struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
    /// Seconds since the epoch.
    rotate_at: u64,
}

struct Key {
    name: [u8; KEY_NAME_BYTES],
    sealing: RandomizedNonceKey,
}

impl Key {
    fn generate() -> Option<Arc<Self>> {
        let (mut name, mut secret) = ([0; KEY_NAME_BYTES], [0; 32]);
        rand::fill(&mut name).ok()?;
        rand::fill(&mut secret).ok()?;
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, &secret).ok()?;
        Some(Arc::new(Self { name, sealing }))
    }
}

impl Ticketer {
    /// A ticketer with fresh keys.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn new(time: Arc<dyn TimeProvider>) -> Result<Self, rustls::Error> {
        let now = time.current_time().ok_or(rustls::Error::FailedToGetCurrentTime)?.as_secs();
        let current = Key::generate().ok_or(rustls::Error::FailedToGetRandomBytes)?;
        let keys = Keys { current, previous: None, rotate_at: now + u64::from(ROTATION_SECONDS) };
        Ok(Self { keys: ArcSwap::from_pointee(keys), time })
    }

    /// The keys of this moment. When it is time for new ones, the first core to notice makes them.
    fn keys(&self) -> arc_swap::Guard<Arc<Keys>> {
        let keys = self.keys.load();
        let Some(now) = self.time.current_time().map(|now| now.as_secs()) else { return keys };
        if now < keys.rotate_at {
            return keys;
        }
        let Some(current) = Key::generate() else { return keys };
        let period = u64::from(ROTATION_SECONDS);
        // After a long silence the current key is as old as a previous one may be: it goes, too.
        let previous = (now < keys.rotate_at + period).then(|| Arc::clone(&keys.current));
        let next = Arc::new(Keys { current, previous, rotate_at: now + period });
        // Of several cores that notice at a time, one wins; the others use the winner's keys.
        self.keys.compare_and_swap(&keys, next);
        self.keys.load()
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ROTATION_SECONDS
    }

    fn encrypt(&self, value: &[u8]) -> Option<Vec<u8>> {
        let identity = with_lent(|notes| notes.offered.unwrap_or(notes.identity))?;
        let keys = self.keys();
        let head = KEY_NAME_BYTES + NONCE_LEN;
        let mut ticket = Vec::with_capacity(head + IDENTITY_BYTES + value.len() + TAG_BYTES);
        ticket.extend_from_slice(&keys.current.name);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(&identity);
        ticket.extend_from_slice(value);
        let aad = Aad::from(keys.current.name);
        let sealed = keys.current.sealing.seal_in_place_separate_tag(aad, &mut ticket[head..]);
        let (nonce, tag) = sealed.ok()?;
        ticket[KEY_NAME_BYTES..head].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<KEY_NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys();
        let mut known = std::iter::once(&keys.current).chain(&keys.previous);
        let key = known.find(|key| key.name == *name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.sealing.open_in_place(nonce, Aad::from(key.name), &mut opened).ok()?;
        let (identity, value) = plain.split_first_chunk::<IDENTITY_BYTES>()?;
        with_lent(|notes| notes.offered = Some(*identity));
        Some(value.to_vec())
    }
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are deliberately left out.
        f.debug_struct("Ticketer").field("rotate_at", &self.keys.load().rotate_at).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    #[derive(Debug, Default)]
    struct Clock(AtomicU64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
        }
    }

    fn at(clock: &Clock, seconds: u64) {
        clock.0.store(seconds, Ordering::Relaxed);
    }

    fn seal(ticketer: &Ticketer, value: &[u8]) -> (Identity, Vec<u8>) {
        lend(Box::new(Notes::new().unwrap()));
        let ticket = ticketer.encrypt(value).unwrap();
        (reclaim().unwrap().identity, ticket)
    }

    /// Goal: a ticket resumes for at least one period and at most two, also after a long silence.
    #[test]
    fn a_ticket_lives_between_one_period_and_two() {
        let (clock, period) = (Arc::new(Clock::default()), u64::from(ROTATION_SECONDS));
        let ticketer = Ticketer::new(clock.clone()).unwrap();
        let (_, first) = seal(&ticketer, b"first");
        at(&clock, period - 1);
        let (_, late) = seal(&ticketer, b"late");
        at(&clock, period);
        let (_, second) = seal(&ticketer, b"second");
        assert_eq!(ticketer.decrypt(&first).unwrap(), b"first");
        at(&clock, 2 * period - 1);
        assert_eq!(ticketer.decrypt(&late).unwrap(), b"late");
        at(&clock, 2 * period);
        assert_eq!(ticketer.decrypt(&first), None);
        assert_eq!(ticketer.decrypt(&second).unwrap(), b"second");
        at(&clock, 100 * period);
        assert_eq!(ticketer.decrypt(&second), None, "silence made a key live for ever");
    }

    /// Goal: identities travel in tickets, and are taken over only when rustls resumed.
    #[test]
    fn an_identity_is_taken_over_only_by_a_resumption() {
        let ticketer = Ticketer::new(Arc::new(Clock::default())).unwrap();
        let (identity, ticket) = seal(&ticketer, b"value");
        for (kind, taken) in [(HandshakeKind::Resumed, true), (HandshakeKind::Full, false)] {
            let mut notes = Notes::new().unwrap();
            let own = notes.identity;
            assert_ne!(own, identity);
            lend(Box::new(notes));
            assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"value");
            notes = *reclaim().unwrap();
            notes.settle(None);
            assert_eq!(notes.identity, own);
            notes.settle(Some(kind));
            assert_eq!(notes.identity == identity, taken, "{kind:?}");
        }
    }

    /// Goal: no truncated, altered, foreign or overlong ticket opens.
    #[test]
    fn a_damaged_ticket_never_opens() {
        let ticketer = Ticketer::new(Arc::new(Clock::default())).unwrap();
        let (_, ticket) = seal(&ticketer, b"some session value");
        for len in 0..ticket.len() {
            assert_eq!(ticketer.decrypt(&ticket[..len]), None, "cut at {len}");
        }
        for place in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[place] ^= 1;
            assert_eq!(ticketer.decrypt(&altered), None, "altered at {place}");
        }
        let other = Ticketer::new(Arc::new(Clock::default())).unwrap();
        assert_eq!(other.decrypt(&ticket), None);
        assert_eq!(ticketer.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    }

    /// Goal: without a handshake there is no identity to seal, so no ticket.
    #[test]
    fn outside_a_handshake_no_ticket_is_made() {
        let ticketer = Ticketer::new(Arc::new(Clock::default())).unwrap();
        assert_eq!(ticketer.encrypt(b"value"), None);
    }
}
