//! Certificate files that are bad, strange, or replaced while connections run.
//!
//! Deliberately absent: the choice of a certificate by name.

use super::*;

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
