//! Everything that sessions share: certificates, ticket keys, and the rustls configuration made of them.
//!
//! A store never changes. A reload makes another one, which new connections take; connections that run keep theirs.
//! Both seal tickets with the same keys, so that a reload costs no client its session.
//! Deliberately absent: watching the files; the side thread does it.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ServerConfig, version};

use super::facts::Alpn;
use super::load::{self, CertificateFile, TlsLoadError, TlsWarning};
use super::names::Names;
use super::session::FRAGMENT_BYTES_MAX;
use super::ticket::Ticketer;

/// Tickets sent after each TLS 1.3 handshake. Two, as OpenSSL and browsers expect: a ticket is best used once, and a
/// client that opens two connections then resumes both.
const TICKETS_PER_HANDSHAKE: usize = 2;
/// Header of a record, which rustls counts as part of a fragment's size.
const RECORD_HEADER_BYTES: usize = 5;

/// What a store offers besides its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// Application protocols, the preferred one first. A client that asks for others only is refused; one that does
    /// not ask gets HTTP/1.1.
    pub alpn: Vec<Alpn>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { alpn: vec![Alpn::Http11] }
    }
}

/// Certificates, ticket keys and protocol settings of an edge. Shared by all cores.
#[derive(Debug)]
pub struct TlsStore {
    config: Arc<ServerConfig>,
    ticketer: Arc<Ticketer>,
    options: TlsOptions,
    warnings: Vec<TlsWarning>,
    expires_at: i64,
}

impl TlsStore {
    /// Load certificates with [`TlsOptions::default`] and fresh ticket keys. The first certificate answers clients
    /// that send no server name or an unknown one.
    ///
    /// # Errors
    /// What is wrong with the first file that cannot be used. [`TlsStore::check`] gives all.
    pub fn load(files: &[CertificateFile]) -> Result<Arc<Self>, TlsLoadError> {
        Self::load_with(files, TlsOptions::default())
    }

    /// As [`TlsStore::load`], with other options.
    ///
    /// # Errors
    /// As [`TlsStore::load`].
    pub fn load_with(
        files: &[CertificateFile],
        options: TlsOptions,
    ) -> Result<Arc<Self>, TlsLoadError> {
        let time: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
        let ticketer = Ticketer::new(Arc::clone(&time)).map_err(|found| no_system(&found))?;
        Self::build(files, options, Arc::new(ticketer), time)
    }

    /// Load certificates anew, with the options and ticket keys of this store.
    ///
    /// # Errors
    /// As [`TlsStore::load`]; this store is still good then.
    pub fn reload(&self, files: &[CertificateFile]) -> Result<Arc<Self>, TlsLoadError> {
        let time: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
        Self::build(files, self.options.clone(), Arc::clone(&self.ticketer), time)
    }

    /// All that is wrong with `files`; empty when [`TlsStore::load`] would succeed.
    pub fn check(files: &[CertificateFile]) -> Vec<TlsLoadError> {
        let provider = aws_lc_rs::default_provider();
        let Some(now) = DefaultTimeProvider.current_time() else { return Vec::new() };
        files.iter().filter_map(|file| load::load(file, &provider, now).err()).collect()
    }

    fn build(
        files: &[CertificateFile],
        options: TlsOptions,
        ticketer: Arc<Ticketer>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Arc<Self>, TlsLoadError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let now = time.current_time().ok_or(rustls::Error::FailedToGetCurrentTime);
        let now = now.map_err(|found| no_system(&found))?;
        let (mut certificates, mut warnings) = (Vec::with_capacity(files.len()), Vec::new());
        let mut expires_at = i64::MAX;
        if files.is_empty() {
            return Err(no_certificate());
        }
        for file in files {
            let mut loaded = load::load(file, &provider, now)?;
            if loaded.names.is_empty() && !certificates.is_empty() {
                let what =
                    "the certificate has no DNS name and none is configured: it is never used";
                warnings.push(TlsWarning { file: file.chain.clone(), what: what.into() });
            }
            warnings.append(&mut loaded.warnings);
            expires_at = expires_at.min(loaded.expires_at);
            certificates.push((loaded.key, loaded.names));
        }

        let config = ServerConfig::builder_with_details(provider, time);
        let config = config.with_protocol_versions(&[&version::TLS13, &version::TLS12]);
        let config = config.map_err(|found| no_system(&found))?;
        let mut config =
            config.with_no_client_auth().with_cert_resolver(Arc::new(Names::new(certificates)));
        config.alpn_protocols = options.alpn.iter().map(|alpn| alpn.wire().to_vec()).collect();
        config.alpn_protocols.retain(|name| !name.is_empty());
        config.ticketer = Arc::clone(&ticketer) as _;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        config.max_early_data_size = 0;
        config.max_fragment_size = Some(FRAGMENT_BYTES_MAX + RECORD_HEADER_BYTES);
        Ok(Arc::new(Self { config: Arc::new(config), ticketer, options, warnings, expires_at }))
    }

    /// What an operator should know about the certificates, though they work.
    pub fn warnings(&self) -> &[TlsWarning] {
        &self.warnings
    }

    /// When the first certificate expires, in seconds since the epoch; for a metric. `i64::MAX` without certificates.
    pub const fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// rustls' state of a new connection.
    pub(super) fn connection(&self) -> UnbufferedServerConnection {
        UnbufferedServerConnection::new(Arc::clone(&self.config)).expect(
            "rustls refuses only a bad fragment size, and ours is a constant that tests try",
        )
    }
}

fn no_certificate() -> TlsLoadError {
    TlsLoadError {
        file: "TLS".into(),
        why: "no certificate is configured".into(),
        hint: "name a certificate chain and its key".into(),
    }
}

/// The machine itself lacks something; no file is to blame.
fn no_system(found: &rustls::Error) -> TlsLoadError {
    TlsLoadError {
        file: "TLS".into(),
        why: format!("cannot start ({found})"),
        hint: "check the system's clock and random numbers".into(),
    }
}
