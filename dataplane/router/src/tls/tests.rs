//! Whole sessions against a real rustls client, in memory.
//!
//! Deliberately absent: other TLS stacks; the end-to-end tests bring `openssl s_client` and curl.

use std::fs;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use engine::{Chunk, PagePool};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, NamedGroup, RootCertStore,
    SupportedProtocolVersion, version,
};

use super::session::FRAGMENT_BYTES_MAX;
use super::*;

mod files;
mod protocol;

/// A folder of certificate files, gone with the value.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("router-tls-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A self-signed certificate for `names`; `served` is what the configuration says.
    pub(super) fn certificate(&self, names: &[&str], served: &[&str]) -> CertificateFile {
        self.certificate_with(&KeyPair::generate().unwrap(), names, served, |_| ())
    }

    fn certificate_with(
        &self,
        key: &KeyPair,
        names: &[&str],
        served: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.self_signed(key).unwrap();
        let file = CertificateFile {
            server_names: served.iter().map(|name| (*name).to_owned()).collect(),
            chain: self.write(&format!("{number}.crt"), certificate.pem()),
            key: self.write(&format!("{number}.key"), key.serialize_pem()),
        };
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file.key, private).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn client_config(
    files: &[CertificateFile],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for file in files {
        roots.add(CertificateDer::from_pem_file(&file.chain).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Both ends of a connection, and the bytes each has got.
struct Pair {
    client: ClientConnection,
    server: TlsSession,
    pages: PagePool,
    out: TlsOutput,
    /// Plaintext the server has got.
    got: Vec<u8>,
    /// How a flight from the client is cut into chunks: sizes, used in turn.
    cuts: Vec<usize>,
    cut: usize,
    /// Keep a second reference to each chunk, so that it cannot be decrypted in place.
    shared: bool,
}

impl Pair {
    fn new(config: &Arc<ClientConfig>, store: &Arc<TlsStore>, name: &'static str) -> Self {
        Self {
            client: ClientConnection::new(config.clone(), ServerName::try_from(name).unwrap())
                .unwrap(),
            server: TlsSession::new(store),
            pages: PagePool::new(64 << 20),
            out: TlsOutput::default(),
            got: Vec::new(),
            cuts: vec![16 * 1024],
            cut: 0,
            shared: false,
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            let size = self.cuts[self.cut % self.cuts.len()].min(bytes.len());
            self.cut += 1;
            let (piece, rest) = bytes.split_at(size);
            bytes = rest;
            let mut chunks = Vec::new();
            self.pages.copy_in(piece, &mut chunks).unwrap();
            for chunk in chunks {
                let other = self.shared.then(|| chunk.clone());
                let before = other.as_ref().map(|chunk| chunk.to_vec());
                let result = self.server.on_bytes(chunk, &self.pages, &mut self.out);
                assert_eq!(other.map(|chunk| chunk.to_vec()), before, "a shared chunk was changed");
                for chunk in self.out.plaintext.drain(..) {
                    assert!(!chunk.is_empty(), "an empty chunk of plaintext");
                    self.got.extend_from_slice(&chunk);
                }
                result?;
            }
        }
        Ok(())
    }

    /// Move bytes both ways until nobody has more to say.
    fn turn(&mut self) -> Result<(), TlsError> {
        loop {
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).unwrap();
            }
            let idle = bytes.is_empty();
            self.feed(&bytes)?;
            if idle && self.out.to_send.is_empty() {
                return Ok(());
            }
            // A client that complains says so to us with its next flight.
            if self.deliver().is_break() && !self.client.wants_write() {
                return Ok(());
            }
        }
    }

    /// What the server wants to send goes to the client. Gives its first complaint.
    fn deliver(&mut self) -> ControlFlow<rustls::Error> {
        for chunk in self.out.to_send.drain(..) {
            let mut bytes = &chunk[..];
            while !bytes.is_empty() {
                assert_ne!(self.client.read_tls(&mut bytes).unwrap(), 0);
                if let Err(error) = self.client.process_new_packets() {
                    return ControlFlow::Break(error);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn established(config: &Arc<ClientConfig>, store: &Arc<TlsStore>, name: &'static str) -> Self {
        let mut pair = Self::new(config, store, name);
        pair.turn().unwrap();
        assert!(!pair.server.handshaking() && !pair.client.is_handshaking());
        pair
    }

    fn client_says(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(32 * 1024) {
            self.client.writer().write_all(piece).unwrap();
            self.turn().unwrap();
        }
    }

    fn server_says(&mut self, parts: &[&[u8]]) -> Vec<u8> {
        let mut heard = Vec::new();
        self.server.encrypt_parts(parts, &self.pages, &mut self.out.to_send).unwrap();
        for chunk in std::mem::take(&mut self.out.to_send) {
            self.out.to_send.push(chunk);
            assert_eq!(self.deliver(), ControlFlow::Continue(()));
            let mut piece = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = self.client.reader().read(&mut piece) {
                heard.extend_from_slice(&piece[..count]);
            }
        }
        heard
    }

    fn facts(&self) -> &SessionFacts {
        self.server.facts().unwrap()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|place| u8::try_from(place * 7 % 251).unwrap()).collect()
}

struct Site {
    _folder: Folder,
    files: Vec<CertificateFile>,
    store: Arc<TlsStore>,
}

fn site() -> Site {
    let folder = Folder::new();
    let files = vec![folder.certificate(&["www.example.com"], &[])];
    Site { store: TlsStore::load(&files).unwrap(), files, _folder: folder }
}

/// One site for all cases of a property: making keys takes longer than the cases.
fn shared_site() -> &'static (Arc<TlsStore>, Arc<ClientConfig>, Arc<ClientConfig>) {
    static SITE: std::sync::OnceLock<(Arc<TlsStore>, Arc<ClientConfig>, Arc<ClientConfig>)> =
        std::sync::OnceLock::new();
    SITE.get_or_init(|| {
        let site = site();
        let new = client_config(&site.files, &[&version::TLS13]);
        let old = client_config(&site.files, &[&version::TLS12]);
        (site.store, Arc::new(new), Arc::new(old))
    })
}

#[test]
fn facts_are_told_in_the_words_of_openssl() {
    let folder = Folder::new();
    let ec = folder.certificate(&["ec.example.com"], &[]);
    let rsa_key =
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let rsa = folder.certificate_with(&rsa_key, &["rsa.example.com"], &[], |_| ());
    let files = [ec, rsa];
    let store = TlsStore::load(&files).unwrap();
    let mut config = client_config(&files, &[&version::TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let pair = Pair::established(&Arc::new(config), &store, "EC.example.com");
    let facts = pair.facts();
    assert_eq!((facts.protocol, facts.cipher), ("TLSv1.3", "TLS_AES_256_GCM_SHA384"));
    assert_eq!((facts.server_name.as_deref(), facts.alpn), (Some("ec.example.com"), Alpn::Http11));
    assert_eq!((facts.reused, facts.session_id.len()), (false, 64));
    let group = pair.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);

    let config = Arc::new(client_config(&files, &[&version::TLS12]));
    for (name, cipher) in [
        ("ec.example.com", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("rsa.example.com", "ECDHE-RSA-AES256-GCM-SHA384"),
    ] {
        let pair = Pair::established(&config, &store, name);
        let facts = pair.facts();
        assert_eq!((facts.protocol, facts.cipher, facts.alpn), ("TLSv1.2", cipher, Alpn::Unasked));
    }
}

/// Goal: a session keeps its identity over a chain of resumptions, also over a reload; another has another.
#[test]
fn a_session_keeps_its_identity_over_resumptions() {
    let Site { files, store, .. } = &site();
    for versions in [[&version::TLS13], [&version::TLS12]] {
        let config = Arc::new(client_config(files, &versions));
        let mut first = Pair::established(&config, store, "www.example.com");
        assert_eq!(first.server_says(&[b"hello"]), b"hello");
        let identity = first.facts().session_id.clone();
        for round in 0..4 {
            let store = if round < 2 { store } else { &store.reload(files).unwrap() };
            let mut next = Pair::established(&config, store, "www.example.com");
            assert!(next.facts().reused, "{versions:?} round {round}");
            assert_eq!(next.facts().session_id, identity, "{versions:?} round {round}");
            assert_eq!(next.facts().server_name.as_deref(), Some("www.example.com"));
            next.client_says(b"request");
            assert_eq!(next.got, b"request");
            assert_eq!(next.server_says(&[b"answer"]), b"answer");
        }
        let stranger = Arc::new(client_config(files, &versions));
        let other = Pair::established(&stranger, store, "www.example.com");
        assert!(!other.facts().reused && other.facts().session_id != identity);
        // Keys of another edge: the ticket is not opened, the session is a new one.
        let foreign = TlsStore::load(files).unwrap();
        let other = Pair::established(&config, &foreign, "www.example.com");
        assert!(!other.facts().reused && other.facts().session_id != identity);
    }
}

/// Goal: tickets wait for the answer when the request has come with the end of the handshake, and only then.
#[test]
fn tickets_leave_with_the_first_answer() {
    let Site { files, store, .. } = &site();
    let config = Arc::new(client_config(files, &[&version::TLS13]));
    for (together, closing) in [(true, false), (true, true), (false, false)] {
        let mut pair = Pair::new(&config, store, "www.example.com");
        let mut bytes = Vec::new();
        pair.client.write_tls(&mut bytes).unwrap();
        pair.feed(&bytes).unwrap();
        assert_eq!(pair.deliver(), ControlFlow::Continue(()));
        if together {
            pair.client.writer().write_all(b"request").unwrap();
        }
        bytes.clear();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut bytes).unwrap();
        }
        pair.feed(&bytes).unwrap();
        assert!(!pair.server.handshaking());
        assert_eq!(pair.out.to_send.is_empty(), together);
        assert_eq!(pair.deliver(), ControlFlow::Continue(()));
        match closing {
            true => pair.server.close_notify(&pair.pages, &mut pair.out.to_send).unwrap(),
            false => assert_eq!(pair.server_says(&[b"answer"]), b"answer"),
        }
        assert_eq!(pair.deliver(), ControlFlow::Continue(()));
        assert_eq!(pair.client.tls13_tickets_received(), 2, "{together} {closing}");
        // The peer misbehaves while tickets wait: the alert is numbered after them.
        let mut pair = Pair::new(&config, store, "www.example.com");
        pair.client.writer().write_all(b"request").unwrap();
        let mut bytes = Vec::new();
        pair.client.write_tls(&mut bytes).unwrap();
        pair.feed(&bytes).unwrap();
        assert_eq!(pair.deliver(), ControlFlow::Continue(()));
        bytes.clear();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut bytes).unwrap();
        }
        pair.feed(&bytes).unwrap();
        assert_eq!(pair.feed(&[23, 3, 3, 0, 1, 0]).unwrap_err().code(), "tls_bad_mac");
        let ControlFlow::Break(error) = pair.deliver() else { panic!("no alert") };
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    }
}

/// Goal: a client that leaves the choice of the version to us, and resumes, may do so; no resumption, no tickets.
#[test]
fn a_client_without_resumption_is_served() {
    let Site { files, store, .. } = &site();
    let mut config = client_config(files, rustls::ALL_VERSIONS);
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut pair = Pair::established(&config, store, "www.example.com");
        assert_eq!((pair.facts().protocol, pair.facts().reused), ("TLSv1.3", false));
        assert_eq!(pair.server_says(&[b"head", b"", b"body"]), b"headbody");
    }
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let folder = Folder::new();
    let files = [
        folder.certificate(&["default.example"], &[]),
        folder.certificate(&["*.shop.example", "shop.example"], &[]),
        folder.certificate(&["pay.shop.example"], &["PAY.shop.example."]),
    ];
    let store = TlsStore::load(&files).unwrap();
    assert_eq!(store.warnings(), []);
    let config = Arc::new(client_config(&files, &[&version::TLS13]));
    let der = |index: usize| CertificateDer::from_pem_file(&files[index].chain).unwrap();
    for (name, index) in [
        ("default.example", 0),
        ("shop.example", 1),
        ("www.shop.example", 1),
        ("pay.shop.example", 2),
    ] {
        let pair = Pair::established(&config, &store, name);
        assert_eq!(pair.client.peer_certificates().unwrap()[0], der(index), "{name}");
    }
    // Nobody serves these names, and an address is no name: the default certificate answers.
    for name in ["a.b.shop.example", "other.example", "127.0.0.1"] {
        let mut pair = Pair::new(&config, &store, name);
        pair.turn().unwrap_err();
        assert_eq!(pair.client.peer_certificates(), None, "{name}: the client must not be content");
        let name = Some(name).filter(|name| !name.starts_with('1'));
        assert_eq!(pair.server.facts(), None, "{name:?}");
    }
}

/// Goal: of two certificates for one name, a client gets one whose key it can verify.
#[test]
fn an_rsa_only_client_gets_the_rsa_certificate() {
    let folder = Folder::new();
    let rsa_key =
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let files = [
        folder.certificate(&["both.example"], &[]),
        folder.certificate_with(&rsa_key, &["both.example"], &[], |_| ()),
    ];
    let store = TlsStore::load(&files).unwrap();
    for (suite, index) in [("ECDHE-RSA-AES128-GCM-SHA256", 1), ("ECDHE-ECDSA-AES128-GCM-SHA256", 0)]
    {
        let mut config = client_config(&files, &[&version::TLS12]);
        let mut provider = config.crypto_provider().as_ref().clone();
        provider.cipher_suites.retain(|one| super::facts::cipher_name(one.suite()) == suite);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let mut roots = RootCertStore::empty();
        for file in &files {
            roots.add(CertificateDer::from_pem_file(&file.chain).unwrap()).unwrap();
        }
        let builder = builder.with_protocol_versions(&[&version::TLS12]).unwrap();
        config = builder.with_root_certificates(roots).with_no_client_auth();
        let pair = Pair::established(&Arc::new(config), &store, "both.example");
        assert_eq!(pair.facts().cipher, suite);
        let der = CertificateDer::from_pem_file(&files[index].chain).unwrap();
        assert_eq!(pair.client.peer_certificates().unwrap()[0], der);
    }
}

/// Goal: a mebibyte each way arrives whole in both versions, and no page stays behind.
#[test]
fn a_mebibyte_goes_both_ways() {
    let (store, new, old) = shared_site();
    let body = pattern(1 << 20);
    for config in [new, old] {
        let mut pair = Pair::established(config, store, "www.example.com");
        pair.client_says(&body);
        assert!(pair.got == body, "upload damaged");
        assert!(pair.server_says(&[&body]) == body, "download damaged");
        assert_eq!(pair.pages.held(), 0);
    }
}

/// Goal: parts are packed into as few records as there can be, each in one page.
#[test]
fn small_parts_share_a_record_and_each_record_has_a_page() {
    let (store, new, old) = shared_site();
    for config in [new, old] {
        for (sizes, records) in [
            (vec![200, 1000], 1),
            (vec![1], 1),
            (vec![], 0),
            (vec![0, 0], 0),
            (vec![300, FRAGMENT_BYTES_MAX - 300], 1),
            (vec![300, FRAGMENT_BYTES_MAX], 2),
            (vec![FRAGMENT_BYTES_MAX, 1], 2),
            (vec![100, 3 * FRAGMENT_BYTES_MAX, 100], 4),
        ] {
            let mut pair = Pair::established(config, store, "www.example.com");
            let parts: Vec<Vec<u8>> = sizes.iter().map(|&size| pattern(size)).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            pair.server.encrypt_parts(&parts, &pair.pages, &mut pair.out.to_send).unwrap();
            assert_eq!(pair.out.to_send.len(), records, "{sizes:?}");
            for record in &pair.out.to_send {
                let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
                assert_eq!(record.len(), 5 + len, "not one record in one page");
            }
            pair.out.to_send.clear();
            let mut pair = Pair::established(config, store, "www.example.com");
            assert!(pair.server_says(&parts) == parts.concat(), "{sizes:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Goal: however the client's bytes are cut, and whether or not they may be changed in place, the handshake
    /// succeeds and the same plaintext comes out.
    #[test]
    fn any_split_of_the_bytes_gives_the_same_plaintext(
        cuts in prop::collection::vec(1_usize..2000, 1..20),
        tiny in any::<bool>(),
        shared in any::<bool>(),
        tls12 in any::<bool>(),
        sizes in prop::collection::vec(1_usize..40_000, 0..4),
    ) {
        let (store, new, old) = shared_site();
        let mut pair = Pair::new(if tls12 { old } else { new }, store, "www.example.com");
        pair.cuts = if tiny { cuts.iter().map(|size| size % 7 + 1).collect() } else { cuts };
        pair.shared = shared;
        pair.turn().unwrap();
        prop_assert!(!pair.server.handshaking());
        let body = pattern(sizes.iter().sum());
        let mut rest = &body[..];
        for size in sizes {
            pair.client_says(&rest[..size]);
            rest = &rest[size..];
        }
        prop_assert!(pair.got == body);
        prop_assert_eq!(pair.server_says(&[b"answer"]), b"answer");
        prop_assert_eq!(pair.pages.held(), 0);
    }

    /// Goal: no input makes us panic, loop or keep a page; a refusal comes with an alert or not at all.
    #[test]
    fn garbage_ends_in_an_alert(bytes in prop::collection::vec(any::<u8>(), 1..600), like_tls in any::<bool>()) {
        let (store, new, _) = shared_site();
        let mut pair = Pair::new(new, store, "www.example.com");
        let mut bytes = bytes;
        if like_tls && bytes.len() > 5 {
            let len = u16::try_from(bytes.len() - 5).unwrap().to_be_bytes();
            bytes[..5].copy_from_slice(&[22, 3, 1, len[0], len[1]]);
        }
        if let Err(error) = pair.feed(&bytes) {
            prop_assert!(error != TlsError::Closed);
            let alert: Vec<u8> = pair.out.to_send.iter().flat_map(|chunk| chunk.to_vec()).collect();
            prop_assert!(alert.is_empty() || (alert.len() == 7 && alert[0] == 21 && alert[5] == 2), "{:?}", alert);
            prop_assert_eq!(pair.feed(b"more"), Err(TlsError::Closed));
        }
        prop_assert!(pair.got.is_empty());
        pair.out.to_send.clear();
        prop_assert_eq!(pair.pages.held(), 0);
    }

    /// Goal: one flipped bit anywhere in what the client sends never panics and never changes plaintext unnoticed.
    #[test]
    fn a_flipped_bit_is_noticed(place in 0_usize..4000, bit in 0_u8..8, cut in 1_usize..3000, tls12 in any::<bool>()) {
        let (store, new, old) = shared_site();
        let mut pair = Pair::new(if tls12 { old } else { new }, store, "www.example.com");
        pair.cuts = vec![cut];
        let (mut sent, mut wrote) = (0, false);
        for _ in 0..8 {
            if !pair.client.is_handshaking() && !wrote {
                pair.client.writer().write_all(&pattern(700)).unwrap();
                wrote = true;
            }
            let mut bytes = Vec::new();
            while pair.client.wants_write() {
                pair.client.write_tls(&mut bytes).unwrap();
            }
            if let Some(byte) = place.checked_sub(sent).and_then(|place| bytes.get_mut(place)) {
                *byte ^= 1 << bit;
            }
            sent += bytes.len();
            if pair.feed(&bytes).is_err() {
                prop_assert!(pattern(700).starts_with(&pair.got));
                break;
            }
            if pair.deliver().is_break() {
                break;
            }
        }
        prop_assert!(pattern(700).starts_with(&pair.got));
    }
}

/// Goal: a chunk of plaintext never outlives the vectors it was given in, and static answers hold no page.
#[test]
fn an_output_can_be_reused() {
    let (store, new, _) = shared_site();
    let mut pair = Pair::established(new, store, "www.example.com");
    let capacity = |out: &TlsOutput| out.plaintext.capacity();
    pair.client_says(b"one");
    let before = capacity(&pair.out);
    for _ in 0..10 {
        pair.client_says(b"more");
    }
    assert_eq!(capacity(&pair.out), before);
    assert!(std::mem::size_of::<Chunk>() <= 24);
}
