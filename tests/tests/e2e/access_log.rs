//! The access log: one JSON line an exchange, with who, what, where and how long; reopened for logrotate.

use serde_json::Value;
use tests::{Config, Origin, Router, until_some};

/// Goal: each exchange gives one line that says what happened, whether served or refused.
#[test]
fn every_exchange_is_one_line() {
    let origin = Origin::named("a");
    let router = logged(&origin);
    let mut client = router.connect();
    client.get("app.test", "/served?q=1");
    client.get("nobody.test", "/missed");
    client.send("POST /posted HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello");
    client.response();
    let mut bad = router.connect();
    bad.send("BAD\r\n\r\n");
    assert_eq!(bad.response().status, 400);
    let lines = until_some("four lines", || {
        let lines = read(&router, "access.log");
        (lines.len() >= 4).then_some(lines)
    });
    let of = |part: &str| {
        let line = lines.iter().find(|line| line.to_string().contains(part));
        line.unwrap_or_else(|| panic!("no line with {part} in {lines:?}")).clone()
    };
    let (served, missed) = (of("/served"), of("/missed"));
    assert_eq!((served["status"].as_u64(), served["method"].as_str()), (Some(200), Some("GET")));
    assert!(served.to_string().contains("app.test") && served.to_string().contains("127.0.0.1"));
    assert!(served.to_string().contains(&origin.addr().to_string()), "which instance: {served}");
    assert_eq!(missed["status"].as_u64(), Some(404));
    assert!(missed.to_string().contains("no_route"));
    assert_eq!(lines.len(), 4, "{lines:?}");
    let id = origin.request(0).get("x-request-id").unwrap();
    assert!(served.to_string().contains(&id), "the id of the request finds its line");
}

/// Goal: nothing that a client sends can break a line or forge one.
#[test]
fn lines_cannot_be_forged() {
    let origin = Origin::named("a");
    let router = logged(&origin);
    let mut client = router.connect();
    let mut request =
        b"GET /x\"},{\"status\":200,\\u0000 HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec();
    request.retain(|&byte| byte != b'\0');
    client.send(request);
    tests::server::ignore(client.try_response("GET"));
    let mut client = router.connect();
    client.send(b"GET /\xe4\xff\"\\ HTTP/1.1\r\nHost: app.test\r\n\r\n");
    tests::server::ignore(client.try_response("GET"));
    router.connect().get("app.test", "/last");
    until_some("the last line", || {
        let lines = read(&router, "access.log");
        lines.iter().any(|line| line.to_string().contains("/last")).then_some(())
    });
}

/// Goal: after SIGUSR1 the log goes on in a new file under the old name, no line lost.
#[test]
fn the_log_is_reopened() {
    let origin = Origin::named("a");
    let router = logged(&origin);
    let mut client = router.connect();
    client.get("app.test", "/before");
    until_some("the first line", || (read(&router, "access.log").len() == 1).then_some(()));
    let path = router.folder().join("access.log");
    std::fs::rename(&path, router.folder().join("access.log.1")).unwrap();
    router.process.signal("USR1");
    until_some("the new file", || path.exists().then_some(()));
    client.get("app.test", "/after");
    until_some("the second line", || (read(&router, "access.log").len() == 1).then_some(()));
    assert_eq!(read(&router, "access.log.1").len(), 1);
}

/// Goal: a log that nobody takes blocks no request; what is dropped is counted.
/// Method: the log is a pipe whose reader is asleep; more lines than pipe and ring can hold.
#[test]
fn a_log_that_blocks_blocks_nobody() {
    let origin = Origin::named("a");
    let folder = tests::router::Folder::new();
    let path = folder.path().join("access.log");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let sleeper = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let config =
        Config::app(&origin).access_log("path", &format!("{:?}", path.display().to_string()));
    let router = Router::start_in(folder, &config);
    let mut client = router.connect();
    let miss = "GET /a-path-of-some-length HTTP/1.1\r\nHost: nobody.test\r\n\r\n".repeat(100);
    let mut dropped = || {
        client.send(&miss);
        for _ in 0..100 {
            assert_eq!(client.response().status, 404);
        }
        router.admin.status()["totals"]["access_log_dropped"].as_u64().unwrap_or(0)
    };
    tests::until("drops are counted", || dropped() > 0);
    drop(sleeper);
}

fn logged(origin: &Origin) -> Router {
    let folder = tests::router::Folder::new();
    let path = folder.path().join("access.log");
    let config =
        Config::app(origin).access_log("path", &format!("{:?}", path.display().to_string()));
    Router::start_in(folder, &config)
}

/// The whole lines of a log, each of which must be JSON.
fn read(router: &Router, file: &str) -> Vec<Value> {
    let bytes = std::fs::read(router.folder().join(file)).unwrap_or_default();
    let text = String::from_utf8(bytes).expect("the log is UTF-8");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    whole.lines().map(parse).collect()
}
