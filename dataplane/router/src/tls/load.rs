//! Certificate files: read, understood, checked against each other, every complaint with its file and a way out.
//!
//! Deliberately absent: verifying the chain up to a root. Private authorities are usual here, and the clients judge.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::names;

/// A certificate or key file is never longer than this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Certificates sent in one chain. Longer ones only slow every handshake down.
const CHAIN_LENGTH_MAX: usize = 10;
/// A certificate that ends sooner than this is warned of.
const EXPIRY_WARNING_SECONDS: i64 = 14 * 24 * 60 * 60;
/// Permission bits that let others than the owner and the group read a file.
const MODE_OTHERS_READ: u32 = 0o004;

/// One certificate of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFile {
    /// Names it answers for, exact or with one leading `*.`; empty: the names in the certificate itself.
    pub server_names: Vec<String>,
    /// PEM file: the server's own certificate, then the intermediates.
    pub chain: PathBuf,
    /// PEM file: the unencrypted private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// Why certificates could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}; {hint}", file.display())]
pub struct TlsLoadError {
    /// The file to look at.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// What to try.
    pub hint: String,
}

/// Something about a loaded certificate that an operator should know, though it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsWarning {
    /// The file to look at.
    pub file: PathBuf,
    /// What is strange about it.
    pub what: String,
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

/// A certificate ready for use.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    /// Canonical.
    pub(super) names: Vec<String>,
    pub(super) warnings: Vec<TlsWarning>,
    /// Seconds since the epoch.
    pub(super) expires_at: i64,
}

/// Read and check one certificate.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn load(
    file: &CertificateFile,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<Loaded, TlsLoadError> {
    let chain = read_chain(&file.chain)?;
    let key = read_key(&file.key)?;
    let leaf = leaf_facts(&file.chain, &chain[0])?;
    let mut warnings = Vec::new();
    let mut warn =
        |file: &Path, what: String| warnings.push(TlsWarning { file: file.into(), what });

    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if leaf.not_after < now {
        warn(&file.chain, "the certificate has expired: clients will refuse it".into());
    } else if leaf.not_after - now < EXPIRY_WARNING_SECONDS {
        let hours = (leaf.not_after - now) / 3600;
        warn(&file.chain, format!("the certificate expires in {hours} hours"));
    }
    if leaf.not_before > now {
        warn(&file.chain, "the certificate is not valid yet: clients will refuse it".into());
    }
    if fs::metadata(&file.key).is_ok_and(|facts| facts.permissions().mode() & MODE_OTHERS_READ != 0)
    {
        warn(&file.key, "every user of this machine may read the private key (chmod o-r)".into());
    }

    let names = server_names(file, &leaf)?;
    for name in names.iter().filter(|name| !leaf.names.iter().any(|own| names::covers(own, name))) {
        warn(
            &file.chain,
            format!("the certificate is not valid for `{name}`: clients will refuse it"),
        );
    }
    let key =
        CertifiedKey::from_der(chain, key, provider).map_err(|error| key_error(file, &error))?;
    Ok(Loaded { key: Arc::new(key), names, warnings, expires_at: leaf.not_after })
}

fn error(file: &Path, why: impl Into<String>, hint: impl Into<String>) -> TlsLoadError {
    TlsLoadError { file: file.into(), why: why.into(), hint: hint.into() }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsLoadError> {
    let cannot = |why: std::io::Error| {
        let hint = match why.kind() {
            std::io::ErrorKind::NotFound => {
                "check the path; a relative one starts at the folder of the file that names it"
            }
            std::io::ErrorKind::PermissionDenied => "let the user that runs the router read it",
            _ => "check the file and its disk",
        };
        error(file, format!("cannot be read ({why})"), hint)
    };
    let facts = fs::metadata(file).map_err(cannot)?;
    if !facts.is_file() {
        return Err(error(file, "is not a regular file", "name the PEM file itself"));
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(error(
            file,
            "is longer than 1 MiB",
            "name a PEM file with one chain or one key",
        ));
    }
    fs::read(file).map_err(cannot)
}

fn pem_error(file: &Path, found: &pem::Error) -> TlsLoadError {
    error(file, format!("is damaged PEM ({found})"), "copy the file again, whole, as text")
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsLoadError> {
    let text = read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|found| pem_error(file, &found))?;
    match chain.len() {
        0 => Err(error(
            file,
            "has no `BEGIN CERTIFICATE` section",
            "name the PEM file of the certificate chain (DER: openssl x509 -inform der -in FILE)",
        )),
        1..=CHAIN_LENGTH_MAX => Ok(chain),
        count => Err(error(
            file,
            format!("has {count} certificates, at most {CHAIN_LENGTH_MAX} are sent"),
            "keep the server's own certificate and its intermediates, not a bundle of roots",
        )),
    }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsLoadError> {
    let text = read(file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|found| match found {
        pem::Error::NoItemsFound if contains(&text, b"BEGIN ENCRYPTED PRIVATE KEY") => error(
            file,
            "is an encrypted private key",
            "decrypt it: openssl pkey -in FILE -out NEW",
        ),
        pem::Error::NoItemsFound => error(
            file,
            "has no private key section",
            "name the PEM file with `BEGIN PRIVATE KEY`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC PRIVATE KEY`",
        ),
        found => pem_error(file, &found),
    })
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// What the server's own certificate says.
struct Leaf {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

fn leaf_facts(file: &Path, leaf: &CertificateDer<'_>) -> Result<Leaf, TlsLoadError> {
    let parsed = X509Certificate::from_der(leaf);
    let (_, certificate) = parsed.map_err(|found| {
        error(file, format!("its first certificate cannot be read ({found})"), "issue it anew")
    })?;
    let mut names = Vec::new();
    // Clients look at subject alternative names only; so do we.
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name
                && let Ok(name) = names::canonical(name)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
    }
    let validity = certificate.validity();
    Ok(Leaf {
        names,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

/// The names of the configuration, or else those of the certificate.
fn server_names(file: &CertificateFile, leaf: &Leaf) -> Result<Vec<String>, TlsLoadError> {
    let mut wanted = Vec::with_capacity(file.server_names.len());
    for name in &file.server_names {
        let canonical = names::canonical(name).map_err(|why| {
            let hint = "write names such as `www.example.com` or `*.example.com`";
            error(&file.chain, format!("its server name `{name}` {why}"), hint)
        })?;
        if !wanted.contains(&canonical) {
            wanted.push(canonical);
        }
    }
    Ok(if wanted.is_empty() { leaf.names.clone() } else { wanted })
}

fn key_error(file: &CertificateFile, found: &Error) -> TlsLoadError {
    match found {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => error(
            &file.key,
            format!("is not the key of the first certificate in {}", file.chain.display()),
            "name the matching key, or put the server's own certificate first in the chain",
        ),
        found => error(
            &file.key,
            format!("is no usable private key ({found})"),
            "use an RSA key of 2048 to 8192 bits, an ECDSA key on P-256, P-384 or P-521, or an Ed25519 key",
        ),
    }
}
