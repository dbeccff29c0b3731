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

/// Goal: a hello in many small records, cut anywhere, is put together again.
#[test]
fn a_hello_in_many_records_is_understood() {
    let Site { files, store, .. } = &site();
    for cut in [1, 5, 6, 33, 64, 4096] {
        let mut config = client_config(files, &[&version::TLS13]);
        config.max_fragment_size = Some(37);
        let mut pair = Pair::new(&Arc::new(config), store, "www.example.com");
        pair.cuts = vec![cut];
        pair.turn().unwrap();
        assert!(!pair.server.handshaking(), "cut {cut}");
    }
}

#[test]
fn a_handshake_without_end_is_refused() {
    let (store, new, _) = shared_site();
    let mut pair = Pair::new(new, store, "www.example.com");
    // A hello that claims to be long, in many records.
    let mut record = vec![22, 3, 1, 4, 0];
    record.extend_from_slice(&pattern(1024));
    record[5..9].copy_from_slice(&[1, 0, 0xff, 0xf0]);
    let mut error = None;
    for _ in 0..=HANDSHAKE_BYTES_MAX / 1024 {
        error = error.or_else(|| pair.feed(&record).err());
        record[5..9].fill(0);
    }
    assert_eq!(error, Some(TlsError::HandshakeTooLong));
    assert_eq!(pair.out.to_send.len(), 1);
    assert_eq!(pair.out.to_send[0][..], [21, 3, 3, 0, 2, 2, 50]);
}

#[test]
fn plain_http_is_answered_in_its_own_words() {
    let (store, new, _) = shared_site();
    let mut pair = Pair::new(new, store, "www.example.com");
    let error = pair.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err();
    assert_eq!((error.code(), error), ("tls_plain_http", TlsError::PlainHttp));
    let answer = String::from_utf8(pair.out.to_send[0].to_vec()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}\n{}",
        body.len()
    );
}

#[test]
fn protocols_nobody_offers_are_refused_with_an_alert() {
    let Site { files, store, .. } = &site();
    let mut config = client_config(files, &[&version::TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let mut pair = Pair::new(&config, store, "www.example.com");
    assert_eq!(pair.turn().unwrap_err().code(), "tls_no_alpn");
    let ControlFlow::Break(error) = pair.deliver() else { panic!("the client heard nothing") };
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    let options = TlsOptions { alpn: vec![Alpn::H2, Alpn::Http11] };
    let store = TlsStore::load_with(files, options).unwrap();
    assert_eq!(Pair::established(&config, &store, "www.example.com").facts().alpn, Alpn::H2);
    let store = store.reload(files).unwrap();
    assert_eq!(Pair::established(&config, &store, "www.example.com").facts().alpn, Alpn::H2);
}

#[test]
fn each_side_closes_for_itself() {
    let (store, new, old) = shared_site();
    for config in [new, old] {
        let mut pair = Pair::established(config, store, "www.example.com");
        pair.client.send_close_notify();
        pair.turn().unwrap();
        assert!(pair.out.peer_closed);
        // What a peer sends after its end is not looked at.
        pair.feed(b"anything at all").unwrap();
        assert_eq!(pair.server_says(&[b"late answer"]), b"late answer");
        pair.server.close_notify(&pair.pages, &mut pair.out.to_send).unwrap();
        assert_eq!(pair.out.to_send.len(), 1);
        assert_eq!(pair.deliver(), ControlFlow::Continue(()));
        pair.server.close_notify(&pair.pages, &mut pair.out.to_send).unwrap();
        assert!(pair.out.to_send.is_empty(), "said twice");
        assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0, "no clean end");
        let refused = pair.server.encrypt(b"x", &pair.pages, &mut pair.out.to_send);
        assert_eq!(refused, Err(TlsError::Closed));

        let mut pair = Pair::established(config, store, "www.example.com");
        pair.server.close_notify(&pair.pages, &mut pair.out.to_send).unwrap();
        assert_eq!(pair.deliver(), ControlFlow::Continue(()));
        pair.client_says(b"still talking");
        assert_eq!(pair.got, b"still talking");
    }
}

#[test]
fn nothing_is_encrypted_before_the_handshake_is_done() {
    let (store, new, _) = shared_site();
    let mut pair = Pair::new(new, store, "www.example.com");
    let early = pair.server.encrypt(b"x", &pair.pages, &mut pair.out.to_send);
    assert_eq!(early, Err(TlsError::Handshaking));
    pair.server.close_notify(&pair.pages, &mut pair.out.to_send).unwrap();
    assert!(pair.out.to_send.is_empty());
    pair.turn().unwrap();
    assert_eq!(pair.server_says(&[b"now"]), b"now");
}

/// Goal: a key update by the client is followed, answered before the next record, and its flood is refused.
#[test]
fn key_updates_are_followed_and_floods_refused() {
    let (store, new, _) = shared_site();
    let mut pair = Pair::established(new, store, "www.example.com");
    for _ in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_says(b"request");
        assert_eq!(pair.server_says(&[&pattern(FRAGMENT_BYTES_MAX)]).len(), FRAGMENT_BYTES_MAX);
    }
    assert_eq!(pair.got, b"requestrequestrequest");
    let mut bytes = Vec::new();
    for _ in 0..40 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.write_tls(&mut bytes).unwrap();
    }
    assert_eq!(pair.feed(&bytes).unwrap_err().code(), "tls_misbehaved");
}

/// Goal: half a handshake message after the handshake, then an answer of ours, then the other half. rustls remembers
/// where in the pending bytes the first half lies, and panics when it is shown fewer bytes.
#[test]
fn half_a_key_update_does_not_disturb_an_answer() {
    let Site { files, store, .. } = &site();
    let mut config = client_config(files, &[&version::TLS13]);
    config.enable_secret_extraction = true;
    let mut pair = Pair::established(&Arc::new(config), store, "www.example.com");
    let fresh = ClientConnection::new(
        Arc::new(client_config(files, &[&version::TLS13])),
        ServerName::try_from("www.example.com").unwrap(),
    );
    let client = std::mem::replace(&mut pair.client, fresh.unwrap());
    let (mut number, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
        panic!("not the suite expected")
    };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    let mut record = |kind: u8, plain: &[u8]| {
        let mut sealed = plain.to_vec();
        sealed.push(kind);
        let len = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let head = [23, 3, 3, len[0], len[1]];
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        for (byte, mask) in nonce[4..].iter_mut().zip(u64::to_be_bytes(number)) {
            *byte ^= mask;
        }
        number += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(head), &mut sealed).unwrap();
        [&head[..], &sealed].concat()
    };
    let (first, second) = (record(22, &[24, 0]), record(22, &[0, 1, 0]));
    pair.feed(&first).unwrap();
    for _ in 0..2 {
        pair.server.encrypt(b"answer", &pair.pages, &mut pair.out.to_send).unwrap();
    }
    // Byte by byte, so that a beginning of the next record lies behind the half message.
    pair.cuts = vec![1];
    pair.feed(&second[..7]).unwrap();
    pair.server.encrypt(b"answer", &pair.pages, &mut pair.out.to_send).unwrap();
    pair.feed(&second[7..]).unwrap();
    pair.server.encrypt(b"answer", &pair.pages, &mut pair.out.to_send).unwrap();
    // The key update is in force now: the old keys are not taken any more.
    let stale = record(23, b"request");
    assert_eq!(pair.feed(&stale).unwrap_err().code(), "tls_bad_mac");
}

/// Goal: without a free page a session ends with a plain error.
#[test]
fn without_pages_a_session_ends() {
    let (store, new, _) = shared_site();
    let mut pair = Pair::new(new, store, "www.example.com");
    let mut bytes = Vec::new();
    pair.client.write_tls(&mut bytes).unwrap();
    let mut chunks = Vec::new();
    pair.pages.copy_in(&bytes, &mut chunks).unwrap();
    let none = PagePool::new(0);
    let result =
        chunks.into_iter().try_for_each(|chunk| pair.server.on_bytes(chunk, &none, &mut pair.out));
    assert_eq!(result, Err(TlsError::NoPage));
    assert_eq!(pair.feed(b"more"), Err(TlsError::Closed));
}

fn load_error(file: &CertificateFile) -> String {
    TlsStore::load(std::slice::from_ref(file)).unwrap_err().to_string()
}

#[test]
fn bad_files_are_named_with_a_way_out() {
    let folder = Folder::new();
    let good = folder.certificate(&["a.example"], &[]);
    let other = folder.certificate(&["b.example"], &[]);
    let empty = folder.write("empty.pem", "");
    let cut = folder.write("cut.pem", &fs::read(&good.chain).unwrap()[..80]);
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let junk = folder.write("junk.pem", junk);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = folder.write("locked.pem", locked);
    let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let broken = folder.write("broken.pem", broken);
    let long = folder.write("long.pem", fs::read_to_string(&good.chain).unwrap().repeat(11));
    let big = folder.write("big.pem", vec![b'a'; (1 << 20) + 1]);
    let chain = |chain: &PathBuf| CertificateFile { chain: chain.clone(), ..good.clone() };
    let key = |key: &PathBuf| CertificateFile { key: key.clone(), ..good.clone() };
    let named = |name: &str| CertificateFile { server_names: vec![name.into()], ..good.clone() };
    for (file, culprit, why) in [
        (chain(&PathBuf::from("/no/such/file")), "/no/such/file", "check the path"),
        (chain(&folder.0), "", "not a regular file"),
        (chain(&empty), "empty.pem", "no `BEGIN CERTIFICATE` section"),
        (chain(&good.key), ".key", "no `BEGIN CERTIFICATE` section"),
        (chain(&cut), "cut.pem", "damaged PEM"),
        (chain(&junk), "junk.pem", "first certificate cannot be read"),
        (chain(&long), "long.pem", "has 11 certificates"),
        (chain(&big), "big.pem", "longer than 1 MiB"),
        (key(&empty), "empty.pem", "no private key section"),
        (key(&good.chain), ".crt", "no private key section"),
        (key(&locked), "locked.pem", "encrypted private key"),
        (key(&broken), "broken.pem", "no usable private key"),
        (key(&other.key), ".key", "is not the key of the first certificate"),
        (named("a b"), ".crt", "its server name `a b` is no host name"),
    ] {
        let text = load_error(&file);
        assert!(text.contains(culprit) && text.contains(why), "{text}");
    }
    assert_eq!(TlsStore::check(&[chain(&cut), good.clone(), key(&other.key)]).len(), 2);
    assert!(TlsStore::load(&[]).unwrap_err().to_string().contains("no certificate is configured"));
}

#[test]
fn strange_certificates_are_warned_of_and_served() {
    let folder = Folder::new();
    let keys = KeyPair::generate().unwrap();
    let year = |from: i32, to: i32| {
        move |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
        }
    };
    let files = [
        folder.certificate_with(&keys, &["old.example"], &[], year(2001, 2002)),
        folder.certificate_with(&keys, &["new.example"], &[], year(4001, 4002)),
        folder.certificate(&["*.a.example"], &["www.a.example", "a.example"]),
        folder.certificate(&[], &[]),
    ];
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&files[2].key, open).unwrap();
    let store = TlsStore::load(&files).unwrap();
    let mut told: Vec<String> = store.warnings().iter().map(ToString::to_string).collect();
    for (file, what) in [
        (&files[0].chain, "has expired"),
        (&files[1].chain, "not valid yet"),
        (&files[2].key, "every user of this machine may read the private key"),
        (&files[2].chain, "not valid for `a.example`"),
        (&files[3].chain, "no DNS name"),
    ] {
        let file = file.display().to_string();
        let place = told.iter().position(|text| text.starts_with(&file) && text.contains(what));
        told.remove(place.unwrap_or_else(|| panic!("{file} {what}: {told:?}")));
    }
    assert_eq!(told, [""; 0]);
    assert_eq!(store.expires_at(), 1_009_843_200);
}

/// Goal: connections keep the certificate they began with; new ones get the new one.
#[test]
fn a_reload_leaves_running_connections_alone() {
    let Site { files, store, _folder: folder } = site();
    let config = Arc::new(client_config(&files, &[&version::TLS13]));
    let mut running = Pair::established(&config, &store, "www.example.com");
    let next = [folder.certificate(&["www.example.com"], &[])];
    let store = store.reload(&next).unwrap();
    let fresh = Arc::new(client_config(&next, &[&version::TLS13]));
    Pair::established(&fresh, &store, "www.example.com");
    running.client_says(b"request");
    assert_eq!(running.server_says(&[b"answer"]), b"answer");
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
