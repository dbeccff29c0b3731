//! An authority and certificates made for one test, and TLS clients that trust it.
//!
//! Deliberately absent: switching verification off. A client that is shown the wrong certificate must fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;

/// An authority of its own for each test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
}

/// A chain and a key in files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM file of the chain.
    pub chain: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
    /// The leaf, to recognise it on the wire.
    pub leaf: Vec<u8>,
}

impl Authority {
    /// Make one.
    ///
    /// # Panics
    /// When the machine has no random numbers.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("an own signature");
        let (der, root_pem) = (root.der().clone(), root.pem());
        Self { issuer: Issuer::new(params, key), root: der, root_pem }
    }

    /// Write a certificate for these names to `folder`; a name may be a one-label wildcard.
    ///
    /// # Panics
    /// When a name is none or the folder is not writable.
    pub fn certificate(&self, folder: &Path, file: &str, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().expect("random numbers");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("host names");
        params.distinguished_name.push(DnType::CommonName, file);
        let leaf = params.signed_by(&key, &self.issuer).expect("our own authority");
        let paths = [format!("{file}.pem"), format!("{file}.key")].map(|name| folder.join(name));
        let [chain, key_path] = paths;
        fs::write(&chain, leaf.pem()).expect("the folder is writable");
        fs::write(&key_path, key.serialize_pem()).expect("the folder is writable");
        Certificate { chain, key: key_path, leaf: leaf.der().to_vec() }
    }

    /// Write the authority's own certificate, for foreign clients.
    ///
    /// # Panics
    /// When the folder is not writable.
    pub fn write_root(&self, folder: &Path) -> PathBuf {
        let path = folder.join("root.pem");
        fs::write(&path, &self.root_pem).expect("the folder is writable");
        path
    }

    /// A client that trusts this authority alone, speaks these versions and remembers sessions.
    ///
    /// # Panics
    /// When there is no such version.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("our own root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that rustls knows");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(64);
        Arc::new(config)
    }

    /// A client with both versions of TLS.
    pub fn any_client(&self) -> Arc<ClientConfig> {
        self.client(rustls::ALL_VERSIONS)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
