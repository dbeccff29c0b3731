//! Programs that people use, through the router to servers that people use.
//!
//! A program that is not installed skips its test with a message, but fails it under CI; `tests/run` installs them all.
//! Deliberately absent: HTTP/2 clients, as long as the router does not speak it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::body::pattern;
use tests::peer::Nginx;
use tests::process::{Process, run, run_with_input};
use tests::router::{Folder, binary};
use tests::server::ignore;
use tests::tool::find;
use tests::{Authority, Config, HeldPort, Origin, Router, Server, until_some};

/// Goal: curl's whole repertoire, plain and over both versions of TLS.
#[test]
fn curl_plain_and_tls() {
    let Some(curl) = find("curl") else { return };
    let site = Site::start();
    let (http, https) = (site.router.http().port(), site.router.https().port());
    let resolve = |port: u16| format!("app.test:{port}:127.0.0.1");
    let root = site.root.display().to_string();
    let big = site.folder.path().join("big");
    fs::write(&big, pattern(0, 1 << 20)).unwrap();
    for (base, port, flags) in [
        (format!("http://app.test:{http}"), http, &["--http1.1"][..]),
        (format!("https://app.test:{https}"), https, &["--http1.1", "--tlsv1.3"]),
        (format!("https://app.test:{https}"), https, &["--http1.1", "--tls-max", "1.2"]),
    ] {
        let curl = |more: &[&str], input: &[u8]| {
            let mut command = Command::new(&curl);
            command.args([
                "-sS",
                "--max-time",
                "40",
                "--cacert",
                &root,
                "--resolve",
                &resolve(port),
            ]);
            let output = run_with_input(command.args(flags).args(more), input);
            assert!(output.status.success(), "{base} {more:?}: {}", text(&output.stderr));
            output.stdout
        };
        let big_at = format!("@{}", big.display());
        let (echo, down) = (format!("{base}/echo"), format!("{base}/down"));
        let same =
            |name: &str, bytes: Vec<u8>| assert!(bytes == pattern(0, 1 << 20), "{base}: {name}");
        same("POST by length", curl(&["--data-binary", &big_at, &echo], b""));
        same("PUT", curl(&["-T", &big.display().to_string(), &echo], b""));
        same(
            "100-continue",
            curl(&["-H", "Expect: 100-continue", "--data-binary", &big_at, &echo], b""),
        );
        same("chunked PUT", curl(&["-T", "-", &echo], &pattern(0, 1 << 20)));
        same("chunked download", curl(&[&down], b""));
        let head = text(&curl(&["-I", &format!("{base}/x")], b""));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let many = format!("{base}/k[1-40]");
        let out =
            text(&curl(&["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", &many], b""));
        let connects: u32 =
            out.lines().filter_map(|line| line.split_once(' ')?.1.parse::<u32>().ok()).sum();
        assert!(
            out.matches("200 ").count() == 40 && connects == 1,
            "one connection for forty requests: {out}"
        );
        let many = format!("{base}/p[1-60]");
        let parallel = [
            "--parallel",
            "--parallel-max",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}\n",
            &many,
        ];
        assert_eq!(text(&curl(&parallel, b"")).matches("200").count(), 60);
    }
}

/// Goal: an old client: HTTP/1.0 by curl, and a redirect that curl follows from plain to TLS.
#[test]
fn curl_old_and_redirected() {
    let Some(curl) = find("curl") else { return };
    let site = Site::start();
    let url = format!("http://127.0.0.1:{}/x", site.router.http().port());
    let output = run(Command::new(&curl).args(["-sS0", "-H", "Host: app.test", &url]));
    assert_eq!(text(&output.stdout), "/x");
    let url = format!("http://secret.test:{}/a?b=c", site.router.http().port());
    let resolve = format!("secret.test:{}:127.0.0.1", site.router.http().port());
    let output = run(Command::new(&curl).args([
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{redirect_url}",
        "--resolve",
        &resolve,
        &url,
    ]));
    let told = text(&output.stdout);
    assert!(told.starts_with("301 https://secret.test") && told.ends_with("/a?b=c"), "{told}");
}

/// Goal: wrk finds no error: many connections, keep-alive, both cores.
#[test]
fn wrk_finds_no_error() {
    let Some(wrk) = find("wrk") else { return };
    let site = Site::start();
    let url = format!("http://{}/wrk", site.router.http());
    let output = run(Command::new(wrk).args(["-t1", "-c50", "-d2s", "-H", "Host: app.test", &url]));
    let told = text(&output.stdout);
    assert!(output.status.success() && told.contains("Requests/sec"), "{told}");
    assert!(!told.contains("Socket errors") && !told.contains("Non-2xx"), "{told}");
}

/// Goal: h2load in its HTTP/1.1 mode gets every answer.
#[test]
fn h2load_over_http_1() {
    let Some(h2load) = find("h2load") else { return };
    let site = Site::start();
    // Without a name that resolves, h2load sends the address as the host: a route for it.
    let url = format!("http://{}/h2load", site.router.http());
    let output = run(Command::new(h2load).args([
        "--h1",
        "-n2000",
        "-c10",
        "-H",
        ":authority: app.test",
        &url,
    ]));
    let told = text(&output.stdout);
    assert!(told.contains("2000 succeeded, 0 failed"), "{told}");
}

/// Goal: the origin is told the cipher and the protocol exactly as OpenSSL spells them.
#[test]
fn ciphers_are_spelled_as_openssl_does() {
    let Some(openssl) = find("openssl") else { return };
    let site = Site::start();
    let rsa = rsa_certificate(&openssl, site.folder.path());
    let config = site.config.clone().certificate(&["rsa.test"], &rsa.0, &rsa.1);
    let router = Router::start(&config);
    for (name, flags) in [
        ("app.test", &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"][..]),
        ("app.test", &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]),
        ("app.test", &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"]),
        ("app.test", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]),
        ("app.test", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]),
        ("app.test", &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]),
        ("rsa.test", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]),
        ("rsa.test", &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"]),
        ("rsa.test", &["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"]),
    ] {
        let told = s_client(&openssl, &router, name, flags);
        let cipher = flags.last().copied();
        let request =
            site.origin.seen().requests.pop().unwrap_or_else(|| panic!("{flags:?}: {told}"));
        assert_eq!(request.get("apcera-ssl-cipher").as_deref(), cipher, "{told}");
        assert!(told.contains(cipher.unwrap_or_default()), "OpenSSL itself says so: {told}");
        let protocol = if flags[0] == "-tls1_3" { "TLSv1.3" } else { "TLSv1.2" };
        assert_eq!(request.get("apcera-ssl-protocol").as_deref(), Some(protocol));
        assert_eq!(request.get("apcera-ssl-server-name").as_deref(), Some(name));
    }
}

/// Goal: `-reconnect` resumes five times; a session saved to a file and given back is resumed under the same id.
#[test]
fn openssl_resumes_sessions() {
    let Some(openssl) = find("openssl") else { return };
    let site = Site::start();
    let address = site.router.https().to_string();
    let mut command = Command::new(&openssl);
    command.args([
        "s_client",
        "-connect",
        &address,
        "-servername",
        "app.test",
        "-tls1_2",
        "-reconnect",
    ]);
    let told = text(&run(&mut command).stdout);
    assert_eq!(told.matches("Reused, TLSv1.2").count(), 5, "{told}");
    for version in ["-tls1_2", "-tls1_3"] {
        let session = site.folder.path().join("session.pem").display().to_string();
        let first = s_client(&openssl, &site.router, "app.test", &[version, "-sess_out", &session]);
        let made = site.origin.seen().requests.pop().unwrap_or_else(|| panic!("{first}"));
        assert_eq!(made.get("apcera-ssl-session-reused").as_deref(), Some("."));
        for _ in 0..3 {
            s_client(
                &openssl,
                &site.router,
                "app.test",
                &[version, "-sess_in", &session, "-sess_out", &session],
            );
            let reused = site.origin.seen().requests.pop().unwrap();
            assert_eq!(reused.get("apcera-ssl-session-reused").as_deref(), Some("r"), "{version}");
            let id = "apcera-ssl-session-id";
            assert_eq!(reused.get(id), made.get(id), "{version}: the id changed");
        }
    }
}

/// Goal: OpenSSL verifies the chain for each server name, and finds no older protocol.
#[test]
fn openssl_verifies_and_finds_no_old_protocol() {
    let Some(openssl) = find("openssl") else { return };
    let site = Site::start();
    let root = site.root.display().to_string();
    let address = site.router.https().to_string();
    let handshake = |more: &[&str]| {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-brief", "-connect", &address, "-CAfile", &root]).args(more);
        run(&mut command)
    };
    let good = ["-servername", "app.test", "-verify_hostname", "app.test", "-verify_return_error"];
    let output = handshake(&good);
    assert!(
        output.status.success() && text(&output.stderr).contains("Verification: OK"),
        "{}",
        text(&output.stderr)
    );
    for old in ["-tls1", "-tls1_1"] {
        assert!(
            !handshake(&[old, "-cipher", "ALL:@SECLEVEL=0"]).status.success(),
            "{old} was accepted"
        );
    }
}

/// Goal: nc through a TCP route, with half-close: what it sends is answered after its end.
#[test]
fn nc_through_a_tcp_route() {
    let Some(nc) = find("nc") else { return };
    let server = Server::start(|mut stream, _| {
        let mut all = Vec::new();
        ignore(stream.read_to_end(&mut all));
        all.reverse();
        ignore(stream.write_all(&all));
    });
    let port = HeldPort::new();
    let endpoint = format!("tcp://{}", port.addr());
    let _router = Router::start(
        &Config::new().job("rev", &[server.addr()]).route(&endpoint, &[("rev", 0.0)]),
    );
    let number = port.addr().port().to_string();
    let mut sent = pattern(0, 1 << 20);
    let output = run_with_input(Command::new(&nc).args(["-N", "127.0.0.1", &number]), &sent);
    sent.reverse();
    assert!(output.stdout == sent, "{} bytes came back", output.stdout.len());
}

/// Goal: nc as an HTTP client that types a request by hand.
#[test]
fn nc_speaks_http() {
    let Some(nc) = find("nc") else { return };
    let site = Site::start();
    let number = site.router.http().port().to_string();
    let request = b"GET /typed HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let output = run_with_input(Command::new(nc).args(["127.0.0.1", &number]), request);
    let told = text(&output.stdout);
    assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("/typed"), "{told}");
}

/// Goal: nginx as the origin: files, ranges, conditional requests, HEAD, errors, many at once.
#[test]
fn nginx_as_origin() {
    let Some(nginx) = Nginx::files() else { return };
    let body = pattern(0, 5_000_000);
    fs::write(nginx.root().join("big.bin"), &body).unwrap();
    let router = Router::start(
        &Config::new()
            .job("app", &[nginx.addr()])
            .route("http://app.test", &[("app", 0.0)])
            .set("cores", "2"),
    );
    let mut client = router.connect();
    let whole = client.get("app.test", "/big.bin");
    assert!(whole.body.bytes == body);
    let tag = whole.get("etag").expect("nginx sends an ETag");
    let mut ask = |fields: &str| {
        client.send(format!("GET /big.bin HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n\r\n"));
        client.response()
    };
    assert_eq!(ask(&format!("If-None-Match: {tag}")).status, 304);
    let part = ask("Range: bytes=1000000-1000099");
    assert_eq!((part.status, part.body.bytes), (206, body[1_000_000..1_000_100].to_vec()));
    let parts = ask("Range: bytes=0-9,100-109");
    assert!(
        parts.status == 206
            && parts.get("content-type").unwrap().starts_with("multipart/byteranges")
    );
    assert_eq!(ask("Range: bytes=9999999-").status, 416);
    client.send("HEAD /big.bin HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response_to("HEAD").get("content-length").as_deref(), Some("5000000"));
    assert_eq!(client.get("app.test", "/none").status, 404);
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, body) = (router.connect(), body.clone());
            std::thread::spawn(move || {
                for _ in 0..3 {
                    assert!(client.get("app.test", "/big.bin").body.bytes == body);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

/// Goal: Python's http.server as the origin: HTTP/1.0, one connection a request, bodies until the end.
#[test]
fn python_as_origin() {
    let Some(python) = find("python3") else { return };
    let folder = Folder::new();
    let body = pattern(9, 700_000);
    fs::write(folder.path().join("file.bin"), &body).unwrap();
    let script = "import http.server,sys\n\
                  s=http.server.ThreadingHTTPServer(('127.0.0.1',0),http.server.SimpleHTTPRequestHandler)\n\
                  print(s.server_address[1],flush=True)\ns.serve_forever()\n";
    let output = folder.path().join("output.txt");
    let mut command = Command::new(python);
    command.args(["-c", script]).current_dir(folder.path());
    let _process = Process::start(&mut command, &output);
    let port: u16 = until_some("python listens", || {
        fs::read_to_string(&output).ok()?.lines().next()?.trim().parse().ok()
    });
    let config = Config::new()
        .job("py", &[([127, 0, 0, 1], port).into()])
        .route("http://app.test", &[("py", 0.0)]);
    let router = Router::start(&config);
    let mut client = router.connect();
    for _ in 0..5 {
        assert!(client.get("app.test", "/file.bin").body.bytes == body);
        assert!(client.get("app.test", "/").text().contains("file.bin"));
        assert_eq!(client.get("app.test", "/none").status, 404);
    }
}

/// Goal: Python's urllib and http.client as clients, keep-alive and chunked uploads.
#[test]
fn python_as_client() {
    let Some(python) = find("python3") else { return };
    let site = Site::start();
    let script = "import http.client,sys\n\
        c=http.client.HTTPConnection('127.0.0.1',int(sys.argv[1]),timeout=30)\n\
        big=bytes(range(256))*4000\n\
        for i in range(30):\n\
        \x20 c.request('POST','/echo',body=big,headers={'Host':'app.test'}); r=c.getresponse(); assert r.read()==big\n\
        \x20 c.request('POST','/echo',body=iter([big[:1000],big[1000:]]),headers={'Host':'app.test'},encode_chunked=True); r=c.getresponse(); assert r.read()==big\n\
        \x20 c.request('GET','/down',headers={'Host':'app.test'}); r=c.getresponse(); assert len(r.read())==1<<20\n\
        \x20 c.request('HEAD','/x',headers={'Host':'app.test'}); r=c.getresponse(); assert r.status==200 and r.read()==b''\n\
        print('all right')\n";
    let port = site.router.http().port().to_string();
    let output = run(Command::new(python).args(["-c", script, &port]));
    assert_eq!(text(&output.stdout), "all right\n", "{}", text(&output.stderr));
}

/// Goal: the router behind nginx: a chain of two proxies, the client's address kept by `trusted_proxies`.
#[test]
fn behind_nginx() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).trusting("127.0.0.0/8"));
    let Some(nginx) = Nginx::proxy(router.http()) else { return };
    let mut client = tests::Client::connect(nginx.addr());
    for number in 0..20 {
        client.send(format!(
            "POST /{number} HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 192.0.2.7\r\nContent-Length: 3\r\n\r\nabc"
        ));
        assert_eq!(client.response().text(), format!("/{number}"));
    }
    assert_eq!(origin.request(0).get("x-real-ip").as_deref(), Some("192.0.2.7"));
}

/// Goal: `router` alone: a demonstration that answers the very curl lines that it prints, with the status that the
/// remark behind the line promises, or with 200.
#[test]
fn the_demonstration_answers_its_own_lines() {
    let (Some(curl), Some(_sh)) = (find("curl"), find("sh")) else { return };
    let folder = Folder::new();
    let output = folder.path().join("output.txt");
    let mut demo = Process::start(Command::new(binary()).current_dir(folder.path()), &output);
    let lines: Vec<String> = until_some("the demonstration prints what to try", || {
        assert!(demo.try_exit().is_none(), "{}", fs::read_to_string(&output).unwrap_or_default());
        let told = fs::read_to_string(&output).unwrap_or_default();
        let lines: Vec<String> = told
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("curl "))
            .map(str::to_owned)
            .collect();
        (!lines.is_empty() && told.ends_with('\n')).then_some(lines)
    });
    for line in &lines {
        let (order, remark) = line.split_once('#').unwrap_or((line, ""));
        let promised = remark.split(|c: char| !c.is_ascii_digit()).find(|word| word.len() == 3);
        let quiet = format!("{} -sS -o /dev/null -w '%{{http_code}}' ", curl.display());
        let output = run(Command::new("sh").args(["-c", &order.replacen("curl ", &quiet, 1)]));
        let status = text(&output.stdout);
        let wanted = promised.unwrap_or("200");
        assert_eq!(status.get(..3), Some(wanted), "{line}: {status} {}", text(&output.stderr));
    }
    demo.signal("TERM");
    assert_eq!(demo.wait_exit().code(), Some(0));
}

/// An origin behind plain HTTP and TLS, with everything that real clients are sent at.
struct Site {
    router: Router,
    origin: Origin,
    config: Config,
    root: PathBuf,
    folder: Folder,
}

impl Site {
    fn start() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        let certificate = authority.certificate(folder.path(), "app", &["app.test", "secret.test"]);
        let root = authority.write_root(folder.path());
        let origin = Origin::scripted("a", |exchange| {
            exchange.read_body()?;
            match exchange.request.target.as_str() {
                "/echo" => {
                    let body = std::mem::take(&mut exchange.request.body.bytes);
                    exchange.answer("200 OK", &[], &body)
                }
                "/down" => {
                    exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    exchange.send(tests::body::chunked(&pattern(0, 1 << 20), 9_999, &[]))
                }
                _ => exchange.answer_target(),
            }
        });
        let config = Config::app(&origin)
            .https_only("http://secret.test", "app")
            .route("http://rsa.test", &[("app", 0.0)])
            .certificate(&[], &certificate.chain, &certificate.key)
            .set("cores", "2");
        let router = Router::start(&config);
        Self { router, origin, config, root, folder }
    }
}

/// One request by `openssl s_client`; gives both its outputs.
fn s_client(openssl: &Path, router: &Router, name: &str, flags: &[&str]) -> String {
    let mut command = Command::new(openssl);
    let address = router.https().to_string();
    command.args(["s_client", "-brief", "-ign_eof", "-connect", &address, "-servername", name]);
    let request = format!("GET /s_client HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let output = run_with_input(command.args(flags), request.as_bytes());
    text(&[output.stderr, output.stdout].concat())
}

fn rsa_certificate(openssl: &Path, folder: &Path) -> (PathBuf, PathBuf) {
    let (chain, key) = (folder.join("rsa.pem"), folder.join("rsa.key"));
    let mut command = Command::new(openssl);
    command.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=rsa.test",
        "-days",
        "2",
    ]);
    command
        .args(["-addext", "subjectAltName=DNS:rsa.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&chain);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    (chain, key)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
