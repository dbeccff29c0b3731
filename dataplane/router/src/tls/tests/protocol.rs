//! Handshakes that go on too long or are none, ends of sessions, key updates.
//!
//! Deliberately absent: ordinary handshakes and data.

use super::*;

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
