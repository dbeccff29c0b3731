//! The admin API: atomic changes with acknowledgement, the table, explain, statistics, metrics, and its own defence.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tests::admin::{put_guarded_job, put_job, put_target, set_weight};
use tests::{Config, Origin, Router, until};

/// Goal: a set of changes is one commit with a version, acknowledged by every core before the call returns.
#[test]
fn a_commit_is_acknowledged_by_every_core() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::new().set("cores", "2"));
    let mut client = router.connect();
    let mut last = 0;
    for round in 0..20 {
        let endpoint = format!("http://h{round}.test");
        let json = router
            .admin
            .apply(&[put_job("app", &[origin.addr()]), put_target(&endpoint, "app", 0.0)]);
        let version = json["version"].as_u64().expect("a version");
        assert!(version > last, "versions rise: {json}");
        last = version;
        assert_eq!(
            (json["live"]["cores"].as_u64(), json["live"]["of"].as_u64()),
            (Some(2), Some(2))
        );
        assert!(
            json["live"]["ms"].as_f64().is_some_and(|ms| (0.0..20_000.0).contains(&ms)),
            "{json}"
        );
        assert_eq!(client.get(&format!("h{round}.test"), "/").status, 200, "live means served");
        assert_eq!(router.connect().get(&format!("h{round}.test"), "/").status, 200);
    }
}

/// Goal: all or nothing. Method: good changes with one bad among them leave no trace, and the bad one is named.
#[test]
fn a_set_with_one_bad_change_changes_nothing() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let before = router.admin.get("/v1/table").response.text();
    let good = put_target("http://new.test", "app", 0.0);
    for bad in [
        put_target("http://x.test", "ghost", 0.0),
        put_target("gopher://x.test", "app", 0.0),
        put_target("http://a,b.test", "app", 0.0),
        put_guarded_job("j", "allow nonsense", &[]),
        set_weight("http://nobody.test", "app", 1.0),
        json!({ "op": "dance" }),
        json!({ "op": "add_instance", "job": "app", "instance": "nowhere" }),
    ] {
        let answer = router.admin.try_apply(&[good.clone(), bad.clone(), good.clone()]);
        assert!((400..500).contains(&answer.status), "{bad}: {}", answer.response.text());
        for key in ["code", "what"] {
            assert!(answer.json.get(key).is_some(), "no {key:?} in {}", answer.json);
        }
        assert_eq!(router.connect().get("new.test", "/").status, 404, "{bad}: half applied");
    }
    assert_eq!(router.admin.get("/v1/table").response.text(), before);
}

/// Goal: `if_version` protects against lost updates.
#[test]
fn a_stale_version_is_refused() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let version = |json: &Value| json["version"].as_u64().expect("a version");
    let first = version(&router.admin.apply(&[put_job("b", &[])]));
    let body = |if_version: u64| json!({ "if_version": if_version, "wait": "all", "changes": [put_job("c", &[])] });
    let stale = router.admin.post("/v1/changes", &body(first - 1));
    assert!([409, 412].contains(&stale.status), "{}", stale.response.text());
    let fresh = router.admin.post("/v1/changes", &body(first));
    assert_eq!(fresh.status, 200, "{}", fresh.response.text());
    assert!(version(&fresh.json) > first);
}

/// Goal: weights read back as they are displayed, and the table tells every route, job and instance.
#[test]
fn the_table_reads_back() {
    let origin = Origin::named("a");
    let config = Config::new()
        .job("job::/sandbox/admin::app1", &[origin.addr()])
        .guarded_job("b", "128.66.3.0/24, deny 128.66.0.0/16", &[])
        .route("http://app.example.com/shop", &[("job::/sandbox/admin::app1", 45.0), ("b", 0.0)]);
    let router = Router::start(&config);
    router.admin.apply(&[set_weight("http://app.example.com/shop", "b", -10.0)]);
    let text = router.admin.get("/v1/table").response.text();
    for part in [
        "http://app.example.com/shop",
        "job::/sandbox/admin::app1",
        "allow 128.66.3.0/24, deny 128.66.0.0/16",
        "-10",
        "45",
        &origin.addr().to_string(),
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// Goal: explain runs the real matcher and tells which rule decided.
#[test]
fn explain_tells_which_rule_decided() {
    let origin = Origin::named("a");
    let config = Config::new()
        .job("wild", &[origin.addr()])
        .guarded_job("shop", "deny 203.0.113.0/24", &[origin.addr()])
        .route("http://*.example.test", &[("wild", 0.0)])
        .route("http://a.example.test/shop", &[("shop", 0.0)]);
    let router = Router::start(&config);
    let explain = |query: &str| router.admin.get(&format!("/v1/explain?{query}"));
    let shop = explain("url=http://a.example.test/shop/1&from=192.0.2.1");
    assert_eq!(shop.status, 200, "{}", shop.response.text());
    assert!(shop.response.text().contains("http://a.example.test/shop"));
    let denied = explain("url=http://a.example.test/shop/1&from=203.0.113.5").response.text();
    assert!(denied.contains("203.0.113.0/24") || denied.contains("acl"), "{denied}");
    let wild = explain("url=http://b.example.test/&from=192.0.2.1").response.text();
    assert!(wild.contains("*.example.test"), "{wild}");
    let nowhere = explain("url=http://nobody.test/&from=192.0.2.1");
    assert_eq!(nowhere.status, 200, "a miss is explained, too: {}", nowhere.response.text());
    assert!((400..500).contains(&explain("url=ftp://a.test/").status));
    assert!((400..500).contains(&explain("url=http://a.test/&from=me").status));
}

/// Goal: explain and the data path agree, for every host and path of a list. Method: ask both.
#[test]
fn explain_agrees_with_what_is_served() {
    let origins: Vec<Origin> = ["root", "shop", "wild"].map(Origin::named).into();
    let config = Config::new()
        .job("root", &[origins[0].addr()])
        .job("shop", &[origins[1].addr()])
        .guarded_job("wild", "deny 192.0.2.0/24", &[origins[2].addr()])
        .route("http://a.test", &[("root", 0.0)])
        .route("http://a.test/shop", &[("shop", 0.0)])
        .route("http://*.a.test", &[("wild", 0.0)]);
    let router = Router::start(&config);
    let mut client = router.connect();
    for host in ["a.test", "A.TEST", "x.a.test", "y.x.a.test", "b.test", "a.test."] {
        for path in ["/", "/shop", "/shop/1", "/shopping", "/Shop", "/shop/../x"] {
            let served = client.get(host, path).get("x-origin");
            let query = format!("/v1/explain?url=http://{host}{path}&from=127.0.0.1");
            let told = router.admin.get(&query).json;
            let listed = told["targets"].as_array().cloned().unwrap_or_default();
            let jobs: Vec<_> = listed.iter().filter_map(|target| target["job"].as_str()).collect();
            match served {
                Some(name) => assert_eq!(jobs, [name.as_str()], "{host}{path}: {told}"),
                None => assert!(jobs.is_empty(), "{host}{path}: {told}"),
            }
        }
    }
}

/// Goal: percentiles by route, job and instance, and counts that add up to what was asked.
#[test]
fn statistics_add_up() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).set("cores", "2"));
    for _ in 0..10 {
        let mut client = router.connect();
        for _ in 0..10 {
            assert_eq!(client.get("app.test", "/").status, 200);
        }
    }
    for by in ["route", "job", "instance"] {
        until("a hundred requests are counted", || {
            let text = router.stats(by).to_string();
            text.contains("100")
                && text.contains("p50")
                && text.contains("p99")
                && text.contains("p999")
        });
    }
    assert!((400..500).contains(&router.admin.get("/v1/stats?by=colour").status));
}

/// Goal: the metrics page is valid Prometheus text: HELP and TYPE for each name, one sample for each label set.
#[test]
fn the_metrics_page_is_valid() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for _ in 0..7 {
        client.get("app.test", "/");
    }
    client.get("nobody.test", "/");
    let mut seen = std::collections::HashSet::new();
    let (mut typed, page) = (std::collections::HashMap::new(), router.admin.metrics());
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert!(typed.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        if line.starts_with('#') {
            assert!(line.starts_with("# HELP ") || line == "# EOF", "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series.to_owned()), "{series} twice");
        let name = series.split('{').next().expect("split gives at least one part");
        assert!(name.starts_with("router_") || name.starts_with("process_"), "{name}");
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(
            typed.contains_key(name) || base.is_some_and(|b| typed.contains_key(b)),
            "{name} has no TYPE"
        );
    }
    assert!(seen.len() > 10, "{page}");
}

/// Goal: health and readiness; unknown paths and methods are JSON errors.
#[test]
fn small_answers_are_right() {
    let router = Router::start(&Config::new());
    assert_eq!(router.admin.get("/healthz").status, 200);
    assert_eq!(router.admin.get("/readyz").status, 200);
    let unknown = router.admin.get("/v1/nonsense");
    assert_eq!(unknown.status, 404);
    assert!(unknown.json.get("code").is_some(), "{}", unknown.response.text());
    let json = ["Content-Type: application/json"];
    let wrong = router.admin.try_raw("DELETE /v1/table", &json, "").unwrap();
    assert_eq!(wrong.status, 405);
    let page = router.admin.get("/").response;
    assert!(page.get("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let text = page.text().to_ascii_lowercase();
    for outside in ["src=\"http", "href=\"http", "url(http", "//cdn"] {
        assert!(!text.contains(outside), "the dashboard loads something from elsewhere: {outside}");
    }
}

/// Goal: a web page that an operator happens to open cannot command the router.
#[test]
fn foreign_pages_cannot_command() {
    let router = Router::start(&Config::new());
    let body = json!({ "changes": [put_job("evil", &[])] }).to_string();
    let json_type = "Content-Type: application/json";
    for fields in [
        &["Content-Type: text/plain"][..],
        &["Content-Type: application/x-www-form-urlencoded"],
        &[],
        &[json_type, "Origin: http://evil.test"],
        &[json_type, "Origin: null"],
    ] {
        let answer = router.admin.try_raw("POST /v1/changes", fields, &body).unwrap();
        assert!((400..500).contains(&answer.status), "{fields:?}: {}", answer.status);
    }
    let table = router.admin.get("/v1/table").response.text();
    assert!(!table.contains("evil"), "{table}");
}

/// Goal: the admin API on loopback TCP answers to its own names only (DNS rebinding).
#[test]
fn foreign_hosts_are_refused_on_tcp() {
    let folder = tests::router::Folder::new();
    let path = folder.path().join("router.toml");
    let port = tests::HeldPort::new();
    let text = format!(
        "[listen]\nhttp = [\"127.0.0.1:0\"]\nadmin = \"{}\"\n[router]\ncores = 1\n",
        port.addr()
    );
    let free = port.addr();
    drop(port); // The admin listener has no SO_REUSEPORT; the gap is as short as can be.
    std::fs::write(&path, text).unwrap();
    let mut command = std::process::Command::new(tests::router::binary());
    command.arg("--config").arg(&path);
    let _process = tests::process::Process::start(&mut command, &folder.path().join("output.txt"));
    until("the admin API answers", || std::net::TcpStream::connect(free).is_ok());
    let status = |host: &str| tests::Client::connect(free).get(host, "/v1/status").status;
    assert_eq!(status(&free.to_string()), 200);
    assert_eq!(status(&format!("localhost:{}", free.port())), 200);
    for host in ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test"] {
        assert!((400..500).contains(&status(host)), "{host}");
    }
}

/// Goal: bodies and nonsense are bounded and refused; the router lives on.
#[test]
fn nonsense_is_refused() {
    let router = Router::start(&Config::new());
    let fields = ["Content-Type: application/json"];
    let huge = format!("{{\"changes\":[{}]}}", "1,".repeat(40_000_000 / 2));
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"changes\":7}",
        "{\"changes\":[{}]}",
        "{\"wait\":\"some\",\"changes\":[]}",
        &huge,
    ] {
        let answer = router.admin.try_raw("POST /v1/changes", &fields, body).unwrap();
        assert!((400..500).contains(&answer.status), "{:.40}: {}", body, answer.status);
    }
    assert_eq!(router.admin.get("/healthz").status, 200);
}

/// Goal: nobody but the owner may use the socket.
#[test]
fn the_socket_is_private() {
    let router = Router::start(&Config::new());
    let mode = std::fs::metadata(router.admin.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Goal: the status tells engine, cores, versions and listeners; the engine is the one asked for.
#[test]
fn the_status_tells_the_engine() {
    let router = Router::start(&Config::new().set("cores", "2"));
    let status = router.admin.status();
    let engine = status["engine"].as_str().expect("an engine").to_owned();
    match std::env::var("ROUTER_ENGINE").as_deref() {
        Ok(asked) if asked != "auto" => assert_eq!(engine, asked),
        _ => assert!(["io_uring", "epoll"].contains(&engine.as_str()), "{status}"),
    }
    assert!(status["version"].is_string() || status["version"].is_number(), "{status}");
}
