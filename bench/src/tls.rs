//! The client's side of TLS, the same for every peer: TLS 1.3, X25519, AES-128-GCM, no look at the certificate.
//!
//! One choice only is offered, so that every proxy does the same cryptographic work; that work is the proxy's
//! bill, and the client's is kept small by not verifying. Deliberately absent: any use outside of load tests.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// Name sent as SNI and as `Host`.
pub const SERVER_NAME: &str = "bench.example.com";

/// Memories of sessions that take turns. A ticket is used once, and rustls keeps few for one server; with one
/// memory for all connections they would run out.
const MEMORIES: usize = 64;

/// Makes client connections.
#[derive(Clone)]
pub struct TlsClient {
    configs: Vec<Arc<ClientConfig>>,
    turn: usize,
    name: ServerName<'static>,
    resumes: bool,
}

impl TlsClient {
    /// A client that resumes sessions, or one that never does.
    ///
    /// # Errors
    /// When the cryptographic provider lacks what is asked (a bug).
    pub fn new(resumes: bool) -> Result<Self, String> {
        let memories = if resumes { MEMORIES } else { 1 };
        let configs = (0..memories).map(|_| config(resumes)).collect::<Result<_, String>>()?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|e| e.to_string())?;
        Ok(Self { configs, turn: 0, name, resumes })
    }

    /// A new session, not yet connected.
    ///
    /// # Errors
    /// When the configuration is unusable (a bug).
    pub fn connect(&mut self) -> Result<ClientConnection, String> {
        self.turn = (self.turn + 1) % self.configs.len();
        let config = Arc::clone(&self.configs[self.turn]);
        ClientConnection::new(config, self.name.clone()).map_err(|e| e.to_string())
    }

    /// Whether, after so many connections, every further one must be a resumption.
    pub fn must_resume(&self, completed: u64) -> bool {
        self.resumes && completed > 2 * MEMORIES as u64
    }
}

fn config(resumes: bool) -> Result<Arc<ClientConfig>, String> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.resumption = if resumes {
        Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)))
    } else {
        Resumption::disabled()
    };
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
