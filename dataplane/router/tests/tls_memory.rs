//! Memory of an idle TLS session, measured, because the promise is about the whole process: aws-lc allocates with
//! malloc, where no Rust counter sees it.
//!
//! Deliberately absent: the core's share of a connection; the load tests measure the whole router.

use std::fs;
use std::sync::Arc;

use engine::PagePool;
use router::tls::{CertificateFile, TlsOutput, TlsSession, TlsStore};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

/// What we promise, core included; the session alone must leave room for it.
const SESSION_BYTES_MAX: usize = 5 * 1024;
/// Sessions that fill the holes which the setting up leaves in the heap.
const WARM_UP: usize = 300;
const MEASURED: usize = 1500;

fn resident_bytes() -> usize {
    let text = fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages: usize = text.split(' ').nth(1).expect("second column").parse().expect("a number");
    pages * 4096
}

fn connect(config: &Arc<ClientConfig>, store: &Arc<TlsStore>, pages: &PagePool) -> TlsSession {
    let name = ServerName::try_from("www.example.com").expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).expect("a client");
    let mut server = TlsSession::new(store);
    let mut out = TlsOutput::default();
    while server.handshaking() || client.is_handshaking() {
        let (mut bytes, mut chunks) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("a vector takes all");
        }
        pages.copy_in(&bytes, &mut chunks).expect("pages");
        for chunk in chunks {
            server.on_bytes(chunk, pages, &mut out).expect("a handshake");
        }
        for chunk in out.to_send.drain(..) {
            client.read_tls(&mut &chunk[..]).expect("bytes");
            client.process_new_packets().expect("a good server");
        }
    }
    server
}

/// Bytes for each session, and the sessions: what they leave when they go would hide what the next ones take.
fn measure(
    version: &'static SupportedProtocolVersion,
    file: &CertificateFile,
) -> (usize, Vec<TlsSession>) {
    let store = TlsStore::load(std::slice::from_ref(file)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&file.chain).expect("pem")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let config = config.expect("a version").with_root_certificates(roots).with_no_client_auth();
    let (config, pages) = (Arc::new(config), PagePool::new(1 << 20));
    let mut sessions: Vec<TlsSession> = Vec::with_capacity(WARM_UP + MEASURED);
    sessions.extend((0..WARM_UP).map(|_| connect(&config, &store, &pages)));
    let before = resident_bytes();
    sessions.extend((0..MEASURED).map(|_| connect(&config, &store, &pages)));
    let after = resident_bytes();
    assert_eq!(pages.held(), 0, "an idle session holds a page");
    assert!(sessions.iter().all(|session| session.facts().is_some()));
    (after.saturating_sub(before) / MEASURED, sessions)
}

/// Goal: the promise of `docs/limits.md` for an idle TLS connection.
#[test]
fn an_idle_session_is_small() {
    let folder = std::env::temp_dir().join(format!("router-tls-memory-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let made = rcgen::generate_simple_self_signed(["www.example.com".to_owned()]).expect("a key");
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    fs::write(&chain, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let file = CertificateFile { server_names: Vec::new(), chain, key };
    let size = std::mem::size_of::<TlsSession>();
    let mut held = Vec::new();
    for (name, version) in [("TLS 1.3", &version::TLS13), ("TLS 1.2", &version::TLS12)] {
        let (bytes, sessions) = measure(version, &file);
        held.push(sessions);
        println!("{name}: {bytes} bytes resident for each idle session, {size} of them in place");
        assert!((size..=SESSION_BYTES_MAX).contains(&bytes), "{name}: {bytes}");
    }
    fs::remove_dir_all(folder).expect("removed");
}
