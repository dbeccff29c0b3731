//! The file: applied whole or not at all, watched and on SIGHUP, and what the admin API added survives it.

use std::process::Command;

use tests::admin::{put_job, put_target};
use tests::process::run;
use tests::router::{Folder, binary};
use tests::{Config, Origin, Router, until};

/// Goal: SIGHUP applies the file; connections live on.
#[test]
fn sighup_applies_the_file() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let router = Router::start(&Config::app(&a));
    let mut client = router.connect();
    assert_eq!(client.get("app.test", "/").get("x-origin").as_deref(), Some("a"));
    let config = Config::app(&b).route("http://more.test", &[("app", 0.0)]);
    router.rewrite(&config.render(router.folder()));
    router.process.signal("HUP");
    until("the new route is served", || client.get("more.test", "/").status == 200);
    assert_eq!(client.get("app.test", "/").get("x-origin").as_deref(), Some("b"));
}

/// Goal: the file is watched: a change is applied without a signal.
#[test]
fn the_file_is_watched() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let router = Router::start(&Config::app(&a));
    let mut client = router.connect();
    for (origin, name) in [(&b, "b"), (&a, "a"), (&b, "b")] {
        router.rewrite(&Config::app(origin).render(router.folder()));
        until("the change is served", || {
            client.get("app.test", "/").get("x-origin").as_deref() == Some(name)
        });
    }
}

/// Goal: a bad file keeps the last good table and says which line is wrong; a good one is applied after it.
#[test]
fn a_bad_file_keeps_the_last_good_table() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let router = Router::start(&Config::app(&a));
    let mut client = router.connect();
    let good = Config::app(&b).render(router.folder());
    let bad = good.replace("weight = 0", "weight = \"much\"");
    let line = bad.lines().position(|line| line.contains("much")).unwrap() + 1;
    router.rewrite(&bad);
    router.process.signal("HUP");
    until("the wrong line is told", || {
        let output = router.output();
        output.contains(&format!("{line}")) && output.contains("much")
    });
    for _ in 0..20 {
        assert_eq!(client.get("app.test", "/").get("x-origin").as_deref(), Some("a"));
    }
    router.rewrite(&good);
    router.process.signal("HUP");
    until("the good file is applied", || {
        client.get("app.test", "/").get("x-origin").as_deref() == Some("b")
    });
}

/// Goal: what the admin API added survives a reload of the file; what the file dropped goes.
#[test]
fn what_the_admin_api_added_survives() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let with_more = Config::app(&a).route("http://more.test", &[("app", 0.0)]);
    let router = Router::start(&with_more);
    router
        .admin
        .apply(&[put_job("extra", &[b.addr()]), put_target("http://extra.test", "extra", 0.0)]);
    router.rewrite(&Config::app(&a).render(router.folder()));
    router.process.signal("HUP");
    let mut client = router.connect();
    until("the dropped route is gone", || client.get("more.test", "/").status == 404);
    assert_eq!(client.get("extra.test", "/").get("x-origin").as_deref(), Some("b"));
    assert_eq!(client.get("app.test", "/").get("x-origin").as_deref(), Some("a"));
}

/// Goal: a file that is away for a moment (an editor at work) changes nothing.
#[test]
fn a_missing_file_changes_nothing() {
    let a = Origin::named("a");
    let router = Router::start(&Config::app(&a));
    let path = router.folder().join("router.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    router.process.signal("HUP");
    let mut client = router.connect();
    until("the loss is told", || router.output().contains("router.toml"));
    assert_eq!(client.get("app.test", "/").status, 200);
    router.rewrite(&text.replace("http://app.test", "http://new.test"));
    router.process.signal("HUP");
    until("the new file is applied", || client.get("new.test", "/").status == 200);
}

/// Goal: `router check` says yes to a good file, and no to a bad one with every mistake, its line and a way out.
#[test]
fn check_tells_every_mistake() {
    let folder = Folder::new();
    let path = folder.path().join("router.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output = run(Command::new(binary()).arg("check").arg(&path));
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(told).unwrap())
    };
    let origin = Origin::named("a");
    let good = Config::app(&origin).render(folder.path());
    let (code, told) = check(&good);
    assert_eq!(code, Some(0), "{told}");
    for (bad, words) in [
        (good.replace("instances", "instnaces"), &["instnaces", "instances"][..]),
        (good.replace("cores = 1", "cores = \"one\""), &["cores"]),
        (good.replace("job = \"app\"", "job = \"ghost\""), &["ghost"]),
        (good.replace("http://app.test", "ftp://app.test"), &["ftp"]),
        (good.replace("http://app.test", "http://app_,test"), &["app_,test"]),
        (good.replace("https_only = false", "https_only = maybe"), &["maybe"]),
        (
            good.replace("name = \"app\"", "name = \"app\"\nclient_acl = \"allow 1.2.3.4/33\""),
            &["1.2.3.4/33"],
        ),
        (
            good.replace(
                "name = \"app\"",
                "name = \"app\"\nclient_acl = \"10.0.0.0/8, 11.0.0.0/8\"",
            ),
            &["11.0.0.0/8"],
        ),
        (good.replace("[router]", "[rooter]"), &["rooter", "router"]),
    ] {
        let (code, told) = check(&bad);
        assert_eq!(code, Some(2), "{bad}\n{told}");
        let first = good.lines().zip(bad.lines()).position(|(x, y)| x != y).unwrap() + 1;
        let near = (first..first + 2).any(|line| told.contains(&line.to_string()));
        assert!(near, "no line {first} in:\n{told}");
        for word in words {
            assert!(told.contains(word), "no {word:?} in:\n{told}");
        }
    }
    let two = good.replace("cores = 1", "cores = \"one\"").replace("instances", "instnaces");
    let (_, told) = check(&two);
    assert!(told.contains("cores") && told.contains("instnaces"), "only one mistake told:\n{told}");
}

/// Goal: a router that is started with a bad file does not start, and says why.
#[test]
fn a_bad_file_at_start_is_refused() {
    let folder = Folder::new();
    let path = folder.path().join("router.toml");
    std::fs::write(&path, "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[route]]\nendpoint = 7\n").unwrap();
    let output = run(Command::new(binary()).arg("--config").arg(&path));
    assert!(!output.status.success());
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(told.contains("endpoint") && told.contains('4'), "{told}");
}

/// Goal: settings of the file that can change at run time do. Method: trusted proxies and a time-out by SIGHUP.
#[test]
fn settings_change_at_run_time() {
    let a = Origin::named("a");
    let router = Router::start(&Config::app(&a));
    router.rewrite(&Config::app(&a).trusting("127.0.0.0/8").render(router.folder()));
    router.process.signal("HUP");
    until("the peer is trusted", || {
        let mut client = router.connect();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nX-Real-IP: x\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n");
        assert_eq!(client.response().status, 200);
        a.seen().requests.last().unwrap().get("x-real-ip").as_deref() == Some("192.0.2.9")
    });
}
